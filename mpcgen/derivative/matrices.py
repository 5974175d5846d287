"""Jacobians and Hessians as matrices of expressions; a structural zero is the graph's constant 0."""

from collections.abc import Sequence
from typing import Literal

from mpcgen.derivative.forward import propagate
from mpcgen.derivative.reverse import gradient
from mpcgen.ir import Expr, Graph, flops

Matrix = tuple[tuple[Expr, ...], ...]
"""Rows of expressions."""
Mode = Literal["fewest", "forward", "reverse"]
"""Which way a Jacobian is derived."""


def jacobian(outputs: Sequence[Expr], wrt: Sequence[Expr], mode: Mode = "fewest") -> Matrix:
    """(rows: outputs, columns: wrt) matrix of d outputs[i] / d wrt[j].

    ``mode`` is "forward", "reverse" or "fewest": derive both ways and keep the one with fewer operations,
    counted without the outputs themselves. Forward mode shares more with a Hessian of the same functions.
    """
    if mode == "forward":
        return _forward_jacobian(outputs, wrt)
    reverse = tuple(tuple(gradient(output, wrt)) for output in outputs)
    if mode == "reverse":
        return reverse
    return min((_forward_jacobian(outputs, wrt), reverse), key=_work)


def _work(matrix: Matrix) -> int:
    return flops([entry for row in matrix for entry in row])


def _forward_jacobian(outputs: Sequence[Expr], wrt: Sequence[Expr]) -> Matrix:
    if not wrt:
        return tuple(() for _ in outputs)
    graph = wrt[0].graph
    rows = propagate(outputs, {node: {j: graph.const(1.0)} for j, node in enumerate(wrt)})
    zero = graph.const(0.0)
    return tuple(tuple(row.get(j, zero) for j in range(len(wrt))) for row in rows)


def dot(graph: Graph, a: Sequence[Expr], b: Sequence[Expr]) -> Expr:
    """a'b; 0 of nothing."""
    total = graph.const(0)
    for left, right in zip(a, b, strict=True):
        total = total + left * right
    return total


def transposed_times(matrix: Matrix, vector: Sequence[Expr]) -> tuple[Expr, ...]:
    """(columns,) transpose of a matrix with a vector."""
    graph = vector[0].graph
    return tuple(dot(graph, column, vector) for column in zip(*matrix, strict=True))


def vector_sum(a: Sequence[Expr], b: Sequence[Expr]) -> tuple[Expr, ...]:
    """Sum of two vectors."""
    return tuple(left + right for left, right in zip(a, b, strict=True))


def matrix_sum(a: Matrix, b: Matrix) -> Matrix:
    """Sum of two matrices."""
    return tuple(vector_sum(*rows) for rows in zip(a, b, strict=True))


def hessian(output: Expr, wrt: Sequence[Expr]) -> Matrix:
    """(k x k) symmetric matrix of second derivatives of one output, forward over reverse.

    Only the upper triangle is kept and mirrored, so that H[i][j] is the same node as H[j][i].
    """
    rows = _forward_jacobian(gradient(output, wrt), wrt)
    k = len(wrt)
    return tuple(tuple(rows[min(i, j)][max(i, j)] for j in range(k)) for i in range(k))


def lower_triangle(matrix: Matrix) -> tuple[Expr, ...]:
    """Entries (i, j), j <= i, row by row: how the kernels store symmetric matrices."""
    return tuple(matrix[i][j] for i in range(len(matrix)) for j in range(i + 1))


def sparsity(matrix: Matrix) -> tuple[tuple[bool, ...], ...]:
    """Return True for each entry that is not structurally zero."""
    return tuple(tuple(not entry.is_zero for entry in row) for row in matrix)


def product_count(F: Matrix) -> int:
    """Number of products in F'VF with V symmetric, zeros and ones of F skipped; F: (n, n+m)."""
    n, width = len(F), len(F[0])
    entries = [sum(not row[j].is_const for row in F) for j in range(width)]
    nonzero = [sum(not row[j].is_zero for row in F) for j in range(width)]
    return sum(entries) * n + sum(entries[j] * (j + 1) + nonzero[j] for j in range(width))


def triangle_labels(names: Sequence[str]) -> tuple[str, ...]:
    """Labels of a `lower_triangle`."""
    return tuple(f"{names[i]}, {names[j]}" for i in range(len(names)) for j in range(i + 1))
