"""The reference solver as a torch module with the face of a generated one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mpcgen.autograd.solution import Solution
from mpcgen.calls.arguments import Call, Start, at_each_stage, make_call
from mpcgen.calls.reporting import report_statuses
from mpcgen.errors import ParameterError
from mpcgen.problem.lowering import lower_spec
from mpcgen.problem.spec import Spec, SupportsSpec, require_explicit, require_unconstrained, spec_of
from mpcgen.reference.functions import Functions, Problems
from mpcgen.reference.ilqr import (
    Policy,
    Progress,
    Settings,
    Trajectory,
    last_approximation,
    replay,
    rollout,
    solve,
)
from mpcgen.runtime.status import Status

_CHOICES = {
    "hessian": ("exact", "gauss_newton"),
    "differentiable": ("unroll", "last", "none"),
    "on_unconverged": ("warn", "raise", "ignore"),
}


class MPC(torch.nn.Module):
    """Box-iLQR in plain PyTorch: the call of a generated controller, no compiler, and slow.

    problem: a `mpcgen.Problem` or its frozen `Spec`. tol: KKT residual at which a problem counts as solved,
    max |u - clip(u - dL/du, lower, upper)|; default 1e-8 in float64, 1e-4 in float32. max_iterations: of a
    backward recursion and a line search. hessian: "gauss_newton" is iLQR, Algorithm 2 of the paper; "exact"
    adds the curvature of the dynamics near the solution, and checks the second-order condition before a problem
    counts as solved.

    differentiable says what the gradient of (x, u, cost) with respect to x0, the parameters and u_init is:

    - "unroll": that of the iterations themselves, the accepted steps and active sets held; memory grows with
      their number. It is the derivative of what was computed, converged or not. As a derivative of the solution
      its error E_k after k iterations follows that of the controls, e_k: E_k = O(e_{k-1} E_{k-1} + e_{k-1}²)
      with the exact Hessian, E_k ~ k e_k with Gauss-Newton. Lower tol where that is not enough.
    - "last": that of the convex approximation at the solution, its trajectory held. With the exact Hessian
      this is the implicit function theorem: the solution's derivative to within the residual. With Gauss-
      Newton it is the paper's Module 2. Zero for problems whose status is not zero.
    - "none": no gradient.

    A problem with status INVALID_INPUT, or DIVERGED by its first rollout, has outputs of NaN and a gradient
    of zero. on_unconverged: "warn", "raise" or "ignore". On the CPU.

    Raises ParameterError for an option outside its choices, SpecError for a problem that is not one.
    """

    def __init__(
        self,
        problem: SupportsSpec | Spec,
        *,
        tol: float | None = None,
        max_iterations: int = 200,
        hessian: str = "exact",
        differentiable: str = "unroll",
        on_unconverged: str = "warn",
    ) -> None:
        super().__init__()
        options = {"hessian": hessian, "differentiable": differentiable, "on_unconverged": on_unconverged}
        check_options(tol, max_iterations, options)
        self.tol, self.max_iterations, self.hessian = tol, max_iterations, hessian
        self.differentiable, self.on_unconverged = differentiable, on_unconverged
        spec = spec_of(problem)
        require_unconstrained(spec, "box-iLQR (use mpcgen.reference.InteriorPoint)")
        require_explicit(spec, "box-iLQR in PyTorch")
        self.functions = Functions(lower_spec(spec))
        self.description = self.functions.model.signature

    def forward(
        self, x0: Tensor, *, u_init: Tensor | None = None, horizon: int | None = None, **parameters: Any
    ) -> Solution:
        """Solve the problems that start at ``x0`` (..., n); arguments and errors as `mpcgen.autograd.MPC`."""
        call = make_call(self.description, x0, Start(u_init), horizon, parameters)
        theta = tuple(
            at_each_stage(value, p.stages(call.horizon) if p.per_stage else None, p.size)
            for p, value in zip(self.description.parameters, call.parameters, strict=True)
        )
        start = self._initial_controls(call)
        whole = Problems(self.functions, call.x0, theta, start, start)
        status = self._screen(whole, start)
        usable = (status == Status.CONVERGED).nonzero()[:, 0]
        problems = whole.select(usable).with_bounds()
        tau, policy, progress = self._solve(problems, start[usable])
        status[usable] = progress.status
        iterations = torch.zeros_like(status).index_copy(0, usable, progress.iterations)
        report_statuses(self.description.name, status, self.on_unconverged)
        numbers = {
            "x": tau.x,
            "u": tau.u,
            "cost": tau.cost,
            "residual": policy.residual,
            "costates": policy.costates,
            "gains": policy.K,
        }
        outputs = {name: _among_nans(len(status), usable, part) for name, part in numbers.items()}
        outputs |= {"status": status, "iterations": iterations}
        return Solution(
            **{name: out.reshape(call.batch_shape + out.shape[1:]) for name, out in outputs.items()}
        )

    def _initial_controls(self, call: Call) -> Tensor:
        shape = (len(call.x0), call.horizon, len(self.description.controls))
        return call.x0.new_zeros(shape) if call.u_init is None else call.u_init.expand(shape)

    @torch.no_grad()
    def _screen(self, whole: Problems, start: Tensor) -> Tensor:
        """INVALID_INPUT or DIVERGED for what cannot be started, else CONVERGED for the time being; (B,)."""
        whole = whole.with_bounds()
        good = whole.x_init.isfinite().all(1) & start.isfinite().flatten(1).all(1)
        for p, value in zip(self.description.parameters, whole.theta, strict=True):
            legal = ~value.isnan() if p.only_bounds else value.isfinite()
            good = good & legal.flatten(1).all(1)
        ordered = (whole.lower <= whole.upper) & (whole.lower < torch.inf) & (whole.upper > -torch.inf)
        good = good & ordered.flatten(1).all(1)
        first = rollout(whole, lambda t, x: start[:, t])
        status = torch.full((len(good),), Status.CONVERGED, dtype=torch.int32)
        status[~(first.cost.isfinite() & first.x.isfinite().flatten(1).all(1))] = Status.DIVERGED
        status[~good] = Status.INVALID_INPUT
        return status

    def _solve(self, problems: Problems, start: Tensor) -> tuple[Trajectory, Policy, Progress]:
        """The solution with the gradient that was asked for; all problems of the batch can be started."""
        tolerance = self.tol or (1e-8 if start.dtype == torch.float64 else 1e-4)
        exact = self.hessian == "exact"
        tau, policy, progress, steps = solve(problems, start, Settings(tolerance, self.max_iterations, exact))
        if torch.is_grad_enabled() and self.differentiable == "unroll":
            tau = _with_gradient_of(tau, replay(problems, start, steps))
        elif torch.is_grad_enabled() and self.differentiable == "last":
            solved = (progress.status == Status.CONVERGED).nonzero()[:, 0]
            again = last_approximation(problems.select(solved), tau.select(solved), exact)
            tau = tau.put(solved, _with_gradient_of(tau.select(solved), again))
        return tau, policy, progress

    def extra_repr(self) -> str:
        """Sizes and options."""
        d = self.description
        return (
            f"{d.name}: n={len(d.states)}, m={len(d.controls)}, N={d.horizon}, hessian={self.hessian!r}, "
            f"differentiable={self.differentiable!r}, on_unconverged={self.on_unconverged!r}"
        )


def _with_gradient_of(tau: Trajectory, again: Trajectory) -> Trajectory:
    """The numbers of ``tau``, so that no option changes them, with the gradient of ``again``."""

    def straight_through(value: Tensor, source: Tensor) -> Tensor:
        return value + (source - source.detach())

    return Trajectory(
        straight_through(tau.x, again.x),
        straight_through(tau.u, again.u),
        straight_through(tau.cost, again.cost),
        tau.cost_scale,
    )


def _among_nans(batch: int, index: Tensor, values: Tensor) -> Tensor:
    """(batch, ...): the values (k, ...) at their indices (k,), NaN elsewhere."""
    return values.new_full((batch, *values.shape[1:]), torch.nan).index_copy(0, index, values)


def check_options(tol: float | None, max_iterations: int, options: dict[str, str]) -> None:
    """Raise ParameterError for an option outside its choices."""
    for name, value in options.items():
        if value not in _CHOICES[name]:
            raise ParameterError(f"{name}={value!r}; expected one of {', '.join(map(repr, _CHOICES[name]))}")
    if tol is not None and not (isinstance(tol, int | float) and math.isfinite(tol) and tol > 0):
        raise ParameterError(f"tol={tol!r}; a positive number is expected, e.g. 1e-8")
    if isinstance(max_iterations, bool) or not isinstance(max_iterations, int) or max_iterations < 0:
        raise ParameterError(f"max_iterations={max_iterations!r}; a whole number of at least 0 is expected")
