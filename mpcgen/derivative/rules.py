"""The rule table of differentiation: for each operation, the partial derivative by each argument.

A rule gets the node f and its arguments, and reuses f where the derivative contains it. Truth values
have no derivative, sign has derivative 0 everywhere, |x| has derivative sign(x), 0 at 0, as a length has 0
at the origin, and at a tie min and max follow their first argument. A select differentiates its branches,
never its condition.
"""

import math
from collections.abc import Callable, Collection, Iterator

from mpcgen.ir import OPERATIONS, Expr

Partial = Callable[..., Expr]


def _zero(f: Expr, *args: Expr) -> Expr:
    return f.graph.const(0.0)


def _one(f: Expr, *args: Expr) -> Expr:
    return f.graph.const(1.0)


def _minus_one(f: Expr, *args: Expr) -> Expr:
    return f.graph.const(-1.0)


def _pow_by_exponent(f: Expr, a: Expr, b: Expr) -> Expr:
    # 0**b is 0 for every b > 0, where f*log(a) would be 0*inf
    return f.graph.select(f.graph.eq(a, 0.0), 0.0, f * f.graph.log(a))


def _choose(condition: Expr, first: bool) -> Expr:
    return condition.graph.select(condition, float(first), float(not first))


RULES: dict[str, tuple[Partial, ...]] = {
    "add": (_one, _one),
    "sub": (_one, _minus_one),
    "mul": (lambda f, a, b: b, lambda f, a, b: a),
    "div": (lambda f, a, b: 1.0 / b, lambda f, a, b: -(f * (1.0 / b))),
    "neg": (_minus_one,),
    "pow": (lambda f, a, b: b * a ** (b - 1.0), _pow_by_exponent),
    "sqrt": (lambda f, a: 0.5 / f,),
    "length": (lambda f, a: 0.5 * f.graph.pinv(f),),
    "pinv": (lambda f, a: -(f * f),),
    "exp": (lambda f, a: f,),
    "expm1": (lambda f, a: 1.0 + f,),
    "log": (lambda f, a: 1.0 / a,),
    "log1p": (lambda f, a: 1.0 / (1.0 + a),),
    "sigmoid": (lambda f, a: f * (1.0 - f),),
    "softplus": (lambda f, a: f.graph.sigmoid(a),),
    "sin": (lambda f, a: f.graph.cos(a),),
    "cos": (lambda f, a: -f.graph.sin(a),),
    "tan": (lambda f, a: 1.0 + f * f,),
    "asin": (lambda f, a: 1.0 / f.graph.sqrt(1.0 - a * a),),
    "acos": (lambda f, a: -1.0 / f.graph.sqrt(1.0 - a * a),),
    "atan": (lambda f, a: 1.0 / (1.0 + a * a),),
    "atan2": (lambda f, y, x: x / (x * x + y * y), lambda f, y, x: -y / (x * x + y * y)),
    "sinh": (lambda f, a: f.graph.cosh(a),),
    "cosh": (lambda f, a: f.graph.sinh(a),),
    "tanh": (lambda f, a: 1.0 - f * f,),
    "asinh": (lambda f, a: 1.0 / f.graph.sqrt(a * a + 1.0),),
    "acosh": (lambda f, a: 1.0 / f.graph.sqrt(a * a - 1.0),),
    "atanh": (lambda f, a: 1.0 / (1.0 - a * a),),
    "erf": (lambda f, a: 2.0 / math.sqrt(math.pi) * f.graph.exp(-(a * a)),),
    "abs": (lambda f, a: f.graph.sign(a),),
    "sign": (_zero,),
    "min": (
        lambda f, a, b: _choose(f.graph.le(a, b), True),
        lambda f, a, b: _choose(f.graph.le(a, b), False),
    ),
    "max": (
        lambda f, a, b: _choose(f.graph.le(b, a), True),
        lambda f, a, b: _choose(f.graph.le(b, a), False),
    ),
    "select": (
        _zero,
        lambda f, condition, then, other: _choose(condition, True),
        lambda f, condition, then, other: _choose(condition, False),
    ),
}
"""The row of each real operation, one partial derivative per argument."""

RULES |= {name: (_zero,) * operation.arity for name, operation in OPERATIONS.items() if operation.boolean}


def partials(node: Expr, active: Collection[Expr]) -> Iterator[tuple[Expr, Expr]]:
    """Yield (argument, derivative of ``node`` by it) for each argument in ``active``.

    An argument that occurs twice, as in x*x, comes once with both derivatives added. Zeros are left out. An entry of a
    solution has none: it is differentiated with its linear system, see `mpcgen.ir.linear`.
    """
    if node.op == "entry":
        return
    found: dict[Expr, Expr] = {}
    for arg, rule in zip(node.args, RULES.get(node.op, ()), strict=True):
        if arg in active:
            partial = rule(node, *node.args)
            found[arg] = found[arg] + partial if arg in found else partial
    for arg, partial in found.items():
        if not partial.is_zero:
            yield arg, partial
