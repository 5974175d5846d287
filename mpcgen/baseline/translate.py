"""Sympy expressions to CasADi, and the integration schemes written on CasADi functions."""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import casadi as ca
import sympy as sp
from sympy.codegen import cfunctions

from mpcgen.errors import SpecError, UnsupportedExpressionError

Rule = Callable[..., Any]


def _fold(operation: Callable[[Any, Any], Any]) -> Rule:
    return lambda *arguments: reduce(operation, arguments)


def _power(base: ca.SX, exponent: ca.SX) -> ca.SX:
    if exponent.is_constant():
        value = float(exponent)
        if value == 0.5:
            return ca.sqrt(base)
        if value == -0.5:
            return 1 / ca.sqrt(base)
        if value < 0 and value.is_integer():
            return 1 / ca.power(base, -value)
    return ca.power(base, exponent)


def _piecewise(*arguments: ca.SX) -> ca.SX:
    """Alternating values and conditions, first match wins; NaN where none holds, as sympy has it."""
    result = ca.SX(float("nan"))
    for value, condition in reversed(list(zip(arguments[::2], arguments[1::2], strict=True))):
        result = ca.if_else(condition, value, result)
    return result


def _heaviside(x: ca.SX, at_zero: ca.SX) -> ca.SX:
    return ca.if_else(x > 0, 1, ca.if_else(x < 0, 0, at_zero))


_RULES: dict[type, Rule] = {
    sp.Add: _fold(lambda a, b: a + b),
    sp.Mul: _fold(lambda a, b: a * b),
    sp.Pow: _power,
    sp.Mod: lambda a, b: a - b * ca.floor(a / b),
    sp.Abs: ca.fabs,
    sp.sign: ca.sign,
    sp.floor: ca.floor,
    sp.ceiling: ca.ceil,
    sp.Min: _fold(ca.fmin),
    sp.Max: _fold(ca.fmax),
    sp.Heaviside: _heaviside,
    sp.Piecewise: _piecewise,
    sp.ITE: lambda condition, a, b: ca.if_else(condition, a, b),
    sp.exp: ca.exp,
    sp.log: ca.log,
    sp.sin: ca.sin,
    sp.cos: ca.cos,
    sp.tan: ca.tan,
    sp.cot: lambda a: ca.cos(a) / ca.sin(a),
    sp.sec: lambda a: 1 / ca.cos(a),
    sp.csc: lambda a: 1 / ca.sin(a),
    sp.sinc: lambda a: ca.if_else(a == 0, 1, ca.sin(a) / a),
    sp.asin: ca.asin,
    sp.acos: ca.acos,
    sp.atan: ca.atan,
    sp.atan2: ca.atan2,
    sp.acot: lambda a: ca.atan(1 / a),
    sp.asec: lambda a: ca.acos(1 / a),
    sp.acsc: lambda a: ca.asin(1 / a),
    sp.sinh: ca.sinh,
    sp.cosh: ca.cosh,
    sp.tanh: ca.tanh,
    sp.coth: lambda a: 1 / ca.tanh(a),
    sp.sech: lambda a: 1 / ca.cosh(a),
    sp.csch: lambda a: 1 / ca.sinh(a),
    sp.asinh: ca.asinh,
    sp.acosh: ca.acosh,
    sp.atanh: ca.atanh,
    sp.acoth: lambda a: ca.atanh(1 / a),
    sp.asech: lambda a: ca.acosh(1 / a),
    sp.acsch: lambda a: ca.asinh(1 / a),
    sp.erf: ca.erf,
    sp.erfc: lambda a: 1 - ca.erf(a),
    cfunctions.expm1: ca.expm1,
    cfunctions.log1p: ca.log1p,
    cfunctions.hypot: ca.hypot,
    cfunctions.exp2: lambda a: ca.power(2, a),
    cfunctions.log2: lambda a: ca.log(a) / ca.log(2),
    cfunctions.log10: ca.log10,
    cfunctions.Sqrt: ca.sqrt,
    cfunctions.Cbrt: lambda a: ca.sign(a) * ca.power(ca.fabs(a), 1 / 3),
    cfunctions.fma: lambda a, b, c: a * b + c,
    sp.StrictLessThan: lambda a, b: a < b,
    sp.LessThan: lambda a, b: a <= b,
    sp.StrictGreaterThan: lambda a, b: a > b,
    sp.GreaterThan: lambda a, b: a >= b,
    sp.Equality: lambda a, b: a == b,
    sp.Unequality: lambda a, b: a != b,
    sp.And: _fold(ca.logic_and),
    sp.Or: _fold(ca.logic_or),
    sp.Not: ca.logic_not,
    sp.Xor: _fold(lambda a, b: a != b),
}


class Translator:
    """Maps scalar sympy expressions to CasADi SX, each shared subexpression once.

    ``symbols`` gives the SX scalar of every sympy symbol that may occur. Raises `SpecError` for another
    symbol and `UnsupportedExpressionError` for a function or number without a real counterpart.
    """

    def __init__(self, symbols: Mapping[sp.Symbol, ca.SX]) -> None:
        self._memo: dict[sp.Basic, ca.SX] = dict(symbols)

    def __call__(self, expression: sp.Basic) -> ca.SX:
        """Translate one scalar expression, without recursion: composed models may nest deeply."""
        root = sp.sympify(expression)
        stack = [root]
        while stack:
            node = stack[-1]
            if node in self._memo:
                stack.pop()
                continue
            children = _children(node)
            missing = [child for child in children if child not in self._memo]
            if missing:
                stack.extend(missing)
                continue
            self._memo[node] = self._apply(node, [self._memo[child] for child in children])
            stack.pop()
        return self._memo[root]

    def vector(self, expressions: Sequence[sp.Basic]) -> ca.SX:
        """Translate a list of expressions to a column."""
        return ca.vertcat(*(self(expression) for expression in expressions)) if expressions else ca.SX(0, 1)

    def _apply(self, node: sp.Basic, arguments: list[ca.SX]) -> ca.SX:
        rule = _RULES.get(node.func)
        if rule is not None:
            return ca.SX(rule(*arguments))
        return _leaf(node)


def _children(node: sp.Basic) -> list[sp.Basic]:
    if isinstance(node, sp.Piecewise):
        return [part for pair in node.args for part in pair.args]
    return list(node.args) if node.func in _RULES else []


def _leaf(node: sp.Basic) -> ca.SX:
    if node in (sp.true, sp.false):
        return ca.SX(1.0 if node == sp.true else 0.0)
    if isinstance(node, sp.Symbol):
        raise SpecError(
            f"the symbol {node} is not a state, control or parameter of the problem; "
            "declare it, or use the symbol object that the declaration returned"
        )
    if isinstance(node, (sp.Number, sp.NumberSymbol)) and node is not sp.nan:
        return ca.SX(float(node))
    raise UnsupportedExpressionError(
        f"CasADi has no real counterpart of {node.func.__name__} (in {node}); "
        "rewrite it with elementary real functions"
    )


def discretise(
    rate: ca.Function, scheme: str, x: ca.SX, u: ca.SX, theta: ca.SX, dt: ca.SX, substeps: int
) -> ca.SX:
    """State after ``dt`` under dx/dt = rate(x, u, theta), by ``substeps`` equal steps with u held.

    ``scheme`` is "euler", "midpoint" (explicit) or "rk4" (the classical one). Raises `SpecError` for another.
    """
    steps = {"euler": _euler, "midpoint": _midpoint, "rk4": _rk4}
    if scheme not in steps:
        raise SpecError(f"unknown integration scheme {scheme!r}; expected one of {', '.join(steps)}")
    h = dt / substeps
    for _ in range(substeps):
        x = steps[scheme](lambda state: rate(state, u, theta), x, h)
    return x


def _euler(rate: Callable[[ca.SX], ca.SX], x: ca.SX, h: ca.SX) -> ca.SX:
    return x + h * rate(x)


def _midpoint(rate: Callable[[ca.SX], ca.SX], x: ca.SX, h: ca.SX) -> ca.SX:
    return x + h * rate(x + h / 2 * rate(x))


def _rk4(rate: Callable[[ca.SX], ca.SX], x: ca.SX, h: ca.SX) -> ca.SX:
    k1 = rate(x)
    k2 = rate(x + h / 2 * k1)
    k3 = rate(x + h / 2 * k2)
    k4 = rate(x + h * k3)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
