"""Sine and cosine of the angle of a point, without the angle.

Dynamics whose state holds (cos a, sin a) turn it by sin(d + atan2(y, x)) and the like. The addition theorems give the
same from sin d, cos d and 1/sqrt(x^2 + y^2): two short chains of operations that do not wait for one another, where an
arc tangent and the sine of its result are two long ones in a row.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpcgen.ir import Expr, rebuild, topological


def without_angles(outputs: Sequence[Expr]) -> list[Expr]:
    """Return ``outputs`` with sin and cos of sums with one atan2 expanded, if that leaves no atan2 to compute.

    At x = y = 0 the result is NaN: the origin has no angle.
    """
    rebuilt: dict[Expr, Expr] = {}
    for node in topological(outputs):
        new = rebuild(node, rebuilt)
        rebuilt[node] = _expanded(new) if new.op in ("sin", "cos") else new
    result = [rebuilt[output] for output in outputs]
    return list(outputs) if any(node.op == "atan2" for node in topological(result)) else result


def _expanded(node: Expr) -> Expr:
    terms = _terms(node.args[0])
    position = next((i for i, (term, _) in enumerate(terms) if term.op == "atan2"), None)
    if position is None:
        return node
    (angle, positive), graph = terms.pop(position), node.graph
    y, x = angle.args
    rest = graph.const(0.0)
    for term, added in terms:
        rest = rest + term if added else rest - term
    sine, cosine = graph.sin(rest), graph.cos(rest)
    turned = y if positive else -y
    length = 1.0 / graph.sqrt(x * x + y * y)
    if node.op == "sin":
        return (x * sine + turned * cosine) * length
    return (x * cosine - turned * sine) * length


def _terms(expr: Expr) -> list[tuple[Expr, bool]]:
    """The terms of a sum, in order, and whether each is added (or subtracted)."""
    terms, stack = [], [(expr, True)]
    while stack:
        node, added = stack.pop()
        if node.op in ("add", "sub"):
            stack.append((node.args[1], added == (node.op == "add")))
            stack.append((node.args[0], added))
        elif node.op == "neg":
            stack.append((node.args[0], not added))
        else:
            terms.append((node, added))
    return terms
