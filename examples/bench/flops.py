"""Operations of one pass of the solver and of the reverse pass: what GFLOP/s and shares of the peak mean.

A pass is one rollout and one backward sweep. The straight-line functions are counted on the graph, as the
generator writes them; the Riccati algebra of `templates/runtime` by the formulas below. What counts:

- an addition, subtraction, multiplication, division or square root is one operation, a fused multiply-add two;
- an elementary function (sin, exp, atan2, pow, ...) is one operation too, although it takes some twenty: a share
  of the peak is then a lower bound. `Flops.livermore` weighs them as the Livermore loops do (McMahon 1986):
  eight for an elementary function, four for a division or a square root;
- negations, absolute values, comparisons, selections, clipping, loads and stores are none;
- the box QP of a stage is one Newton step and the test that it was enough, which is what it takes where the
  active set stays, or its closed form for two controls; more steps count as nothing. Neither do a second box QP
  where the model is not convex, the pass that certifies a solution, lanes that idle at the end of a batch, and
  what is prepared once per problem;
- products by loops count every entry of F and H, zeros included: that is what is executed;
- parameters are shared by the batch and have one value for all stages, as in every problem of the benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mpcgen.compiler import Compilation
from mpcgen.derivative.kernels import Kernels
from mpcgen.ir import operation_count
from mpcgen.passes.economy import Economy
from mpcgen.problem.spec import Spec
from mpcgen.stages.contract import EXPAND, MATRICES, SLOPES

_PLAIN = ("add", "sub", "mul")
_SLOW = ("div", "pinv", "sqrt", "length")
_FREE = ("neg", "abs", "sign", "min", "max", "select", "lt", "le", "eq", "and", "or", "not")


@dataclass(frozen=True)
class Flops:
    """Counts: additions, subtractions and multiplications; divisions and square roots; elementary functions."""

    plain: int = 0
    slow: int = 0
    elementary: int = 0

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.plain + other.plain, self.slow + other.slow, self.elementary + other.elementary)

    def __mul__(self, times: int) -> Flops:
        return Flops(self.plain * times, self.slow * times, self.elementary * times)

    @property
    def total(self) -> int:
        """Every operation as one."""
        return self.plain + self.slow + self.elementary

    @property
    def livermore(self) -> int:
        """Weighted 1, 4 and 8."""
        return self.plain + 4 * self.slow + 8 * self.elementary


@dataclass(frozen=True)
class Work:
    """Operations of one problem: by pass with the exact Hessian, by pass without, and of the reverse pass."""

    exact_pass: Flops
    first_pass: Flops
    reverse: Flops

    def forward(self, passes: float) -> tuple[float, float]:
        """Total and Livermore operations of a solve; its first pass knows no second derivatives yet."""
        more = max(passes - 1, 0.0)
        return (
            self.first_pass.total + more * self.exact_pass.total,
            self.first_pass.livermore + more * self.exact_pass.livermore,
        )


def count_work(spec: Spec, horizon: int | None = None) -> Work:
    """Count the operations of a problem with N = ``horizon`` controls (default: the specification's)."""
    steps = Compilation(spec)
    kernels, counts = steps.derived, _counts(steps.passes)
    N = spec.horizon if horizon is None else horizon
    return Work(
        _pass(kernels, counts, "exact", N),
        _pass(kernels, counts, "gauss_newton", N),
        _reverse(kernels, counts, N),
    )


def _counts(economy: Economy) -> dict[str, Flops]:
    """Operations of each function as it is rendered."""
    counts = {
        function.name: _count(operation_count(function.expressions())) for function in economy.functions
    }
    if MATRICES in counts:
        counts[EXPAND["gauss_newton"]] = counts[MATRICES] + counts[SLOPES]
    for first in (
        "stage_expand",
        "stage_derivatives",
    ):  # without second derivatives there is one model for both
        if f"{first}_gauss_newton" in counts:
            counts.setdefault(f"{first}_exact", counts[f"{first}_gauss_newton"])
    return counts


def _count(operations: Mapping[str, int]) -> Flops:
    plain = sum(count for op, count in operations.items() if op in _PLAIN)
    slow = sum(count for op, count in operations.items() if op in _SLOW)
    rest = sum(count for op, count in operations.items() if op not in (*_PLAIN, *_SLOW, *_FREE))
    return Flops(plain, slow, rest)


def _sizes(kernels: Kernels) -> tuple[int, int]:
    return len(kernels.model.states), len(kernels.model.controls)


def _pass(kernels: Kernels, functions: Mapping[str, Flops], kind: str, horizon: int) -> Flops:
    n, m = _sizes(kernels)
    rollout = Flops(n + m * (2 + 2 * n) + 3 * m + 2)  # x - x_old, policy, its promise, sums of the cost
    stage = rollout + functions["stage_dynamics"] + functions["stage_bounds"] * 2
    stage += _expand(kernels, functions, kind) + box_qp(m) + Flops(_gains(n, m) + _value(n, m))
    stage += Flops(4 * m + 5 * m)  # distance to the bounds, Q_u, regularisation; slope and bend
    return stage * horizon + functions["terminal_cost"] + functions["terminal_expand"]


def _expand(kernels: Kernels, functions: Mapping[str, Flops], kind: str) -> Flops:
    n, m = _sizes(kernels)
    if kernels.fused:
        return functions[f"stage_expand_{kind}"]
    return functions[f"stage_derivatives_{kind}"] + Flops(_products(n, m))


def _products(n: int, m: int) -> int:
    """VF, then the lower triangle of H + F'VF, and F' times the offset."""
    width = n + m
    return 2 * n * n * width + width * (width + 1) * n + 2 * n * width


def box_qp(m: int) -> Flops:
    """The box QP of m controls; of three or more, one projected Newton step that meets no bound."""
    if m == 1:
        return Flops(plain=5, slow=1)  # distances to the bounds and their tests; the step
    if m == 2:
        return Flops(plain=4 + _solve(2) + 6, slow=3)  # factor, Newton step, minima along two lines
    image = m * (2 * m - 1)
    factor = sum(3 * j + (m - j - 1) * (3 * j + 1) for j in range(m))
    return Flops(image + m + 4 * m + factor + _solve(m) + m, m)


def _solve(m: int) -> int:
    """Forward and backward substitution with a unit lower factor and inverse pivots."""
    return 2 * m * (m - 1) + m


def _gains(n: int, m: int) -> int:
    return n * _solve(m)


def _value(n: int, m: int) -> int:
    """Value function of the policy: Q_uu k + q_u, offsets, and the lower triangle of V = Q_xx + Q_ux'K."""
    return m * 2 * m + 4 * n * m + m * n * (n + 1)


def _reverse(kernels: Kernels, functions: Mapping[str, Flops], horizon: int) -> Flops:
    """Riccati sweep over the differentials, then the forward sweep that gathers the gradients."""
    n, m = _sizes(kernels)
    factor = sum(3 * j + (m - j - 1) * (3 * j + 1) for j in range(m))
    sweep = _expand(kernels, functions, "exact") + functions["stage_bounds"]
    # u - dL/du; the held controls' pull, rest and Q_u; linear terms in x
    sweep += Flops(m + m * (2 * m - 1) + 5 * m + n + factor + _solve(m) + _gains(n, m) + _value(n, m), m)
    forward = functions["stage_tangent"] + functions["stage_gradient"] + functions["bounds_gradient"]
    forward += Flops(2 * m * n + 2 * n * n + 4 * m)  # d_u, d_lambda, the bounds' gradients
    terminal = functions["terminal_expand"] + functions["terminal_gradient"]
    summed = Flops(len(kernels.static) + len(kernels.per_stage))  # over the batch: what it shares
    return (sweep + forward) * horizon + terminal + summed
