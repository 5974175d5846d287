"""Vectorisation: a mapped dimension becomes part of the batch, and one of the outputs again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def batch_of(tensor: Tensor, dim: int | None) -> int:
    """Length of the batch of a tensor whose mapped dimension is ``dim``."""
    return tensor.shape[0] if dim is None or dim > 0 else tensor.shape[1]


def fold(tensor: Tensor, dim: int | None, size: int, batch: int) -> Tensor:
    """Make a mapped dimension part of the batch: (V*B, ...), or still (1, ...) if all share one value."""
    if dim is None:
        if tensor.shape[0] == 1:
            return tensor
        tensor = tensor.unsqueeze(0).expand(size, *tensor.shape)
    else:
        tensor = tensor.movedim(dim, 0)
    if tensor.shape[1] != batch:
        tensor = tensor.expand(size, batch, *tensor.shape[2:])
    return tensor.reshape(size * batch, *tensor.shape[2:])


def each(value: Sequence[Any], dims: Any) -> Sequence[int | None]:
    """Mapped dimensions of a list of tensors; torch says None for a list without any."""
    return dims or [None] * len(value)


def fold_each(tensors: Sequence[Any], dims: Any, size: int, batch: int) -> list[Any]:
    """`fold` of those of a list that are not None; ``dims`` as torch gives them."""
    pairs = zip(tensors, each(tensors, dims), strict=True)
    return [None if t is None else fold(t, d, size, batch) for t, d in pairs]


def own(tensor: Tensor, dim: int | None, size: int, batch: int) -> Tensor:
    """Like `fold`, but a value for each problem even where they share it."""
    folded = fold(tensor, dim, size, batch)
    if folded.shape[0] == size * batch:
        return folded
    return folded.expand(size * batch, *folded.shape[1:]).contiguous()


def unfold(tensor: Tensor, size: int, batch: int) -> Tensor:
    """(V, B, ...) of a (V*B, ...)."""
    return tensor.reshape(size, batch, *tensor.shape[1:])
