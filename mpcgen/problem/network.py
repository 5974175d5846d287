"""Outputs of networks inside expressions: what the expression is, and which layers it comes from.

Readers that have no loops read the expression. Where loops over the layers are shorter, the lowering takes the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp

from mpcgen.ir.network import Layer
from mpcgen.problem.arrays import Array
from mpcgen.problem.running import RunningCost
from mpcgen.problem.stand_in import StandIn

WORTH = 4
"""Weights of a layer from which on it is told apart."""
LEAST = 64
"""Products of a network that loops may evaluate."""
WORTH_OF_OTHERS = 64
"""The same where they are no symbols: loops do not evaluate it, and it is said so of large networks."""


@dataclass(frozen=True, eq=False)
class Net:
    """Layers, each of which reads ``inputs`` or layers before it; what it gives are the rows of the ``ends``.

    Weights are symbols, but where no loop evaluates them. ``arrays``: what the ends are in the trace.
    """

    inputs: tuple[sp.Expr, ...]
    layers: tuple[Layer[sp.Expr], ...]
    ends: tuple[int, ...]
    arrays: tuple[Array, ...]

    @property
    def products(self) -> int:
        """Weights of matrices."""
        return sum(layer.products for layer in self.layers)

    @property
    def outputs(self) -> int:
        """How many it has."""
        return sum(self.layers[end].rows for end in self.ends)


class NetOutput(StandIn):
    """Entry ``index`` of what a network gives; ``args`` is (its expression,)."""

    net: Net
    index: int

    def __new__(cls, expression: sp.Expr, net: Net, index: int) -> NetOutput:
        """Make one of an expression."""
        made = super().__new__(cls, expression)
        made.net, made.index = net, index
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.args[0], self.net, self.index

    def _place(self) -> Any:
        return self.index

    def _sympystr(self, printer: Any) -> str:
        return f"layers[{self.index}]"


def outermost(
    expressions: Sequence[sp.Expr], wanted: Callable[[Net], bool] = lambda net: True
) -> Iterator[NetOutput]:
    """The outputs of networks that expressions read, of those that are wanted; not those inside of others.

    What is integrated as a running cost is not looked into.
    """
    seen: set[sp.Basic] = set(expressions)
    pending: list[sp.Basic] = list(reversed(expressions))
    while pending:
        node = pending.pop()
        if isinstance(node, NetOutput) and wanted(node.net):
            yield node
            continue
        if isinstance(node, RunningCost):
            continue
        for argument in reversed(node.args):
            if argument not in seen:
                seen.add(argument)
                pending.append(argument)
