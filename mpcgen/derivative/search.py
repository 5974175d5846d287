"""Which way to pull back needs the fewest operations: elimination of some nodes, or one of its rivals.

What to eliminate is searched for as long as there is effort left; what has been found by then is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product

from mpcgen.derivative.curvature import forward_over_reverse, gram
from mpcgen.derivative.effort import Effort
from mpcgen.derivative.elimination import Choice, Elimination
from mpcgen.derivative.matrices import Matrix, lower_triangle, transposed_times
from mpcgen.derivative.pullback import Pullback, PulledBack
from mpcgen.ir import Expr, behind, flops

SEARCH_EFFORT = 300_000
"""What the searches of a derivation may spend together: a second."""

PRICE_OF_A_NODE = 3
"""Terms that take as long as building an operation that no result had before."""


def ways(pullback: Pullback, effort: Effort | None = None) -> tuple[PulledBack, ...]:
    """The answers worth comparing: the best elimination that ``effort`` suffices for, if for any, and its rivals."""
    return (*eliminations(pullback, effort or Effort(SEARCH_EFFORT)), *rivals(pullback))


def eliminations(pullback: Pullback, effort: Effort, search: bool = True) -> tuple[PulledBack, ...]:
    """The best elimination that ``effort`` suffices for; none where it does not suffice for any.

    search: whether to look for better cuts than those that are always tried.
    """
    found = _Search(Elimination(pullback.unrolled), effort).run(search)
    return () if found is None else (found,)


def rivals(pullback: Pullback) -> tuple[PulledBack, ...]:
    """The answers besides elimination."""
    return forward_over_reverse(pullback), gram(pullback)


def shortest(found: Iterable[PulledBack]) -> PulledBack:
    """The answer that needs the fewest operations."""
    return min(found, key=lambda pulled: flops(pulled.expressions()))


def shortest_with_jacobian(
    found: Iterable[PulledBack], cotangent: Sequence[Expr], jacobians: Iterable[Matrix]
) -> tuple[Matrix, Matrix, tuple[Expr, ...]]:
    """F, Hessian and gradient of c'f that need the fewest operations together.

    Of F there are several forms: what forward mode computes, a Gram form reads. The gradient may come with the
    Hessian, or be F'c.
    """
    candidates = (
        (F, pulled.hessian, slopes)
        for F, pulled in product(dict.fromkeys(jacobians), found)
        for slopes in (pulled.gradients[0], transposed_times(F, cotangent))
    )
    return min(candidates, key=lambda way: flops([*chain(*way[0]), *lower_triangle(way[1]), *way[2]]))


@dataclass(frozen=True)
class _Found:
    choice: Choice
    result: PulledBack
    work: int


class _Search:
    """The choice of what to eliminate.

    Tried first, in both orders: no cuts, and the nodes that more than one other reads. From each of them on, the
    shortest first, nodes are then added to or taken from the set as long as that helps.
    """

    def __init__(self, elimination: Elimination, effort: Effort) -> None:
        self.elimination = elimination
        self.effort = effort
        self.works: dict[Choice, int] = {}
        self.seen: set[Expr] = set()

    def run(self, improve: bool) -> PulledBack | None:
        sets = dict.fromkeys((frozenset[Expr](), self.elimination.shared))
        choices = [Choice(cuts, shortest_first) for cuts in sets for shortest_first in (False, True)]
        starts = [found for found in map(self._start, choices) if found is not None]
        starts.sort(key=lambda found: found.work)
        found = [self._improved(start) for start in starts] if improve else starts
        return min(found, key=lambda found: found.work).result if found else None

    def _start(self, choice: Choice) -> _Found | None:
        """The result of a choice, for half of what is left at most: one that is far too long leaves some to others."""
        return self.effort.share(2, lambda part: self._try(choice, part))

    def _try(self, choice: Choice, effort: Effort) -> _Found | None:
        result = self.elimination.run(choice, effort)
        if result is None:
            return None
        nodes = behind(result.expressions())
        effort.pay(PRICE_OF_A_NODE * len(nodes - self.seen))
        self.seen |= nodes
        self.works[choice] = len(nodes)
        return _Found(choice, result, len(nodes))

    def _improved(self, found: _Found) -> _Found:
        """What a search from a result on finds: it ends where changing any one node does not help.

        One that could not try every node is not begun: the first few gain next to nothing.
        """
        nodes = self.elimination.inner[::-1]
        if len(nodes) * found.result.terms > self.effort.left:
            return found
        position, in_vain = 0, 0
        while in_vain < len(nodes):
            node = nodes[position % len(nodes)]
            position += 1
            in_vain += 1
            choice = replace(found.choice, cuts=found.choice.cuts ^ {node})
            if self.works.get(choice, 0) >= found.work:
                continue
            candidate = self._try(choice, self.effort)
            if candidate is None:
                return found
            if candidate.work < found.work:
                found, in_vain = candidate, 1
        return found
