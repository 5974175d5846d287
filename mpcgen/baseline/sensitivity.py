"""Gradients of optimal trajectories from the KKT system.

The KKT system is assembled over the whole horizon and solved densely by the implicit function theorem: at
a stationary point M(z, p) = (grad_z L, c) = 0 and d loss / dp = loss_p + w' M_p with M_z' w = -loss_z. It
shares neither the Riccati recursion nor the derivatives of the generated kernels.

Of constraints, rows at a bound are equalities of that system. A soft row that is exceeded has its multiplier as a
function of its excess instead. (CasADi's own sensitivities of an interior point's solution take every finite bound
for an active one, however small its multiplier, unless told from which size on they count.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from mpcgen.baseline.functions import Functions
from mpcgen.baseline.parameters import Array, unpack_gradient
from mpcgen.baseline.point import (
    EXCEEDED,
    FREE,
    HELD,
    Point,
    active_controls,
    array,
    complementarity,
    make_point,
    residual,
)
from mpcgen.baseline.rows import duals_by_stage
from mpcgen.errors import ParameterError, ShapeError

_DEPENDENT = 1e-9
"""A row of the Jacobian that keeps less than this share of its length beside the others says nothing of its own."""


@dataclass(frozen=True)
class KktGradient:
    """Gradient of a loss at a solution, and how well that solution supports one.

    x0: (n,); parameters: name -> its shape, behind a stage axis if per stage; active: (N, m) with -1 at the
    lower bound, +1 at the upper, 0 between. ``complementarity`` is the smallest of the active bounds' and rows'
    multipliers and the free ones' distances to their bounds, and zero where more bounds meet than there are directions:
    near zero the gradient does not exist.
    ``second_order`` says whether the Hessian of the Lagrangian is positive definite on the free directions.
    ``residual`` is that of `kkt_residual`.
    """

    x0: Array
    parameters: dict[str, Array]
    active: np.ndarray
    complementarity: float
    second_order: bool
    residual: float


def kkt_residual(
    functions: Functions,
    x: ArrayLike,
    u: ArrayLike,
    parameters: Mapping[str, ArrayLike] | None = None,
    duals: Mapping[str, ArrayLike] | None = None,
) -> float:
    """Largest projected gradient max_t |u - clip(u - dL/du, lower, upper)| of a trajectory, and the rows' like.

    x: (N+1, n), u: (N, m). Feasibility of x in the dynamics is not part of it. ``duals``: (stages, rows) by name.
    """
    return residual(make_point(functions, x, u, parameters or {}, duals or {}))


def kkt_gradient(
    functions: Functions,
    x: ArrayLike,
    u: ArrayLike,
    parameters: Mapping[str, ArrayLike] | None = None,
    grad_x: ArrayLike | None = None,
    grad_u: ArrayLike | None = None,
    grad_cost: float = 0.0,
    active: ArrayLike | None = None,
    duals: Mapping[str, ArrayLike] | None = None,
    grad_duals: Mapping[str, ArrayLike] | None = None,
    grad_bounds: ArrayLike | None = None,
) -> KktGradient:
    """Gradient by x0 and all parameters of a loss with the given cotangents, at the solution x, u.

    x, grad_x: (N+1, n); u, grad_u: (N, m); grad_cost multiplies the optimal cost, and goes through the KKT
    system like the rest: at a solution this equals the gradient of the envelope theorem; elsewhere the two
    differ by the order of the residual. ``active`` (N, m), signs as in `KktGradient`, defaults to the bounds that
    u - dL/du oversteps. ``duals``: (stages, rows) by constraint's name; which rows are active follows from them.
    grad_duals: cotangents of these, of hard rows; grad_bounds: (N, m) of the multipliers of the controls' bounds, which
    are positive at the upper one.

    Raises `ShapeError` for shapes, `ParameterError` where multipliers are missing or derivatives are not finite, and
    `numpy.linalg.LinAlgError` where the KKT matrix is singular.
    """
    point = make_point(functions, x, u, parameters or {}, duals or {})
    signs = active_controls(point) if active is None else np.asarray(active).astype(int)
    r_x = np.zeros_like(point.x) if grad_x is None else np.asarray(grad_x, dtype=float)
    r_u = np.zeros_like(point.u) if grad_u is None else np.asarray(grad_u, dtype=float)
    r_bounds = np.zeros_like(point.u) if grad_bounds is None else np.asarray(grad_bounds, dtype=float)
    expected = (("active", signs, point.u), ("grad_x", r_x, point.x), ("grad_u", r_u, point.u))
    for name, given, like in (*expected, ("grad_bounds", r_bounds, point.u)):
        if given.shape != like.shape:
            raise ShapeError(f"{name} has shape {given.shape}, expected {like.shape}")
    system = _System(point, signs)
    _check_finite(point, system)
    r_rows = None if grad_duals is None else duals_by_stage(functions.spec, grad_duals, point.horizon)
    of_constraints = system.of_multipliers(r_bounds, r_rows)
    loss = np.concatenate([r_x.ravel(), r_u.ravel()])
    direction, multipliers = system.adjoint(loss, grad_cost, of_constraints)
    stages = system.parameter_gradient(direction, multipliers, grad_cost)
    return KktGradient(
        # c_0 = x_init - x_0
        x0=multipliers[: functions.n],
        parameters=unpack_gradient(functions.spec, stages),
        active=signs,
        complementarity=0.0 if system.overdetermined else complementarity(point, signs),
        second_order=system.second_order(),
        residual=residual(point),
    )


def _check_finite(point: Point, system: "_System") -> None:
    """Raise ParameterError for a trajectory at which the problem has no derivatives, naming the last such stage.

    Costates carry what is not finite backwards, to stages that are not at fault.
    """
    finite = np.isfinite(system.hessian).all(axis=1) & np.isfinite(system.cost_gradient)
    finite &= np.isfinite(system.dynamics).all(axis=0)
    for t in reversed(range(point.horizon + 1)):
        if not (finite[point.index(t)].all() and np.isfinite(point.costates[t]).all()):
            raise ParameterError(
                f"problem {point.functions.spec.name} has derivatives that are not finite at stage {t} of this "
                f"trajectory, where x = {point.x[t].tolist()}; give one along which it has them"
            )


class _System:
    """The KKT system over z = (x_0, ..., x_N, u_0, ..., u_{N-1}), dense.

    Its constraints are x_init - x_0, f(x_t, u_t) - x_{t+1}, u - bound of active bounds, and the rows that are held.
    """

    def __init__(self, point: Point, signs: np.ndarray) -> None:
        self.point, self.signs = point, signs
        self.held_controls = np.flatnonzero(signs)
        self.defects = point.functions.n * (point.horizon + 1)
        self.size = self.defects + signs.size

    @cached_property
    def jacobians(self) -> list[Array]:
        """Of all rows of each stage, over z: (k, size)."""
        found = []
        for t in range(self.point.horizon + 1):
            rows = self.point.own_rows(t)
            J = np.zeros((rows.count, self.size))
            if rows.count:
                index = self.point.index(t)
                J[:, index] = array(rows.D_tau(*self.point.row_arguments(t)))[:, : len(index)]
            found.append(J)
        return found

    def rows_that_are(self, kind: int) -> list[tuple[int, int]]:
        """(stage, row) of every row of a kind."""
        return [
            (t, int(i))
            for t, (kinds, _) in enumerate(self.point.states_of_rows)
            for i in np.flatnonzero(kinds == kind)
        ]

    @cached_property
    def held_rows(self) -> list[tuple[int, int]]:
        """(stage, row) of held rows, equalities first, without those that depend on others and on held controls."""
        held = sorted(self.rows_that_are(HELD), key=lambda place: not self._equality(place))
        if not held:
            return []
        J = np.array([self.jacobians[t][i] for t, i in held])
        reduced = J @ self.basis_of_controls(np.flatnonzero(self.signs.ravel() == 0))
        return [held[i] for i in _independent(reduced)]

    def _equality(self, place: tuple[int, int]) -> bool:
        t, i = place
        return bool(self.point.rows[t].lower[i] == self.point.rows[t].upper[i])

    @property
    def overdetermined(self) -> bool:
        """Whether an inequality is held that others hold already: then which of them do is a matter of direction."""
        dependent = set(self.rows_that_are(HELD)) - set(self.held_rows)
        return not all(map(self._equality, dependent))

    @cached_property
    def hessian(self) -> Array:
        """Of the Lagrangian, with the stiffness of soft rows that are exceeded."""
        point, functions, N = self.point, self.point.functions, self.point.horizon
        result = np.zeros((self.size, self.size))
        for t in range(N + 1):
            index = point.index(t)
            if t < N:
                block = array(functions.lagrangian_hessian(*point.stage(t)))
            else:
                block = array(functions.terminal_cost_hessian(point.x[N], point.theta[:, N]))
            if point.own_rows(t).count:
                curvature = array(point.own_rows(t).curvature(*point.row_arguments(t), point.duals[t]))
                block += curvature[: len(index), : len(index)]
            result[np.ix_(index, index)] = block
        for t, i in self.rows_that_are(EXCEEDED):
            slope = self.jacobians[t][i]
            result += point.rows[t].quadratic[i] * np.outer(slope, slope)
        return result

    @cached_property
    def dynamics(self) -> Array:
        """Jacobian of the first two kinds of constraints."""
        point, n = self.point, self.point.functions.n
        result = np.zeros((self.defects, self.size))
        result[:, : self.defects] = -np.eye(self.defects)
        for t in range(point.horizon):
            block = slice(n * (t + 1), n * (t + 2))
            result[block, point.index(t)] = array(point.functions.f_D_tau(*point.stage(t)[:3]))
        return result

    @cached_property
    def constraints(self) -> Array:
        """Jacobian of all constraints."""
        bounds = np.zeros((len(self.held_controls), self.size))
        bounds[np.arange(len(bounds)), self.defects + self.held_controls] = 1.0
        rows = [self.jacobians[t][i][None] for t, i in self.held_rows]
        return np.vstack([self.dynamics, bounds, *rows])

    @cached_property
    def cost_gradient(self) -> Array:
        """Of the cost over z, the prices of exceeded rows included."""
        point, functions, N = self.point, self.point.functions, self.point.horizon
        result = np.zeros(self.size)
        for t in range(N):
            result[point.index(t)] += array(functions.stage_cost_D_tau(*point.stage(t)[:3])).ravel()
        last = point.index(N)
        result[last] += array(functions.terminal_cost_D_x(point.x[N], point.theta[:, N])).ravel()
        for t, i in self.rows_that_are(EXCEEDED):
            result += point.duals[t][i] * self.jacobians[t][i]
        return result

    def of_multipliers(self, bounds: Array, rows: list[Array] | None) -> Array:
        """Cotangents of all constraints' multipliers: zero of the dynamics', bounds (N, m), and rows by stage."""
        if rows is not None and any(rows[t][i] for t, i in self.rows_that_are(EXCEEDED)):
            raise ParameterError(
                "grad_duals of a soft row that is exceeded; only hard ones are differentiated here"
            )
        of_rows = [0.0 if rows is None else float(rows[t][i]) for t, i in self.held_rows]
        return np.concatenate([np.zeros(self.defects), bounds.ravel()[self.held_controls], of_rows])

    def adjoint(self, loss: Array, grad_cost: float, of_constraints: Array) -> tuple[Array, Array]:
        """Solve the KKT system for minus the loss gradient: directions of z and of the multipliers."""
        loss = loss + grad_cost * self.cost_gradient
        matrix = np.zeros((self.size + len(self.constraints),) * 2)
        matrix[: self.size, : self.size] = self.hessian
        matrix[: self.size, self.size :] = self.constraints.T
        matrix[self.size :, : self.size] = self.constraints
        solution = np.linalg.solve(matrix, np.concatenate([-loss, -of_constraints]))
        return solution[: self.size], solution[self.size :]

    def parameter_gradient(self, direction: Array, multipliers: Array, grad_cost: float) -> Array:
        """Gradient by every stage's theta: (n_theta, N+1)."""
        result = self._gradient_without_rows(direction, multipliers, grad_cost)
        of_rows = multipliers[self.defects + len(self.held_controls) :]
        weights = dict(zip(self.held_rows, map(float, of_rows), strict=True))
        for t in range(self.point.horizon + 1):
            if self.point.own_rows(t).count:
                result[:, t] += self._gradient_of_rows(t, direction, weights, grad_cost)
        return result

    def _gradient_without_rows(self, direction: Array, multipliers: Array, grad_cost: float) -> Array:
        point, functions, N = self.point, self.point.functions, self.point.horizon
        n = functions.n
        result = np.zeros_like(point.theta)
        of_bounds = np.zeros(self.signs.shape)
        of_bounds.flat[self.held_controls] = multipliers[
            self.defects : self.defects + len(self.held_controls)
        ]
        for t in range(N):
            arguments = point.stage(t)
            mixed = array(functions.lagrangian_D_tau_theta(*arguments))
            result[:, t] += mixed.T @ direction[point.index(t)]
            model = array(functions.f_D_theta(*arguments[:3]))
            result[:, t] += model.T @ multipliers[n * (t + 1) : n * (t + 2)]
            result[:, t] += grad_cost * array(functions.stage_cost_D_theta(*arguments[:3])).ravel()
            for bound, sign in zip(functions.bounds_D_theta(arguments[2]), (-1, 1), strict=True):
                result[:, t] -= array(bound).T @ np.where(self.signs[t] == sign, of_bounds[t], 0.0)
        last = point.x[N], point.theta[:, N]
        mixed = array(functions.terminal_cost_D_x_theta(*last))
        result[:, N] += mixed.T @ direction[point.index(N)]
        result[:, N] += grad_cost * array(functions.terminal_cost_D_theta(*last)).ravel()
        return result

    def _gradient_of_rows(
        self, t: int, direction: Array, weights: Mapping[tuple[int, int], float], grad_cost: float
    ) -> Array:
        """What the rows of stage t add: through their curvature, their own place, their bounds and prices."""
        point, rows = self.point, self.point.own_rows(t)
        arguments, index = point.row_arguments(t), point.index(t)
        mixed = array(rows.D_tau_theta(*arguments, point.duals[t]))[: len(index)]
        result = mixed.T @ direction[index]
        place = array(rows.D_theta(*arguments))
        lower, upper, linear, quadratic = (
            array(slope) for slope in rows.sides_D_theta.call([point.theta[:, t]])
        )
        kinds, sides = point.states_of_rows[t]
        for i in np.flatnonzero(kinds != FREE):
            bound = (upper if sides[i] == 1 else lower)[i]
            if kinds[i] == HELD:
                result += weights.get((t, int(i)), 0.0) * (place[i] - bound)
                continue
            # y = side (linear + quadratic excess), excess = side (row - bound)
            own, side = point.rows[t], sides[i]
            excess = side * (own.values[i] - (own.upper if side == 1 else own.lower)[i])
            along = float(self.jacobians[t][i] @ direction)
            result += along * (
                side * (linear[i] + excess * quadratic[i]) + own.quadratic[i] * (place[i] - bound)
            )
            price = excess * linear[i] + excess**2 / 2 * quadratic[i]
            result += grad_cost * (price + point.duals[t][i] * (place[i] - bound))
        return result

    def basis_of_controls(self, free: np.ndarray) -> Array:
        """(size, free): changes of z along single controls, states following by the dynamics."""
        columns = self.dynamics[:, self.defects + free]
        basis = np.zeros((self.size, len(free)))
        basis[: self.defects] = np.linalg.solve(self.dynamics[:, : self.defects], -columns)
        basis[self.defects + free, np.arange(len(free))] = 1.0
        return basis

    def second_order(self) -> bool:
        """Whether the Hessian is positive definite on the null space of the constraints."""
        free = np.flatnonzero(self.signs.ravel() == 0)
        if len(free) == 0:
            return True
        basis = self.basis_of_controls(free)
        if self.held_rows:
            J = np.array([self.jacobians[t][i] for t, i in self.held_rows]) @ basis
            orthogonal, _ = np.linalg.qr(J.T, mode="complete")
            basis = basis @ orthogonal[:, len(J) :]
            if not basis.shape[1]:
                return True
        eigenvalues = np.linalg.eigvalsh(basis.T @ self.hessian @ basis)
        return bool(eigenvalues[0] > len(eigenvalues) * np.finfo(float).eps * abs(eigenvalues[-1]))


def _independent(rows: Array) -> list[int]:
    """Places of rows that do not depend on earlier ones."""
    basis: list[Array] = []
    chosen = []
    for i, row in enumerate(rows):
        length = np.linalg.norm(row)
        if length == 0:
            continue
        rest = row / length
        for _ in range(2):  # once more, since rounding leaves a share of what was taken out
            for known in basis:
                rest = rest - (rest @ known) * known
        left = np.linalg.norm(rest)
        if left > _DEPENDENT:
            basis.append(rest / left)
            chosen.append(i)
    return chosen
