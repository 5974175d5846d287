"""Which sympy expressions have a real value, a derivative, and a counterpart in C."""

from collections.abc import Iterable

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.core.numbers import ComplexInfinity, ImaginaryUnit
from sympy.functions.elementary.piecewise import ExprCondPair
from sympy.logic.boolalg import BooleanFalse, BooleanTrue
from sympy.matrices.expressions.matexpr import MatrixElement

from mpcgen.errors import UnsupportedExpressionError

_CONDITIONS = (
    sp.StrictLessThan,
    sp.LessThan,
    sp.StrictGreaterThan,
    sp.GreaterThan,
    sp.And,
    sp.Or,
    sp.Not,
    BooleanTrue,
    BooleanFalse,
)
_FUNCTIONS = (
    *(sp.exp, sp.log, sp.sin, sp.cos, sp.tan, sp.asin, sp.acos, sp.atan, sp.atan2),
    *(sp.sinh, sp.cosh, sp.tanh, sp.asinh, sp.acosh, sp.atanh, sp.erf),
    *(sp.Abs, sp.Min, sp.Max, sp.Piecewise),
)
_RECIPROCALS = {
    sp.sec: sp.cos,
    sp.csc: sp.sin,
    sp.cot: sp.tan,
    sp.sech: sp.cosh,
    sp.csch: sp.sinh,
    sp.coth: sp.tanh,
}
_SUPPORTED = (
    *(sp.Symbol, sp.Number, sp.NumberSymbol, sp.Add, sp.Mul, sp.Pow, ExprCondPair),
    *(*_FUNCTIONS, *_RECIPROCALS, *_CONDITIONS),
)
_DISCONTINUOUS = (sp.floor, sp.ceiling, sp.frac, sp.Mod, sp.Heaviside, sp.sign, sp.DiracDelta)
_UNEVALUATED = (sp.Derivative, sp.Integral, sp.Sum, sp.Product, sp.Limit, sp.Subs)
_LIST = "+ - * / ** Abs Min Max Piecewise sqrt " + " ".join(
    function.__name__ for function in (*_FUNCTIONS, *_RECIPROCALS) if function.__name__.islower()
)


def unique_nodes(expression: sp.Basic) -> list[sp.Basic]:
    """Return every distinct subexpression once, outermost first, in a reproducible order."""
    seen: set[sp.Basic] = {expression}
    nodes: list[sp.Basic] = []
    pending = [expression]
    while pending:
        node = pending.pop()
        nodes.append(node)
        for argument in reversed(node.args):
            if argument not in seen:
                seen.add(argument)
                pending.append(argument)
    return nodes


def symbols_in(*expressions: sp.Basic) -> set[sp.Symbol]:
    """Return the symbols of all expressions."""
    return {node for item in expressions for node in unique_nodes(item) if isinstance(node, sp.Symbol)}


def check_supported(nodes: Iterable[sp.Basic], place: str) -> None:
    """Raise UnsupportedExpressionError for the first node that later stages cannot take, naming it."""
    for node in nodes:
        problem = _not_real(node) or _not_smooth(node) or _not_comparison(node) or _not_known(node)
        if problem is not None:
            raise UnsupportedExpressionError(f"{place} contains {short_text(node)}, {problem}")


def rewritten(expression: sp.Expr, nodes: Iterable[sp.Basic]) -> sp.Expr:
    """Return the expression with sec, csc, cot and their hyperbolic kin as reciprocals; most have none."""
    if not any(isinstance(node, tuple(_RECIPROCALS)) for node in nodes):
        return expression
    for function, inverse in _RECIPROCALS.items():
        expression = expression.replace(function, lambda x, inverse=inverse: sp.Pow(inverse(x), -1))
    return expression


def _not_real(node: sp.Basic) -> str | None:
    if isinstance(node, ImaginaryUnit):
        return "the imaginary unit: write the expression in real numbers"
    if node in (sp.nan, sp.oo, -sp.oo) or isinstance(node, ComplexInfinity):
        return "which is not a finite number: expected finite values (only bounds may be infinite)"
    if isinstance(node, sp.Number) and _overflows(node):
        return "which is beyond the range of double precision: rescale the expression"
    if isinstance(node, sp.Pow) and node.base.is_number:
        if node.base.is_negative and node.exp.is_integer is not True:
            return "a power of a negative number, which is not real: use a positive base"
    elif isinstance(node, sp.Function) and node.is_number and node.is_real is False:
        return "which is not a real number: check its argument"
    return None


def _overflows(number: sp.Number) -> bool:
    try:
        return abs(float(number)) == float("inf")
    except OverflowError:
        return True


def _not_smooth(node: sp.Basic) -> str | None:
    if isinstance(node, _DISCONTINUOUS):
        return (
            f"a discontinuity with no derivative where one is needed ({type(node).__name__}): smooth it, for "
            "example with tanh(k*x), or use a Piecewise whose branches meet"
        )
    if isinstance(node, sp.Eq | sp.Ne):
        return (
            "a condition that holds, or fails, at single points only, where its branch's derivatives are "
            "wrong: use an inequality, for example Piecewise((series, Abs(x) < 1e-4), (formula, True))"
        )
    if isinstance(node, sp.Piecewise) and node.args[-1].cond is not sp.true:
        return "a Piecewise without a value where no condition holds: end it with (value, True)"
    return None


def _not_comparison(node: sp.Basic) -> str | None:
    if not isinstance(node, ExprCondPair | sp.And | sp.Or | sp.Not):
        return None
    conditions = node.args[1:] if isinstance(node, ExprCondPair) else node.args
    for condition in conditions:
        if isinstance(condition, sp.Symbol):
            name = condition.name
            return f"where {name!r} stands as a condition: compare it with a number, such as {name} > 0"
    return None


def _not_known(node: sp.Basic) -> str | None:
    if isinstance(node, AppliedUndef):
        return f"where the function {node.func.__name__} is undefined: write out its expression"
    if isinstance(node, _UNEVALUATED):
        return f"an unevaluated {type(node).__name__}: call .doit() on it, or write out its value"
    if isinstance(node, sp.MatrixExpr | MatrixElement):
        return "a symbolic matrix: declare it with problem.parameter(name, shape) and use the Matrix returned"
    if not isinstance(node, _SUPPORTED):
        return f"where {type(node).__name__} is not supported; supported: {_LIST}"
    return None


def short_text(node: sp.Basic) -> str:
    """Return the text of an expression for a message, cut where it is long or shared deeply."""
    if len(unique_nodes(node)) > 60:
        return f"{type(node).__name__}(...)"
    text = str(node)
    return text if len(text) <= 120 else f"{text[:117]}..."
