"""Linear systems on the graph: what a `solve` node stands for, and its derivatives.

`Graph.solve` makes one node of M x = r, M symmetric and positive definite, and an `entry` node for each component of x.
Derivatives are those of the equation, d x = M^-1 (dr - dM x) and, in reverse, r_bar = M^-1 x_bar, M_bar = -r_bar x':
solves with the same matrix, whose factors are shared once `mpcgen.ir.walk.unrolled` has written all of them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpcgen.ir.expr import Expr


def matrix_of(node: Expr) -> list[list[Expr]]:
    """(n, n) the matrix of a `solve` node; an entry above the diagonal is the same node as below."""
    return mirrored(node.args[: -node.value], node.value)


def right_of(node: Expr) -> tuple[Expr, ...]:
    """(n,) the right-hand side of a `solve` node."""
    return node.args[-node.value :]


def entries_of(node: Expr) -> list[Expr]:
    """(n,) the solution of a `solve` node."""
    return [node.graph.entry(node, i) for i in range(node.value)]


def mirrored(triangle: Sequence[Any], n: int) -> list[list[Any]]:
    """(n, n) rows of the symmetric matrix with this lower triangle by rows."""
    order = [(max(i, j), min(i, j)) for i in range(n) for j in range(n)]
    entries = iter(triangle[i * (i + 1) // 2 + j] for i, j in order)
    return [[next(entries) for _ in range(n)] for _ in range(n)]


def solved_alike(node: Expr, right: Sequence[Expr]) -> Sequence[Expr]:
    """(n,) the solution for another right-hand side, with the matrix of a `solve` node."""
    return node.graph.solve(node.args[: -node.value], right)


def tangent_of_solution(node: Expr, tangents: Mapping[Expr, Expr]) -> Sequence[Expr]:
    """(n,) the tangent of the solution, given those of some of the arguments; others count as constant."""
    zero = node.graph.const(0.0)
    right = [tangents.get(entry, zero) for entry in right_of(node)]
    solution = entries_of(node)
    for i, row in enumerate(matrix_of(node)):
        for j, entry in enumerate(row):
            if entry in tangents:
                right[i] = right[i] - tangents[entry] * solution[j]
    return solved_alike(node, right)


def adjoint_of_right(node: Expr, adjoints: Mapping[int, Expr]) -> Sequence[Expr]:
    """(n,) the adjoint of the right-hand side, given those of entries of the solution."""
    zero = node.graph.const(0.0)
    return solved_alike(node, [adjoints.get(i, zero) for i in range(node.value)])


def adjoint_terms(node: Expr, multipliers: Sequence[Expr]) -> Iterator[tuple[Expr, Expr]]:
    """Yield (argument, term of its adjoint) for an adjoint of the right-hand side, (n,)."""
    yield from zip(right_of(node), multipliers, strict=True)
    solution = entries_of(node)
    for i, row in enumerate(matrix_of(node)):
        for j, entry in enumerate(row[: i + 1]):
            term = multipliers[i] * solution[j]
            yield entry, -(term if i == j else term + multipliers[j] * solution[i])


def by_factors(matrix: Sequence[Sequence[Any]], right: Sequence[Any]) -> list[Any]:
    """M^-1 r by M = L D L', L unit lower triangular: no square roots, and a pivot for each row in turn.

    Of whatever has arithmetic: nodes of a graph, numbers.
    """
    n = len(right)
    lower: list[list[Any]] = [[] for _ in range(n)]
    inverse: list[Any] = []
    scaled: list[list[Any]] = [[] for _ in range(n)]  # rows of L D
    for i in range(n):
        pivot = matrix[i][i]
        for j in range(i):
            entry = matrix[i][j]
            for k in range(j):
                entry = entry - scaled[i][k] * lower[j][k]
            scaled[i].append(entry)
            lower[i].append(entry * inverse[j])
        for k in range(i):
            pivot = pivot - scaled[i][k] * lower[i][k]
        inverse.append(1.0 / pivot)
    solution = list(right)
    for i in range(n):
        for k in range(i):
            solution[i] = solution[i] - lower[i][k] * solution[k]
    solution = [entry * factor for entry, factor in zip(solution, inverse, strict=True)]
    for i in reversed(range(n)):
        for k in range(i + 1, n):
            solution[i] = solution[i] - lower[k][i] * solution[k]
    return solution
