"""Several starts of each problem of a batch, of which the best solution is kept; see `MPC(restarts=k)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mpcgen.autograd import summary
from mpcgen.autograd.examination import History, examine_flat
from mpcgen.calls.arguments import Call, Start
from mpcgen.calls.options import Options
from mpcgen.runtime.outputs import Outputs
from mpcgen.runtime.status import Status

SAME_MINIMUM = 1e-6
"""Relative difference of costs up to which two solutions are one minimum's, and the earlier start's is kept.

Besides, costs are known up to the tolerance times those that the solver began with: a minimum's cost may be zero.
"""

_ORDER = (Status.CONVERGED, Status.NOT_A_MINIMUM, Status.STALLED, Status.MAX_ITERATIONS, Status.INFEASIBLE)
"""From the best outcome to the worst; behind these come those without a trajectory."""
_RANK = [_ORDER.index(status) if status in _ORDER else len(_ORDER) for status in Status]

Solve = Callable[[Call, bool], tuple[Tensor, ...]]
"""(call, whether only the start's rollout is wanted) to the outputs of a flat batch, without gradients."""


@dataclass(frozen=True)
class Restarts:
    """What became of the starts of each problem, leading dimensions ... of the batch.

    tried: starts of each problem, the given one among them. solved: (...) int64, how many converged. winner: (...)
    int64, which was kept, 0 being the given one. minima: (...) int64, different costs among those that converged.
    iterations: (...) int64, of all starts together; ``sol.iterations`` is the winner's.
    """

    tried: int
    solved: Tensor
    winner: Tensor
    minima: Tensor
    iterations: Tensor

    def __repr__(self) -> str:
        """Their shapes."""
        return summary.shapes("Restarts", vars(self).items())


@dataclass(frozen=True)
class Tries:
    """The starts of a call and the best of what they led to.

    calls: from the given start, leading dimensions (B,), and from the others, (restarts, B). outputs: of the winners,
    flat batch, without gradients. winner: (B,). winners: the call, from the controls that each winner started from.
    """

    calls: tuple[Call, Call]
    outputs: tuple[Tensor, ...]
    winner: Tensor
    winners: Call
    restarts: Restarts

    def of_winners(self, first: History, others: History) -> History:
        """The winners' history, of those of the calls."""
        pairs = ((first.cost, others.cost), (first.residual, others.residual))
        found = (_of_winner(torch.cat([one[None], more]), self.winner) for one, more in pairs)
        return History(*(t.reshape(self.winners.batch_shape + t.shape[1:]) for t in found))


def try_starts(key: str, options: Options, call: Call, count: int, seed: int, solve: Solve) -> Tries:
    """Solve a call from its start and from ``count`` random ones.

    The random controls are the same for every problem, so that its place in the batch does not matter: uniform within
    the bounds, or as far about the given controls as those of the first solution are large, where a control has not
    two; at every second start a control has one value for all stages.
    """
    size = call.x0.shape[0]
    with torch.no_grad():
        parameters = tuple(p.detach() for p in call.parameters)
        given = Call(torch.Size([size]), call.horizon, call.x0.detach(), call.start, parameters)
        first = solve(given, False)
        controls = _random_controls(key, given, first, count, seed)
        repeated = tuple(_repeat(p, count) if p.shape[0] == size else p for p in parameters)
        start, x0 = Start(controls.flatten(0, 1)), _repeat(given.x0, count)
        others = Call(torch.Size([count, size]), call.horizon, x0, start, repeated)
        found = Outputs(*map(_join, first, solve(others, False)))
        begun = solve(others, True)[2].reshape(count, size).abs()
        scale = begun.where(begun.isfinite(), torch.inf).amin(0)
        slack = options.tolerance(scale.dtype) * scale.where(scale.isfinite(), 0.0)
        winner, restarts = _judge(found, slack, call.batch_shape)
        best = tuple(_of_winner(out, winner) for out in vars(found).values())
        base = torch.zeros_like(best[1]) if call.start.u is None else call.start.u.detach().expand_as(best[1])
        start = Start(_of_winner(torch.cat([base[None], controls]), winner))
    winners = Call(call.batch_shape, call.horizon, call.x0, start, call.parameters)
    return Tries((given, others), best, winner, winners, restarts)


def _join(one: Tensor, others: Tensor) -> Tensor:
    """(B, ...) and (restarts B, ...) to (1 + restarts, B, ...)."""
    size = one.shape[0]
    count = others.shape[0] // max(size, 1)
    return torch.cat([one[None], others.reshape(count, *one.shape)])


def _repeat(value: Tensor, count: int) -> Tensor:
    """(B, ...) to (count B, ...), start by start."""
    return value.expand(count, *value.shape).flatten(0, 1)


def _random_controls(key: str, call: Call, first: tuple[Tensor, ...], count: int, seed: int) -> Tensor:
    """(count, B, N, m) controls to start from."""
    x, u, status = first[0], first[1], first[3]
    horizon, m = u.shape[-2:]
    nothing = torch.zeros_like
    duals = first[8] if len(first) > 8 else u.new_empty(len(u), 0, 0)
    held = call.x0[:, None].expand_as(x)
    parameters = list(call.parameters)
    _, lower, upper, *_ = examine_flat(key, held, nothing(u), nothing(status), nothing(duals), parameters)
    shares = _shares(count, horizon, m, seed, u)[:, None]
    base = nothing(u) if call.start.u is None else call.start.u.detach()
    reach = u.abs().nan_to_num(0.0, 0.0, 0.0).amax(-2, keepdim=True)
    reach = torch.where(reach > 0, reach, torch.ones_like(reach))
    bounded = (upper - lower).isfinite()
    within = lower + shares * (upper - lower)
    return torch.where(bounded, within, base + (2 * shares - 1) * reach)


def _shares(count: int, horizon: int, m: int, seed: int, like: Tensor) -> Tensor:
    """(count, N, m) numbers in [0, 1): a hash of start, stage, control and seed, which torch's tracers can follow."""
    starts = torch.arange(count, device=like.device)[:, None, None]
    stages = torch.arange(horizon, device=like.device)[None, :, None] * (starts % 2)
    controls = torch.arange(m, device=like.device)
    number = (starts * horizon + stages) * m + controls + 1
    # both hashed before they meet: a sum of the two would give neighbouring seeds the same numbers, moved along
    number = _hashed(_hashed(number) ^ _hashed(seed + 1))
    return (number.double() / 2**32).to(like.dtype)


def _hashed(number: Any) -> Any:
    """A number below 2^32 that tells nothing of the one given, a whole number or a tensor of them."""
    for factor in (2_654_435_761, 2_246_822_519):
        number = (number * factor) % 2**32
        number = number ^ (number >> 15)
    return number


def _of_winner(value: Tensor, winner: Tensor) -> Tensor:
    """(starts, B, ...) to (B, ...)."""
    index = winner.reshape(1, -1, *[1] * (value.ndim - 2))
    return torch.take_along_dim(value, index, 0)[0]


def _judge(found: Outputs, slack: Tensor, batch_shape: torch.Size) -> tuple[Tensor, Restarts]:
    """Which start of each problem is best, (B,): by status, violation and cost (known up to slack); then the first."""
    starts = found.status.shape[0]
    order = torch.tensor(_RANK, device=found.status.device)
    rank = order[found.status.long()]
    solved = rank == 0
    open_ones = rank == rank.amin(0)
    violation = found.row_violation
    if violation is not None and violation.numel() > 0:
        exceeded = violation[..., 0].nan_to_num(torch.inf).masked_fill(solved | ~open_ones, 0.0)
        open_ones = open_ones & (exceeded <= exceeded.masked_fill(~open_ones, torch.inf).amin(0))
    cost = found.cost.nan_to_num(torch.inf, torch.inf).masked_fill(~open_ones, torch.inf)
    least = cost.amin(0)
    near = torch.where(least.isfinite(), least + SAME_MINIMUM * least.abs() + slack, least)
    places = torch.arange(starts, device=cost.device)[:, None]
    winner = torch.where(open_ones & (cost <= near), places, starts).amin(0)
    sorted_costs = found.cost.masked_fill(~solved, torch.inf).sort(0).values
    before, after = sorted_costs[:-1], sorted_costs[1:]
    further = after.isfinite() & (after - before > SAME_MINIMUM * after.abs() + slack)
    numbers = (solved.sum(0), winner, solved.any(0) + further.sum(0), found.iterations.sum(0))
    return winner, Restarts(starts, *(number.reshape(batch_shape) for number in numbers))
