"""Algorithm 2 of the paper (appendix A): box-constrained iLQR, after Tassa, Mansard and Todorov 2014.

Amos, Rodriguez, Sacks, Boots and Kolter, "Differentiable MPC for End-to-end Planning and Control", 2018. The
paper's stages 1..T are our 0..N with N = T-1 controls, and its last stage's cost is our terminal cost.

Everything is written in deviations from the current trajectory tau_t = (x_t, u_t): there the affine terms of
Algorithm 2 become c_t = p_t, the gradient of the cost in (12), and f_t = f(tau_t) - x_{t+1}, which is zero
since the trajectory obeys the dynamics. What Algorithm 2 leaves open is filled in so: the backtracking is
Tassa's Armijo rule, a refused search raises a regularisation of Q_uu, and convergence is measured by the KKT
residual. With the exact Hessian H_t also holds w lambda_{t+1}' d²f, the curvature of the dynamics with a
weight per problem that leads from Gauss-Newton's method (w = 0) to Newton's (w = 1) near the solution.

`solve` runs without a graph and lists the steps it took; `replay` takes the listed steps again with a graph.
Differentiating the replay is the paper's "unrolling": which steps were taken, their lengths and the active
sets are held, all numbers are differentiated. `last_approximation` is the other way, the paper's Module 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from mpcgen.reference.box_qp import ActiveSet, find_active_set, solve_held
from mpcgen.reference.functions import Expansion, Problems
from mpcgen.reference.progress import Progress
from mpcgen.runtime.status import Status

GAMMA = 0.5
ARMIJO = 1e-4
SHORTEST_STEP = 1e-3
LEAST_CURVATURE = 0.1
FAR_FROM_SOLUTION = 0.3


@dataclass(frozen=True)
class Settings:
    """tolerance: of the KKT residual; exact: use the curvature of the dynamics near a solution."""

    tolerance: float
    max_iterations: int
    exact: bool


@dataclass(frozen=True)
class Trajectory:
    """tau: states x (B, N+1, n), controls u (B, N, m), cost (B,), sum of the absolute stage costs."""

    x: Tensor
    u: Tensor
    cost: Tensor
    cost_scale: Tensor

    def select(self, index: Tensor) -> Trajectory:
        """The trajectories with the given indices (k,)."""
        return Trajectory(*(getattr(self, field.name)[index] for field in fields(self)))

    def put(self, index: Tensor, other: Trajectory) -> Trajectory:
        """These trajectories, those of the given indices replaced."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return Trajectory(*(mine.index_copy(0, index, theirs) for mine, theirs in pairs))


@dataclass(frozen=True)
class Policy:
    """What the backward recursion finds.

    k: (B, N, m) and K: (B, N, m, n), the policy u + k + K dx. slope, bend: (B,), the expected change of the
    cost for step length a is a slope + a² bend. costates: (B, N+1, n). residual: (B,), KKT. convex: (B,),
    whether every stage's Q_uu was positive definite as it came.
    """

    k: Tensor
    K: Tensor
    slope: Tensor
    bend: Tensor
    costates: Tensor
    residual: Tensor
    convex: Tensor

    def select(self, index: Tensor) -> Policy:
        """The policies with the given indices (k,)."""
        return Policy(*(getattr(self, field.name)[index] for field in fields(self)))

    @property
    def finite(self) -> Tensor:
        """(B,): whether the derivatives and all that follows from them are numbers."""
        parts = (self.k, self.K, self.costates)
        return torch.stack([part.isfinite().flatten(1).all(1) for part in parts]).all(0)


@dataclass(frozen=True)
class Step:
    """An accepted iteration of the problems ``index`` (k,), with what was decided on the way; each (k,)."""

    index: Tensor
    regularisation: Tensor
    curvature: Tensor
    length: Tensor


def rollout(problems: Problems, control: Callable[[int, Tensor], Tensor]) -> Trajectory:
    """Roll ``control(t, x_t)`` (B, m), clipped to the bounds, through the true dynamics and cost."""
    x, u, costs = [problems.x_init], [], []
    for t in range(problems.horizon):
        u.append(_into_bounds(control(t, x[t]), problems.lower[:, t], problems.upper[:, t]))
        x_next, cost = problems.stage(t, x[t], u[t])
        x.append(x_next)
        costs.append(cost)
    costs.append(problems.terminal_cost(x[-1]))
    cost = torch.stack(costs, dim=1)
    return Trajectory(torch.stack(x, dim=1), torch.stack(u, dim=1), cost.sum(1), cost.abs().sum(1))


def _into_bounds(target: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Clip, and put what lies within rounding of a bound on it: u + (bound - u) need not be the bound."""
    slack = 4 * torch.finfo(target.dtype).eps
    target = torch.where(target <= lower + slack * lower.abs(), lower, target)
    return torch.where(target >= upper - slack * upper.abs(), upper, target)


def follow(tau: Trajectory, policy: Policy, length: Tensor) -> Callable[[int, Tensor], Tensor]:
    """Algorithm 2: û_t = u_t + alpha k_t + K_t (x̂_t - x_t), with the step length alpha (B,)."""
    k, K = policy.k.unbind(1), policy.K.unbind(1)
    return lambda t, x: tau.u[:, t] + length[:, None] * k[t] + _times(K[t], x - tau.x[:, t])


def backward_recursion(
    problems: Problems, tau: Trajectory, regularisation: Tensor, curvature: Tensor
) -> Policy:
    """Algorithm 2, "Backward Recursion: over the linearized trajectory".

    regularisation: (B,), added to the diagonal of Q_uu. curvature: (B,), the weight w of lambda_{t+1}' d²f in
    H_t. Where the policy is not ``convex``, it is that of a Q_uu made positive definite.
    """
    n = tau.x.shape[2]
    expansion = problems.expand(tau.x, tau.u)
    costates, residual = _first_order(problems, tau, expansion)
    H = expansion.cost_hessian
    if curvature.any():
        H = H + curvature[:, None, None, None] * problems.curvature(tau.x, tau.u, costates)
    V, v = expansion.terminal_hessian, expansion.terminal_gradient
    stages = []
    parts = (part.unbind(1) for part in (H, expansion.F, expansion.cost_gradient, expansion.defect))
    for t, (C_t, F_t, c_t, f_t) in reversed(list(enumerate(zip(*parts, strict=True)))):
        box = problems.lower[:, t] - tau.u[:, t], problems.upper[:, t] - tau.u[:, t]
        Q = C_t + F_t.mT @ V @ F_t
        q = c_t + _times(F_t.mT @ V, f_t) + _times(F_t.mT, v)
        Q, held, convex = _box_qp(Q, q[:, n:], regularisation, box)
        Q_xx, Q_ux, Q_uu, q_x, q_u = Q[:, :n, :n], Q[:, n:, :n], Q[:, n:, n:], q[:, :n], q[:, n:]
        k, K = solve_held(Q_uu, q_u, Q_ux, *box, held)
        V = Q_xx + Q_ux.mT @ K + K.mT @ Q_ux + K.mT @ Q_uu @ K
        V = 0.5 * (V + V.mT)  # else rounding makes it ever less symmetric, faster than the stages damp it
        v = q_x + _times(Q_ux.mT, k) + _times(K.mT, q_u) + _times(K.mT @ Q_uu, k)
        bend = 0.5 * (k * _times(Q_uu, k)).sum(-1)
        stages.append((k, K, (k * q_u).sum(-1), bend, convex))
    k, K, slope, bend, convex = (torch.stack(part[::-1], dim=1) for part in zip(*stages, strict=True))
    return Policy(k, K, slope.sum(1), bend.sum(1), costates, residual, convex.all(1))


def _first_order(problems: Problems, tau: Trajectory, expansion: Expansion) -> tuple[Tensor, Tensor]:
    """Costates lambda_t = dL/dx_t (B, N+1, n), and the KKT residual max |u - clip(u - dL/du)| (B,)."""
    n = tau.x.shape[2]
    costates, slopes = [expansion.terminal_gradient], []
    for p_t, F_t in reversed(
        list(zip(expansion.cost_gradient.unbind(1), expansion.F.unbind(1), strict=True))
    ):
        slope = p_t + _times(F_t.mT, costates[-1])
        costates.append(slope[:, :n])
        slopes.append(slope[:, n:])
    target = tau.u - torch.stack(slopes[::-1], dim=1)
    projected = torch.minimum(torch.maximum(target, problems.lower), problems.upper)
    return torch.stack(costates[::-1], dim=1), (tau.u - projected).abs().flatten(1).amax(1)


def _box_qp(
    Q: Tensor, q_u: Tensor, regularisation: Tensor, box: tuple[Tensor, Tensor]
) -> tuple[Tensor, ActiveSet, Tensor]:
    """Q with its u-block regularised, the box QP's active set, and whether it was convex as it came (B,).

    Where it was not, the u-block is shifted so that it is.
    """
    m = q_u.shape[-1]
    on_controls = (torch.arange(Q.shape[-1]) >= Q.shape[-1] - m).to(Q.dtype)
    Q = Q + torch.diag_embed(regularisation[:, None] * on_controls)
    held = find_active_set(Q[:, -m:, -m:], q_u, *box)
    convex = held.convex
    if not convex.all():
        shift = torch.where(convex, 0.0, _convexifying_shift(Q[:, -m:, -m:]))
        Q = Q + torch.diag_embed(shift[:, None] * on_controls)
        held = find_active_set(Q[:, -m:, -m:], q_u, *box)
    return Q, held, convex


@torch.no_grad()
def _convexifying_shift(Q_uu: Tensor) -> Tensor:
    """(B,): what to add to the diagonal so that Q_uu is certainly positive definite (Gershgorin)."""
    diagonal = Q_uu.diagonal(dim1=-2, dim2=-1)
    radius = Q_uu.abs().sum(-1) - diagonal.abs()
    lowest, largest = (diagonal - radius).amin(-1), (diagonal.abs() + radius).amax(-1)
    least = torch.where(largest > 0, 1e-3 * largest, torch.finfo(Q_uu.dtype).eps)
    return (-2 * lowest).clamp(min=0) + least


def line_search(
    problems: Problems, tau: Trajectory, policy: Policy, going: Tensor
) -> tuple[Tensor, Tensor, Trajectory]:
    """Algorithm 2, "Forward Recursion and Line Search: over the true cost and dynamics", for those ``going``.

    Returns accepted: (B,), the step lengths alpha: (B,), and the trajectories after the accepted steps.
    """
    accepted, length = torch.zeros_like(going), torch.ones_like(tau.cost)
    found = tau
    while (pending := going & ~accepted & (length >= SHORTEST_STEP)).any():
        index = pending.nonzero()[:, 0]
        alpha, now, pi = length[index], tau.select(index), policy.select(index)
        candidate = rollout(problems.select(index), follow(now, pi, alpha))
        expected = alpha * pi.slope + alpha**2 * pi.bend
        good = candidate.cost - now.cost <= ARMIJO * expected + rounding(now)
        accepted[index] = good
        found = found.put(index[good], candidate.select(good.nonzero()[:, 0]))
        length[index] = torch.where(good, alpha, GAMMA * alpha)
    return accepted, length, found


def rounding(tau: Trajectory) -> Tensor:
    """(B,): a change of the cost below this is rounding."""
    return 16 * torch.finfo(tau.cost.dtype).eps * tau.cost_scale


@torch.no_grad()
def solve(
    problems: Problems, u_init: Tensor, settings: Settings
) -> tuple[Trajectory, Policy, Progress, list[Step]]:
    """Algorithm 2 for all problems at once, each with its own step length, regularisation and end.

    u_init: (B, N, m); its rollout must be finite. Returns the last trajectories, the policies there, how each
    problem ended, and the steps taken.
    """
    tau = rollout(problems, lambda t, x: u_init[:, t])  # x_{t+1} = f(x_t, u_init,t)
    progress = Progress.start(tau.cost)
    steps = []
    for _ in range(settings.max_iterations):  # for i = 1 to [converged]
        index = progress.running.nonzero()[:, 0]
        if not len(index):
            break
        here, now, regularisation = problems.select(index), tau.select(index), progress.regularisation[index]
        policy, curvature = _convex_policy(here, now, regularisation, progress.curvature[index])
        promise = -(policy.slope + policy.bend)
        going = progress.review(
            index, policy.residual, policy.finite, promise <= rounding(now), settings.tolerance
        )
        accepted, length, candidate = line_search(here, now, policy, going)
        progress.record(index[going], accepted[going], length[going])
        if settings.exact:
            far = promise > FAR_FROM_SOLUTION * now.cost_scale
            progress.curvature[index] = _next_curvature(curvature, accepted & (length == 1), far)
        tau = tau.put(index, candidate)
        steps.append(Step(index[accepted], regularisation[accepted], curvature[accepted], length[accepted]))
    return tau, _certify(problems, tau, progress, settings), progress, steps


def _convex_policy(
    problems: Problems, tau: Trajectory, regularisation: Tensor, curvature: Tensor
) -> tuple[Policy, Tensor]:
    """The policy with the given weight of the curvature, or with less where that spoils Q_uu; and the weight."""
    policy = backward_recursion(problems, tau, regularisation, curvature)
    while (spoilt := ~policy.convex & (curvature > 0)).any():
        curvature = torch.where(spoilt, _less(curvature), curvature)
        policy = backward_recursion(problems, tau, regularisation, curvature)
    return policy, curvature


def _next_curvature(curvature: Tensor, full_step: Tensor, far: Tensor) -> Tensor:
    """More after a full step, less after another, none where the model promised a large part of the cost."""
    more = torch.where(curvature > 0, (2 * curvature).clamp(max=1), 1.0)
    return torch.where(far, 0.0, torch.where(full_step, more, _less(curvature)))


def _less(curvature: Tensor) -> Tensor:
    return torch.where(curvature > LEAST_CURVATURE, 0.5 * curvature, 0.0)


def _certify(problems: Problems, tau: Trajectory, progress: Progress, settings: Settings) -> Policy:
    """The policy at the end; with the exact Hessian, check the second-order condition of what converged."""
    zero = torch.zeros_like(tau.cost)
    policy = backward_recursion(problems, tau, zero, zero + settings.exact)
    status = progress.status
    status[(status == Status.MAX_ITERATIONS) & (policy.residual <= settings.tolerance)] = Status.CONVERGED
    if settings.exact:
        status[(status == Status.CONVERGED) & ~policy.convex] = Status.NOT_A_MINIMUM
    return policy


def replay(problems: Problems, u_init: Tensor, steps: Sequence[Step]) -> Trajectory:
    """Take the listed steps again, differentiably in everything that ``problems`` and ``u_init`` hold."""
    tau = rollout(problems, lambda t, x: u_init[:, t])
    for step in steps:
        here, now = problems.select(step.index), tau.select(step.index)
        policy = backward_recursion(here, now, step.regularisation, step.curvature)
        tau = tau.put(step.index, rollout(here, follow(now, policy, step.length)))
    return tau


def last_approximation(problems: Problems, tau: Trajectory, exact: bool) -> Trajectory:
    """Solve the convex approximation (11) of a solution ``tau`` once more, differentiably; tau is a constant.

    The numbers are tau's to within its KKT residual. The derivatives of H and of the gains do not matter, being
    multiplied by steps of zero. With the Hessian of the cost this is the paper's Module 2, with that of the
    Lagrangian the implicit function theorem.
    """
    zero = torch.zeros_like(tau.cost)
    policy = backward_recursion(problems, tau, zero, zero + exact)
    return rollout(problems, follow(tau, policy, zero + 1))


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]
