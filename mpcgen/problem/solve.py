"""`mpcgen.solve`: linear systems in right-hand sides, M(q) x = r with M symmetric and positive definite."""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any

import sympy as sp

from mpcgen.errors import SpecError
from mpcgen.problem.continuity import number, value_at
from mpcgen.problem.expressions import short_text
from mpcgen.problem.linear_system import components
from mpcgen.problem.values import as_expression, as_nested
from mpcgen.problem.walks import symbols_in

_ROUNDING = 1e-12
"""Relative difference of two entries that are the same but for constants typed in double precision."""


def solve(M: Any, rhs: Any) -> sp.Matrix:
    """Return the x with M x = rhs, for use in any expression, such as the accelerations M(q)^-1 (forces).

    The derivatives are those of the equation: they solve with the same matrix, which is factored once. It is factored
    without exchanging rows, M = L D L', which is stable for a positive definite M. Where M is singular the solution is
    not finite, and a problem that gets there ends with a status, DIVERGED as a rule.

    Args:
        M: (n, n) symmetric, positive definite wherever a trajectory goes; a sympy Matrix, nested lists or an array.
        rhs: (n), or (n, k) for k right-hand sides.

    Returns:
        (n, 1) or (n, k) sympy Matrix.

    Raises:
        SpecError: a matrix that is not square or not symmetric, a right-hand side of another size.

    """
    matrix, right = _matrix(M, "the matrix of solve"), _matrix(rhs, "the right-hand side of solve")
    n = matrix.rows
    if matrix.shape != (n, n):
        raise SpecError(f"the matrix of solve has shape {matrix.shape}; expected a square one")
    if right.rows == 1 and n > 1 and right.cols == n:
        right = right.T
    if right.rows != n:
        raise SpecError(f"the right-hand side of solve has shape {right.shape}; expected ({n},) or ({n}, k)")
    _check_symmetric(matrix)
    return solve_symmetric(matrix, right)


def solve_symmetric(matrix: sp.Matrix, right: sp.Matrix) -> sp.Matrix:
    """`solve` of a matrix that is known to be symmetric: the lower triangle is read."""
    n = matrix.rows
    triangle = [matrix[i, j] for i in range(n) for j in range(i + 1)]
    if n == 1:
        return right / triangle[0]
    return sp.Matrix([components(triangle, right[:, k]) for k in range(right.cols)]).T


def _matrix(value: Any, what: str) -> sp.Matrix:
    nested = value if isinstance(value, sp.MatrixBase) else as_nested(value)
    if isinstance(nested, sp.MatrixBase) and 0 not in nested.shape:
        return sp.Matrix(nested)
    if not isinstance(nested, list | sp.MatrixBase):
        raise SpecError(f"{what} is {value!r}; expected a matrix: nested lists, an array or a sympy Matrix")
    rows = [row if isinstance(row, list) else [row] for row in nested]
    if not any(rows):
        raise SpecError(f"{what} is empty; expected at least one row and one column")
    if len({len(row) for row in rows}) != 1:
        raise SpecError(f"{what} has rows of different lengths: {[len(row) for row in rows]}")
    return sp.Matrix([[as_expression(entry, f"an entry of {what}") for entry in row] for row in rows])


def _check_symmetric(matrix: sp.Matrix) -> None:
    for j, i in combinations(range(matrix.rows), 2):
        if matrix[i, j] != matrix[j, i] and _differ(matrix[i, j], matrix[j, i]):
            raise SpecError(
                f"the matrix of solve is not symmetric: entry ({i}, {j}) is {short_text(matrix[i, j])}, and "
                f"({j}, {i}) is {short_text(matrix[j, i])}. solve takes symmetric, positive definite matrices, as mass "
                "matrices are; M.LUsolve(rhs) of sympy takes others"
            )


def _differ(a: sp.Expr, b: sp.Expr) -> bool:
    """Whether two expressions have different values, at random points or, where there is none, by simplification."""
    numbers = random.Random(0)
    symbols = sorted(symbols_in(a, b), key=lambda symbol: symbol.name)
    compared = False
    for sign in (1, -1, 0, 0, 0):
        signs = [sign or numbers.choice((1, -1)) for _ in symbols]
        point = {s: number(side * numbers.uniform(0.2, 1.5)) for s, side in zip(symbols, signs, strict=True)}
        left, right = value_at(a, dict(point)), value_at(b, dict(point))
        if left is None or right is None:
            continue
        compared = True
        if abs(left - right) > _ROUNDING * max(abs(left), abs(right), 1):
            return True
    return not compared and bool(sp.simplify(a - b) != 0)
