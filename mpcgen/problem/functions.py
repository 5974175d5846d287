"""The functions that a specification may use, and what each means: the one table that knows them.

A meaning is written in the operations of the graph, through a function ``apply(operation, *arguments)`` that
whoever reads the table brings along: the graph builds nodes, the baseline CasADi expressions, the check for jumps
numbers with 50 digits. So a row is all that a further function needs.
"""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import sympy as sp
from sympy.codegen import cfunctions
from sympy.logic.boolalg import BooleanFalse, BooleanTrue

from mpcgen.problem.imported import Imported
from mpcgen.problem.linear_system import Solution, component
from mpcgen.problem.network import NetOutput
from mpcgen.problem.nodes import Joined
from mpcgen.problem.running import RunningCost

Apply = Callable[..., Any]
Meaning = Callable[..., Any]

SINC_TERMS = 9
"""Terms of the series of sin(x)/x for |x| < 1: the first one left out is below 1e-17."""


def arguments(node: sp.Basic) -> tuple[sp.Basic, ...]:
    """Return what a meaning is given, in order: the pairs of a Piecewise as value, condition, value, ..."""
    if isinstance(node, sp.Piecewise):
        return tuple(part for pair in node.args for part in pair.args)
    return node.args if type(node) in MEANINGS else ()


def is_leaf(node: sp.Basic) -> bool:
    """Whether this is a symbol, a number or a truth value."""
    return isinstance(node, sp.Symbol | sp.Number | sp.NumberSymbol | BooleanTrue | BooleanFalse)


def _direct(operation: str) -> Meaning:
    return lambda apply, *args: apply(operation, *args)


def _folded(operation: str) -> Meaning:
    return lambda apply, *args: reduce(lambda a, b: apply(operation, a, b), args)


def _of_reciprocal(operation: str) -> Meaning:
    return lambda apply, a: apply(operation, apply("div", 1.0, a))


def _reciprocal_of(operation: str) -> Meaning:
    return lambda apply, a: apply("div", 1.0, apply(operation, a))


def _exclusive_or(apply: Apply, a: Any, b: Any) -> Any:
    return apply("or", apply("and", a, apply("not", b)), apply("and", apply("not", a), b))


def _all_equal(apply: Apply, first: Any, *others: Any) -> Any:
    equal = [apply("not", _exclusive_or(apply, first, other)) for other in others]
    return reduce(lambda a, b: apply("and", a, b), equal)


def _choice(apply: Apply, condition: Any, then: Any, other: Any) -> Any:
    otherwise = apply("and", apply("not", condition), other)
    return apply("or", apply("and", condition, then), otherwise)


def _piecewise(apply: Apply, *parts: Any) -> Any:
    """The last condition is true: see `mpcgen.problem.expressions`."""
    values, conditions = parts[0::2], parts[1::2]
    result = values[-1]
    for value, condition in zip(reversed(values[:-1]), reversed(conditions[:-1]), strict=True):
        result = apply("select", condition, value, result)
    return result


def _sinc(apply: Apply, x: Any) -> Any:
    """Near 0 the series, since the quotient's derivatives lose all digits there."""
    square = apply("mul", x, x)
    series: Any = 0.0
    for k in reversed(range(SINC_TERMS)):
        series = apply("add", (-1.0) ** k / math.factorial(2 * k + 1), apply("mul", square, series))
    return apply("select", apply("lt", square, 1.0), series, apply("div", apply("sin", x), x))


def _arc_cotangent(apply: Apply, x: Any) -> Any:
    """Sympy's, which is atan(1/x) and jumps at 0; written so, it would have no derivative there."""
    side = apply("select", apply("lt", x, 0.0), -1.0, 1.0)
    return apply("atan2", side, apply("mul", side, x))


def _cube_root(apply: Apply, x: Any) -> Any:
    return apply("mul", apply("sign", x), apply("pow", apply("abs", x), 1.0 / 3.0))


_ARITHMETIC: dict[type, Meaning] = {
    sp.Add: _folded("add"),
    sp.Mul: _folded("mul"),
    sp.Pow: _direct("pow"),
    sp.UnevaluatedExpr: lambda apply, a: a,
    Imported: lambda apply, a: a,
    NetOutput: lambda apply, a: a,
    Joined: _direct("select"),
    Solution: component,
    RunningCost: lambda apply, a: a,
}
_COMPARISONS: dict[type, Meaning] = {
    sp.StrictLessThan: _direct("lt"),
    sp.LessThan: _direct("le"),
    sp.StrictGreaterThan: lambda apply, a, b: apply("lt", b, a),
    sp.GreaterThan: lambda apply, a, b: apply("le", b, a),
    sp.Equality: _direct("eq"),
    sp.Unequality: lambda apply, a, b: apply("not", apply("eq", a, b)),
}
_CONNECTIVES: dict[type, Meaning] = {
    sp.And: _folded("and"),
    sp.Or: _folded("or"),
    sp.Not: _direct("not"),
    sp.Xor: lambda apply, *args: reduce(lambda a, b: _exclusive_or(apply, a, b), args),
    sp.Implies: lambda apply, a, b: apply("or", apply("not", a), b),
    sp.Equivalent: _all_equal,
    sp.ITE: _choice,
}
_SAME_NAME = "exp log sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh erf sign"
_FUNCTIONS: dict[type, Meaning] = {getattr(sp, name): _direct(name) for name in _SAME_NAME.split()}
_FUNCTIONS |= {
    sp.Abs: _direct("abs"),
    sp.Min: _folded("min"),
    sp.Max: _folded("max"),
    sp.Piecewise: _piecewise,
    # at 0 itself the limit from the left: what reads a step must not jump there, so that no value at 0 matters
    sp.Heaviside: lambda apply, x, at_zero: apply("select", apply("lt", 0.0, x), 1.0, 0.0),
    sp.sec: _reciprocal_of("cos"),
    sp.csc: _reciprocal_of("sin"),
    sp.cot: _reciprocal_of("tan"),
    sp.sech: _reciprocal_of("cosh"),
    sp.csch: _reciprocal_of("sinh"),
    sp.coth: _reciprocal_of("tanh"),
    sp.asec: _of_reciprocal("acos"),
    sp.acsc: _of_reciprocal("asin"),
    sp.acot: _arc_cotangent,
    sp.asech: _of_reciprocal("acosh"),
    sp.acsch: _of_reciprocal("asinh"),
    sp.acoth: _of_reciprocal("atanh"),
    sp.sinc: _sinc,
    sp.erfc: lambda apply, a: apply("sub", 1.0, apply("erf", a)),
    cfunctions.expm1: _direct("expm1"),
    cfunctions.log1p: _direct("log1p"),
    cfunctions.hypot: lambda apply, a, b: apply(
        "length", apply("add", apply("mul", a, a), apply("mul", b, b))
    ),
    cfunctions.exp2: lambda apply, a: apply("pow", 2.0, a),
    cfunctions.log2: lambda apply, a: apply("mul", 1.0 / math.log(2.0), apply("log", a)),
    cfunctions.log10: lambda apply, a: apply("mul", 1.0 / math.log(10.0), apply("log", a)),
    cfunctions.Sqrt: _direct("sqrt"),
    cfunctions.Cbrt: _cube_root,
    cfunctions.fma: lambda apply, a, b, c: apply("add", apply("mul", a, b), c),
}

MEANINGS: dict[type, Meaning] = _ARITHMETIC | _COMPARISONS | _CONNECTIVES | _FUNCTIONS
"""For each sympy class with arguments, its value from the values of `arguments`."""

CONNECTIVES: tuple[Any, ...] = tuple(_CONNECTIVES)
"""The classes that make conditions of conditions."""

STEPS = (sp.Piecewise, sp.Heaviside, sp.sign)
"""What may jump by itself, and is taken where the expression around it does not."""

LISTED = "+ - * / ** sqrt " + " ".join(function.__name__ for function in _FUNCTIONS)
"""What there is, for a message."""
