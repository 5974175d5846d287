"""First and second derivatives of one node by the nodes, its leaves, that it counts as a function of."""

from __future__ import annotations

from mpcgen.derivative.matrices import Matrix, hessian
from mpcgen.derivative.reverse import gradient
from mpcgen.ir import Expr, substitute


class LocalDerivatives:
    """Derivatives of nodes by their leaves, each kind of function derived once: all products are one."""

    def __init__(self) -> None:
        self._of_kind: dict[tuple[Expr, int], list[Expr]] = {}
        self._known: dict[tuple[Expr, tuple[Expr, ...]], tuple[list[Expr], Matrix]] = {}

    def knows(self, node: Expr, leaves: tuple[Expr, ...]) -> bool:
        """Whether `at` has only to look it up."""
        return (node, leaves) in self._known

    def at(self, node: Expr, leaves: tuple[Expr, ...]) -> tuple[list[Expr], Matrix]:
        """Gradient and Hessian of ``node`` by its k leaves.

        The leaves are symbols meanwhile: a simplification that looks into one, as sqrt(x) sqrt(x) = x does, would
        hide that the result depends on it.
        """
        known = self._known.get((node, leaves))
        if known is not None:
            return known
        count = len(leaves)
        symbols = tuple([node.graph.symbol(f"leaf.{i}") for i in range(count)])
        (alone,) = substitute((node,), dict(zip(leaves, symbols, strict=True)))
        values = iter(substitute(self._derived(alone, symbols), dict(zip(symbols, leaves, strict=True))))
        first = [next(values) for _ in leaves]
        lower = [[next(values) for _ in range(i + 1)] for i in range(count)]
        second = tuple(tuple(lower[max(i, j)][min(i, j)] for j in range(count)) for i in range(count))
        result = self._known[node, leaves] = first, second
        return result

    def _derived(self, alone: Expr, symbols: tuple[Expr, ...]) -> list[Expr]:
        """Gradient and lower triangle of the Hessian by the symbols."""
        count = len(symbols)
        known = self._of_kind.get((alone, count))
        if known is None:
            curvature = hessian(alone, symbols)
            known = gradient(alone, symbols) + [curvature[i][j] for i in range(count) for j in range(i + 1)]
            self._of_kind[alone, count] = known
        return known
