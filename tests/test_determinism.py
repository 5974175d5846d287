"""Results do not depend on the place in a batch, the neighbours, the threads or the process, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sympy as sp
import torch
from controllers import NONLINEAR, Example, compiled, example, leaves

import mpcgen

ROOT = Path(__file__).parent.parent
NAMES = [*NONLINEAR, "lqr"]
COUNT = 100  # several vectors and several blocks of the reduction, the last of either incomplete
LARGE = 2000  # work for two threads and more, in the gradient of the smallest example too


def run(
    case: Example, x0: torch.Tensor, given: dict[str, torch.Tensor], **options
) -> dict[str, torch.Tensor]:
    """Everything a batch gives: the solution's fields, and the gradients of Σ weighted (x, u) by every input."""
    start = x0.clone().requires_grad_()
    inputs = {name: value.detach().clone().requires_grad_() for name, value in given.items()}
    solution = case.mpc(on_unconverged="ignore", **options)(start, **inputs)
    weight = torch.linspace(-1, 1, solution.x.shape[-1], dtype=x0.dtype)
    loss = (solution.x * weight).sum() + (solution.u**2).sum() + solution.cost.sum()
    loss.backward()
    fields = {name: value.detach() for name, value in vars(solution).items()}
    grads = {f"{name}.grad": value.grad for name, value in {"x0": start, **inputs}.items()}
    return {**fields, **grads}


def assert_same_bits(own: dict[str, torch.Tensor], other: dict[str, torch.Tensor], pick=...) -> None:
    for name, value in own.items():
        assert same_bits(value[pick], other[name]), name


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bit for bit, signs of zeros and NaN included."""
    integer = {8: torch.int64, 4: torch.int32}
    size = a.element_size()
    return a.shape == b.shape and torch.equal(
        a.contiguous().view(integer[size]), b.contiguous().view(integer[size])
    )


def apart(case: Example, count: int, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """Parameters with a value of their own for every problem."""
    return {name: value.detach().to(dtype) for name, value in leaves(case, count, case.values(0)).items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", NAMES)
def test_a_problems_place_and_neighbours_do_not_matter(name, dtype):
    case = example(name)
    x0, given = case.starts(COUNT, 8).to(dtype), apart(case, COUNT, dtype)
    whole = run(case, x0, given)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    shuffled = run(case, x0[order], {n: v[order] for n, v in given.items()})
    assert_same_bits(whole, shuffled, pick=order)
    for part in (slice(0, 2), slice(3, 10), slice(5, 13), slice(90, 99)):
        alone = run(case, x0[part], {n: v[part] for n, v in given.items()})
        assert_same_bits(whole, alone, pick=part)


def test_models_that_overflow_do_not_matter_to_neighbours(cartpole):
    """Over a long horizon curvature that points downward grows beyond float32."""
    count, horizon = 64, 400
    x0, u_init = cartpole.starts(count, 2).float(), torch.zeros(count, horizon, 1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    mpc = cartpole.mpc(max_iterations=60, on_unconverged="ignore")
    whole, shuffled = mpc(x0, u_init=u_init), mpc(x0[order], u_init=u_init)
    for name, value in vars(whole).items():
        assert same_bits(value[order], getattr(shuffled, name)), name
    assert (whole.iterations <= 60).all()
    ended = (whole.status != mpcgen.Status.DIVERGED) & (whole.status != mpcgen.Status.NOT_A_MINIMUM)
    assert ended.any()
    assert whole.u[ended].isfinite().all()
    assert whole.gains[ended].isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_threads_does_not_matter(name):
    """Parameters shared by the batch included, whose gradients are sums over it."""
    case = example(name)
    x0 = case.starts(LARGE, 8)
    shared = {n: v[0] for n, v in apart(case, 1).items()}
    one = run(case, x0, shared, threads=1)
    for threads in (2, 3, 7):
        assert_same_bits(one, run(case, x0, shared, threads=threads))
    assert_same_bits(one, run(case, x0, shared))


@pytest.mark.parametrize("name", NAMES)
def test_neighbours_that_cannot_be_solved_do_not_matter(name):
    case = example(name)
    x0, given = case.starts(COUNT, 8), apart(case, COUNT)
    clean = run(case, x0, given)
    bad = torch.arange(COUNT) % 3 == 1
    for value in (float("nan"), float("inf"), 1e200):
        spoiled = x0.clone()
        spoiled[bad] = value
        broken = run(case, spoiled, given)
        assert (broken["status"][bad] != 0).all()
        assert_same_bits(broken, {n: v[~bad] for n, v in clean.items()}, pick=~bad)
        assert (broken["x0.grad"][bad] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one_agrees_to_rounding(name):
    """The scalar kernel may round differently; sensitivity to rounding is that of a residual of 1e-10."""
    case = example(name)
    mpc = case.mpc(tol=1e-10)
    x0, given = case.starts(8, 8), apart(case, 8)
    batch = mpc(x0, **given)
    for b in range(8):
        alone = mpc(x0[b], **{n: v[b] for n, v in given.items()})
        assert alone.status == 0
        torch.testing.assert_close(alone.u, batch.u[b], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(alone.cost, batch.cost[b], rtol=1e-12, atol=1e-12)


RENDER = """
import hashlib, sys
import mpcgen
from mpcgen.build.driver import render_spec
for path in sys.argv[1:]:
    for file, text in render_spec(mpcgen.load_problem(path).spec()).files:
        print(file, hashlib.sha256(text.encode()).hexdigest())
"""


def rendered(seed: str, folder: Path, paths: list[str]) -> str:
    """Names and digests of everything rendered by a fresh process in ``folder``."""
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", RENDER, *paths]
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_rendering_depends_on_neither_the_hash_seed_nor_the_working_directory(tmp_path):
    names = [*NAMES, "quadrotor"]
    here = rendered("1", ROOT, [f"examples/{name}.py" for name in names])
    there = rendered("271828", tmp_path, [str(ROOT / "examples" / f"{name}.py") for name in names])
    assert here == there
    assert len(here.splitlines()) >= 2 * len(names)
    assert str(ROOT) not in here


def test_an_infinite_second_derivative_does_not_tell_neighbours_apart():
    # From a control of zero the curvature of |u|^(4/3) is infinite: a lane that begins must not meet it only
    # because others of its vector are further on.
    problem = mpcgen.Problem("kinked", horizon=8)
    a, b = problem.states("a b")
    (w,) = problem.controls("w")
    problem.dynamics = [a + b / 10, b + w / 10 + sp.Abs(w) ** sp.Rational(4, 3) / 10]
    problem.stage_cost = a**2 + b**2 + w**2 / 10
    problem.terminal_cost = a**2 + b**2
    mpc = compiled(problem).MPC(threads=1)
    x0 = 3 * torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = mpc(x0)
    assert (together.status == 0).all()
    for i in range(len(x0)):
        alone = mpc(x0[i].expand(2, 2))
        assert same_bits(alone.u[0], together.u[i])
