"""A primal-dual interior point in plain PyTorch: the readable statement of what the compiled solver does with lanes.

Minimise cost(z) subject to h(z) = 0 and g(z) <= 0 becomes g(z) + s = 0 with s > 0 and the barrier -mu sum log s. With
multipliers y of h and zeta of g the conditions are

    grad cost + h'y + g'zeta = 0,   h = 0,   g + s = 0,   s zeta = mu,

and Newton's method on them, mu falling towards zero, is the algorithm. Where D = 1 / (s / zeta + delta), a step solves

    [ W + G'DG    A' ] [dz]     [ grad cost + A'y + G'(zeta + D (g + mu / zeta)) ]
    [ A        -delta] [dy] = - [ h                                              ]

with W the Hessian of the Lagrangian, A and G the Jacobians of h and g; delta is zero for the dynamics. Where the matrix
has not as many negative eigenvalues as there are equalities, dz would not be a direction of descent: then the curvature
of the constraints is left out, and after that W is shifted. Waechter and Biegler, "On the implementation of an
interior-point filter line-search algorithm for large-scale nonlinear programming", 2006; the numbers of equations below
are theirs. Everything is dense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.func import grad, hessian, jacrev

from mpcgen.reference.program import Program
from mpcgen.runtime.status import Status

INFEASIBLE = 6
FIRST_BARRIER = 1.0
LEAST_SLACK = 1.0
HALVINGS = 14
RESTORING_BARRIER = 1e-4
REFUSALS = 8
"""So many steps of a restoration may be refused one after the other."""


@dataclass(frozen=True)
class Settings:
    """tolerance: of the scaled conditions, equation (5). delta: regularisation of inequalities and equality rows."""

    tolerance: float
    max_iterations: int
    delta: float = 1e-10
    delta_equalities: float = 1e-8


@dataclass(frozen=True)
class Iterate:
    """z, slacks s and multipliers zeta of g, multipliers y of h."""

    z: Tensor
    s: Tensor
    zeta: Tensor
    y: Tensor


@dataclass(frozen=True)
class Result:
    """Where the iterations ended; residual: of the scaled conditions; violation: largest of the hard constraints."""

    iterate: Iterate
    status: int
    iterations: int
    residual: float
    violation: float


@dataclass
class _State:
    """What one pass hands to the next, besides the iterate."""

    mu: float
    shift: float = 0.0
    restoring: bool = False
    entry: float = torch.inf
    refusals: int = 0
    largest: float = torch.inf
    filter: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class _Local:
    """Values and derivatives at an iterate."""

    cost: float
    h: Tensor
    g: Tensor
    slope: Tensor
    A: Tensor
    G: Tensor
    cost_hessian: Tensor
    curvature: Tensor


def solve(program: Program, z: Tensor, settings: Settings) -> Result:
    """Solve from z; a status of `mpcgen.Status`, or INFEASIBLE where no step lowers a violation that is not zero."""
    h, g = program.equalities(z), program.inequalities(z)
    s = (-g).clamp(min=LEAST_SLACK)
    state = _State(mu=FIRST_BARRIER)
    point = Iterate(z, s, state.mu / s, torch.zeros_like(h))
    for iteration in range(settings.max_iterations + 1):
        local = _expand(program, point)
        residual = _residual(local, point, 0.0)
        violation = _violation(local)
        if not residual < torch.inf:
            return Result(point, int(Status.DIVERGED), iteration, residual, violation)
        if residual <= settings.tolerance:
            return Result(point, int(Status.CONVERGED), iteration, residual, violation)
        _lower_barrier(state, local, point, settings)
        following = _step(program, local, point, state, settings)
        if following is None:
            status = INFEASIBLE if violation > settings.tolerance else int(Status.STALLED)
            return Result(point, status, iteration, residual, violation)
        point = following
    return Result(point, int(Status.MAX_ITERATIONS), settings.max_iterations, residual, violation)


def _expand(program: Program, point: Iterate) -> _Local:
    z = point.z

    def weighted(z: Tensor) -> Tensor:
        return point.y @ program.equalities(z) + point.zeta @ program.inequalities(z)

    return _Local(
        float(program.cost(z)),
        program.equalities(z),
        program.inequalities(z),
        grad(program.cost)(z),
        jacrev(program.equalities)(z),
        jacrev(program.inequalities)(z),
        hessian(program.cost)(z),
        hessian(weighted)(z),
    )


def _residual(local: _Local, point: Iterate, mu: float) -> float:
    """The conditions at barrier mu, scaled by the size of the multipliers: equation (5)."""
    dual = local.slope + local.A.mT @ point.y + local.G.mT @ point.zeta
    sums = point.zeta.abs().sum()
    count = max(1, len(point.zeta) + len(point.y))
    of_dual = max(1.0, float(sums + point.y.abs().sum()) / count / 100)
    of_products = max(1.0, float(sums) / max(1, len(point.zeta)) / 100)
    return max(
        _largest(dual) / of_dual,
        _largest(local.h),
        _largest(local.g + point.s),
        _largest(point.s * point.zeta - mu) / of_products,
    )


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def _violation(local: _Local) -> float:
    return max(_largest(local.h), _largest(local.g.clamp(min=0)))


def _infeasibility(h: Tensor, slack_gap: Tensor) -> float:
    return float(h.abs().sum() + slack_gap.abs().sum())


def _lower_barrier(state: _State, local: _Local, point: Iterate, settings: Settings) -> None:
    """Equation (7); the filter forgets what it knew of another barrier."""
    if state.restoring or not len(point.s):
        return
    for _ in range(4):
        if _residual(local, point, state.mu) > 10 * state.mu:
            return
        mu = max(settings.tolerance / 10, min(0.2 * state.mu, state.mu**1.5))
        if mu == state.mu:
            return
        state.mu = mu
        state.filter.clear()
        state.largest = torch.inf


# ---- the direction ----


@dataclass(frozen=True)
class _Direction:
    z: Tensor
    s: Tensor
    zeta: Tensor
    y: Tensor


def _direction(local: _Local, point: Iterate, state: _State, settings: Settings, defects: int) -> _Direction:
    """Newton's direction, or while restoring one that lowers the violation: cost off, delta = 1, W = zeta I."""
    restoring = state.restoring
    mu = min(state.mu, RESTORING_BARRIER) if restoring else state.mu
    zeta = mu / point.s if restoring else point.zeta
    y = torch.zeros_like(point.y) if restoring else point.y
    delta = 1.0 if restoring else settings.delta
    D = 1 / (point.s / zeta + delta)
    middle = zeta + D * (local.g + mu / zeta)
    slope = 0 * local.slope if restoring else local.slope
    right = torch.cat([slope + local.A.mT @ y + local.G.mT @ middle, local.h])
    size, rows = len(point.z), len(point.y)
    regular = torch.full((rows,), 1.0 if restoring else settings.delta_equalities, dtype=point.z.dtype)
    regular[:defects] = 0
    proximal = 1e-2 * min(1.0, _infeasibility(local.h, local.g + point.s))
    matrix = torch.zeros(size + rows, size + rows, dtype=point.z.dtype)
    matrix[:size, size:], matrix[size:, :size] = local.A.mT, local.A
    matrix[size:, size:] = -torch.diag(regular)
    stiff = local.G.mT @ (D[:, None] * local.G)
    identity = torch.eye(size, dtype=point.z.dtype)

    def eigen(weight: float, shift: float) -> tuple[Tensor, Tensor]:
        W = proximal * identity if restoring else local.cost_hessian + weight * local.curvature
        matrix[:size, :size] = W + stiff + shift * identity
        return torch.linalg.eigh(matrix)

    values, vectors = _with_right_inertia(eigen, state, rows)
    solution = -vectors @ ((vectors.mT @ right) / values)
    dz, dy = solution[:size], solution[size:]
    along = local.G @ dz
    d_zeta = D * (along + local.g + mu / zeta)
    ds = -(local.g + point.s) - along + delta * d_zeta
    return _Direction(dz, ds, d_zeta, dy)


def _with_right_inertia(
    eigen: Callable[[float, float], tuple[Tensor, Tensor]], state: _State, rows: int
) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors of the first matrix with as many negative ones as equalities."""
    weight, shift = 1.0, state.shift
    for attempt in range(40):
        values, vectors = eigen(weight, shift)
        if int((values < 0).sum()) == rows:
            break
        if attempt == 0:
            weight = 0.0
        else:
            shift = max(1e-4, 8 * shift)
    state.shift = shift / 3 if shift / 3 > 1e-9 else 0.0
    return values, vectors


# ---- the step ----


def _step(
    program: Program, local: _Local, point: Iterate, state: _State, settings: Settings
) -> Iterate | None:
    """The next iterate; None where neither a step nor a restoration is left."""
    theta = _infeasibility(local.h, local.g + point.s)
    if state.largest == torch.inf:
        state.largest = 1e4 * max(1.0, theta)
    direction = _direction(local, point, state, settings, program.horizon * program.n)
    share = max(0.99, 1 - state.mu)
    longest = _to_the_boundary(point.s, direction.s, share)
    accepted = _search(program, local, point, direction, state, longest)
    if accepted is None:
        return _refused(program, local, point, state, settings, theta)
    state.refusals = 0
    length, z, s = accepted
    if state.restoring:
        return _restored(program, replace(point, z=z, s=s), state)
    zeta = point.zeta + _to_the_boundary(point.zeta, direction.zeta, share) * direction.zeta
    zeta = zeta.clamp(min=state.mu / (1e10 * s), max=1e10 * state.mu / s)  # equation (16)
    return Iterate(z, s, zeta, point.y + length * direction.y)


def _to_the_boundary(values: Tensor, change: Tensor, share: float) -> float:
    """The longest step up to 1 that leaves 1 - share of each value: equation (15)."""
    ratios = torch.where(change < 0, -share * values / change, torch.inf)
    return min(1.0, float(ratios.min())) if len(values) else 1.0


def _barrier(cost: float, s: Tensor, mu: float) -> float:
    return cost - mu * float(s.log().sum())


def _search(
    program: Program, local: _Local, point: Iterate, d: _Direction, state: _State, longest: float
) -> tuple[float, Tensor, Tensor] | None:
    """The filter's line search, algorithm A: (length, z, s) of the first step that it takes."""
    theta, mu = _infeasibility(local.h, local.g + point.s), state.mu
    phi = _barrier(local.cost, point.s, mu)
    slope = float(local.slope @ d.z - mu * (d.s / point.s).sum())
    slack = 10 * torch.finfo(point.z.dtype).eps * max(1.0, abs(phi))
    squares = float(local.h.square().sum() + (local.g + point.s).square().sum())
    length = longest
    for _ in range(HALVINGS):
        z, s = point.z + length * d.z, point.s + length * d.s
        g, h = program.inequalities(z), program.equalities(z)
        s = torch.where(g + s < 0, -g, s)
        new_theta = _infeasibility(h, g + s)
        new_phi = _barrier(float(program.cost(z)), s, mu)
        if state.restoring:
            new_squares = float(h.square().sum() + (g + s).square().sum())
            if new_squares**0.5 <= (1 - 1e-3 * length) * squares**0.5:
                return length, z, s
        elif new_theta < torch.inf and new_phi < torch.inf and new_theta <= state.largest:
            towards_cost = slope < 0 and length * (-slope) ** 2.3 > theta**1.1  # equation (19)
            towards_cost = towards_cost and theta <= 1e-4 * max(1.0, state.largest / 1e4)
            armijo = new_phi - phi <= 1e-4 * length * slope + slack
            enough = new_theta <= (1 - 1e-5) * theta + 1e-15 or new_phi - phi <= -1e-5 * theta + slack
            if (armijo if towards_cost else enough) and not _filtered(state, new_theta, new_phi):
                if not (towards_cost and armijo):
                    state.filter.append((theta, phi))
                return length, z, s
        length /= 2
    return None


def _filtered(state: _State, theta: float, phi: float) -> bool:
    return any(theta >= (1 - 1e-5) * t and phi >= p - 1e-5 * t for t, p in state.filter)


def _refused(
    program: Program, local: _Local, point: Iterate, state: _State, settings: Settings, theta: float
) -> Iterate | None:
    """After a search without a step: begin a restoration, or count what it has been refused."""
    state.refusals += 1
    if state.refusals > REFUSALS:
        return None
    if state.restoring or theta <= 1e-6:
        state.shift = max(1e-3, 10 * state.shift)
        return point
    state.filter.append((theta, _barrier(local.cost, point.s, state.mu)))
    state.restoring, state.entry, state.shift = True, theta, 0.0
    return point


def _restored(program: Program, point: Iterate, state: _State) -> Iterate:
    """Leave the restoration at half of the violation with which it began, if the filter agrees."""
    theta = _infeasibility(program.equalities(point.z), program.inequalities(point.z) + point.s)
    phi = _barrier(float(program.cost(point.z)), point.s, state.mu)
    if theta <= 0.5 * state.entry and (not _filtered(state, theta, phi) or theta <= 1e-2 * state.entry):
        state.restoring, state.shift = False, 0.0
        zeta = (state.mu / point.s).clamp(max=1e3)
        return replace(point, zeta=zeta, y=torch.zeros_like(point.y))
    return point


# ---- the gradient ----


def differentiable(program: Program, point: Iterate) -> tuple[Tensor, Tensor, Tensor]:
    """Z, y and zeta with the gradient of a solution by what the program was made from: implicit function theorem.

    The conditions of the active constraints, those with zeta > s, hold of both solution and parameters: one more step
    of Newton's method, whose matrix is held, has the solution's derivative.
    """
    active = point.zeta > point.s
    size, rows = len(point.z), len(point.y)

    def conditions(z: Tensor) -> tuple[Tensor, Tensor]:
        def lagrangian(z: Tensor) -> Tensor:
            return program.cost(z) + point.y @ program.equalities(z) + zeta @ program.inequalities(z)[active]

        held = torch.cat([program.equalities(z), program.inequalities(z)[active]])
        return grad(lagrangian)(z), held

    zeta = point.zeta[active]
    with torch.no_grad():
        W, A = jacrev(conditions)(point.z)
        matrix = torch.zeros(size + len(A), size + len(A), dtype=point.z.dtype)
        matrix[:size, :size], matrix[:size, size:], matrix[size:, :size] = W, A.mT, A
        inverse = torch.linalg.pinv(matrix, hermitian=True)
    values = torch.cat(conditions(point.z))
    step = -inverse @ (values - values.detach())
    d_zeta = torch.zeros_like(point.zeta).index_add(0, active.nonzero()[:, 0], step[size + rows :])
    return point.z + step[:size], point.y + step[size : size + rows], point.zeta + d_zeta
