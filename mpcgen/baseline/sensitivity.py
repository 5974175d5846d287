"""Gradients of optimal trajectories from the KKT system.

The KKT system is assembled over the whole horizon and solved densely by the implicit function theorem: at
a stationary point M(z, p) = (grad_z L, c) = 0 and d loss / dp = loss_p + w' M_p with M_z' w = -loss_z. It
shares neither the Riccati recursion nor the derivatives of the generated kernels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import casadi as ca
import numpy as np
from numpy.typing import ArrayLike

from mpcgen.baseline.functions import Functions
from mpcgen.baseline.parameters import Array, pack_parameters, unpack_gradient
from mpcgen.errors import ShapeError


@dataclass(frozen=True)
class KktGradient:
    """Gradient of a loss at a solution, and how well that solution supports one.

    x0: (n,); parameters: name -> its shape, behind a stage axis if per stage; active: (N, m) with -1 at the
    lower bound, +1 at the upper, 0 between. ``complementarity`` is the smallest of the active bounds'
    multipliers and the free controls' distances to their bounds: near zero the gradient does not exist.
    ``second_order`` says whether the Hessian of the Lagrangian is positive definite on the free directions.
    ``residual`` is that of `kkt_residual`.
    """

    x0: Array
    parameters: dict[str, Array]
    active: np.ndarray
    complementarity: float
    second_order: bool
    residual: float


@dataclass(frozen=True)
class _Point:
    """A trajectory with everything its KKT system is made of.

    x: (N+1, n), u: (N, m), theta: (n_theta, N+1), costates: (N+1, n), control_gradient: (N, m) of the
    Lagrangian, lower and upper: (N, m).
    """

    functions: Functions
    x: Array
    u: Array
    theta: Array
    costates: Array
    control_gradient: Array
    lower: Array
    upper: Array

    @property
    def horizon(self) -> int:
        return len(self.u)

    def stage(self, t: int) -> tuple[Array, Array, Array, Array]:
        return self.x[t], self.u[t], self.theta[:, t], self.costates[t + 1]


def kkt_residual(
    functions: Functions, x: ArrayLike, u: ArrayLike, parameters: Mapping[str, ArrayLike] | None = None
) -> float:
    """Largest projected gradient max_t |u - clip(u - dL/du, lower, upper)| of a trajectory.

    x: (N+1, n), u: (N, m). Feasibility of x is not part of it.
    """
    return _residual(_point(functions, x, u, parameters or {}))


def kkt_gradient(
    functions: Functions,
    x: ArrayLike,
    u: ArrayLike,
    parameters: Mapping[str, ArrayLike] | None = None,
    grad_x: ArrayLike | None = None,
    grad_u: ArrayLike | None = None,
    grad_cost: float = 0.0,
    active: ArrayLike | None = None,
) -> KktGradient:
    """Gradient by x0 and all parameters of a loss with the given cotangents, at the solution x, u.

    x, grad_x: (N+1, n); u, grad_u: (N, m); grad_cost multiplies the optimal cost, and goes through the KKT
    system like the rest: at a solution this equals the gradient of the envelope theorem; elsewhere the two
    differ by the order of the residual. ``active`` (N, m), signs as
    in `KktGradient`, defaults to the bounds that u - dL/du oversteps. Raises `ShapeError` for shapes and
    `numpy.linalg.LinAlgError` where the KKT matrix is singular.
    """
    point = _point(functions, x, u, parameters or {})
    signs = _active(point) if active is None else np.asarray(active).astype(int)
    r_x = np.zeros_like(point.x) if grad_x is None else np.asarray(grad_x, dtype=float)
    r_u = np.zeros_like(point.u) if grad_u is None else np.asarray(grad_u, dtype=float)
    for name, given, like in (("active", signs, point.u), ("grad_x", r_x, point.x), ("grad_u", r_u, point.u)):
        if given.shape != like.shape:
            raise ShapeError(f"{name} has shape {given.shape}, expected {like.shape}")
    hessian, constraints = _hessian(point), _constraints(point, signs)
    direction, multipliers = _adjoint(point, hessian, constraints, r_x, r_u, grad_cost)
    stages = _parameter_gradient(point, signs, direction, multipliers, grad_cost)
    return KktGradient(
        # c_0 = x_init - x_0
        x0=multipliers[: functions.n],
        parameters=unpack_gradient(functions.spec, stages),
        active=signs,
        complementarity=_complementarity(point, signs),
        second_order=_second_order(point, hessian, constraints, signs),
        residual=_residual(point),
    )


def _point(functions: Functions, x: ArrayLike, u: ArrayLike, parameters: Mapping[str, ArrayLike]) -> _Point:
    states, controls = np.asarray(x, dtype=float), np.asarray(u, dtype=float)
    if controls.ndim != 2 or controls.shape[1] != functions.m or len(controls) < 1:
        raise ShapeError(f"u has shape {controls.shape}, expected (horizon, {functions.m})")
    N, n = len(controls), functions.n
    if states.shape != (N + 1, n):
        raise ShapeError(f"x has shape {states.shape}, expected {(N + 1, n)}")
    theta = pack_parameters(functions.spec, parameters, N)
    costates = np.zeros((N + 1, n))
    control_gradient = np.zeros((N, functions.m))
    costates[N] = _array(functions.terminal_cost_D_x(states[N], theta[:, N])).ravel()
    for t in reversed(range(N)):
        arguments = states[t], controls[t], theta[:, t]
        gradient = _array(functions.stage_cost_D_tau(*arguments)).ravel()
        gradient += _array(functions.f_D_tau(*arguments)).T @ costates[t + 1]
        costates[t], control_gradient[t] = gradient[:n], gradient[n:]
    lower, upper = functions.stage_bounds(theta)
    return _Point(functions, states, controls, theta, costates, control_gradient, lower, upper)


def _array(value: ca.DM) -> Array:
    return np.array(value.full(), dtype=float)


def _residual(point: _Point) -> float:
    projected = np.clip(point.u - point.control_gradient, point.lower, point.upper)
    return float(np.max(np.abs(point.u - projected)))


def _active(point: _Point) -> np.ndarray:
    step = point.u - point.control_gradient
    signs = np.where(step < point.lower, -1, np.where(step > point.upper, 1, 0))
    # a control whose bounds coincide is not free even where its multiplier vanishes
    return np.where((signs == 0) & (point.lower == point.upper), -1, signs)


def _complementarity(point: _Point, signs: np.ndarray) -> float:
    distance = np.minimum(point.u - point.lower, point.upper - point.u)
    return float(np.min(np.where(signs == 0, distance, np.abs(point.control_gradient))))


def _hessian(point: _Point) -> Array:
    """Hessian of the Lagrangian over z = (x_0, ..., x_N, u_0, ..., u_{N-1}), dense."""
    functions, N = point.functions, point.horizon
    n, m = functions.n, functions.m
    result = np.zeros((n * (N + 1) + m * N,) * 2)
    for t in range(N):
        index = _stage_index(point, t)
        result[np.ix_(index, index)] = _array(functions.lagrangian_hessian(*point.stage(t)))
    last = slice(n * N, n * (N + 1))
    result[last, last] = _array(functions.terminal_cost_hessian(point.x[N], point.theta[:, N]))
    return result


def _stage_index(point: _Point, t: int) -> np.ndarray:
    """Places of (x_t, u_t) in z."""
    n, m = point.functions.n, point.functions.m
    states = np.arange(n * t, n * (t + 1))
    return np.concatenate([states, n * (point.horizon + 1) + np.arange(m * t, m * (t + 1))])


def _constraints(point: _Point, signs: np.ndarray) -> Array:
    """Jacobian over z of x_init - x_0, of f(x_t, u_t) - x_{t+1}, and of u - bound for active bounds."""
    functions, N = point.functions, point.horizon
    n = functions.n
    rows = n * (N + 1)
    held = np.flatnonzero(signs)
    result = np.zeros((rows + len(held), rows + signs.size))
    result[:rows, :rows] = -np.eye(rows)
    for t in range(N):
        block = slice(n * (t + 1), n * (t + 2))
        result[block, _stage_index(point, t)] = _array(functions.f_D_tau(*point.stage(t)[:3]))
    result[rows + np.arange(len(held)), rows + held] = 1.0
    return result


def _adjoint(
    point: _Point, hessian: Array, constraints: Array, r_x: Array, r_u: Array, grad_cost: float
) -> tuple[Array, Array]:
    """Solve the KKT system for minus the loss gradient: directions of z and of the multipliers."""
    functions, N = point.functions, point.horizon
    loss = np.concatenate([r_x.ravel(), r_u.ravel()])
    for t in range(N):
        gradient = _array(functions.stage_cost_D_tau(*point.stage(t)[:3])).ravel()
        loss[_stage_index(point, t)] += grad_cost * gradient
    last = slice(functions.n * N, functions.n * (N + 1))
    loss[last] += grad_cost * _array(functions.terminal_cost_D_x(point.x[N], point.theta[:, N])).ravel()
    size = len(hessian)
    matrix = np.zeros((size + len(constraints),) * 2)
    matrix[:size, :size] = hessian
    matrix[:size, size:], matrix[size:, :size] = constraints.T, constraints
    solution = np.linalg.solve(matrix, np.concatenate([-loss, np.zeros(len(constraints))]))
    return solution[:size], solution[size:]


def _parameter_gradient(
    point: _Point, signs: np.ndarray, direction: Array, multipliers: Array, grad_cost: float
) -> Array:
    """Gradient by every stage's theta: (n_theta, N+1)."""
    functions, N = point.functions, point.horizon
    n = functions.n
    result = np.zeros_like(point.theta)
    bound_multipliers = np.zeros(signs.shape)
    bound_multipliers[signs != 0] = multipliers[n * (N + 1) :]
    for t in range(N):
        arguments = point.stage(t)
        mixed = _array(functions.lagrangian_D_tau_theta(*arguments))
        result[:, t] += mixed.T @ direction[_stage_index(point, t)]
        model = _array(functions.f_D_theta(*arguments[:3]))
        result[:, t] += model.T @ multipliers[n * (t + 1) : n * (t + 2)]
        result[:, t] += grad_cost * _array(functions.stage_cost_D_theta(*arguments[:3])).ravel()
        for bound, sign in zip(functions.bounds_D_theta(arguments[2]), (-1, 1), strict=True):
            result[:, t] -= _array(bound).T @ np.where(signs[t] == sign, bound_multipliers[t], 0.0)
    last = point.x[N], point.theta[:, N]
    mixed = _array(functions.terminal_cost_D_x_theta(*last))
    result[:, N] += mixed.T @ direction[n * N : n * (N + 1)]
    result[:, N] += grad_cost * _array(functions.terminal_cost_D_theta(*last)).ravel()
    return result


def _second_order(point: _Point, hessian: Array, constraints: Array, signs: np.ndarray) -> bool:
    """Whether the Hessian is positive definite on the null space of the constraints."""
    rows = point.functions.n * (point.horizon + 1)
    free = np.flatnonzero(signs == 0)
    if len(free) == 0:
        return True
    dependent = np.linalg.solve(constraints[:rows, :rows], -constraints[:rows, rows + free])
    basis = np.zeros((len(hessian), len(free)))
    basis[:rows] = dependent
    basis[rows + free, np.arange(len(free))] = 1.0
    eigenvalues = np.linalg.eigvalsh(basis.T @ hessian @ basis)
    return bool(eigenvalues[0] > len(eigenvalues) * np.finfo(float).eps * abs(eigenvalues[-1]))
