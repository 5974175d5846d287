"""Outputs of chains of layers inside expressions: what the expression is, and which layers it comes from.

Readers that have no loops read the expression. Where loops over the layers are shorter, the lowering takes the layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy as sp

from mpcgen.problem.walks import symbols_in

WORTH = 4
"""Weights of a layer from which on it is told apart."""


@dataclass(frozen=True, eq=False)
class ChainLayer:
    """A matrix of symbols, row by row, with a bias or (), and the activation in front of it."""

    before: str
    rows: int
    columns: int
    weights: tuple[sp.Expr, ...]
    bias: tuple[sp.Expr, ...]


@dataclass(frozen=True, eq=False)
class Chain:
    """Layers one after the other, on ``inputs``; nothing follows the last one."""

    inputs: tuple[sp.Expr, ...]
    layers: tuple[ChainLayer, ...]


class ChainOutput(sp.Expr):
    """Entry ``index`` of what a chain gives; ``args`` is (its expression,)."""

    is_commutative = True
    is_real = True
    is_number = False
    chain: Chain
    index: int

    def __new__(cls, expression: sp.Expr, chain: Chain, index: int) -> ChainOutput:
        """Make one of an expression."""
        made = super().__new__(cls, expression)
        made.chain, made.index = chain, index
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.args[0], self.chain, self.index

    @property
    def func(self) -> Any:
        """What sympy rebuilds it with."""
        return lambda expression: self if expression is self.args[0] else expression

    @cached_property
    def free_symbols(self) -> set[sp.Symbol]:
        """The symbols that the expression reads; what it shares is walked once."""
        return symbols_in(self.args[0])

    def sort_key(self, order: Any = None) -> Any:
        """Its place among terms: looking inside would take ages."""
        return self.class_key(), (1, (str(self.index),)), sp.S.One.sort_key(), sp.S.One

    def doit(self, **hints: Any) -> sp.Expr:
        """The expression, evaluated."""
        return self.args[0].doit(**hints)

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        return self.args[0].diff(symbol)

    def _eval_evalf(self, precision: int) -> sp.Expr:
        return self.args[0]._eval_evalf(precision)

    def _sympystr(self, printer: Any) -> str:
        return f"layers[{self.index}]"


def outermost(expressions: Sequence[sp.Expr]) -> Iterator[ChainOutput]:
    """The outputs of chains that expressions read, not those inside of others."""
    seen: set[sp.Basic] = set(expressions)
    pending: list[sp.Basic] = list(reversed(expressions))
    while pending:
        node = pending.pop()
        if isinstance(node, ChainOutput):
            yield node
            continue
        for argument in reversed(node.args):
            if argument not in seen:
                seen.add(argument)
                pending.append(argument)
