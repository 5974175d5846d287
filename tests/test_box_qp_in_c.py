"""The kernels' box QP in C, for one, two and three controls, in every variant and instruction set of this machine."""

import ctypes
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np
import pytest

from mpcgen.build import Toolchain, find_toolchain
from mpcgen.build.extension import HEADER_FOLDER, VARIANTS
from mpcgen.build.target import known_targets
from mpcgen.build.toolchain import COMPILERS
from mpcgen.runtime.cpu import missing_features

pytestmark = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C compiler on this machine")

TARGETS = [target for target in known_targets() if not missing_features(target.cpu_features)]
# One problem at a time has no vectors: one target is enough.
BUILDS = [
    (variant, target)
    for variant, _ in VARIANTS
    for target in (TARGETS if variant.endswith("batch") else TARGETS[:1])
]
DTYPES = {"f64": np.float64, "f32": np.float32}
COUNT = 4096

HARNESS = """
#define NX 1
#define LOOPED_PRODUCTS 0
#include "mpcgen_box_qp.h"

enum { READS = NUU + 3 * NU, WRITES = 2 * NU + NU * NU + 1 };

int MPCGEN_ENTRY(lanes)(void);
int MPCGEN_ENTRY(lanes)(void) { return LANES; }

static real one_where(mask where) { return lane_select(where, ALL(1), ALL(0)); }

/* in: (vectors, READS, LANES): Quu, qu, lower, upper
 * out: (vectors, WRITES, LANES): step, free, minus the inverse of the free block by columns, accepted */
void MPCGEN_ENTRY(box_qp)(const scalar *in, scalar *out, int vectors);
void MPCGEN_ENTRY(box_qp)(const scalar *in, scalar *out, int vectors) {
  for (int v = 0; v < vectors; v++) {
    real a[READS], b[WRITES], unit_lower[NUU], inverse_pivot[NU];
    mask is_free[NU];
    memcpy(a, in + v * READS * LANES, sizeof a);
    const real *bounds = a + NUU + NU;
    const mask accepted = box_qp(a, a + NUU, bounds, bounds + NU, NULL, is_free, unit_lower, inverse_pivot, b);
    for (int i = 0; i < NU; i++) {
      real unit[NU];
      for (int j = 0; j < NU; j++) unit[j] = i == j ? ALL(1) : ALL(0);
      solve_free(unit_lower, inverse_pivot, is_free, unit, b + (2 + i) * NU);
      b[NU + i] = one_where(is_free[i]);
    }
    b[WRITES - 1] = one_where(accepted);
    memcpy(out + v * WRITES * LANES, b, sizeof b);
  }
}
"""


@dataclass(frozen=True)
class BoxQPs:
    """minimise q's + s'Qs/2, lower <= s <= upper; Q: (count, m, m), the rest (count, m)."""

    Q: np.ndarray
    q: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    def __getitem__(self, rows):
        return BoxQPs(self.Q[rows], self.q[rows], self.lower[rows], self.upper[rows])

    def gradient(self, step):
        return self.q + np.einsum("bij,bj->bi", self.Q, step)

    def scale(self, step):
        """What the rounding of a gradient is relative to, (count, 1)."""
        terms = np.abs(self.q) + np.einsum("bij,bj->bi", np.abs(self.Q), np.abs(step))
        return terms.max(1, keepdims=True)


@dataclass(frozen=True)
class Solved:
    """step, free: (count, m); gain: (count, m, m), minus the inverse of Q's free block; accepted: (count,)."""

    step: np.ndarray
    free: np.ndarray
    gain: np.ndarray
    accepted: np.ndarray
    raw: np.ndarray


class Kernel:
    """The box QP of ``m`` controls, compiled as in a controller."""

    def __init__(self, folder, variant, target, m):
        found = find_toolchain()
        toolchain = Toolchain(found.compiler, target, found.libmvec)
        (folder / "box_qp.c").write_text(HARNESS)
        # gcc cannot know that the general method makes at least one pass, and clang does not know the warning.
        silent = [] if toolchain.compiler.is_clang else ["-Wno-maybe-uninitialized"]
        flags = [*toolchain.compile_flags, *dict(VARIANTS)[variant], "-Werror", *silent]
        flags += [f"-DNU={m}", "-fvisibility=default", f"-I{HEADER_FOLDER}"]
        link = [*toolchain.link_flags, "box_qp.c", "-o", "box_qp.so", *toolchain.libraries]
        subprocess.run([*toolchain.compiler.command, *flags, *link], cwd=folder, check=True)
        library = ctypes.CDLL(str(folder / "box_qp.so"))
        self.m, self.dtype = m, DTYPES[variant[:3]]
        self.lanes = getattr(library, f"lanes_{variant}")()
        self.function = getattr(library, f"box_qp_{variant}")

    def solve(self, qps):
        """Lane after lane; the number of problems is a multiple of the lanes."""
        m, triangle = self.m, np.tril_indices(self.m)
        given = np.concatenate([qps.Q[:, *triangle], qps.q, qps.lower, qps.upper], axis=1).astype(self.dtype)
        vectors, reads = len(given) // self.lanes, given.shape[1]
        writes = 2 * m + m * m + 1
        into = np.ascontiguousarray(given.reshape(vectors, self.lanes, reads).transpose(0, 2, 1))
        out = np.empty((vectors, writes, self.lanes), dtype=self.dtype)
        self.function(ctypes.c_void_p(into.ctypes.data), ctypes.c_void_p(out.ctypes.data), vectors)
        raw = np.ascontiguousarray(out.transpose(0, 2, 1)).reshape(len(given), writes)
        step, free, columns, accepted = np.split(raw.astype(float), np.cumsum([m, m, m * m]), axis=1)
        gain = columns.reshape(-1, m, m).transpose(0, 2, 1)
        return Solved(step, free != 0, gain, accepted[:, 0] != 0, raw)


@pytest.fixture(scope="module", params=(1, 2, 3), ids="m={}".format)
def size(request):
    return request.param


@pytest.fixture(scope="module", params=BUILDS, ids=lambda build: f"{build[0]}-{build[1].name}")
def kernel(request, size, tmp_path_factory):
    return Kernel(tmp_path_factory.mktemp("box_qp"), *request.param, size)


# ---- problems


def rounded(kernel, *arrays):
    """The problem that the kernel is given, in its precision."""
    return BoxQPs(*(array.astype(kernel.dtype).astype(float) for array in arrays))


def random_bounds(rng, m):
    """Distances of all sizes, zero and infinity, and equal bounds."""
    shape = (COUNT, m)
    sizes = 10 ** rng.uniform(-9, 1, shape)
    kinds = rng.integers(0, 4, shape)
    return np.select(
        [kinds == 0, kinds == 1], [0.0, np.inf], np.where(kinds == 2, sizes, rng.uniform(0.1, 2, shape))
    )


def convex_problems(kernel):
    """Condition numbers up to a thousand; one in eight has its minimum exactly where a bound becomes active."""
    m, rng = kernel.m, np.random.default_rng(kernel.m)
    directions = np.linalg.qr(rng.standard_normal((COUNT, m, m)))[0]
    curvatures = 10 ** rng.uniform(-1.5, 1.5, (COUNT, m, 1)) * 10 ** rng.uniform(-3, 3, (COUNT, 1, 1))
    Q = np.swapaxes(directions, 1, 2) @ (curvatures * directions)
    Q = (Q + np.swapaxes(Q, 1, 2)) / 2
    lower, upper = -random_bounds(rng, m), random_bounds(rng, m)
    sought = 2 * rng.standard_normal((COUNT, m))
    degenerate = rng.random((COUNT, m)) < 0.125
    sought = np.where(degenerate & np.isfinite(upper), upper, sought)
    return rounded(kernel, Q, -np.einsum("bij,bj->bi", Q, sought), lower, upper)


def stretched_problems(kernel):
    """Condition numbers up to ten million, in float32 to ten thousand: Newton's steps are far longer than the box."""
    m, rng = kernel.m, np.random.default_rng(40 + kernel.m)
    directions = np.linalg.qr(rng.standard_normal((COUNT, m, m)))[0]
    span = 7 if kernel.dtype == np.float64 else 4
    curvatures = 10 ** rng.uniform(-span, 0, (COUNT, m, 1))
    Q = np.swapaxes(directions, 1, 2) @ (curvatures * directions)
    Q = (Q + np.swapaxes(Q, 1, 2)) / 2
    lower, upper = -rng.uniform(0, 1, (COUNT, m)), rng.uniform(0, 1, (COUNT, m))
    return rounded(kernel, Q, rng.standard_normal((COUNT, m)), lower, upper)


def held_saddles(kernel):
    """Q indefinite, and a minimum with some controls held where they start, at a bound, pushed outward throughout.

    Returns the problems, the minima and which controls are free there.
    """
    m, rng = kernel.m, np.random.default_rng(10 + kernel.m)
    free = rng.random((COUNT, m)) < 0.5
    free[np.arange(COUNT), rng.integers(0, m, COUNT)] = False
    root = rng.standard_normal((COUNT, m, m))
    both = free[:, :, None] & free[:, None, :]
    Q = np.where(both, root @ np.swapaxes(root, 1, 2) + np.eye(m), root + np.swapaxes(root, 1, 2))
    Q = np.where(~free[:, :, None] & np.eye(m, dtype=bool), -np.abs(Q) - 0.1, Q)
    step = np.where(free, rng.uniform(-1, 1, (COUNT, m)), 0.0)
    at_upper = rng.random((COUNT, m)) < 0.5
    pull = np.einsum("bij,bj->bi", Q, step)
    outward = np.where(at_upper, -1.0, 1.0)
    q = np.where(free, -pull, outward * (1.0 + np.abs(pull)))
    q = np.where(free, q, np.where(outward * pull > 0, q, q - pull))
    lower = np.where(free, -2.0, np.where(at_upper, -1.0, 0.0))
    upper = np.where(free, 2.0, np.where(at_upper, 0.0, 1.0))
    return rounded(kernel, Q, q, lower, upper), step, free


def free_saddles(kernel):
    """Q indefinite, and no control at a bound."""
    problems, _, _ = held_saddles(kernel)
    return BoxQPs(problems.Q, problems.q, problems.lower - 1e6, problems.upper + 1e6)


def spoilt_problems(kernel):
    """Of each kind, and with NaN, infinities and zeros in every place."""
    rng = np.random.default_rng(20 + kernel.m)
    parts = [convex_problems(kernel), held_saddles(kernel)[0], free_saddles(kernel)]
    fields = [
        np.concatenate([getattr(p, name)[:COUNT] for p in parts]) for name in ("Q", "q", "lower", "upper")
    ]
    for field in fields:
        where = rng.random(field.shape) < 0.02
        field[where] = rng.choice([np.nan, np.inf, -np.inf, 0.0, 1e30, -1e30], where.sum())
    return BoxQPs(*fields)


# ---- facts


def check_minimum(kernel, qps, solved):
    """Inside the bounds; no gradient on free controls; the others exactly on a bound, and pushed outward."""
    step, gradient = solved.step, qps.gradient(solved.step)
    assert ((qps.lower <= step) & (step <= qps.upper)).all()
    allowed = 10 * kernel.m * np.finfo(kernel.dtype).eps * qps.scale(step)
    held_low, held_high = ~solved.free & (step == qps.lower), ~solved.free & (step == qps.upper)
    assert (solved.free | held_low | held_high).all()
    assert (np.abs(gradient) <= allowed)[solved.free].all()
    assert (gradient >= -allowed)[held_low & ~held_high].all()
    assert (gradient <= allowed)[held_high & ~held_low].all()


def check_gain(kernel, qps, solved):
    """Minus the inverse of the free block of Q, and nothing elsewhere."""
    both = solved.free[:, :, None] & solved.free[:, None, :]
    assert (solved.gain[~both] == 0).all()
    block = np.where(both, qps.Q, np.eye(kernel.m))
    rest = np.where(both, qps.Q @ solved.gain + np.eye(kernel.m), 0.0)
    sizes = np.linalg.norm(block, axis=(1, 2)) * (1 + np.linalg.norm(solved.gain, axis=(1, 2)))
    assert (np.abs(rest).max((1, 2)) <= 20 * kernel.m * np.finfo(kernel.dtype).eps * sizes).all()


def test_the_step_is_the_minimum_of_a_convex_problem_and_the_gain_that_of_its_free_controls(kernel):
    qps = convex_problems(kernel)
    solved = kernel.solve(qps)
    assert solved.accepted.all()
    assert 0.1 < solved.free.mean() < 0.9  # the cases are worth their name
    check_minimum(kernel, qps, solved)
    check_gain(kernel, qps, solved)


def test_the_step_is_the_minimum_where_the_cost_hardly_bends_along_some_ways(kernel):
    qps = stretched_problems(kernel)
    solved = kernel.solve(qps)
    assert solved.accepted.all()
    check_minimum(kernel, qps, solved)


def test_a_saddle_is_solved_where_it_curves_upward_on_the_controls_that_are_not_held(kernel):
    qps, step, free = held_saddles(kernel)
    solved = kernel.solve(qps)
    assert solved.accepted.all()
    assert (solved.free == free).all()
    check_minimum(kernel, qps, solved)
    check_gain(kernel, qps, solved)
    condition = np.linalg.cond(np.where(free[:, :, None] & free[:, None, :], qps.Q, np.eye(kernel.m)))
    assert (
        np.abs(solved.step - step).max(1) <= 100 * kernel.m * np.finfo(kernel.dtype).eps * condition
    ).all()


def test_a_saddle_is_refused_where_it_curves_downward_on_free_controls(kernel):
    assert not kernel.solve(free_saddles(kernel)).accepted.any()


def test_a_result_does_not_depend_on_the_lane_nor_on_its_neighbours(kernel):
    """Bit for bit, with saddles, NaN and infinities among the neighbours."""
    qps = spoilt_problems(kernel)
    raw = kernel.solve(qps).raw
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(raw))
        again = kernel.solve(qps[order]).raw
        np.testing.assert_array_equal(again.view(np.uint8), raw[order].view(np.uint8))
