"""An expression that came from elsewhere, with the function that it came from.

What the expression is, all of mpcgen reads. The function is there for those who want a second opinion, as the baseline
does, and for people: it is shorter to print.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp

from mpcgen.problem.stand_in import StandIn
from mpcgen.problem.walks import Sealed


@dataclass(frozen=True, eq=False)
class Call:
    """A foreign function on expressions: per input, what stands for each of its nonzeros."""

    function: Any
    arguments: tuple[tuple[sp.Expr, ...], ...]


class Imported(StandIn, Sealed):
    """Entry ``index`` of output ``output`` of a call; ``args`` is (its expression,)."""

    call: Call
    output: int
    index: int

    def __new__(cls, expression: sp.Expr, call: Call, output: int, index: int) -> Imported:
        """Make one of an expression that reads a symbol."""
        made = super().__new__(cls, expression)
        made.call, made.output, made.index = call, output, index
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.args[0], self.call, self.output, self.index

    @property
    def arguments(self) -> tuple[sp.Expr, ...]:
        """All that the call is given, flat."""
        return tuple(entry for entries in self.call.arguments for entry in entries)

    def _place(self) -> Any:
        return self.call.function.name(), self.output, self.index

    def _sympystr(self, printer: Any) -> str:
        read = ", ".join(sorted(symbol.name for symbol in self.free_symbols))
        return f"{self.call.function.name()}[{self.index}]({read})"
