"""What a problem is called and how it is shaped: all that is read of it once its expressions are on the graph."""

from __future__ import annotations

from dataclasses import dataclass

from mpcgen.runtime.controller import Constraint, Parameter
from mpcgen.runtime.loading import DTYPES


@dataclass(frozen=True)
class Signature:
    """Names, shapes and defaults of a problem, and its bounds as text; no expressions, and no word of who made them.

    ``bounds`` are (lower, upper) of each control for people. ``constraints`` come in the order of their rows in the
    kernels, and ``rows`` has a line for people about each of those. ``dynamics`` says how the next state is had:
    "discrete", or the scheme of integration.
    """

    name: str
    horizon: int
    states: tuple[str, ...]
    controls: tuple[str, ...]
    bounds: tuple[tuple[str, str], ...]
    parameters: tuple[Parameter, ...]
    constraints: tuple[Constraint, ...] = ()
    rows: tuple[str, ...] = ()
    dynamics: str = "discrete"

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The precisions that whatever evaluates it in torch works in."""
        return DTYPES

    @property
    def bound_texts(self) -> tuple[str, ...]:
        """What has to hold of each control."""
        pairs = zip(self.controls, self.bounds, strict=True)
        return tuple(f"{low} <= {control} <= {high}" for control, (low, high) in pairs)
