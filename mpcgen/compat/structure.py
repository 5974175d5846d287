"""What a module is apart from its weights, so that one controller serves all modules that differ in them alone."""

from __future__ import annotations

import contextlib
import dis
import functools
import sys
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
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
    """Look through a module's attributes, and what its methods and functions read: closures, global variables, classes.

    Not seen is what is reached in another way, by ``getattr`` or in a dictionary of another module, say.
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
        if type(value).__module__ == "numpy" and hasattr(value, "tobytes"):
            return type(value), value.dtype.str, value.shape, value.tobytes()
        if hasattr(value, "__dict__") or _slots(value):
            return type(value), self._attributes(value), self._members(type(value))
        return _Same(value)

    def _function(self, function: types.FunctionType) -> Hashable:
        """A function by its code and by what it finds in its closure, its defaults and global variables."""
        if _is_library(function):
            return function
        names, attributes = names_in(function.__code__)
        found = function.__globals__
        read = tuple((name, self._read(found[name], attributes)) for name in names if name in found)
        cells = tuple(self._cell(cell, attributes) for cell in function.__closure__ or ())
        return (
            function.__code__,
            self.key(function.__defaults__),
            self.key(function.__kwdefaults__),
            self.key(vars(function)),
            cells,
            read,
        )

    def _cell(self, cell: types.CellType, attributes: frozenset[str]) -> Hashable:
        try:
            return self._read(cell.cell_contents, attributes)
        except ValueError:  # nothing is in it yet
            return "empty"

    def _read(self, value: Any, attributes: frozenset[str]) -> Hashable:
        """What code that reads ``attributes`` finds in ``value``, which may be a class or a Python module."""
        if not isinstance(value, type | types.ModuleType) or _is_library(value):
            return self.key(value)
        held = vars(value)
        return value, tuple((name, self._member(held[name])) for name in sorted(attributes & held.keys()))

    def _attributes(self, value: Any) -> Hashable:
        named = {name: getattr(value, name) for name in _slots(value) if hasattr(value, name)}
        named |= getattr(value, "__dict__", {})
        if isinstance(value, nn.Module):  # whose bookkeeping is empty as a rule
            named = {name: held for name, held in named.items() if held is not None and not _is_empty(held)}
        return tuple((name, self.key(held)) for name, held in named.items())

    def _members(self, owner: type) -> Hashable:
        """What the classes of an object hold that its ``forward`` or ``__call__`` comes to, by name."""
        classes = [each for each in owner.__mro__ if not _is_library(each)]
        wanted = [name for name in _ENTRIES if any(name in vars(each) for each in classes)]
        if not wanted:  # an object whose methods others call
            wanted = sorted({name for each in classes for name in vars(each) if not name.startswith("__")})
        seen, found = set(wanted), []
        while wanted:
            name = wanted.pop(0)
            for each in classes:
                if name in vars(each):
                    member = vars(each)[name]
                    found.append((each, name, self._member(member)))
                    further = sorted(_attributes_of(member) - seen)
                    seen.update(further)
                    wanted += further
        return tuple(found)

    def _member(self, member: Any) -> Hashable:
        """An entry of a class or a Python module."""
        if isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType):
            return "slot"  # whose values are the instance's
        return self.key(_plain(member))


_ENTRIES = ("forward", "__call__")


def _plain(member: Any) -> Any:
    """The function in a property, or in a static or class method."""
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    return member.fget if isinstance(member, property) else member


def _attributes_of(member: Any) -> frozenset[str]:
    function = _plain(member)
    return names_in(function.__code__)[1] if isinstance(function, types.FunctionType) else frozenset()


def _slots(value: Any) -> tuple[str, ...]:
    """Names of the attributes that are not in an object's ``__dict__``."""
    found: list[str] = []
    for each in type(value).__mro__:
        named = () if _is_library(each) else vars(each).get("__slots__", ())
        found += [named] if isinstance(named, str) else named
    return tuple(name for name in found if not name.startswith("__"))


def _is_empty(held: Any) -> bool:
    return isinstance(held, Mapping | set) and not held


def _is_library(value: Any) -> bool:
    """Whether a function, class or Python module is Python's own, torch's or numpy's, which do not change."""
    name = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
    root = (name or "").split(".")[0]
    return root in ("torch", "numpy") or root in sys.stdlib_module_names


@functools.lru_cache(maxsize=4096)
def names_in(code: types.CodeType) -> tuple[tuple[str, ...], frozenset[str]]:
    """The global variables that a function, and those inside it, look up, and the names of attributes."""
    names: set[str] = set()
    attributes: set[str] = set()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names.add(step.argval)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
            attributes.add(step.argval)
        elif isinstance(step.argval, types.CodeType):
            inner = names_in(step.argval)
            names.update(inner[0])
            attributes |= inner[1]
    return tuple(sorted(names)), frozenset(attributes)


def is_weight(tensor: Tensor) -> bool:
    """Whether a parameter of a problem can stand for a tensor."""
    return tensor.is_floating_point() and tensor.ndim <= 2 and tensor.numel() > 0


@contextlib.contextmanager
def as_it_was(module: Any) -> Iterator[None]:
    """Put back the attributes that modules change while they are called: a count of calls would be another module."""
    parts = list(module.modules()) if isinstance(module, nn.Module) else [module]
    before = [dict(getattr(part, "__dict__", {})) for part in parts]
    try:
        yield
    finally:
        for part, held in zip(parts, before, strict=True):
            now = getattr(part, "__dict__", {})
            for name in [name for name in now if name not in held]:
                del now[name]
            now.update(held)


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
