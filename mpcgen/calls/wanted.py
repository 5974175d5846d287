"""Which problems of a batch have differentials, and what those get that have none."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from mpcgen.calls.options import Options
from mpcgen.runtime.status import WITHOUT_VALUE, Status

Tensors = tuple[Tensor, ...]


def usable(status: Tensor, options: Options) -> Tensor:
    """int32: 1 for problems that have differentials, 2 where only their cost has, 0 for the others.

    One without a trajectory never has any. Where the KKT conditions hold, but no second-order condition, the cost's
    gradient by the envelope theorem is exact: it needs no factorisation. With smooth="solve" that is not the cost's.
    What it returns may serve other calls too.
    """
    table, rows = _usable_statuses(options.unconverged_gradient, options.smooth == "solve", status.device)
    if status.is_cpu and status.numel() == 1:
        return rows[int(status.item())]
    return table.index_select(0, status)


@functools.lru_cache(maxsize=64)
def _usable_statuses(
    unconverged_gradient: str, is_barrier: bool, device: torch.device
) -> tuple[Tensor, Tensors]:
    """What `usable` says of each status: one look-up, where comparisons would take longer than a small problem.

    Of all in one tensor, and of each in its own, since for a single problem the look-up takes longer than the others.
    """
    table = dict.fromkeys(Status, 0) | {Status.CONVERGED: 1}
    if unconverged_gradient == "keep":
        table = {status: int(status not in WITHOUT_VALUE) for status in Status}
    elif unconverged_gradient == "zero" and not is_barrier:
        table[Status.NOT_A_MINIMUM] = 2
    with torch.inference_mode(False):
        numbers = [table.get(Status(number), 0) for number in range(max(Status) + 1)]
        found = torch.tensor(numbers, dtype=torch.int32, device=device)
        return found, found.split(1)


def poison(tensors: tuple[Tensor, ...], where: Tensor) -> None:
    """Put NaN where a problem has no differential; a shared parameter has none if any problem has none."""
    anywhere = where.any()
    for g in tensors:  # without asking the device which: that would wait for it
        own = where.reshape(-1, *[1] * (g.ndim - 1))
        g.masked_fill_(own if g.shape[0] == len(where) else anywhere, float("nan"))
