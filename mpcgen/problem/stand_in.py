"""An expression that remembers where it came from: for sympy it is the plain one, for who asks it is more."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import sympy as sp

from mpcgen.problem.walks import symbols_in


class StandIn(sp.Expr):
    """Stands for the expression that is its only argument.

    Where sympy changes that expression, as `subs` does, the plain expression is left: it no longer came from there.
    """

    is_commutative = True
    is_real = True
    is_number = False

    @property
    def func(self) -> Any:
        """What sympy rebuilds it with."""
        return lambda expression: self if expression is self.args[0] else expression

    @cached_property
    def free_symbols(self) -> set[sp.Symbol]:
        """The symbols that the expression reads; what it shares is walked once."""
        return symbols_in(self.args[0])

    def sort_key(self, order: Any = None) -> Any:
        """Its place among terms, by name: looking inside would take ages where much is shared."""
        return self.class_key(), (1, (str(self._place()),)), sp.S.One.sort_key(), sp.S.One

    def _place(self) -> Any:
        """What tells it from others of its class."""
        raise NotImplementedError

    def doit(self, **hints: Any) -> sp.Expr:
        """The expression, evaluated."""
        return self.args[0].doit(**hints)

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        return self.args[0].diff(symbol)

    def _eval_evalf(self, precision: int) -> sp.Expr:
        return self.args[0]._eval_evalf(precision)
