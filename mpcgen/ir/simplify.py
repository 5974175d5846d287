"""Simplification at construction: one function per operation, and the table that names them.

A rule gets the graph and the arguments (constants first where the operation commutes) and returns the
simpler expression, or None to build the node as it stands. No rule changes a finite value by more than
rounding. Two hide what a strict reading would keep: x*0 is 0 even where x is not finite, and
sqrt(x)*sqrt(x) is x even where x is negative.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpcgen.ir.expr import Expr, Graph

MAX_INTEGER_POWER = 16
"""Largest |n| for which x**n becomes a chain of multiplications."""
MAX_HALF_INTEGER_POWER = 4.5
"""Largest |n + 1/2| for which the power goes through a square root."""


def is_const(expr: Expr, value: float) -> bool:
    """Whether ``expr`` is the constant ``value``."""
    return expr.op == "const" and expr.value == value


def _is_normal(value: float) -> bool:
    return math.isfinite(value) and abs(value) >= sys.float_info.min


def _without_sign(graph: Graph, expr: Expr) -> Expr | None:
    """Return the p with expr = -p where ``expr`` carries a minus sign in front, else None."""
    if expr.op == "neg":
        return expr.args[0]
    if expr.op == "const" and expr.value < 0.0:
        return graph.const(-expr.value)
    if expr.op == "mul" and expr.args[0].op == "const" and expr.args[0].value < 0.0:
        return graph.mul(graph.const(-expr.args[0].value), expr.args[1])
    return None


def has_zero_branch(expr: Expr) -> bool:
    """Whether ``expr`` is a select with a zero branch, as the derivative of a branch is."""
    return expr.op == "select" and (is_const(expr.args[1], 0.0) or is_const(expr.args[2], 0.0))


def _merge_selects(graph: Graph, op: str, a: Expr, b: Expr) -> Expr | None:
    """Join select(c, p, 0) and select(c, 0, q): the sum of two branches' derivatives is one select."""
    if has_zero_branch(a) and has_zero_branch(b) and a.args[0] is b.args[0]:
        return graph.select(
            a.args[0], graph.apply(op, a.args[1], b.args[1]), graph.apply(op, a.args[2], b.args[2])
        )
    return None


def _add(graph: Graph, a: Expr, b: Expr) -> Expr | None:
    if is_const(a, 0.0):
        return b
    if a is b:
        return graph.mul(graph.const(2.0), a)
    if (positive := _without_sign(graph, b)) is not None:
        return graph.sub(a, positive)
    if (positive := _without_sign(graph, a)) is not None:
        return graph.sub(b, positive)
    return _merge_selects(graph, "add", a, b)


def _sub(graph: Graph, a: Expr, b: Expr) -> Expr | None:
    if is_const(b, 0.0):
        return a
    if is_const(a, 0.0):
        return graph.neg(b)
    if a is b:
        return graph.const(0.0)
    if (positive := _without_sign(graph, b)) is not None:
        return graph.add(a, positive)
    if a.op == "neg":
        return graph.neg(graph.add(a.args[0], b))
    return _merge_selects(graph, "sub", a, b)


def _neg(graph: Graph, a: Expr) -> Expr | None:
    if a.op == "neg":
        return a.args[0]
    if a.op == "sub":
        return graph.sub(a.args[1], a.args[0])
    if a.op == "mul" and a.args[0].op == "const":
        return graph.mul(graph.const(-a.args[0].value), a.args[1])
    return None


def _mul(graph: Graph, a: Expr, b: Expr) -> Expr | None:
    if a.op == "const":
        return _scale(graph, a, b)
    if a.op == "neg":
        return graph.neg(graph.mul(a.args[0], b))
    if b.op == "neg":
        return graph.neg(graph.mul(a, b.args[0]))
    if a is b and a.op in ("sqrt", "length"):
        return a.args[0]
    return _mask(graph, a, b) or _mask(graph, b, a)


def _scale(graph: Graph, factor: Expr, b: Expr) -> Expr | None:
    if factor.value == 0.0:
        return factor
    if factor.value == 1.0:
        return b
    if factor.value == -1.0:
        return graph.neg(b)
    if b.op == "neg":
        return graph.mul(graph.const(-factor.value), b.args[0])
    if b.op == "mul" and b.args[0].op == "const":
        product = factor.value * b.args[0].value
        if _is_normal(product):  # an overflow or underflow here could be avoided by multiplying x first
            return graph.mul(graph.const(product), b.args[1])
    return _mask(graph, b, factor)


def _mask(graph: Graph, a: Expr, b: Expr) -> Expr | None:
    """select(c, p, 0)*b is select(c, p*b, 0): where a branch is 0 the product is, whatever b is.

    So a branch that is not taken, and its derivatives, need not be finite.
    """
    if not has_zero_branch(a):
        return None
    condition, then, other = a.args
    if is_const(other, 0.0):
        return graph.select(condition, graph.mul(then, b), other)
    return graph.select(condition, then, graph.mul(other, b))


def _div(graph: Graph, a: Expr, b: Expr) -> Expr | None:
    if b.op == "const" and b.value != 0.0 and _is_normal(1.0 / b.value):
        return graph.mul(graph.const(1.0 / b.value), a)
    if not is_const(a, 1.0):  # so that all quotients by b share one division
        return graph.mul(a, graph.div(graph.const(1.0), b))
    if b.op == "div":  # its numerator is 1
        return b.args[1]
    if (positive := _without_sign(graph, b)) is not None:
        return graph.neg(graph.div(a, positive))
    return None


def _pow(graph: Graph, a: Expr, b: Expr) -> Expr | None:
    if is_const(a, 1.0):
        return a
    if b.op != "const":
        return None
    exponent = abs(b.value)
    if exponent <= MAX_INTEGER_POWER and exponent.is_integer():
        power = _integer_power(graph, a, int(exponent))
    elif _is_rooted(b.value):
        power = graph.mul(_integer_power(graph, a, int(exponent)), graph.sqrt(a))
    else:
        return None
    return graph.div(graph.const(1.0), power) if b.value < 0.0 else power


def _is_rooted(exponent: float) -> bool:
    """Whether a power is best written with a square root.

    Not x**1.5 and its like: the derivative of x*sqrt(x) at 0 would be 0 times infinity.
    """
    if exponent == 0.5:
        return True
    return -MAX_HALF_INTEGER_POWER <= exponent < 0.0 and (2.0 * exponent).is_integer()


def _integer_power(graph: Graph, base: Expr, n: int) -> Expr:
    """``base**n`` for n >= 0 by repeated squaring, so that different powers share their squares."""
    result, square = graph.const(1.0), base
    while n > 0:
        if n % 2 == 1:
            result = graph.mul(result, square)
        n //= 2
        if n > 0:
            square = graph.mul(square, square)
    return result


def _even(op: str) -> Callable[[Graph, Expr], Expr | None]:
    def rule(graph: Graph, a: Expr) -> Expr | None:
        positive = _without_sign(graph, a)
        return None if positive is None else graph.apply(op, positive)

    return rule


def _odd(op: str) -> Callable[[Graph, Expr], Expr | None]:
    def rule(graph: Graph, a: Expr) -> Expr | None:
        positive = _without_sign(graph, a)
        return None if positive is None else graph.neg(graph.apply(op, positive))

    return rule


def _abs(graph: Graph, a: Expr) -> Expr | None:
    if a.op in ("abs", "sqrt", "length", "exp", "sigmoid", "softplus"):
        return a
    return _even("abs")(graph, a)


def _idempotent(graph: Graph, a: Expr, b: Expr) -> Expr | None:
    return a if a is b else None


def _lt(graph: Graph, a: Expr, b: Expr) -> Expr | None:
    return graph.const(0.0) if a is b else None


def _and(graph: Graph, a: Expr, b: Expr) -> Expr | None:
    if a.op == "const":
        return b if a.value else a
    return a if a is b else None


def _or(graph: Graph, a: Expr, b: Expr) -> Expr | None:
    if a.op == "const":
        return a if a.value else b
    return a if a is b else None


def _not(graph: Graph, a: Expr) -> Expr | None:
    return a.args[0] if a.op == "not" else None


def _select(graph: Graph, condition: Expr, then: Expr, other: Expr) -> Expr | None:
    if condition.op == "const":
        return then if condition.value else other
    if then is other:
        return then
    if condition.op == "not":
        return graph.select(condition.args[0], other, then)
    if then.op == "select" and then.args[0] is condition:
        return graph.select(condition, then.args[1], other)
    if other.op == "select" and other.args[0] is condition:
        return graph.select(condition, then, other.args[2])
    return None


RULES: dict[str, Callable[..., Expr | None]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "pow": _pow,
    "sin": _odd("sin"),
    "cos": _even("cos"),
    "tan": _odd("tan"),
    "asin": _odd("asin"),
    "atan": _odd("atan"),
    "sinh": _odd("sinh"),
    "cosh": _even("cosh"),
    "tanh": _odd("tanh"),
    "asinh": _odd("asinh"),
    "pinv": _odd("pinv"),
    "atanh": _odd("atanh"),
    "erf": _odd("erf"),
    "sign": _odd("sign"),
    "abs": _abs,
    "min": _idempotent,
    "max": _idempotent,
    "lt": _lt,
    "and": _and,
    "or": _or,
    "not": _not,
    "select": _select,
}
"""The rule of each operation that has one."""
