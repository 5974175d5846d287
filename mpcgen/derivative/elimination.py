"""Derivatives pulled back through a function by eliminating its intermediate nodes one by one.

The cost-to-go around a stage's point is V f(x, u): its Hessian is F'VF + sum_i v_i d2f_i. Forming F first
and multiplying afterwards costs about n (n + m)^2 products however few quantities f goes through on its way.
Elimination (edge pushing; Gower and Mello, "A new framework for the computation of Hessians", 2012) starts
from V as second derivatives by the components of f and walks back: each node hands its row of second derivatives on to
the nodes that it reads, by the chain rule, and disappears. Where cosine and sine of one angle are both
components of f, their two rows become one before anything else is multiplied.

Which nodes are eliminated is a choice, the `cuts`; the rest are differentiated through. The fewest operations
win, see `fewest_operations`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from mpcgen.derivative.matrices import Matrix, hessian, lower_triangle
from mpcgen.derivative.reverse import dependents, gradient, scaled, summed
from mpcgen.ir import Expr, flops, substitute

SEARCH_LIMIT = 100_000
"""Largest product of nodes and operations for which every node is tried as a cut (under a second of Python)."""


@dataclass(frozen=True)
class PulledBack:
    """``hessian``: (k, k) of weight c'f + (f - f0)'V(f - f0)/2. ``gradients``: (k,) F'c, one per cotangent."""

    hessian: Matrix
    gradients: tuple[tuple[Expr, ...], ...]

    def expressions(self) -> tuple[Expr, ...]:
        """Everything that is computed, the symmetric half once."""
        return (*lower_triangle(self.hessian), *(entry for g in self.gradients for entry in g))


@dataclass(frozen=True)
class Choice:
    """Which nodes are eliminated besides the results, and in which order.

    ``shortest_first``: of the nodes that nobody reads any more, the one whose row adds the least; else the last one.
    """

    cuts: frozenset[Expr]
    shortest_first: bool


@dataclass(frozen=True)
class Elimination:
    """A map f = ``outputs`` of the k nodes ``wrt``, and what is pulled back through it.

    ``V``: (n, n) symmetric, or None for no such term. ``cotangents``: vectors (n,) whose F'c is wanted; the first is
    also the c of the second derivatives weight c'f, which a ``weight`` of None leaves out.
    """

    outputs: tuple[Expr, ...]
    wrt: tuple[Expr, ...]
    V: Matrix | None
    cotangents: tuple[tuple[Expr, ...], ...]
    weight: Expr | None

    @cached_property
    def order(self) -> list[Expr]:
        """Numbers that depend on ``wrt``, arguments first."""
        return dependents(self.outputs, self.wrt)

    @cached_property
    def inner(self) -> list[Expr]:
        """Nodes that may be cuts: neither results nor independent."""
        ends = {*self.wrt, *self.outputs}
        return [node for node in self.order if node not in ends]

    @cached_property
    def shared(self) -> frozenset[Expr]:
        """Inner nodes that more than one node reads."""
        readers = dict.fromkeys(self.order, 0)
        for node in self.order:
            for arg in {arg for arg in node.args if arg in readers}:
                readers[arg] += 1
        return frozenset(node for node in self.inner if readers[node] > 1)

    @cached_property
    def _local(self) -> dict[tuple[Expr, tuple[Expr, ...]], tuple[list[Expr], Matrix]]:
        return {}

    def run(self, choice: Choice) -> PulledBack:
        """Eliminate the results and the chosen cuts."""
        second = _SecondDerivatives()
        if self.V is not None:
            for i, a in enumerate(self.outputs):
                for j, b in enumerate(self.outputs[: i + 1]):
                    second.add(a, b, 2.0 * self.V[i][j] if a is b and i != j else self.V[i][j])
        adjoints: list[dict[Expr, Expr]] = [{} for _ in self.cotangents]
        for adjoint, cotangent in zip(adjoints, self.cotangents, strict=True):
            for output, entry in zip(self.outputs, cotangent, strict=True):
                _accumulate(adjoint, output, entry)
        for node, leaves in self._sequence(choice, second):
            first, curvature = self._derivatives(node, leaves)
            second.eliminate(node, leaves, first)
            if self.weight is not None and node in adjoints[0]:
                second.bend(leaves, curvature, scaled(adjoints[0][node], self.weight))
            for adjoint in adjoints:
                if node in adjoint:
                    for leaf, partial in zip(leaves, first, strict=True):
                        _accumulate(adjoint, leaf, scaled(adjoint[node], partial))
        zero = self.wrt[0].graph.const(0.0)
        return PulledBack(
            tuple(tuple(second.at(a, b) or zero for b in self.wrt) for a in self.wrt),
            tuple(tuple(adjoint.get(node, zero) for node in self.wrt) for adjoint in adjoints),
        )

    def _sequence(self, choice: Choice, rows: _SecondDerivatives) -> Iterator[tuple[Expr, tuple[Expr, ...]]]:
        """Nodes to eliminate, each after all that read it, and their leaves."""
        ends = {*self.wrt, *choice.cuts, *self.outputs}
        targets = set(self.wrt)
        leaves = {
            node: self._leaves(node, ends) for node in self.order if node in ends and node not in targets
        }
        if not choice.shortest_first:
            yield from reversed(leaves.items())
            return
        readers = Counter(leaf for below in leaves.values() for leaf in below)
        ready = [node for node in leaves if not readers[node]]
        while ready:
            node = min(
                ready, key=lambda node: ((len(leaves[node]) - 1) * rows.length(node), -self._position[node])
            )
            ready.remove(node)
            yield node, leaves[node]
            for leaf in leaves[node]:
                readers[leaf] -= 1
                if not readers[leaf] and leaf in leaves:
                    ready.append(leaf)

    def _leaves(self, node: Expr, ends: Collection[Expr]) -> tuple[Expr, ...]:
        """The nearest nodes among ``ends`` that ``node`` depends on, in the order of ``order``."""
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
        return tuple(sorted(found, key=self._position.__getitem__))

    @cached_property
    def _position(self) -> dict[Expr, int]:
        return {node: i for i, node in enumerate(self.order)}

    def _derivatives(self, node: Expr, leaves: tuple[Expr, ...]) -> tuple[list[Expr], Matrix]:
        """First and second derivatives of ``node`` by its leaves.

        The leaves are symbols meanwhile: a simplification that looks into one, as sqrt(x) sqrt(x) = x does, would
        hide that the result depends on it.
        """
        known = self._local.get((node, leaves))
        if known is not None:
            return known
        symbols = tuple(node.graph.symbol(f"leaf.{i}") for i in range(len(leaves)))
        (alone,) = substitute((node,), dict(zip(leaves, symbols, strict=True)))
        first = gradient(alone, symbols)
        curvature = hessian(alone, symbols)
        flat = [*first, *(entry for row in curvature for entry in row)]
        values = iter(substitute(flat, dict(zip(symbols, leaves, strict=True))))
        result = (
            [next(values) for _ in first],
            tuple(tuple(next(values) for _ in row) for row in curvature),
        )
        self._local[node, leaves] = result
        return result


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
                times = entry.graph.const(2.0 if leaf is other else 1.0)
                self.add(leaf, other, scaled(times, scaled(entry, partial)))
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


def _accumulate(adjoint: dict[Expr, Expr], node: Expr, term: Expr) -> None:
    if not term.is_zero:
        adjoint[node] = summed(adjoint[node], term) if node in adjoint else term


def fewest_operations(elimination: Elimination) -> PulledBack:
    """Eliminate in the way that needs the fewest operations, of those that are tried.

    Always tried, in both orders: no cuts, and the nodes that more than one other reads. In a small problem each node is
    then added to or taken from the set as long as that helps.
    """
    starts = [
        Choice(cuts, shortest_first)
        for cuts in (frozenset[Expr](), elimination.shared)
        for shortest_first in (False, True)
    ]
    best, _ = min((_improved(elimination, choice) for choice in starts), key=lambda found: found[1])
    return best


def _improved(elimination: Elimination, choice: Choice) -> tuple[PulledBack, int]:
    """The result of a choice, or of one that a search from it on finds; and its number of operations."""
    best = elimination.run(choice)
    work = _work(best)
    improved = len(elimination.inner) * work <= SEARCH_LIMIT
    while improved:
        improved = False
        for node in reversed(elimination.inner):
            changed = replace(choice, cuts=choice.cuts ^ {node})
            candidate = elimination.run(changed)
            if (fewer := _work(candidate)) < work:
                choice, best, work, improved = changed, candidate, fewer, True
    return best, work


def _work(pulled: PulledBack) -> int:
    return flops(pulled.expressions())
