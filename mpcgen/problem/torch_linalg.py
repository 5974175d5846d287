"""Torch's linear algebra on expressions: matrices are lists of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpcgen.errors import UnsupportedExpressionError
from mpcgen.problem.linear_system import components
from mpcgen.problem.nodes import Nodes

Matrix = list[list[Any]]
MOST_COFACTORS = 4
"""Rows of a matrix whose determinant is written out."""


def transposed(matrix: Matrix) -> Matrix:
    """The transpose."""
    return [list(row) for row in zip(*matrix, strict=True)]


def identity(b: Nodes, n: int) -> Matrix:
    """(n, n) ones on the diagonal."""
    return [[b.number(int(i == j)) for j in range(n)] for i in range(n)]


def solved(b: Nodes, matrix: Matrix, right: Matrix, definite: bool) -> Matrix:
    """The X with M X = B.

    definite: M is symmetric and positive definite, so that it is solved with `mpcgen.solve`'s exact derivatives.
    Otherwise by elimination with the pivots that its values ask for, at each point anew.
    """
    n = len(matrix)
    if n == 1:
        return [[b.div(entry, matrix[0][0]) for entry in right[0]]]
    if definite:
        triangle = [b.number(matrix[i][j]) for i in range(n) for j in range(i + 1)]
        columns = [
            components(triangle, [b.number(entry) for entry in column]) for column in transposed(right)
        ]
        return transposed(columns)
    return _eliminated(b, [[*row, *more] for row, more in zip(matrix, right, strict=True)])


def _eliminated(b: Nodes, rows: Matrix) -> Matrix:
    """The X of the rows (M, B)."""
    n = len(rows)
    for k in range(n):
        for i in range(k + 1, n):
            _exchanged(b, rows, k, i)
        for i in range(k + 1, n):
            factor = b.div(rows[i][k], rows[k][k])
            rest = [
                b.sub(x, b.mul(factor, y)) for x, y in zip(rows[i][k + 1 :], rows[k][k + 1 :], strict=True)
            ]
            rows[i] = [*rows[i][:k], b.number(0), *rest]
    found: Matrix = []
    for k in reversed(range(n)):
        known = rows[k][k + 1 : n]
        columns = transposed(found) if found else [[] for _ in rows[k][n:]]
        tails = (
            b.sub(entry, b.dot(known, column)) for entry, column in zip(rows[k][n:], columns, strict=True)
        )
        found.insert(0, [b.div(tail, rows[k][k]) for tail in tails])
    return found


def _exchanged(b: Nodes, rows: Matrix, k: int, i: int) -> None:
    """Row k has the greater entry in column k of the two, and row i the other."""
    greater = b.less(b.call("abs", rows[k][k]), b.call("abs", rows[i][k]))
    pairs = list(zip(rows[k], rows[i], strict=True))
    rows[k] = [b.joined(greater, low, high) if j >= k else high for j, (high, low) in enumerate(pairs)]
    rows[i] = [b.joined(greater, high, low) if j >= k else low for j, (high, low) in enumerate(pairs)]


def determinant(b: Nodes, matrix: Matrix) -> Any:
    """By cofactors of the first row."""
    n = len(matrix)
    if n > MOST_COFACTORS:
        raise UnsupportedExpressionError(
            f"the determinant of {n} rows is not written out, of {MOST_COFACTORS} at most"
        )
    if n == 1:
        return b.number(matrix[0][0])
    terms = []
    for j, entry in enumerate(matrix[0]):
        minor = determinant(b, [[*row[:j], *row[j + 1 :]] for row in matrix[1:]])
        terms.append(b.mul(entry, minor if j % 2 == 0 else b.neg(minor)))
    return b.add(*terms)


def cholesky(b: Nodes, matrix: Matrix) -> Matrix:
    """The lower triangular L with L L' = M."""
    n = len(matrix)
    found = [[b.number(0) for _ in range(n)] for _ in range(n)]
    for j in range(n):
        found[j][j] = b.sqrt(b.sub(matrix[j][j], b.dot(found[j][:j], found[j][:j])))
        for i in range(j + 1, n):
            found[i][j] = b.div(b.sub(matrix[i][j], b.dot(found[i][:j], found[j][:j])), found[j][j])
    return found


def substituted(b: Nodes, matrix: Matrix, right: Matrix, upper: bool, unit: bool) -> Matrix:
    """The X with M X = B of a triangular M."""
    n = len(matrix)
    found: dict[int, list[Any]] = {}
    for i in reversed(range(n)) if upper else range(n):
        places = range(i + 1, n) if upper else range(i)
        row = []
        for j, entry in enumerate(right[i]):
            rest = b.sub(entry, b.dot([matrix[i][k] for k in places], [found[k][j] for k in places]))
            row.append(rest if unit else b.div(rest, matrix[i][i]))
        found[i] = row
    return [found[i] for i in range(n)]


Routine = Callable[..., Matrix]


def _solve(b: Nodes, given: dict[str, Any], definite: bool) -> Matrix:
    if given.get("left", True):
        return solved(b, given["A"], given["B"], definite)
    return transposed(solved(b, transposed(given["A"]), transposed(given["B"]), definite))


def _inverse(b: Nodes, given: dict[str, Any], definite: bool) -> Matrix:
    return solved(b, given["A"], identity(b, len(given["A"])), definite)


def _cholesky(b: Nodes, given: dict[str, Any], definite: bool) -> Matrix:
    lower = cholesky(b, given["self"])
    return transposed(lower) if given.get("upper") else lower


def _triangular(b: Nodes, given: dict[str, Any], definite: bool) -> Matrix:
    matrix, right, upper = given["self"], given["B"], given["upper"]
    if given.get("left", True):
        return substituted(b, matrix, right, upper, given.get("unitriangular", False))
    flipped = substituted(
        b, transposed(matrix), transposed(right), not upper, given.get("unitriangular", False)
    )
    return transposed(flipped)


def _cholesky_solve(b: Nodes, given: dict[str, Any], definite: bool) -> Matrix:
    lower = transposed(given["input2"]) if given.get("upper") else given["input2"]
    half = substituted(b, lower, given["self"], upper=False, unit=False)
    return substituted(b, transposed(lower), half, upper=True, unit=False)


ROUTINES: dict[str, Routine] = {
    "_linalg_solve_ex": _solve,
    "linalg_inv_ex": _inverse,
    "linalg_cholesky_ex": _cholesky,
    "linalg_solve_triangular": _triangular,
    "cholesky_solve": _cholesky_solve,
    "_linalg_det": lambda b, given, definite: [[determinant(b, given["A"])]],
}
"""By the names of core ATen, of what the operation takes, by name; the first result is theirs."""
