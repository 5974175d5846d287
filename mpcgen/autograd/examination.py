"""What holds a solution, and how it was reached: multipliers, bounds, active set, margins, convergence history.

Computed when asked for. Nothing here is differentiable; everything works inside torch.func's transforms and
torch.compile, by the registered operators below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from mpcgen.autograd import library, summary
from mpcgen.autograd.folding import batch_of, fold_each, own, unfold
from mpcgen.autograd.origin import Origin
from mpcgen.calls import kernels
from mpcgen.calls.arguments import Call, Start
from mpcgen.calls.options import Options

MOST_PRODUCT = 1e7
"""No multiplier times the room it has left is more than one over so many units of the cost at a solution."""


@dataclass(frozen=True)
class Examination:
    """Bounds and what they do; (..., N, m) each.

    multipliers: dL/du. lower, upper: bounds. active: int8, -1 at the lower bound, +1 at the upper, 0 free, by the
    rule that `Solution.active` states. margins: |dL/du| where
    a bound is active (units of cost per control), the distance to the nearest bound where none is (units of the
    control), inf where there is no bound to reach or where both bounds are equal. NaN (active: 0) for problems
    that ended as INVALID_INPUT, DIVERGED or MODEL. Of a solution by the log-barrier at mu (``smooth="solve"``) the rule
    marks the bounds with a slack of at most sqrt(mu), by whose force mu / slack they hold; nothing there has a kink.
    """

    multipliers: Tensor
    lower: Tensor
    upper: Tensor
    active: Tensor
    margins: Tensor
    rows: Rows


@dataclass(frozen=True)
class Rows:
    """Rows of constraints at the stages where they hold, (..., stages, rows) each.

    values: of the constrained expressions. lower, upper: their bounds. dual: multipliers. active: int8, -1 where the
    lower bound pushes, +1 where the upper one does, 0 where neither. margins: |dual| where a bound is active, the
    distance to the nearest bound where none is, inf for equalities. NaN (active: 0) for problems without a trajectory.

    A soft row is exceeded where it is active and not at its bound. reserve: by how much its multiplier falls short of
    the price of more excess, linear + quadratic e, which is 0 where it is exceeded by e; inf for hard rows. Its margin
    is the least of |dual| and reserve where it is at a bound, and the excess where it is exceeded.

    unit: a hundredth of the sizes of the cost's terms, or 1e7 times the largest product of a multiplier and the room
    that it leaves, by which distances are weighed against multipliers.
    """

    values: Tensor
    lower: Tensor
    upper: Tensor
    dual: Tensor
    active: Tensor
    margins: Tensor
    reserve: Tensor
    unit: Tensor

    def __repr__(self) -> str:
        """Their shapes."""
        return summary.shapes("Rows", vars(self).items())

    @property
    def soft(self) -> Tensor:
        """Which rows may be exceeded at a price, (..., stages, rows)."""
        return self.reserve.isfinite()

    @property
    def violation(self) -> Tensor:
        """By how much each row is outside of its bounds, (..., stages, rows)."""
        return torch.maximum(self.lower - self.values, self.values - self.upper).clamp(min=0)

    @property
    def exceeded(self) -> Tensor:
        """Which soft rows are exceeded, rather than held at their bound, (..., stages, rows)."""
        return self.soft & (self.unit * self.violation > self.reserve.clamp(min=0))

    def select(self, stages: range, columns: slice) -> Rows:
        """Those of some stages and columns."""
        return Rows(*(getattr(self, f.name)[..., stages.start : stages.stop, columns] for f in fields(self)))


def rows_of(
    values: Tensor, lower: Tensor, upper: Tensor, dual: Tensor, reserve: Tensor, unit: Tensor
) -> Rows:
    """What the rows' bounds do: active where the distance, times the cost's unit, is at most the multiplier."""
    high = (unit * (upper - values) <= dual) & (dual >= 0)
    low = (unit * (values - lower) <= -dual) & (dual <= 0) & ~high
    active = high.to(torch.int8) - low.to(torch.int8)
    distance = torch.minimum(values - lower, upper - values)
    hard = torch.where(low | high, dual.abs(), distance).masked_fill(lower == upper, torch.inf)
    # along a soft row's multiplier over its value: to the corner at 0, of which there is none where the bounds
    # meet, and to the one at its whole price
    corner = torch.minimum(dual.abs().masked_fill(lower == upper, torch.inf), reserve.abs())
    margins = torch.where(reserve.isfinite(), distance.abs() + corner, hard)
    return Rows(values, lower, upper, dual, active, margins, reserve, unit.expand_as(values))


def _near_a_bound(u: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The distance from which a control is not at a bound, whatever dL/du: half of the digits of its range or size."""
    room = upper - lower
    size = torch.where(room.isfinite(), room, u.abs())
    return math.sqrt(torch.finfo(u.dtype).eps) * size


def _unit(unit: Tensor, *held: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """The cost's unit, (..., 1, 1), or where the cost is next to nothing what the solver has left of it.

    held: values, lower and upper bounds and multipliers, (..., stages, entries) each.
    """
    for values, lower, upper, dual in held:
        room = torch.where(dual > 0, upper - values, values - lower).clamp(min=0)
        product = torch.where((dual != 0) & room.isfinite(), dual.abs() * room, 0.0)
        if product.shape[-1]:
            unit = torch.maximum(unit, MOST_PRODUCT * product.amax((-2, -1), keepdim=True))
    return unit


def _curvature(unit: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """By what a control's distance from a bound is weighed against dL/du beside rows, as its gradients are."""
    half = (upper - lower) / 2
    return torch.where(half.isfinite() & (half > 0), unit / half**2, 1)


def examine(origin: Origin, x: Tensor, u: Tensor, status: Tensor, duals: Tensor | None = None) -> Examination:
    """Examine solutions x (..., N+1, n), u (..., N, m), status (...), and of rows duals (..., N+1, rows)."""
    x, u, status = x.detach(), u.detach(), status.detach()
    duals = u.new_empty(*u.shape[:-2], 0, 0) if duals is None else duals.detach()
    shape = u.shape[:-2]
    parameters = [p.detach() for p in origin.flattened(shape)]
    # not -1 instead of the size: a batch of none has to keep its shape
    flat = (t.reshape(shape.numel(), *t.shape[len(shape) :]) for t in (x, u, status, duals))
    found = examine_flat(origin.key, *flat, parameters)
    multipliers, lower, upper = (t.reshape(u.shape) for t in found[:3])
    values, row_lower, row_upper, reserve = (t.reshape(duals.shape) for t in found[3:7])
    unit = _unit(
        found[7].reshape(*shape, 1, 1), (values, row_lower, row_upper, duals), (u, lower, upper, -multipliers)
    )
    rows = rows_of(values, row_lower, row_upper, duals, reserve, unit)
    if duals.shape[-1]:
        near = torch.full_like(u, torch.inf)
        pull = multipliers / _curvature(unit, lower, upper)
    else:
        near, pull = _near_a_bound(u, lower, upper), multipliers
    low = (u - lower <= torch.minimum(pull, near)) & (multipliers >= 0)
    high = (upper - u <= torch.minimum(-pull, near)) & (multipliers <= 0) & ~low
    active = high.to(torch.int8) - low.to(torch.int8)
    distance = torch.minimum(u - lower, upper - u)
    margins = torch.where(low | high, multipliers.abs(), distance).masked_fill(lower == upper, torch.inf)
    return Examination(multipliers, lower, upper, active, margins, rows)


def _examine(
    controller: str, x: Tensor, u: Tensor, status: Tensor, duals: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    return kernels.examine(library.controller_of(controller), x, u, status, tuple(parameters), duals)


def _fake_examine(
    controller: str, x: Tensor, u: Tensor, status: Tensor, duals: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    return tuple(
        like.new_empty(like.shape) for like in (u, u, u, duals, duals, duals, duals, status.to(u.dtype))
    )


def _vmap_examine(
    info: Any,
    in_dims: tuple[Any, ...],
    controller: str,
    x: Tensor,
    u: Tensor,
    status: Tensor,
    duals: Tensor,
    parameters: Sequence[Tensor],
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    size, batch = info.batch_size, batch_of(u, in_dims[2])
    solution = (own(t, d, size, batch) for t, d in zip((x, u, status, duals), in_dims[1:5], strict=True))
    folded = fold_each(parameters, in_dims[5], size, batch)
    return tuple(unfold(t, size, batch) for t in examine_flat(controller, *solution, folded)), (0,) * 8


examine_flat = library.define(
    "examine(str controller, Tensor x, Tensor u, Tensor status, Tensor duals, Tensor[] parameters) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _examine,
    _fake_examine,
    _vmap_examine,
)
"""Operator form of `kernels.examine`: dL/du, lower and upper bounds, (B, N, m) each, rows', the cost's unit."""


@dataclass(frozen=True)
class History:
    """Convergence: cost and KKT residual, (..., max_iterations+1) each, after each pass; entry 0 is the start.

    NaN from the pass on at which a problem was done.
    """

    cost: Tensor
    residual: Tensor

    def __repr__(self) -> str:
        """Their shapes."""
        return summary.shapes("History", vars(self).items())


def record(origin: Origin, call: Call) -> History:
    """Convergence history of a call: solves it once more, to the same bits."""
    start = [None if guess is None else guess.detach() for guess in call.start]
    parameters = [p.detach() for p in call.parameters]
    passes = record_flat(origin.key, origin.options_text, call.horizon, call.x0.detach(), *start, parameters)
    return History(*passes.reshape(*call.batch_shape, *passes.shape[1:]).unbind(-1))


def _record(
    controller: str,
    options: str,
    horizon: int,
    x0: Tensor,
    u_init: Tensor | None,
    x_init: Tensor | None,
    costates: Tensor | None,
    duals: Tensor | None,
    parameters: Sequence[Tensor],
) -> Tensor:
    chosen = Options.from_text(options)
    history = x0.new_full((x0.shape[0], chosen.max_iterations + 1, 2), torch.nan)
    quiet = replace(chosen, on_unconverged="ignore")
    kernels.solve(
        library.controller_of(controller),
        quiet,
        horizon,
        x0,
        Start(u_init, x_init, costates, duals),
        tuple(parameters),
        history,
    )
    return history


def _fake_record(
    controller: str,
    options: str,
    horizon: int,
    x0: Tensor,
    u_init: Tensor | None,
    x_init: Tensor | None,
    costates: Tensor | None,
    duals: Tensor | None,
    parameters: Sequence[Tensor],
) -> Tensor:
    return x0.new_empty(x0.shape[0], Options.from_text(options).max_iterations + 1, 2)


def _vmap_record(
    info: Any,
    in_dims: tuple[Any, ...],
    controller: str,
    options: str,
    horizon: int,
    x0: Tensor,
    u_init: Tensor | None,
    x_init: Tensor | None,
    costates: Tensor | None,
    duals: Tensor | None,
    parameters: Sequence[Tensor],
) -> tuple[Tensor, int]:
    size, batch = info.batch_size, batch_of(x0, in_dims[3])
    x0 = own(x0, in_dims[3], size, batch)
    guesses = fold_each((u_init, x_init, costates, duals), in_dims[4:8], size, batch)
    folded = fold_each(parameters, in_dims[8], size, batch)
    found = record_flat(controller, options, horizon, x0, *guesses, folded)
    return unfold(found, size, batch), 0


record_flat = library.define(
    "record(str controller, str options, SymInt horizon, Tensor x0, Tensor? u_init, Tensor? x_init, Tensor? costates, "
    "Tensor? duals, Tensor[] parameters) -> Tensor",
    _record,
    _fake_record,
    _vmap_record,
)
"""Cost and residual by pass, (B, max_iterations+1, 2), padded with NaN."""
