"""Reverse mode: cotangents of the outputs pulled back to the nodes asked for, in one walk."""

from collections.abc import Sequence
from typing import TypeVar

from mpcgen.derivative.rules import partials
from mpcgen.errors import InternalError
from mpcgen.ir import Expr, topological
from mpcgen.ir.linear import adjoint_of_right, adjoint_terms

Key = TypeVar("Key")


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
    targets = set(wrt)
    order = dependents(outputs, wrt)
    active = set(order)
    adjoints: dict[Expr, Expr] = {}
    for output, cotangent in zip(outputs, cotangents, strict=True):
        adjoints[output] = adjoints[output] + cotangent if output in adjoints else cotangent
    solutions: dict[Expr, dict[int, Expr]] = {}
    for node in reversed(order):
        if node in solutions:
            multipliers = adjoint_of_right(node, solutions[node])
            for arg, term in adjoint_terms(node, multipliers):
                if arg in active:
                    accumulate(adjoints, arg, term)
        elif node in targets or node not in adjoints:
            continue
        elif node.op == "entry":
            solutions.setdefault(node.args[0], {})[node.value] = adjoints[node]
        else:
            for arg, partial in partials(node, active):
                term = scaled(adjoints[node], partial)
                adjoints[arg] = summed(adjoints[arg], term) if arg in adjoints else term
    zero = wrt[0].graph.const(0.0)
    return [adjoints.get(node, zero) for node in wrt]


def dependents(outputs: Sequence[Expr], wrt: Sequence[Expr]) -> list[Expr]:
    """Numbers behind ``outputs`` that depend on ``wrt``, arguments first; truth values have no derivative."""
    active = set(wrt)
    nodes = topological(outputs, stop=active.copy())
    for node in nodes:
        if not node.is_boolean and any(arg in active for arg in node.args):
            active.add(node)
    return [node for node in nodes if node in active]


def scaled(adjoint: Expr, partial: Expr) -> Expr:
    """Return adjoint*partial, inside the branches that the factors belong to.

    The adjoint of a select's branch is select(c, a, 0). Multiplied as it stands it would turn an infinite
    slope of the branch not taken into 0*inf; so the product is formed first and selected afterwards.
    """
    if adjoint.op != "select" and partial.op != "select":
        return adjoint * partial
    adjoint, guards = _outside_branches(adjoint)
    partial, more = _outside_branches(partial)
    product = adjoint * partial
    for condition, holds in dict.fromkeys((*reversed(guards), *reversed(more))):
        select = product.graph.select
        product = select(condition, product, 0.0) if holds else select(condition, 0.0, product)
    return product


def summed(a: Expr, b: Expr) -> Expr:
    """Return a + b, inside the branch that both belong to: so that `scaled` still finds it."""
    if a.op == b.op == "select" and a.args[0] is b.args[0]:
        condition, then, other = a.args
        if other.is_zero and b.args[2].is_zero:
            return a.graph.select(condition, summed(then, b.args[1]), 0.0)
        if then.is_zero and b.args[1].is_zero:
            return a.graph.select(condition, 0.0, summed(other, b.args[2]))
    return a + b


def accumulate(sums: dict[Key, Expr], key: Key, term: Expr) -> None:
    """Add a term to the sum of that key; a sum without terms has no key."""
    if not term.is_zero:
        sums[key] = summed(sums[key], term) if key in sums else term


def _outside_branches(factor: Expr) -> tuple[Expr, list[tuple[Expr, bool]]]:
    """A factor without the selects whose other branch is zero, and their conditions, outermost first."""
    guards: list[tuple[Expr, bool]] = []
    while factor.op == "select" and (factor.args[1].is_zero or factor.args[2].is_zero):
        condition, then, other = factor.args
        guards.append((condition, other.is_zero))
        factor = then if other.is_zero else other
    return factor, guards
