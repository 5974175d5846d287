"""Jacobians and Hessians as matrices of expressions; a structural zero is the graph's constant 0."""

from collections.abc import Sequence

from mpcgen.derivative.forward import propagate
from mpcgen.derivative.reverse import gradient
from mpcgen.graph import Expr

Matrix = tuple[tuple[Expr, ...], ...]
"""Rows of expressions."""


def jacobian(outputs: Sequence[Expr], wrt: Sequence[Expr]) -> Matrix:
    """(rows: outputs, columns: wrt) matrix of d outputs[i] / d wrt[j].

    Forward mode, except where there are so few outputs that a gradient each is less work.
    """
    if len(outputs) * REVERSE_RATIO <= len(wrt):
        return tuple(tuple(gradient(output, wrt)) for output in outputs)
    return _forward_jacobian(outputs, wrt)


REVERSE_RATIO = 4


def _forward_jacobian(outputs: Sequence[Expr], wrt: Sequence[Expr]) -> Matrix:
    if not wrt:
        return tuple(() for _ in outputs)
    graph = wrt[0].graph
    rows = propagate(outputs, {node: {j: graph.const(1.0)} for j, node in enumerate(wrt)})
    zero = graph.const(0.0)
    return tuple(tuple(row.get(j, zero) for j in range(len(wrt))) for row in rows)


def hessian(output: Expr, wrt: Sequence[Expr]) -> Matrix:
    """(k x k) symmetric matrix of second derivatives of one output, forward over reverse.

    Only the upper triangle is kept and mirrored, so that H[i][j] is the same node as H[j][i].
    """
    rows = _forward_jacobian(gradient(output, wrt), wrt)
    k = len(wrt)
    return tuple(tuple(rows[min(i, j)][max(i, j)] for j in range(k)) for i in range(k))


def sparsity(matrix: Matrix) -> tuple[tuple[bool, ...], ...]:
    """Return True for each entry that is not structurally zero."""
    return tuple(tuple(not entry.is_zero for entry in row) for row in matrix)
