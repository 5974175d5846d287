"""Look at a batch of solutions and say what is worth knowing."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TextIO

import torch
from torch import Tensor

from mpcgen.autograd.closed_loop import ClosedLoop
from mpcgen.autograd.origin import ExaminationError
from mpcgen.autograd.solution import Solution
from mpcgen.calls.failures import describe_failure, describe_step
from mpcgen.calls.invalid import describe_input
from mpcgen.diagnosis.lacking import lacking
from mpcgen.diagnosis.report import Activity, Exceeded, Index, Margin, Outcome, Quantiles, Report, StatusCount
from mpcgen.errors import ParameterError
from mpcgen.runtime.status import Status

SHOWN = 5
"""Worst problems and smallest margins that a report lists."""


def diagnose(solution: Solution, *, file: TextIO | None = None) -> Report:
    """Print how a batch of problems ended: statuses with advice, convergence, bounds, margins, hints.

    solution: what a controller returned. file: where to print, default standard output. Returns the report, whose
    fields hold the numbers. A solution of `mpcgen.reference` is reported without its bounds, which it does not know.
    """
    refuse_loops(solution)
    report = _examine(solution)
    print(report, file=sys.stdout if file is None else file)
    return report


def refuse_loops(given: Solution) -> None:
    """Raise ParameterError for a closed loop, which many would like to look at."""
    if isinstance(given, ClosedLoop):
        raise ParameterError(
            "this is a ClosedLoop, whose plans are not kept; solve the step in question again: "
            "mpc(loop.x[..., step, :])"
        )


def _examine(solution: Solution) -> Report:
    status = solution.status
    counts = tuple(StatusCount(s, int((status == s).sum())) for s in Status if bool((status == s).any()))
    activity: tuple[Activity, ...] = ()
    exceeded: tuple[Exceeded, ...] = ()
    margins: tuple[Margin, ...] = ()
    unexamined: str | None = None
    hints: list[str] = []
    try:
        activity, exceeded, margins = _activity(solution), _exceeded(solution), _margins(solution)
        hints += _gradient_hints(solution)
    except (ExaminationError, ParameterError) as error:
        unexamined = str(error)
    origin = solution.origin
    return Report(
        problem="problem" if origin is None else origin.key.partition(":")[0],
        batch_shape=tuple(status.shape),
        horizon=solution.u.shape[-2],
        dtype=str(solution.u.dtype).removeprefix("torch."),
        tolerance=_tolerance(solution),
        statuses=counts,
        residual=_quantiles(solution.residual),
        iterations=_quantiles(solution.iterations),
        worst=_worst(solution),
        lacking=lacking(solution, _tolerance(solution)),
        activity=activity,
        exceeded=exceeded,
        margins=margins,
        unexamined=unexamined,
        hints=tuple(hints),
    )


def _tolerance(solution: Solution) -> float | None:
    origin = solution.origin
    return None if origin is None else origin.options.tolerance(solution.u.dtype)


def _quantiles(values: Tensor) -> Quantiles:
    numbers = values.detach().flatten().double()
    numbers = numbers[~numbers.isnan()].sort().values
    if len(numbers) == 0:
        return Quantiles(math.nan, math.nan, math.nan, math.nan)
    # the value at or above the quantile: no mixture of an outlier and its neighbour
    places = [math.ceil(q * (len(numbers) - 1)) for q in (0, 0.5, 0.9, 1)]
    return Quantiles(*(float(numbers[place]) for place in places))


def _index(flat: int, shape: torch.Size) -> Index:
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), shape)) if len(shape) else ()


def _worst(solution: Solution) -> tuple[Outcome, ...]:
    status, residual = solution.status.flatten(), solution.residual.flatten()
    badness = residual.nan_to_num(nan=torch.inf).masked_fill(status == Status.CONVERGED, -1)
    order = badness.sort(descending=True, stable=True).indices[:SHOWN]
    return tuple(
        Outcome(
            _index(int(b), solution.status.shape),
            Status(int(status[b])),
            float(residual[b]),
            int(solution.iterations.flatten()[b]),
            _failure(solution, int(b), Status(int(status[b]))),
        )
        for b in order
        if status[b] != Status.CONVERGED
    )


def _failure(solution: Solution, problem: int, status: Status) -> str:
    """What of a problem, by its place in the flat batch, is invalid, not finite, or exceeded most; else ""."""
    if status == Status.INVALID_INPUT:
        return _invalid(solution, problem)
    if status == Status.MODEL:
        return describe_step(solution.x, solution.costates, problem)
    if status != Status.DIVERGED:
        return _violated(solution, problem)
    try:
        states = solution.controller.states
    except (ExaminationError, ParameterError):
        return ""
    return describe_failure(solution.x, solution.costates, solution.gains, problem, states)


def _invalid(solution: Solution, problem: int) -> str:
    """What of an INVALID_INPUT problem is invalid, as far as its solution knows: of x0 it has nothing left."""
    origin = solution.origin
    if origin is None:
        return ""
    try:
        controller = origin.controller
        parameters = [p.detach() for p in origin.flattened(solution.status.shape)]
    except (ExaminationError, ParameterError):
        return ""
    nothing = torch.zeros_like(solution.x[..., 0, :])
    room = origin.options.smooth == "solve"
    said = describe_input(controller, nothing, (), parameters, problem, need_room=room)
    return said or "x0, or what the solver began with, is not finite"


@dataclass(frozen=True)
class _Held:
    """Everything that a bound may hold, (B, K) each: controls at their stages, then rows at theirs; K labels."""

    margins: Tensor
    active: Tensor
    violation: Tensor
    exceeded: Tensor
    places: tuple[tuple[int, str], ...]


def _held(solution: Solution) -> _Held:
    size = solution.status.numel()
    controller, horizon = solution.controller, solution.u.shape[-2]

    def flat(values: Tensor) -> Tensor:
        return values.reshape(
            size, values.shape[-2:].numel()
        )  # not -1: a batch of none has to keep its shape

    margins, active = [flat(solution.margins)], [flat(solution.active)]
    violation, exceeded = [torch.zeros_like(margins[0])], [torch.zeros_like(margins[0], dtype=torch.bool)]
    places = [(t, name) for t in range(horizon) for name in controller.controls]
    for constraint, rows in zip(controller.constraints, solution.rows.values(), strict=True):
        margins.append(flat(rows.margins))
        active.append(flat(rows.active))
        violation.append(flat(rows.violation.where(~rows.soft, 0.0)))
        exceeded.append(flat(rows.exceeded))
        places += [(t, label) for t in constraint.stages(horizon) for label in constraint.labels]
    return _Held(
        torch.cat(margins, 1),
        torch.cat(active, 1),
        torch.cat(violation, 1),
        torch.cat(exceeded, 1),
        tuple(places),
    )


def _activity(solution: Solution) -> tuple[Activity, ...]:
    """By control and row; problems without a trajectory left out."""
    known = ~solution.multipliers.flatten(0, -3).isnan().flatten(1).any(1) if solution.u.ndim > 2 else None
    held = _held(solution)
    active = held.active if known is None else held.active[known]
    if active.numel() == 0 or (known is None and bool(solution.multipliers.isnan().any())):
        return ()
    columns: dict[str, list[int]] = {}
    for column, (_, label) in enumerate(held.places):
        columns.setdefault(label, []).append(column)
    equalities = _equalities(solution)
    return tuple(
        Activity(
            label,
            float((active[:, own] == -1).double().mean()),
            float((active[:, own] == 1).double().mean()),
        )
        for label, own in columns.items()
        if label not in equalities
    )


def _equalities(solution: Solution) -> set[str]:
    """Labels of rows whose bounds meet always, so that it says nothing that one holds them."""
    found = set()
    for constraint, rows in zip(solution.controller.constraints, solution.rows.values(), strict=True):
        equal = ((rows.lower == rows.upper) & ~rows.soft).flatten(0, -2).all(0)
        found |= {label for label, yes in zip(constraint.labels, equal.tolist(), strict=True) if yes}
    return found


def _exceeded(solution: Solution) -> tuple[Exceeded, ...]:
    """Soft rows that give way in problems with a trajectory, each in how many, and where most."""
    shape, horizon, found = solution.status.shape, solution.u.shape[-2], []
    for constraint, rows in zip(solution.controller.constraints, solution.rows.values(), strict=True):
        excess = rows.violation.where(rows.exceeded, 0.0).reshape(shape.numel(), *rows.values.shape[-2:])
        stages = constraint.stages(horizon)
        for column, label in enumerate(constraint.labels):
            own = excess[..., column]
            problems = int((own > 0).any(1).sum())
            if problems:
                place, stage = divmod(int(own.argmax()), len(stages))
                found.append(Exceeded(label, problems, float(own.max()), _index(place, shape), stages[stage]))
    return tuple(sorted(found, key=lambda e: -e.problems))


def _margins(solution: Solution) -> tuple[Margin, ...]:
    """The smallest of those problems that converged and have any."""
    shape, held = solution.status.shape, _held(solution)
    unknown = ((solution.status != Status.CONVERGED).flatten()[:, None] | held.margins.isnan()).any(1)
    values, columns = held.margins.masked_fill(unknown[:, None], torch.inf).min(1)
    return tuple(
        Margin(
            _index(int(b), shape),
            *held.places[int(columns[b])],
            int(held.active[b, columns[b]]),
            float(values[b]),
            bool(held.exceeded[b, columns[b]]),
        )
        for b in values.sort(stable=True).indices[:SHOWN]
        if values[b].isfinite()
    )


def _violated(solution: Solution, problem: int) -> str:
    """The row that a problem, by its place in the flat batch, exceeds most; "" where it exceeds none."""
    try:
        held = _held(solution)
    except (ExaminationError, ParameterError):
        return ""
    most, column = held.violation[problem].nan_to_num(0).max(0)
    if float(most) == 0:
        return ""
    stage, label = held.places[int(column)]
    return f"{label} at stage {stage} is outside of its bounds by {float(most):.2g}"


def _gradient_hints(solution: Solution) -> list[str]:
    solved = solution.status == Status.CONVERGED
    limit = math.sqrt(torch.finfo(solution.u.dtype).eps)
    kinks = int(((solution.margin < limit) & solved).sum())
    held = int(((solution.active != 0).flatten(-2).all(-1) & solved).sum())
    hints = []
    if kinks:
        hints.append(
            f"{kinks} converged problems have a margin below {limit:.0e}: a bound is about to switch, and the gradient "
            "is that of one side; MPC(smoothing=mu) gives one that does not jump"
        )
    if held:
        hints.append(
            f"in {held} converged problems every control is at a bound: u moves with the bounds alone, its gradient "
            "for x0 and everything else is zero"
        )
    return hints
