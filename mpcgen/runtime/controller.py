"""What a generated package says about its problem."""

from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

from mpcgen.runtime.loading import Library


@dataclass(frozen=True)
class Parameter:
    """A named parameter of shape (), (k,) or (r, c), with a flat, row-major default.

    ``per_stage``: one value for each of N stages, or N+1 where the terminal cost reads it (``in_terminal``).
    ``only_bounds``: nothing but bounds read it, so ±inf is a legal value.
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

    def full_shape(self, horizon: int | None) -> tuple[int, ...]:
        """Shape of one problem's value, the stage axis included: of length one where ``horizon`` is None."""
        if not self.per_stage:
            return self.shape
        return (1 if horizon is None else self.stages(horizon), *self.shape)


@dataclass(frozen=True)
class Constraint:
    """What a package says about a named constraint: where it holds, and its rows among the multipliers of a stage.

    ``group`` is "mixed" (stages 0..N-1), "state" (stages 1..N) or "terminal" (stage N); bounds of a state have its name
    and are of the second. The multipliers of a stage are those of the controls' bounds, and from ``first`` on ``rows``
    are this constraint's. ``vector``: it was given as a list, if only of one. ``soft``: it may be exceeded at a price.
    """

    name: str
    group: str
    first: int
    rows: int
    vector: bool
    soft: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each row: the constraint's, with an index if it is a vector."""
        if not self.vector:
            return (self.name,)
        return tuple(f"{self.name}[{index}]" for index in range(self.rows))

    def stages(self, horizon: int) -> range:
        """The stages of N controls at which it holds."""
        ranges = {
            "mixed": range(horizon),
            "state": range(1, horizon + 1),
            "terminal": range(horizon, horizon + 1),
        }
        return ranges[self.group]


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

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The precisions that it was compiled in, as torch names them."""


@dataclass(frozen=True)
class Controller:
    """A loaded controller: sizes, names, and its library; ``devices`` are those that it has run on."""

    library: Library
    horizon: int
    states: tuple[str, ...]
    controls: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    constraints: tuple[Constraint, ...] = ()
    devices: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Name of the problem."""
        return self.library.name

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The precisions that the library was compiled in, as torch names them."""
        return tuple(self.library.manifest["dtypes"])

    @property
    def has_hard_rows(self) -> bool:
        """Whether any constraint may not be exceeded, so that there may be no feasible point."""
        return any(not constraint.soft for constraint in self.constraints)

    @property
    def dual_count(self) -> int:
        """Multipliers of a stage: of the controls' bounds, then of the constraints' rows; 0 without constraints."""
        return len(self.controls) + sum(c.rows for c in self.constraints) if self.constraints else 0

    @property
    def key(self) -> str:
        """Name and digest of the build: the same in every process that loads it."""
        return f"{self.name}:{self.library.manifest['digest']}"
