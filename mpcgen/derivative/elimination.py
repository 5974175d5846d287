"""Derivatives pulled back through a function by eliminating its intermediate nodes one by one.

The cost-to-go around a stage's point is V f(x, u): its Hessian is F'VF + sum_i v_i d2f_i. Forming F first
and multiplying afterwards costs about n (n + m)^2 products however few quantities f goes through on its way.
Elimination (edge pushing; Gower and Mello, "A new framework for the computation of Hessians", 2012) starts
from V as second derivatives by the components of f and walks back: each node hands its row of second derivatives on to
the nodes that it reads, by the chain rule, and disappears. Where cosine and sine of one angle are both
components of f, their two rows become one before anything else is multiplied.

Which nodes are eliminated is a choice, the `cuts`; the rest are differentiated through. The fewest operations
win, see `mpcgen.derivative.search`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from mpcgen.derivative.effort import Effort
from mpcgen.derivative.local import LocalDerivatives
from mpcgen.derivative.matrices import Matrix
from mpcgen.derivative.pullback import Pullback, PulledBack
from mpcgen.derivative.reverse import accumulate, scaled, summed
from mpcgen.ir import Expr

PRICE_OF_A_TANGENT = 12
"""Terms that take as long as the tangent of an operation's adjoint along one direction, with its part of the rest."""

_Below = tuple[tuple[Expr, ...], int]
"""What a node depends on directly: its leaves, and the number of operations between."""


@dataclass(frozen=True)
class Choice:
    """Which nodes are eliminated besides the results, and in which order.

    ``shortest_first``: of the nodes that nobody reads any more, the one whose row adds the least; else the last one.
    """

    cuts: frozenset[Expr]
    shortest_first: bool


class Elimination:
    """The ways to answer a `Pullback` by elimination."""

    def __init__(self, pullback: Pullback) -> None:
        self.pullback = pullback
        self.order = pullback.order
        self._position = {node: i for i, node in enumerate(self.order)}
        self._local = LocalDerivatives()

    @cached_property
    def inner(self) -> list[Expr]:
        """Nodes that may be cuts: neither results nor independent."""
        ends = {*self.pullback.wrt, *self.pullback.outputs}
        return [node for node in self.order if node not in ends]

    @cached_property
    def shared(self) -> frozenset[Expr]:
        """Inner nodes that more than one node reads."""
        readers = dict.fromkeys(self.order, 0)
        for node in self.order:
            for arg in {arg for arg in node.args if arg in readers}:
                readers[arg] += 1
        return frozenset(node for node in self.inner if readers[node] > 1)

    def run(self, choice: Choice, effort: Effort | None = None) -> PulledBack | None:
        """Eliminate the results and the chosen cuts; None where that takes more than is left of ``effort``."""
        effort = effort or Effort()
        pullback = self.pullback
        second = _SecondDerivatives()
        if pullback.V is not None:
            for i, a in enumerate(pullback.outputs):
                for j, b in enumerate(pullback.outputs[: i + 1]):
                    entry = pullback.V[i][j]
                    second.add(a, b, 2.0 * entry if a is b and i != j else entry)
        adjoints: list[dict[Expr, Expr]] = [{} for _ in pullback.cotangents]
        for adjoint, cotangent in zip(adjoints, pullback.cotangents, strict=True):
            for output, entry in zip(pullback.outputs, cotangent, strict=True):
                accumulate(adjoint, output, entry)
        below = self._below(choice)
        if not effort.spend(self._price(below)):
            return None
        total = 0
        for node, leaves in self._sequence(choice, below, second):
            terms = len(leaves) * (second.length(node) + len(leaves))
            total += terms
            if not effort.spend(terms):
                return None
            first, curvature = self._local.at(node, leaves)
            second.eliminate(node, leaves, first)
            if pullback.weight is not None and node in adjoints[0]:
                second.bend(leaves, curvature, scaled(adjoints[0][node], pullback.weight))
            for adjoint in adjoints:
                if node in adjoint:
                    for leaf, partial in zip(leaves, first, strict=True):
                        accumulate(adjoint, leaf, scaled(adjoint[node], partial))
        zero, wrt = pullback.zero, pullback.wrt
        return PulledBack(
            tuple(tuple(second.at(a, b) or zero for b in wrt) for a in wrt),
            tuple(tuple(adjoint.get(node, zero) for node in wrt) for adjoint in adjoints),
            total,
        )

    def _below(self, choice: Choice) -> dict[Expr, _Below]:
        """The nodes to eliminate and what they depend on, arguments first."""
        targets = set(self.pullback.wrt)
        ends = {*targets, *choice.cuts, *self.pullback.outputs}
        return {node: self._leaves(node, ends) for node in self.order if node in ends and node not in targets}

    def _price(self, below: dict[Expr, _Below]) -> int:
        """What it takes to derive the nodes by their leaves, in `Effort`'s units."""
        return sum(
            PRICE_OF_A_TANGENT * operations * (len(leaves) + 1)
            for node, (leaves, operations) in below.items()
            if not self._local.knows(node, leaves)
        )

    def _sequence(
        self, choice: Choice, below: dict[Expr, _Below], rows: _SecondDerivatives
    ) -> Iterator[tuple[Expr, tuple[Expr, ...]]]:
        """The nodes to eliminate, each after all that read it, and their leaves."""
        if not choice.shortest_first:
            for node in reversed(below):
                yield node, below[node][0]
            return
        readers = Counter(leaf for leaves, _ in below.values() for leaf in leaves)
        ready = [node for node in below if not readers[node]]
        while ready:
            node = min(
                ready, key=lambda node: ((len(below[node][0]) - 1) * rows.length(node), -self._position[node])
            )
            ready.remove(node)
            yield node, below[node][0]
            for leaf in below[node][0]:
                readers[leaf] -= 1
                if not readers[leaf] and leaf in below:
                    ready.append(leaf)

    def _leaves(self, node: Expr, ends: Collection[Expr]) -> _Below:
        """The nearest ``ends`` that ``node`` depends on, in the order of ``order``; operations up to them."""
        found: set[Expr] = set()
        stack = list(node.args)
        seen: set[Expr] = set()
        while stack:
            arg = stack.pop()
            if arg in seen or arg not in self._position:
                continue
            seen.add(arg)
            if arg in ends:
                found.add(arg)
            else:
                stack.extend(arg.args)
        return tuple(sorted(found, key=self._position.__getitem__)), 1 + len(seen) - len(found)


class _SecondDerivatives:
    """A symmetric matrix over nodes, by rows; zeros are left out."""

    def __init__(self) -> None:
        self._rows: dict[Expr, dict[Expr, Expr]] = {}

    def at(self, a: Expr, b: Expr) -> Expr | None:
        return self._rows.get(a, {}).get(b)

    def length(self, node: Expr) -> int:
        return len(self._rows.get(node, {}))

    def add(self, a: Expr, b: Expr, entry: Expr) -> None:
        if entry.is_zero:
            return
        known = self.at(a, b)
        total = entry if known is None else summed(known, entry)
        self._rows.setdefault(a, {})[b] = total
        self._rows.setdefault(b, {})[a] = total

    def eliminate(self, node: Expr, leaves: Sequence[Expr], first: Sequence[Expr]) -> None:
        """Hand the row of ``node`` on to its leaves: d node = sum_i first[i] d leaves[i]."""
        row = self._rows.pop(node, {})
        diagonal = row.pop(node, None)
        for other, entry in row.items():
            del self._rows[other][node]
            for leaf, partial in zip(leaves, first, strict=True):
                term = scaled(entry, partial)
                self.add(leaf, other, scaled(term.graph.const(2.0), term) if leaf is other else term)
        if diagonal is None:
            return
        products = [scaled(diagonal, partial) for partial in first]
        for i, leaf in enumerate(leaves):
            for j in range(i + 1):
                self.add(leaf, leaves[j], scaled(products[j], first[i]))

    def bend(self, leaves: Sequence[Expr], curvature: Matrix, weight: Expr) -> None:
        """Add ``weight`` times the second derivatives of an eliminated node by its leaves."""
        for i, leaf in enumerate(leaves):
            for j in range(i + 1):
                self.add(leaf, leaves[j], scaled(weight, curvature[i][j]))
