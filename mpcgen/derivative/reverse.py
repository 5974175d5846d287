"""Reverse mode: cotangents of the outputs pulled back to the nodes asked for, in one walk."""

from collections.abc import Sequence

from mpcgen.derivative.rules import partials
from mpcgen.errors import InternalError
from mpcgen.graph import Expr, topological


def gradient(output: Expr, wrt: Sequence[Expr]) -> list[Expr]:
    """Return the derivative of one output by each node of ``wrt``."""
    return vjp([output], [output.graph.const(1.0)], wrt)


def vjp(outputs: Sequence[Expr], cotangents: Sequence[Expr], wrt: Sequence[Expr]) -> list[Expr]:
    """Return sum_i cotangents[i] * d outputs[i] / d wrt[j] for each j; cotangents count as constants.

    A node of ``wrt`` counts as independent of all others.
    """
    if len(outputs) != len(cotangents):
        raise InternalError(f"vjp was given {len(outputs)} outputs but {len(cotangents)} cotangents")
    if not wrt:
        return []
    targets = dict.fromkeys(wrt)
    order = topological(outputs, stop=targets.keys())
    active = dict(targets)
    for node in order:
        if any(arg in active for arg in node.args):
            active[node] = None
    adjoints: dict[Expr, Expr] = {}
    for output, cotangent in zip(outputs, cotangents, strict=True):
        adjoints[output] = adjoints[output] + cotangent if output in adjoints else cotangent
    for node in reversed(order):
        if node in targets or node not in adjoints or node not in active:
            continue
        for arg, partial in partials(node, active):
            term = scaled(adjoints[node], partial)
            adjoints[arg] = adjoints[arg] + term if arg in adjoints else term
    zero = wrt[0].graph.const(0.0)
    return [adjoints.get(node, zero) for node in wrt]


def scaled(adjoint: Expr, partial: Expr) -> Expr:
    """Return adjoint*partial, inside the branch that the adjoint belongs to.

    The adjoint of a select's branch is select(c, a, 0). Multiplied as it stands it would turn an infinite
    slope of the branch not taken into 0*inf; so the product is formed first and selected afterwards.
    """
    guards: list[tuple[Expr, bool]] = []
    while adjoint.op == "select" and (adjoint.args[1].is_zero or adjoint.args[2].is_zero):
        condition, then, other = adjoint.args
        guards.append((condition, other.is_zero))
        adjoint = then if other.is_zero else other
    product = adjoint * partial
    for condition, holds in reversed(guards):
        select = product.graph.select
        product = select(condition, product, 0.0) if holds else select(condition, 0.0, product)
    return product
