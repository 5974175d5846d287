"""Q-values: solutions whose first control is given, Q(x0, u0) beside V(x0).

With the first control given, the next state is, and Q = l(x0, u0) + V(f(x0, u0)), the latter over the stages that
remain, with their parameters. Both terms are differentiable, and so is their sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from mpcgen.autograd.examination import examine_flat
from mpcgen.autograd.solution import Solution
from mpcgen.autograd.stage import evaluate_flat, pull_back
from mpcgen.calls.arguments import Call, Start
from mpcgen.calls.devices import device_of
from mpcgen.calls.invalid import describe_input
from mpcgen.calls.options import Options
from mpcgen.errors import DtypeError, ParameterError, ShapeError, UnconvergedError
from mpcgen.runtime.controller import Controller
from mpcgen.runtime.outputs import sizes_of
from mpcgen.runtime.status import WITHOUT_VALUE, Status

Tensors = tuple[Tensor, ...]
Solve = Callable[[Call], Tensors]


class Found(NamedTuple):
    """`mpcgen.runtime.outputs.Outputs` of a flat batch, in its order, as a tuple, which torch.compile can follow."""

    x: Tensor
    u: Tensor
    cost: Tensor
    status: Tensor
    iterations: Tensor
    residual: Tensor
    costates: Tensor
    gains: Tensor
    row_duals: Tensor
    row_violation: Tensor


def broadcast_first(controller: Controller, x0: Tensor, u0: Tensor) -> Tensor:
    """``x0`` with the leading dimensions of both; raises ShapeError and DtypeError where ``u0`` is not as it should be.

    Of x0 itself nothing is checked but that it is a tensor.
    """
    m = len(controller.controls)
    if not isinstance(u0, Tensor) or (isinstance(x0, Tensor) and u0.dtype != x0.dtype):
        kind = u0.dtype if isinstance(u0, Tensor) else f"a {type(u0).__name__}"
        raise DtypeError(f"{controller.name}: u0 is {kind}; a tensor of x0's dtype is expected")
    if u0.ndim == 0 or u0.shape[-1] != m:
        raise ShapeError(
            f"{controller.name}: u0 has shape {tuple(u0.shape)}; (..., {m}), the first control, is expected"
        )
    if not isinstance(x0, Tensor) or x0.ndim == 0:
        return x0  # the checks of a call say what is wrong
    try:
        shape = torch.broadcast_shapes(x0.shape[:-1], u0.shape[:-1])
    except RuntimeError as error:
        raise ShapeError(
            f"{controller.name}: the leading (batch) dimensions do not broadcast: x0 {tuple(x0.shape[:-1])}, u0 "
            f"{tuple(u0.shape[:-1])}"
        ) from error
    return x0.expand(*shape, x0.shape[-1])


def check_constraints(controller: Controller, horizon: int) -> None:
    """Raise ParameterError where a soft row may have a price that the first control decides."""
    groups = ("mixed", "state", "terminal") if horizon == 1 else ("mixed", "state")
    soft = [c.name for c in controller.constraints if c.soft and c.group in groups]
    if soft:
        raise ParameterError(
            f"{controller.name}: u0= does not count the price at which the first control exceeds the soft constraint "
            f"{soft[0]!r}; make it part of the stage cost, or a hard constraint"
        )


def solve_from(
    key: str, controller: Controller, options: Options, call: Call, u0: Tensor, solve: Solve
) -> Tensors:
    """Outputs, flat, of a call whose first control is u0 (B, m); solve: of a flat call, telling nobody of failures."""
    check_constraints(controller, call.horizon)
    first = _at(controller, call.parameters, 0)
    x1, cost = evaluate_flat(key, False, call.x0, u0, first)
    tail = (
        _last(key, controller, call, x1) if call.horizon == 1 else Found(*solve(_later(controller, call, x1)))
    )
    lower, upper, excess = _first_bounds(key, controller, call, x1, u0)
    good = _is_given(controller, call, u0)
    status = tail.status.masked_fill(good & ~x1.detach().isfinite().all(-1), int(Status.DIVERGED))
    status = status.masked_fill(excess > options.tolerance(u0.dtype), int(Status.INFEASIBLE))
    inside = (lower <= u0.detach()).all(-1) & (u0.detach() <= upper).all(-1)
    status = status.masked_fill(~(good & inside), int(Status.INVALID_INPUT))
    costate = _pulled(key, False, (call.x0, u0, tail.costates[:, 0], torch.ones_like(cost)), first)
    return _joined(options, call.x0, u0, cost, costate, tail, status, excess)


def tell_of_failures(
    controller: Controller, options: Options, call: Call, u0: Tensor, outputs: Tensors
) -> None:
    """Warn or raise where problems whose first controls are u0 (B, m) were not solved; outputs: of the call."""
    status = outputs[3]

    def failure(place: int) -> str:
        if int(status.flatten()[place]) != Status.INVALID_INPUT:
            return "the controls that follow u0"
        begun = [("u0", u0[:, None]), *call.start.named]
        said = describe_input(controller, call.x0, begun, call.parameters, place)
        return said or "u0 is outside of its bounds"

    try:
        device_of(controller, status).report_statuses(status, options.on_unconverged, failure)
    except UnconvergedError as error:
        error.solution = Solution.of(outputs, None).detach()
        raise


def _pulled(key: str, last: bool, point: tuple[Tensor | None, ...], parameters: Tensors) -> Tensor:
    """A costate, which has no derivative; point: state, control, cotangents of next state and cost."""
    given = [None if t is None else t.detach() for t in point]
    with torch.no_grad():
        return pull_back(key, last, *given, [p.detach() for p in parameters])[0]


def _at(controller: Controller, parameters: Tensors, stage: int) -> Tensors:
    """The values of one stage, (B or 1, *shape)."""
    pairs = zip(controller.parameters, parameters, strict=True)
    return tuple(v[:, min(stage, v.shape[1] - 1)] if p.per_stage else v for p, v in pairs)


def _later(controller: Controller, call: Call, x1: Tensor) -> Call:
    """The call that is left after the first stage."""
    pairs = zip(controller.parameters, call.parameters, strict=True)
    parameters = tuple(v[:, 1:] if p.per_stage and v.shape[1] > 1 else v for p, v in pairs)
    constant = all(
        v.shape[1] == 1 for p, v in zip(controller.parameters, call.parameters, strict=True) if p.per_stage
    )
    if not constant:  # of two stages one is left, with an axis of its own
        parameters = _with_axes(controller, parameters, call.horizon - 1)
    start = Start(*(None if guess is None else guess[:, 1:] for guess in call.start))
    return replace(
        call, batch_shape=x1.shape[:1], horizon=call.horizon - 1, x0=x1, start=start, parameters=parameters
    )


def _with_axes(controller: Controller, parameters: Tensors, horizon: int) -> Tensors:
    """Per-stage parameters with a value for each stage, where some have."""
    pairs = zip(controller.parameters, parameters, strict=True)
    return tuple(v.expand(-1, p.stages(horizon), *p.shape) if p.per_stage else v for p, v in pairs)


def _last(key: str, controller: Controller, call: Call, x1: Tensor) -> Found:
    """What is left of one stage: the terminal cost."""
    parameters = _at(controller, call.parameters, 1)
    none = x1.new_empty(len(x1), 0)
    cost = evaluate_flat(key, True, x1, none, parameters)[1]
    costate = _pulled(key, True, (x1, none, None, torch.ones_like(cost)), parameters)
    sizes = sizes_of(0, x1.shape[1], len(controller.controls), controller.dual_count)
    status = (~cost.detach().isfinite()).to(torch.int32) * int(Status.DIVERGED)
    return Found(
        x1[:, None],
        x1.new_empty(len(x1), 0, sizes["m"]),
        cost,
        status,
        torch.zeros_like(status),
        torch.zeros_like(cost),
        costate[:, None],
        x1.new_empty(len(x1), 0, sizes["m"], sizes["n"]),
        x1.new_zeros(len(x1), sizes["dual stages"], sizes["duals"]),
        x1.new_zeros(len(x1), sizes["violations"]),
    )


def _first_bounds(
    key: str, controller: Controller, call: Call, x1: Tensor, u0: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Bounds of the first control (B, m), and by how much what it decides violates the rows of constraints, (B,)."""
    x0, u0, x1 = call.x0.detach(), u0.detach(), x1.detach()
    pairs = zip(controller.parameters, call.parameters, strict=True)
    parameters = [(v[:, : p.stages(1)] if p.per_stage and v.shape[1] > 1 else v).detach() for p, v in pairs]
    known = torch.zeros(len(x0), dtype=torch.int32, device=x0.device)
    rows = controller.dual_count
    duals = x0.new_zeros(len(x0), 2 if rows else 0, rows)
    found = examine_flat(key, torch.stack([x0, x1], 1), u0[:, None], known, duals, parameters)
    _, lower, upper, values, row_lower, row_upper, *_ = found
    excess = x0.new_zeros(len(x0))
    for c in controller.constraints:
        if c.group == "terminal" and call.horizon > 1:
            continue
        at = (slice(None), 0 if c.group == "mixed" else 1, slice(c.first, c.first + c.rows))
        over = torch.maximum(row_lower[at] - values[at], values[at] - row_upper[at])
        excess = torch.maximum(excess, over.amax(-1))
    return lower[:, 0], upper[:, 0], excess


def _is_given(controller: Controller, call: Call, u0: Tensor) -> Tensor:
    """Whether all that a problem is given is finite, bounds aside, (B,)."""
    good = call.x0.detach().isfinite().all(-1) & u0.detach().isfinite().all(-1)
    for p, value in zip(controller.parameters, call.parameters, strict=True):
        if not p.only_bounds:
            good = good & value.detach().reshape(len(value), prod(value.shape[1:])).isfinite().all(-1)
    return good


def _solved(options: Options, status: Tensor) -> tuple[Tensor, Tensor]:
    """Of which problems all has a gradient, and of which the cost; what is "kept" or "nan" is the solve's to say."""
    if options.unconverged_gradient != "zero":
        every = torch.ones_like(status, dtype=torch.bool)
        return every, every
    solved = status == int(Status.CONVERGED)
    return solved, solved if options.smooth == "solve" else solved | (status == int(Status.NOT_A_MINIMUM))


def _joined(
    options: Options,
    x0: Tensor,
    u0: Tensor,
    cost: Tensor,
    costate: Tensor,
    tail: Found,
    status: Tensor,
    excess: Tensor,
) -> Tensors:
    """All stages' outputs: as those of a solve NaN where there is no trajectory, and constant where none is solved."""
    duals, violation = tail.row_duals, tail.row_violation
    solved, has_slope = _solved(options, status)
    lost = torch.zeros_like(status, dtype=torch.bool)
    for without in WITHOUT_VALUE:
        lost = lost | (status == int(without))

    def kept(value: Tensor, where: Tensor) -> Tensor:
        axes = [1] * (value.ndim - 1)
        constant = torch.where(where.reshape(-1, *axes), value, value.detach())
        return constant.masked_fill(lost.reshape(-1, *axes), torch.nan)

    if duals.shape[-1]:
        duals = kept(torch.cat([torch.zeros_like(duals[:, :1]), duals], 1), solved)
    if violation.shape[-1]:
        violation = kept(torch.maximum(violation, excess[:, None]), solved)
    m, n = u0.shape[1], x0.shape[1]
    gains = torch.cat([tail.gains.new_zeros(len(x0), 1, m, n), tail.gains], 1)
    return Found(
        kept(torch.cat([x0[:, None], tail.x], 1), solved),
        kept(torch.cat([u0[:, None], tail.u], 1), solved),
        kept(cost + tail.cost, has_slope),
        status,
        tail.iterations.masked_fill(lost, 0),
        kept(tail.residual, solved),
        kept(torch.cat([costate[:, None], tail.costates], 1), solved),
        kept(gains, solved),
        duals,
        violation,
    )
