"""The argument struct of a kernel, made once for calls of one size: from call to call only addresses change."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mpcgen.calls.devices import Device
from mpcgen.errors import InternalError


class Struct:
    """A struct, filled but for the addresses.

    fields: by member. numbers: of members that point to int64 numbers. pointers: how many addresses are in the arrays
    that other members point to. Addresses are numbers written over the struct's pointers, several at once: cffi's
    casts would cost a quarter of a call's overhead, and to write them one by one takes twice as long.
    """

    __slots__ = ("_arrays", "_ffi", "_numbers", "struct", "words")

    def __init__(
        self,
        device: Device,
        verb: str,
        fields: Mapping[str, Any],
        numbers: Mapping[str, Sequence[int]],
        pointers: Mapping[str, int],
    ) -> None:
        ffi, self.struct = device.ffi, device.arguments(verb)
        for name, value in fields.items():
            setattr(self.struct, name, value)
        self._numbers = {name: ffi.new("int64_t[]", list(values)) for name, values in numbers.items()}
        for name, values in self._numbers.items():
            setattr(self.struct, name, values)
        self._arrays = {name: ffi.new("uintptr_t[]", count) for name, count in pointers.items()}
        for name, array in self._arrays.items():
            setattr(self.struct, name, ffi.cast("void *", array))
        self.words = ffi.cast("uintptr_t *", self.struct)
        self._ffi = ffi

    def slot(self, name: str) -> int:
        """The place of a pointer among ``words``."""
        ffi = self._ffi
        return int(ffi.offsetof(ffi.typeof(self.struct).item, name) // ffi.sizeof("uintptr_t"))

    def members(self, names: Sequence[str]) -> Callable[..., None]:
        """Return what writes addresses over pointers that follow each other."""
        first = self.slot(names[0])
        if [self.slot(name) for name in names] != list(range(first, first + len(names))):
            raise InternalError(f"{', '.join(names)} do not follow each other in their struct")
        return _writer(self._ffi.buffer(self.struct), first, len(names))

    def array(self, name: str) -> Callable[..., None]:
        """Return what writes the addresses that a member points to."""
        array = self._arrays[name]
        return _writer(self._ffi.buffer(array), 0, len(array))


def _writer(memory: Any, first: int, count: int) -> Callable[..., None]:
    """Return what writes `count` addresses, from one of the words of a memory on."""
    words = struct.Struct(f"{count}N")
    return functools.partial(words.pack_into, memory, first * struct.calcsize("N"))


def dense(tensor: Tensor) -> Tensor:
    """The numbers themselves in memory, row-major; a tensor may only stand for them, as negated or as zeros."""
    if tensor.is_contiguous() and not (tensor.is_neg() or tensor._is_zerotensor()):
        return tensor  # what resolve_neg() and contiguous() would say too, in four times the time
    if tensor._is_zerotensor():
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return tensor.resolve_neg().contiguous()


def strides_of_shapes(shapes: Iterable[Sequence[int]]) -> list[int]:
    """Numbers from one problem to the next; what the batch shares has stride zero."""
    return [0 if shape[0] <= 1 else math.prod(shape[1:]) for shape in shapes]
