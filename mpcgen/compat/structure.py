"""What a module is apart from its weights, so that one controller serves all modules that differ in them alone."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_PLAIN = (bool, int, str, bytes, complex, type(None), torch.dtype, torch.device, Enum, type, types.ModuleType)


@dataclass(frozen=True)
class Structure:
    """key: equal for modules that compute the same from their inputs and ``tensors``.

    tensors: the real numbers that a module holds as parameters, buffers or plain attributes, each once.
    """

    key: Hashable
    tensors: tuple[Tensor, ...]


def structure_of(module: Any) -> Structure:
    """Look through a module's attributes, and the closures and global variables of its ``forward`` and of functions.

    Not seen is what other methods of a class read elsewhere.
    """
    walk = _Walk()
    return Structure(walk.key(module), tuple(walk.tensors))


class _Walk:
    """Turns what a module holds into values that can be compared."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.places: dict[int, int] = {}
        self.alive: list[Any] = []

    def key(self, value: Any) -> Hashable:
        """A value that is equal where what is computed is."""
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, _PLAIN):
            return type(value), value
        if isinstance(value, float):
            return float, value.hex()
        if id(value) in self.places:
            return "again", self.places[id(value)]
        self.places[id(value)] = len(self.places)
        self.alive.append(value)
        return self._composite(value)

    def _tensor(self, tensor: Tensor) -> Hashable:
        about = tuple(tensor.shape), tensor.dtype
        if not is_weight(tensor):
            return "constant", about, tuple(tensor.detach().reshape(-1).tolist())
        place = self.places.setdefault(id(tensor), len(self.places))
        if all(tensor is not known for known in self.tensors):
            self.tensors.append(tensor)
        return "weight", about, place

    def _composite(self, value: Any) -> Hashable:
        if isinstance(value, list | tuple):
            return type(value), tuple(map(self.key, value))
        if isinstance(value, set | frozenset):
            return type(value), frozenset(map(self.key, value))
        if isinstance(value, Mapping):
            return type(value), tuple((self.key(name), self.key(held)) for name, held in value.items())
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return self.key(value.__func__), self.key(value.__self__)
        if isinstance(value, functools.partial):
            return self.key(value.func), self.key(value.args), self.key(value.keywords)
        if type(value).__module__ == "numpy":
            return type(value), value.dtype.str, value.shape, value.tobytes()
        if hasattr(value, "__dict__"):
            return type(value), self._attributes(value)
        return _Same(value)

    def _function(self, function: types.FunctionType) -> Hashable:
        """A function by its code and by what it finds in its closure, its defaults and global variables."""
        if _is_library(function):
            return function
        names = sorted(_names_in(function.__code__) & function.__globals__.keys())
        read = tuple((name, self.key(function.__globals__[name])) for name in names)
        cells = tuple(self.key(cell.cell_contents) for cell in function.__closure__ or ())
        return (
            function.__code__,
            self.key(function.__defaults__),
            self.key(function.__kwdefaults__),
            cells,
            read,
        )

    def _attributes(self, value: Any) -> Hashable:
        named = dict(vars(value))
        if isinstance(value, nn.Module):  # whose bookkeeping is empty as a rule
            named = {name: held for name, held in named.items() if held is not None and not _is_empty(held)}
            if isinstance(type(value).forward, types.FunctionType):
                named["forward"] = type(value).forward
        return tuple((name, self.key(held)) for name, held in named.items())


def _is_empty(held: Any) -> bool:
    return isinstance(held, Mapping | set) and not held


def _is_library(function: types.FunctionType) -> bool:
    return (function.__module__ or "").split(".")[0] in ("torch", "numpy")


def _names_in(code: types.CodeType) -> set[str]:
    """The names that a function, and those inside it, may look up."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return {*code.co_names, *(name for each in inner for name in _names_in(each))}


def is_weight(tensor: Tensor) -> bool:
    """Whether a parameter of a problem can stand for a tensor."""
    return tensor.is_floating_point() and tensor.ndim <= 2 and tensor.numel() > 0


class _Same:
    """A value that equals nothing but itself."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


class _Reads(TorchDispatchMode):
    """Notes which memory operations read."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the arguments."""
        given = kwargs or {}
        self.storages.update(
            _storage(leaf) for leaf in tree_leaves((args, given)) if isinstance(leaf, Tensor)
        )
        return func(*args, **given)


def read_by(run: Callable[[], Any], tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    """Which of ``tensors`` are read while ``run`` computes; all where it fails, of which tracing knows more."""
    reads = _Reads()
    try:
        with torch.enable_grad(), reads:
            run()
    except Exception:  # the user's code, which tracing runs again, and reports
        return tuple(range(len(tensors)))
    return tuple(i for i, tensor in enumerate(tensors) if _storage(tensor) in reads.storages)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
