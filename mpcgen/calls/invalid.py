"""What of a problem that ended as INVALID_INPUT is invalid: a number that is not finite, or bounds that cross."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mpcgen.calls import kernels
from mpcgen.runtime.controller import Controller, Parameter
from mpcgen.runtime.status import Status


def describe_input(
    controller: Controller,
    x0: Tensor,
    starts: Iterable[tuple[str, Tensor]],
    parameters: Sequence[Tensor],
    problem: int,
    *,
    need_room: bool = False,
) -> str:
    """Say what is invalid first of one problem's input, as a clause without a full stop; "" where nothing is found.

    x0: (..., n). starts: names and values, (..., stages, numbers), of what the solver begins with. parameters: as of a
    `mpcgen.calls.arguments.Call`. problem: its place in the flat batch. need_room: bounds of controls may not meet.
    """
    state = _of_problem(x0.detach(), 1, problem)
    if (place := _first(~state.isfinite())) is not None:
        return f"the state {controller.states[place[0]]} of x0 is {state[place]:g}"
    for name, value in starts:
        rows = _of_problem(value.detach(), 2, problem)
        if (place := _first(~rows.isfinite())) is not None:
            return f"{name}{list(place)} is {rows[place]:g}"
    own = tuple(
        _of_problem(value.detach(), len(p.shape) + p.per_stage, problem)
        for p, value in zip(controller.parameters, parameters, strict=True)
    )
    for parameter, value in zip(controller.parameters, own, strict=True):
        if said := _describe_parameter(parameter, value):
            return said
    return _describe_bounds(controller, state, tuple(value[None] for value in own), need_room)


def _describe_parameter(parameter: Parameter, value: Tensor) -> str:
    """What of a parameter, ([stages,] *shape), is no number that it may have."""
    place = _first(value.isnan() if parameter.only_bounds else ~value.isfinite())
    if place is None:
        return ""
    index = place[1:] if parameter.per_stage else place
    stage = f" at stage {place[0]}" if parameter.per_stage and value.shape[0] > 1 else ""
    return f"the parameter {parameter.name}{list(index) if index else ''}{stage} is {value[place]:g}"


def _describe_bounds(
    controller: Controller, state: Tensor, parameters: tuple[Tensor, ...], need_room: bool
) -> str:
    """Which bounds leave nothing between them, or which price is negative; parameters: (1, [stages,] *shape)."""
    horizon = _horizon(controller, parameters)
    x, u = state.expand(1, horizon + 1, -1), state.new_zeros(1, horizon, len(controller.controls))
    status = torch.full((1,), int(Status.CONVERGED), dtype=torch.int32, device=state.device)
    rows = controller.dual_count
    duals = state.new_zeros(1, horizon + 1, rows) if rows else None
    _, lower, upper, _, low, high, reserve, _ = (
        found[0] for found in kernels.examine(controller, x, u, status, parameters, duals)
    )
    if said := _crossing(lower, upper, controller.controls, range(horizon), need_room):
        return said
    for c in controller.constraints:
        stages, columns = c.stages(horizon), slice(c.first, c.first + c.rows)
        at = slice(stages.start, stages.stop), columns
        if said := _crossing(low[at], high[at], c.labels, stages, False):
            return said
        if c.soft and (place := _first(reserve[at] < 0)) is not None:
            return f"the price of {c.labels[place[1]]} at stage {stages[place[0]]} is negative"
    return ""


def _horizon(controller: Controller, parameters: tuple[Tensor, ...]) -> int:
    """N, as far as parameters tell: bounds of all stages are alike where none of them has an axis of stages."""
    lengths = [
        value.shape[1] - p.in_terminal
        for p, value in zip(controller.parameters, parameters, strict=True)
        if p.per_stage and value.shape[1] > 1
    ]
    return max(lengths, default=1)


def _crossing(lower: Tensor, upper: Tensor, names: Sequence[str], stages: range, need_room: bool) -> str:
    """The first row of (stages, rows) bounds between which no finite number lies."""
    good = (lower < upper if need_room else lower <= upper) & (lower < torch.inf) & (upper > -torch.inf)
    place = _first(~good)
    if place is None:
        return ""
    where = f"{names[place[1]]} at stage {stages[place[0]]}"
    return f"the bounds of {where} are {lower[place]:g} and {upper[place]:g}"


def _of_problem(value: Tensor, axes: int, problem: int) -> Tensor:
    """One problem's value, of so many axes; a batch of one is all problems'."""
    flat = value.reshape(-1, *value.shape[value.ndim - axes :])
    return flat[problem if len(flat) > 1 else 0]


def _first(bad: Tensor) -> tuple[int, ...] | None:
    """The first place, row by row, that is true."""
    places = bad.nonzero()
    return tuple(places[0].tolist()) if len(places) else None
