"""Gradients of optimal trajectories from central differences of tightly converged solutions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mpcgen.baseline.parameters import Array, stage_parameters
from mpcgen.baseline.solver import Baseline, Solution
from mpcgen.errors import ParameterError


@dataclass(frozen=True)
class FiniteDifference:
    """Central differences, and the error that their dependence on the step reveals; one value per entry."""

    value: Array
    error: Array


def finite_difference_gradient(
    baseline: Baseline,
    x0: ArrayLike,
    parameters: Mapping[str, ArrayLike] | None,
    name: str,
    *,
    grad_x: ArrayLike | None = None,
    grad_u: ArrayLike | None = None,
    grad_cost: float = 0.0,
    u_init: ArrayLike | None = None,
    entries: list[int] | None = None,
    step: float = 1e-4,
) -> FiniteDifference:
    """Central differences of a loss over the baseline's solutions, by ``name``: "x0" or a parameter.

    The loss is grad_x . x + grad_u . u + grad_cost * cost. ``entries`` picks flat indices, all by default.
    A step is ``step`` times |value|, or times 1 for a zero. Each problem starts at the
    controls of the unperturbed solution. Raises `ParameterError` where a solution does not converge: its
    difference would mean nothing.
    """
    given = {"x0": np.asarray(x0, dtype=float)}
    given |= stage_parameters(baseline.spec, parameters or {}, baseline.horizon)
    if name not in given:
        raise ParameterError(
            f"nothing named {name!r} to differentiate by; expected one of {', '.join(given)}"
        )
    start = _converged(baseline, given, u_init).u

    def loss(index: int, change: float) -> float:
        value = given[name].copy()
        value.flat[index] += change
        solution = _converged(baseline, {**given, name: value}, start)
        total = grad_cost * solution.cost
        total += 0.0 if grad_x is None else float(np.sum(np.asarray(grad_x) * solution.x))
        return total + (0.0 if grad_u is None else float(np.sum(np.asarray(grad_u) * solution.u)))

    chosen = range(given[name].size) if entries is None else entries
    pairs = [_central(loss, i, step * (abs(given[name].flat[i]) or 1.0)) for i in chosen]
    value, error = np.array(pairs).reshape(-1, 2).T
    return FiniteDifference(value, error)


def _central(loss: Callable[[int, float], float], index: int, h: float) -> tuple[float, float]:
    """Difference with step h/2, and its distance from that with step h: thrice the truncation error."""
    coarse = (loss(index, h) - loss(index, -h)) / (2 * h)
    fine = (loss(index, h / 2) - loss(index, -h / 2)) / h
    return fine, abs(fine - coarse)


def _converged(baseline: Baseline, given: Mapping[str, Array], u_init: ArrayLike | None) -> Solution:
    parameters = {name: value for name, value in given.items() if name != "x0"}
    solution = baseline.solve(given["x0"], parameters, u_init)
    if not solution.success:
        raise ParameterError(
            f"CasADi ended with {solution.status!r} on a problem whose solutions were to be differenced; "
            "loosen the baseline's tol or choose another point"
        )
    return solution
