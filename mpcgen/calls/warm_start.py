"""What a call starts from, made of the arguments that say so: guesses of controls and states, or a solution before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpcgen.calls.arguments import Start
from mpcgen.calls.options import Options, as_count
from mpcgen.calls.watching import is_traced
from mpcgen.errors import DtypeError, ParameterError, ShapeError
from mpcgen.runtime.controller import Controller
from mpcgen.runtime.outputs import Outputs
from mpcgen.runtime.status import WITHOUT_VALUE, Status

_UNFIT = (*WITHOUT_VALUE, Status.INFEASIBLE)
_NOTHING = Start()


def make_start(
    controller: Controller,
    options: Options,
    u_init: Tensor | None,
    x_init: Tensor | None,
    warm_start: Any,
    shift: int | None,
) -> Start:
    """Check the arguments of a call that say what it starts from; see `mpcgen.autograd.MPC.forward`."""
    if warm_start is None and x_init is None and shift is None:
        return _NOTHING if u_init is None else Start(u_init)
    if warm_start is None:
        if shift is not None:
            raise ParameterError(f"{controller.name}: shift={shift!r} without warm_start=, which it shifts")
        if not (options.is_interior_point or options.hands_over):
            raise ParameterError(
                f"{controller.name}: x_init is for the interior point; box-DDP, which method={options.method!r} "
                "with these options is, starts at the rollout of u_init"
            )
        return Start(u_init, x_init)
    for name, value in (("u_init", u_init), ("x_init", x_init)):
        if value is not None:
            raise ParameterError(
                f"{controller.name}: {name} beside warm_start, which has controls and states of its own; leave one out"
            )
    return _near(controller, options.is_interior_point, warm_start, shift)


def _near(controller: Controller, is_interior_point: bool, solution: Any, shift: int | None) -> Start:
    """Start near a solution, moved forward by ``shift`` stages (default 1): what is beyond its end repeats the end.

    Of problems that have no solution, the controls are zero and the states NaN, so that they begin as without.
    """
    if not isinstance(solution, Outputs):
        raise DtypeError(
            f"{controller.name}: warm_start is a {type(solution).__name__}; pass a solution, as the module returns"
        )
    x, u, costates = solution.x.detach(), solution.u.detach(), solution.costates.detach()
    if u.ndim < 2 or u.shape[-2] < 1:
        m = len(controller.controls)
        raise ShapeError(
            f"{controller.name}: warm_start.u has shape {tuple(u.shape)}; (..., N, {m}) is expected"
        )
    horizon = u.shape[-2]
    later = _later(controller, horizon, shift, u.device)
    controls = later.clamp(max=horizon - 1)[:-1]
    fit = None if all_converged(solution.status) else _fit(solution.status, u)
    u = u[..., controls, :] if fit is None else torch.where(fit, u[..., controls, :], 0.0)
    if not is_interior_point:
        return Start(u)
    states = later.clamp(max=horizon)
    x = x[..., states, :] if fit is None else torch.where(fit, x[..., states, :], torch.nan)
    duals = None
    if controller.constraints:
        duals = _shifted_duals(controller, _duals_of(controller, solution.row_duals), controls, states)
    return Start(u, x, costates[..., states, :], duals)


def all_converged(status: Tensor) -> bool:
    """Whether every problem is known to be solved, where to ask takes less than what could be spared."""
    if torch.compiler.is_compiling() or is_traced() or type(status) is not Tensor or not status.is_cpu:
        return False
    return not status.any()


def _later(controller: Controller, horizon: int, shift: int | None, device: torch.device) -> Tensor:
    """(N+1,) the stage of the solution that each stage takes after."""
    count = 1 if shift is None else as_count(shift)
    if count is None or not 0 <= count <= horizon:
        raise ParameterError(
            f"{controller.name}: shift={shift!r}; a whole number from 0 to {horizon}, the solution's horizon, is "
            "expected"
        )
    return torch.arange(horizon + 1, device=device) + count


def _fit(status: Tensor, u: Tensor) -> Tensor:
    """Whether a problem's trajectory is one to start near, (..., 1, 1)."""
    fit = u.isfinite().all(-1).all(-1)
    for unfit in _UNFIT:
        fit = fit & (status != unfit)
    return fit[..., None, None]


def _duals_of(controller: Controller, duals: Tensor | None) -> Tensor:
    rows = controller.dual_count
    if duals is None or duals.ndim < 2 or duals.shape[-1] != rows:
        found = (
            "no multipliers of rows" if duals is None or not duals.numel() else f"{duals.shape[-1]} of them"
        )
        raise ShapeError(
            f"{controller.name}: warm_start has {found}, where {rows} at a stage are expected; pass a solution of "
            "this controller, or what another has by u_init= and x_init="
        )
    return duals.detach()


def _shifted_duals(controller: Controller, duals: Tensor, controls: Tensor, states: Tensor) -> Tensor:
    """Multipliers (..., N+1, rows) by where their rows hold: with a control, at states after x0, or at the end."""
    with_control = torch.cat([controls, states[-1:]])  # at the end there are none, and zeros stand there
    source = states[:, None].repeat(1, duals.shape[-1])
    source[:, : len(controller.controls)] = with_control[:, None]
    for constraint in controller.constraints:
        columns = slice(constraint.first, constraint.first + constraint.rows)
        if constraint.group == "mixed":
            source[:, columns] = with_control[:, None]
        elif constraint.group == "terminal":
            source[:, columns] = torch.arange(len(states), device=states.device)[:, None]
    return duals.gather(-2, source.expand(duals.shape))
