"""`MPC`: the module of mpc.pytorch, by its arguments, on mpcgen's kernels."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mpcgen.autograd.solution import Solution
from mpcgen.calls.options import DEFAULT_TOLERANCE, as_number, checked_count
from mpcgen.compat import agreement, arguments, outcome
from mpcgen.compat.arguments import Sizes
from mpcgen.compat.dynamics import AffineDynamics
from mpcgen.compat.expansion import approximate_cost, linearize_dynamics
from mpcgen.compat.forms import GradMethods, LinDx, QuadCost
from mpcgen.compat.problems import Models, controller_of
from mpcgen.compat.unseen import unseen_by_module
from mpcgen.errors import ParameterError
from mpcgen.runtime.status import Status

__all__ = ["MPC", "GradMethods", "LinDx", "QuadCost"]

PASSES = 10
"""Passes of the solver for each of lqr_iter: a pass has one rollout, an iteration there up to ten."""


class MPC(nn.Module):
    """Solves a batch of problems with as many controls as states, and differentiates the solutions.

        minimise  sum_{t<T} cost_t(x_t, u_t)
        subject to x_{t+1} = dynamics_t(x_t, u_t), u_lower <= u <= u_upper, x_0 given

    It is called with x_init (B, n), and returns x (T, B, n), u (T, B, m) and costs (B,). Gradients are exact, those of
    ``costs`` and of bounds included. The KKT residual of solutions is at most 1e-8 (float32: 1e-4), or ``eps`` if that
    is less.

    Args:
        n_state: n.
        n_ctrl: m.
        T: states, and controls; the last control moves nothing.
        u_lower: a number, or a tensor (T, B, m), (T, m) or (m,); None: no bound. u_upper: likewise.
        u_zero_I: (T, B, m), which controls are zero.
        u_init: (T, B, m) or (T, m), where the solver starts; zeros by default.
        lqr_iter: a solve takes at most ten times as many passes.
        grad_method: of `linearize_dynamics` alone.
        delta_u: controls stay within lqr_iter * delta_u of u_init. A problem that this holds back is not solved.
        verbose: -1: no warnings; 0: warnings; 1 or more: a printed line for each call.
        eps: residual at which a problem that the solver left early still counts as solved.
        n_batch: B, which is that of x_init.
        exit_unconverged: raise UnconvergedError where a problem is not solved, if detach_unconverged. Its ``solution``
            has what was found, in mpcgen's layout (B, T, ...).
        detach_unconverged: problems that are not solved have no gradients; else those of where the solver stopped.
        backprop: False: results have no gradients.
        slew_rate_penalty: γ, a number or (m,), adds ½ Σ_i γ_i (u_{t,i} - u_{t-1,i})² to each stage.
        prev_ctrl: u_{-1} of that, (m,), (B, m) or (1, B, m); zero by default.
        back_eps, linesearch_decay, max_linesearch_iter, not_improved_lim, best_cost_eps: without a meaning here.

    Raises:
        ParameterError: values outside of their ranges.

    """

    def __init__(
        self,
        n_state: int,
        n_ctrl: int,
        T: int,
        u_lower: Any = None,
        u_upper: Any = None,
        u_zero_I: Tensor | None = None,
        u_init: Tensor | None = None,
        lqr_iter: int = 10,
        grad_method: GradMethods = GradMethods.ANALYTIC,
        delta_u: float | None = None,
        verbose: int = 0,
        eps: float = 1e-7,
        back_eps: float = 1e-7,
        n_batch: int | None = None,
        linesearch_decay: float = 0.2,
        max_linesearch_iter: int = 10,
        exit_unconverged: bool = True,
        detach_unconverged: bool = True,
        backprop: bool = True,
        slew_rate_penalty: Any = None,
        prev_ctrl: Tensor | None = None,
        not_improved_lim: int = 5,
        best_cost_eps: float = 1e-4,
    ) -> None:
        super().__init__()
        self.n_state, self.n_ctrl = checked_count("n_state", n_state, 1), checked_count("n_ctrl", n_ctrl, 1)
        self.T, self.lqr_iter = checked_count("T", T, 1), checked_count("lqr_iter", lqr_iter, 1)
        self.u_lower, self.u_upper, self.u_zero_I, self.u_init = u_lower, u_upper, u_zero_I, u_init
        self.grad_method = _method(grad_method)
        self.delta_u = None if delta_u is None else _positive("delta_u", delta_u)
        self.verbose = verbose
        self.eps, self.back_eps = _positive("eps", eps), back_eps
        self.n_batch = n_batch
        self.linesearch_decay, self.max_linesearch_iter = linesearch_decay, max_linesearch_iter
        self.exit_unconverged, self.detach_unconverged = exit_unconverged, detach_unconverged
        self.backprop = backprop
        self.slew_rate_penalty, self.prev_ctrl = slew_rate_penalty, prev_ctrl
        self.not_improved_lim, self.best_cost_eps = not_improved_lim, best_cost_eps

    def forward(self, x_init: Tensor, cost: Any, dx: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Solve the problems that start at ``x_init`` (B, n); returns x (T, B, n), u (T, B, m) and costs (B,).

        cost: a `QuadCost`, or a module of τ (B, n+m) that returns (B,). dx: a `LinDx`, or a module of x (B, n) and u
        (B, m) that returns the next state. A module is followed, and compiled, when one of its kind is first met; its
        tensors are read at each call, and gradients reach them.

        Raises ShapeError, DtypeError, ParameterError before anything is computed; SpecError and
        UnsupportedExpressionError for modules that cannot be followed; UnconvergedError, see ``exit_unconverged``;
        ParameterError for a module that computes something else by now than when it was followed, unseen.
        """
        if isinstance(dx, AffineDynamics):
            dx = LinDx(torch.cat((dx.A, dx.B), 1), dx.c)
        sizes = arguments.sizes_of(x_init, self.T, self.n_state, self.n_ctrl, self.n_batch)
        with contextlib.nullcontext() if self.backprop else torch.no_grad():
            given, unseen = self._arguments(x_init, cost, dx, sizes)
            start = arguments.first_controls(self.u_init, sizes, x_init)
            reach = self._limit(given, start, sizes)
            models = Models(_model("dx", dx, LinDx), _model("cost", cost, QuadCost))
            controller, weights, free = self._controller(models, x_init, given, sizes)
            if free:
                unseen = arguments.add_curvature(free, given, sizes, x_init)
            first, before = x_init, None
            if "slew_rate_penalty" in given:
                before = arguments.previous_control(self.prev_ctrl, sizes, x_init)
                first = torch.cat((x_init, before), 1)
            solution = controller(first, u_init=start, horizon=sizes.T, **given, **weights)
            # A weight of the module's own may be zero, and the last control free then.
            if bool((solution.status == Status.NOT_A_MINIMUM).any()):
                blind = unseen_by_module(models, sizes, x_init)
                if set(blind) - set(free):
                    unseen = arguments.add_curvature((*free, *blind), given, sizes, x_init)
                    solution = controller(first, u_init=start, horizon=sizes.T, **given, **weights)
            costs = solution.cost
            if unseen is not None:  # of the curvature that was put in
                costs = costs - ((solution.u[:, -1] ** 2) * unseen).sum(-1) / 2
            x = solution.x[:, : sizes.T, : sizes.n].transpose(0, 1).contiguous()
            u = solution.u.transpose(0, 1).contiguous()
            held = None if reach is None else _held(solution.u.detach(), reach)
            lacking = outcome.unsolved(solution, self.eps, held)
            own = costs if before is None else costs - _of_changes(u, before, given["slew_rate_penalty"])
            agreement.check(models, x, u, own, ~lacking)
            return self._finished(solution, (x, u, costs), lacking, held)

    def _arguments(
        self, x_init: Tensor, cost: Any, dx: Any, sizes: Sizes
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Arguments of the controller's call, and the entries of the last control that nothing sees."""
        given: dict[str, Tensor] = {}
        unseen = None
        if self.slew_rate_penalty is not None:
            given["slew_rate_penalty"] = arguments.slew_rate(self.slew_rate_penalty, sizes, x_init)
        if isinstance(cost, QuadCost):
            given |= arguments.quadratic_cost(cost, sizes, x_init)
            unseen = arguments.unseen_controls(given, sizes)
            if unseen is not None:
                given["C"] = arguments.with_curvature(given["C"], unseen, sizes)
        if isinstance(dx, LinDx):
            given |= arguments.linear_dynamics(dx, sizes, x_init)
        bounds = self.u_lower, self.u_upper, self.u_zero_I, self.delta_u
        if any(value is not None for value in bounds):
            lower = arguments.bound("u_lower", self.u_lower, -math.inf, sizes, x_init)
            upper = arguments.bound("u_upper", self.u_upper, math.inf, sizes, x_init)
            if self.u_zero_I is not None:
                lower, upper = arguments.zero_controls(self.u_zero_I, lower, upper, sizes)
            arguments.check_order(lower, upper)
            given |= {"lower": lower, "upper": upper}
        return given, unseen

    def _limit(self, given: dict[str, Tensor], start: Tensor | None, sizes: Sizes) -> Any:
        """Narrow the bounds to what delta_u lets controls reach; returns the bounds before, and those of the reach."""
        if self.delta_u is None:
            return None
        lower, upper = given["lower"], given["upper"]
        middle = torch.zeros_like(lower) if start is None else start
        middle = torch.minimum(torch.maximum(middle, lower), upper).detach()
        least, most = middle - self.lqr_iter * self.delta_u, middle + self.lqr_iter * self.delta_u
        given["lower"], given["upper"] = torch.maximum(lower, least), torch.minimum(upper, most)
        return (lower, least), (upper, most)

    def _controller(
        self, models: Models, x_init: Tensor, given: dict[str, Tensor], sizes: Sizes
    ) -> tuple[nn.Module, dict[str, Tensor], tuple[int, ...]]:
        return controller_of(
            sizes.n,
            sizes.m,
            models,
            x_init,
            bounded="lower" in given,
            slew="slew_rate_penalty" in given,
            options={
                "tol": min(self.eps, DEFAULT_TOLERANCE[torch.float64])
                if x_init.dtype == torch.float64
                else None,
                "max_iterations": PASSES * self.lqr_iter,
                "on_unconverged": "ignore",
                "unconverged_gradient": "keep",
            },
            progress=None if self.verbose >= 0 else False,
        )

    def _finished(
        self, solution: Solution, found: tuple[Tensor, Tensor, Tensor], lacking: Tensor, held: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tells of what is not solved, and takes its gradients away."""
        if self.verbose > 0:
            print(outcome.progress(solution))
        fails = self.exit_unconverged and self.detach_unconverged
        outcome.report(lacking, solution, held, fails=fails, warns=self.verbose >= 0)
        x, u, costs = found
        if self.detach_unconverged and bool(lacking.any()):
            x, u, costs = (outcome.without_gradient(value, lacking) for value in found)
        return x, u, costs

    def linearize_dynamics(self, x: Tensor, u: Tensor, dynamics: Any, diff: bool) -> tuple[Tensor, Tensor]:
        """F (T-1, B, n, n+m) and f (T-1, B, n) of the linear dynamics that touch at x (T, B, n), u (T, B, m)."""
        return linearize_dynamics(self.grad_method, x, u, dynamics, diff)

    def approximate_cost(
        self, x: Tensor, u: Tensor, Cf: Callable[[Tensor], Tensor], diff: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """C, c of the quadratic cost that touches at x (T, B, n), u (T, B, m), and the costs there (T, B)."""
        return approximate_cost(x, u, Cf, diff)


def _of_changes(u: Tensor, before: Tensor, penalty: Tensor) -> Tensor:
    """The cost (B,) of the changes of u (T, B, m) from ``before`` (B, m) on."""
    return (penalty * torch.diff(u, dim=0, prepend=before[None]) ** 2).sum((0, 2)) / 2


def _held(u: Tensor, reach: Any) -> Tensor:
    """The problems (B,) with a control that delta_u holds back, and no bound."""
    (lower, least), (upper, most) = reach
    return (((u <= least) & (least > lower)) | ((u >= most) & (most < upper))).any((-2, -1))


def _model(name: str, value: Any, matrices: type) -> Any:
    """A module or function that is to be followed; None for matrices."""
    if isinstance(value, matrices):
        return None
    if not callable(value):
        raise ParameterError(
            f"{name} is a {type(value).__name__}; a {matrices.__name__}, a torch.nn.Module or a function is expected"
        )
    return value


def _method(value: Any) -> GradMethods:
    if not isinstance(value, GradMethods):
        listed = ", ".join(map(str, GradMethods))
        raise ParameterError(f"grad_method={value!r}; expected one of {listed}")
    return value


def _positive(name: str, value: Any) -> float:
    number = as_number(value)
    if number is None or number <= 0:
        raise ParameterError(f"{name}={value!r}; a positive number is expected")
    return number
