"""An expression that came from elsewhere, with the function that it came from.

What the expression is, all of mpcgen reads. The function is there for those who want a second opinion, as the baseline
does, and for people: it is shorter to print.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy as sp

from mpcgen.problem.walks import symbols_in


@dataclass(frozen=True, eq=False)
class Call:
    """A foreign function on expressions: per input, what stands for each of its nonzeros."""

    function: Any
    arguments: tuple[tuple[sp.Expr, ...], ...]


class Imported(sp.Expr):
    """Entry ``index`` of output ``output`` of a call; ``args`` is (its expression,).

    Where sympy changes the expression, as `subs` does, the plain expression is left: it is no longer that call's.
    """

    is_commutative = True
    is_real = True
    is_number = False
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
    def func(self) -> Any:
        """What sympy rebuilds it with."""
        return lambda expression: self if expression is self.args[0] else expression

    @property
    def arguments(self) -> tuple[sp.Expr, ...]:
        """All that the call is given, flat."""
        return tuple(entry for entries in self.call.arguments for entry in entries)

    @cached_property
    def free_symbols(self) -> set[sp.Symbol]:
        """The symbols that the expression reads; what it shares is walked once."""
        return symbols_in(self.args[0])

    def sort_key(self, order: Any = None) -> Any:
        """Its place among terms, by name: looking inside would take ages where much is shared."""
        name = (self.call.function.name(), self.output, self.index)
        return self.class_key(), (1, (str(name),)), sp.S.One.sort_key(), sp.S.One

    def doit(self, **hints: Any) -> sp.Expr:
        """The expression, evaluated."""
        return self.args[0].doit(**hints)

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        return self.args[0].diff(symbol)

    def _eval_evalf(self, precision: int) -> sp.Expr:
        return self.args[0]._eval_evalf(precision)

    def _sympystr(self, printer: Any) -> str:
        read = ", ".join(sorted(symbol.name for symbol in self.free_symbols))
        return f"{self.call.function.name()}[{self.index}]({read})"
