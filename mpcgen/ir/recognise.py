"""Expressions that overflow or lose their derivative as they are written, replaced by operations that do not.

1/(1 + exp(-x)) and its derivative become inf/inf where exp overflows, log(1 + exp(x)) is infinite from 710 on, and
sqrt(x^2 + y^2) has no slope at the origin, though sqrt(x^2 + y^2) x has one. Constants may stand in place of the ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import reduce
from operator import mul

from mpcgen.ir.expr import Expr
from mpcgen.ir.walk import rebuild, topological


def recognise(outputs: Sequence[Expr], fixed: Collection[Expr] = ()) -> list[Expr]:
    """Return ``outputs`` with sigmoid, softplus and length in place of what they are written as.

    fixed: symbols, the parameters. A square of theirs keeps a sum of squares from vanishing; so does a model that
    divides by the root of one. Both stay as they are, for their derivatives are shorter so.
    """
    divisors = _divisors(outputs)
    known = set(fixed)
    rebuilt: dict[Expr, Expr] = {}
    for node in topological(outputs):
        rule = _RULES.get(node.op)
        new = rebuild(node, rebuilt)
        better = None
        if rule is not None and new.op == node.op:
            better = rule(new)
        elif node.op in ("sqrt", "pow") and node not in divisors:
            better = _length(new, known)
        rebuilt[node] = new if better is None else better
        if node.args and all(arg.is_const or arg in known for arg in new.args):
            known.add(rebuilt[node])
    return [rebuilt[output] for output in outputs]


def _divisors(outputs: Sequence[Expr]) -> set[Expr]:
    """What the expressions divide by, and the factors of that."""
    found: set[Expr] = set()
    for node in topological(outputs):
        if node.op == "div":
            found.update(_factors(node.args[1]))
    return found


def _factors(product: Expr) -> list[Expr]:
    """The factors of a product, in order."""
    found, stack = [], [product]
    while stack:
        factor = stack.pop()
        if factor.op == "mul":
            stack.extend(reversed(factor.args))
        else:
            found.append(factor)
    return found


def _length(node: Expr, known: Collection[Expr]) -> Expr | None:
    """The root of a sum of squares, or an odd power of that root."""
    squares = node.args[0]
    if not _is_sum_of_squares(squares, known):
        return None
    if node.op == "sqrt":
        return node.graph.length(squares)
    exponent = node.args[1]
    if not (exponent.is_const and exponent.value > 0.0 and exponent.value % 1.0 == 0.5):
        return None
    return squares ** (exponent.value - 0.5) * node.graph.length(squares)


def _is_sum_of_squares(node: Expr, known: Collection[Expr]) -> bool:
    stack = [node]
    while stack:
        term = stack.pop()
        if term.op == "add":
            stack.extend(term.args)
        elif not _is_square(term) or all(factor.is_const or factor in known for factor in _factors(term)):
            return False
    return True


def _is_square(node: Expr) -> bool:
    """Whether this is a square, a product of squares, or one with a positive constant."""
    if node.op != "mul":
        return node.is_const and node.value > 0.0
    left, right = node.args
    return left is right or (_is_square(left) and _is_square(right))


def _logistic(node: Expr) -> tuple[float, Expr] | None:
    """Return (c, a) with node = c (1 + exp(a)) for a positive constant c."""
    if node.op != "add" or not node.args[0].is_const or not node.args[0].value > 0.0:
        return None
    constant, power = node.args[0].value, node.args[1]
    factor = 1.0
    if power.op == "mul" and power.args[0].is_const and power.args[0].value > 0.0:
        factor, power = power.args[0].value, power.args[1]
    if power.op != "exp":
        return None
    return constant, power.args[0] + (math.log(factor) - math.log(constant))


def _quotient(node: Expr) -> Expr | None:
    """1/(d (1 + exp(a))) as sigmoid(-a)/d."""
    sigmoids, rest = [], []
    for factor in _factors(node.args[1]):
        found = _logistic(factor)
        if found is None:
            rest.append(factor)
        else:
            sigmoids.append((1.0 / found[0]) * node.graph.sigmoid(-found[1]))
    if not sigmoids:
        return None
    value = reduce(mul, sigmoids)
    return value / reduce(mul, rest) if rest else value


def _logarithm(node: Expr) -> Expr | None:
    """log(1 + exp(a)) as softplus(a)."""
    found = _logistic(node.args[0])
    if found is None:
        return None
    return math.log(found[0]) + node.graph.softplus(found[1])


def _product(node: Expr) -> Expr | None:
    """exp(a) sigmoid(-a) as sigmoid(a): how exp(a)/(1 + exp(a)) comes."""
    factors = _factors(node)
    for sigmoid in factors:
        if sigmoid.op != "sigmoid":
            continue
        for power in factors:
            if power.op == "exp" and power.args[0] is -sigmoid.args[0]:
                rest = [factor for factor in factors if factor not in (sigmoid, power)]
                if len(rest) == len(factors) - 2:
                    return reduce(mul, [*rest, node.graph.sigmoid(power.args[0])])
    return None


_RULES: dict[str, Callable[[Expr], Expr | None]] = {
    "div": _quotient,
    "log": _logarithm,
    "mul": _product,
}
