"""What a generated package says about its problem."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

from mpcgen.errors import InternalError
from mpcgen.runtime.loading import Library


@dataclass(frozen=True)
class Parameter:
    """A named parameter of shape (), (k,) or (r, c), with a flat, row-major default.

    ``per_stage``: one value for each of N stages, or N+1 where the terminal cost reads it (``in_terminal``).
    ``only_bounds``: nothing but control bounds read it, so ±inf is a legal value.
    """

    name: str
    shape: tuple[int, ...]
    default: tuple[float, ...] | None
    per_stage: bool
    in_terminal: bool
    only_bounds: bool

    @property
    def size(self) -> int:
        """Numbers per stage."""
        return prod(self.shape)

    def stages(self, horizon: int) -> int:
        """Length of the stage axis for a horizon of N controls."""
        return horizon + self.in_terminal

    def full_shape(self, horizon: int) -> tuple[int, ...]:
        """Shape of one problem's value, the stage axis included."""
        return (self.stages(horizon), *self.shape) if self.per_stage else self.shape


class Description(Protocol):
    """Names, sizes and parameters of a problem: what the checks of a call need, with or without a library."""

    @property
    def name(self) -> str:
        """Name of the problem."""

    @property
    def horizon(self) -> int:
        """N, the number of controls, where a call does not say another."""

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the n states."""

    @property
    def controls(self) -> tuple[str, ...]:
        """Names of the m controls."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Parameters, in the order in which a solver takes them."""


@dataclass(frozen=True)
class Controller:
    """A loaded controller: sizes, names, and the entry points of its library."""

    library: Library
    horizon: int
    states: tuple[str, ...]
    controls: tuple[str, ...]
    parameters: tuple[Parameter, ...]

    @property
    def name(self) -> str:
        """Name of the problem."""
        return self.library.name

    @property
    def key(self) -> str:
        """Name and digest of the build: the same in every process that loads it."""
        return f"{self.name}:{self.library.manifest['digest']}"

    def entry(self, verb: str, bits: int, batch: int) -> Callable[[Any], int]:
        """C function for a precision: the scalar variant for a single problem, else the vector one."""
        variant = "single" if batch == 1 else "batch"
        return getattr(self.library.lib, f"{self.name}_{verb}_f{bits}_{variant}")

    def arguments(self, verb: str) -> Any:
        """Fresh, zeroed argument struct of an entry point."""
        return self.library.ffi.new(f"{self.name}_{verb}_arguments *")

    def check(self, code: int, verb: str) -> None:
        """Raise for a non-zero return code of an entry point."""
        if code == 1:
            raise MemoryError(f"{self.name}: the system refused the memory to {verb} this batch")
        if code:
            raise InternalError(f"{self.name}: unknown return code {code} from {verb}")
