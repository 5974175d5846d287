"""A trajectory with everything its KKT system is made of, and what holds it there: bounds and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import casadi as ca
import numpy as np
from numpy.typing import ArrayLike

from mpcgen.baseline.functions import Functions
from mpcgen.baseline.parameters import Array, pack_parameters
from mpcgen.baseline.rows import Evaluated, Rows, duals_by_stage, evaluate_rows
from mpcgen.errors import ShapeError

FREE, HELD, EXCEEDED = 0, 1, 2
"""What a row is: between its bounds, at one of them, or beyond it at a price. The last two have a sign besides."""


@dataclass(frozen=True)
class Point:
    """A trajectory and its multipliers.

    x: (N+1, n), u: (N, m), theta: (n_theta, N+1), costates: (N+1, n), control_gradient: (N, m) of the
    Lagrangian, lower and upper: (N, m). duals, rows: those of each stage, 0..N, (k,) each.
    """

    functions: Functions
    x: Array
    u: Array
    theta: Array
    costates: Array
    control_gradient: Array
    lower: Array
    upper: Array
    duals: Sequence[Array]
    rows: Sequence[Evaluated]

    @property
    def horizon(self) -> int:
        """N."""
        return len(self.u)

    def stage(self, t: int) -> tuple[Array, Array, Array, Array]:
        """x, u, theta and the next stage's costate."""
        return self.x[t], self.u[t], self.theta[:, t], self.costates[t + 1]

    def own_rows(self, t: int) -> Rows:
        """The rows of stage t as functions."""
        return self.functions.path_rows if t < self.horizon else self.functions.end_rows

    def row_arguments(self, t: int) -> tuple[Array, Array, Array]:
        """What these functions take; controls of the last stage are zeros that nothing reads."""
        u = self.u[t] if t < self.horizon else np.zeros(self.functions.m)
        return self.x[t], u, self.theta[:, t]

    def index(self, t: int) -> np.ndarray:
        """Places of (x_t, u_t), or of x_N, in z = (x_0, ..., x_N, u_0, ..., u_{N-1})."""
        n, m = self.functions.n, self.functions.m
        states = np.arange(n * t, n * (t + 1))
        if t == self.horizon:
            return states
        return np.concatenate([states, n * (self.horizon + 1) + np.arange(m * t, m * (t + 1))])

    @cached_property
    def states_of_rows(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """By stage, what its rows are (`FREE`, `HELD`, `EXCEEDED`), and the side, -1 lower, 1 upper: (k,) each."""
        return [_row_states(rows, dual) for rows, dual in zip(self.rows, self.duals, strict=True)]


def make_point(
    functions: Functions,
    x: ArrayLike,
    u: ArrayLike,
    parameters: Mapping[str, ArrayLike],
    duals: Mapping[str, ArrayLike],
) -> Point:
    """Return the point of a trajectory; raises `ShapeError`, `ParameterError`."""
    states, controls = np.asarray(x, dtype=float), np.asarray(u, dtype=float)
    if controls.ndim != 2 or controls.shape[1] != functions.m or len(controls) < 1:
        raise ShapeError(f"u has shape {controls.shape}, expected (horizon, {functions.m})")
    N, n = len(controls), functions.n
    if states.shape != (N + 1, n):
        raise ShapeError(f"x has shape {states.shape}, expected {(N + 1, n)}")
    theta = pack_parameters(functions.spec, parameters, N)
    by_stage = duals_by_stage(functions.spec, duals, N)
    every = [functions.path_rows] * N + [functions.end_rows]
    inputs = np.vstack([controls, np.zeros(functions.m)])
    pushes = [
        array(every[t].D_tau(states[t], inputs[t], theta[:, t])).T @ by_stage[t]
        if every[t].count
        else np.zeros(n + functions.m)
        for t in range(N + 1)
    ]
    costates = np.zeros((N + 1, n))
    control_gradient = np.zeros((N, functions.m))
    costates[N] = array(functions.terminal_cost_D_x(states[N], theta[:, N])).ravel() + pushes[N][:n]
    for t in reversed(range(N)):
        arguments = states[t], controls[t], theta[:, t]
        gradient = array(functions.stage_cost_D_tau(*arguments)).ravel() + pushes[t]
        gradient += array(functions.f_D_tau(*arguments)).T @ costates[t + 1]
        costates[t], control_gradient[t] = gradient[:n], gradient[n:]
    lower, upper = functions.stage_bounds(theta)
    rows = [evaluate_rows(every[t], t, states[t], inputs[t], theta[:, t]) for t in range(N + 1)]
    return Point(functions, states, controls, theta, costates, control_gradient, lower, upper, by_stage, rows)


def array(value: ca.DM) -> Array:
    """A dense array."""
    return np.array(value.full(), dtype=float)


def residual(point: Point) -> float:
    """Largest distance of a control from clip(u - dL/du), and of a row from where its multiplier says that it is."""
    projected = np.clip(point.u - point.control_gradient, point.lower, point.upper)
    largest = float(np.max(np.abs(point.u - projected)))
    for rows, dual in zip(point.rows, point.duals, strict=True):
        if rows.present.any():
            distance = np.abs(rows.values - _proximal(rows, rows.values + dual))[rows.present]
            largest = max(largest, float(distance.max()))
    return largest


def _proximal(rows: Evaluated, target: Array) -> Array:
    """The nearest point to ``target`` in the sense that a price may be paid for excess: c = prox(c + dual)."""
    beyond = [
        np.maximum(excess - rows.linear, 0.0) / (1.0 + rows.quadratic)
        for excess in (target - rows.upper, rows.lower - target)
    ]
    return np.clip(target, rows.lower, rows.upper) + beyond[0] - beyond[1]


def _row_states(rows: Evaluated, dual: Array) -> tuple[np.ndarray, np.ndarray]:
    target = rows.values + dual
    side = np.where(target > rows.upper, 1, np.where(target < rows.lower, -1, 0))
    excess = np.where(side == 1, target - rows.upper, rows.lower - target)
    kind = np.where(side == 0, FREE, np.where(excess > rows.linear, EXCEEDED, HELD))
    # a row whose bounds coincide is held even where its multiplier vanishes, unless it may be exceeded
    fixed = (side == 0) & (rows.lower == rows.upper)
    kind, side = np.where(fixed, HELD, kind), np.where(fixed, 1, side)
    return np.where(rows.present, kind, FREE), np.where(rows.present, side, 0)


def active_controls(point: Point) -> np.ndarray:
    """(N, m): -1 where the lower, 1 where the upper bound holds a control, else 0."""
    step = point.u - point.control_gradient
    signs = np.where(step < point.lower, -1, np.where(step > point.upper, 1, 0))
    # a control whose bounds coincide is not free even where its multiplier vanishes
    return np.where((signs == 0) & (point.lower == point.upper), -1, signs)


def complementarity(point: Point, signs: np.ndarray) -> float:
    """Smallest distance from a change of what holds: of free values to bounds, of multipliers to zero or their most."""
    distance = np.minimum(point.u - point.lower, point.upper - point.u)
    least = float(np.min(np.where(signs == 0, distance, np.abs(point.control_gradient))))
    for rows, dual, (kind, _) in zip(point.rows, point.duals, point.states_of_rows, strict=True):
        size = np.abs(dual)
        inside = np.minimum(rows.values - rows.lower, rows.upper - rows.values)
        held = np.where(rows.lower == rows.upper, np.inf, size)
        held = np.minimum(held, rows.linear - size)
        margin = np.where(kind == FREE, inside, np.where(kind == HELD, held, -inside))
        if rows.present.any():
            least = min(least, float(margin[rows.present].min()))
    return least
