"""Operations of torch that move entries, change their kind or read none; and how tensors lie in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

MOVES: dict[str, tuple[int, ...]] = {
    "cat": (0,),
    "stack": (0,),
    "index": (0,),
    "index_select": (0,),
    "gather": (0,),
    "take": (0,),
    "flip": (0,),
    "roll": (0,),
    "repeat": (0,),
    "repeat_interleave": (0,),
    "tril": (0,),
    "triu": (0,),
    "clone": (0,),
    "contiguous": (0,),
    "unsafe_split": (0,),
    "unsafe_split_with_sizes": (0,),
    "unsafe_chunk": (0,),
    "_unsafe_view": (0,),
    "_reshape_alias": (0,),
    "_reshape_copy": (0,),
    "diag_embed": (0,),
    "lift_fresh_copy": (0,),
    "view_copy": (0,),
    "expand_copy": (0,),
    "permute_copy": (0,),
    "constant_pad_nd": (0, 2),
    "index_put": (0, 2),
    "_unsafe_index_put": (0, 2),
    "_unsafe_index": (0,),
    "index_copy": (0, 3),
    "scatter": (0, 3),
    "select_scatter": (0, 1),
    "slice_scatter": (0, 1),
    "diagonal_scatter": (0, 1),
}
"""Operations that only move entries, and the positions of the arguments that have them."""

_WITHOUT_VALUES = (
    "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty new_empty_strided "
    "_linalg_check_errors _assert_async _assert_tensor_metadata _efficientzerotensor"
)
WITHOUT_VALUES = frozenset(_WITHOUT_VALUES.split())
"""Operations that read no entries."""

_IN_SHAPE_ALONE = "squeeze_ unsqueeze_ t_ transpose_ as_strided_ detach_ swapaxes_ swapdims_"
IN_SHAPE_ALONE = frozenset(_IN_SHAPE_ALONE.split())
"""Operations in place that move no entries."""

CASTS = frozenset(("_to_copy", "to", "convert_element_type"))
"""Operations that change the kind of number."""


def bound_arguments(operation: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What an operation is given, by the names of its schema; defaults are left out."""
    names = [argument.name for argument in operation._schema.arguments]
    return dict(zip(names, args, strict=False)) | kwargs


def storage(tensor: Tensor) -> int:
    """What identifies the memory that a tensor lies in."""
    return int(tensor.untyped_storage()._cdata)


def seen(shadow: Tensor, tensor: Tensor) -> Tensor:
    """What a tensor sees of its memory."""
    return torch.as_strided(shadow, tensor.size(), tensor.stride(), tensor.storage_offset())


def tensors_in(result: Any) -> list[Tensor]:
    """The tensors of nested lists, tuples and mappings, in order."""
    return [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]


def endless(value: Any) -> Iterator[Any]:
    """The same value again and again."""
    while True:
        yield value


def digits(dtype: torch.dtype) -> float:
    """More for a kind of number that is more precise."""
    return -torch.finfo(dtype).eps


def without_kind(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Without what says only how a result is kept."""
    return {
        k: v
        for k, v in kwargs.items()
        if k not in ("dtype", "layout", "device", "pin_memory", "memory_format")
    }


def is_view(func: Any) -> bool:
    """Whether an operation gives its argument's memory back in another shape."""
    return any(result.alias_info is not None for result in func._schema.returns)


def is_definite(matrix: Tensor, numbers: Tensor) -> bool:
    """Whether matrices are symmetric as expressions, and positive definite where the trace runs."""
    if matrix.shape[-1] != matrix.shape[-2] or not torch.equal(numbers, numbers.transpose(-1, -2)):
        return False
    return bool((torch.linalg.cholesky_ex(matrix.detach())[1] == 0).all())
