"""Which sympy expressions have a real value, a derivative, and a counterpart in C."""

from collections.abc import Collection, Iterable

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.core.numbers import ComplexInfinity, ImaginaryUnit
from sympy.core.relational import Relational
from sympy.functions.elementary.piecewise import ExprCondPair
from sympy.matrices.expressions.matexpr import MatrixElement

from mpcgen.errors import UnsupportedExpressionError
from mpcgen.problem.functions import CONNECTIVES, LISTED, MEANINGS, is_leaf
from mpcgen.problem.walks import unique_nodes

LOST_VELOCITY = (
    "a derivative by what the problem did not declare, such as time; evaluated once the function is a state, it would "
    "be 0: put the states that are velocities in its place, and do so first, as in "
    "expression.subs(q(t).diff(t), velocity).subs(q(t), position)"
)
"""What to say of the derivative of a position that has already become a symbol, or of a function of time."""

_DISCONTINUOUS = (sp.floor, sp.ceiling, sp.frac, sp.Mod, sp.DiracDelta)
_UNEVALUATED = (sp.Integral, sp.Sum, sp.Product, sp.Limit)


def check_supported(nodes: Iterable[sp.Basic], place: str) -> None:
    """Raise UnsupportedExpressionError for the first node that later stages cannot take, naming it."""
    for node in nodes:
        problem = objection(node)
        if problem is not None:
            raise UnsupportedExpressionError(f"{place} contains {short_text(node)}, {problem}")


def objection(node: sp.Basic) -> str | None:
    """Return why an expression cannot be taken because of its outermost part, or None."""
    return _not_real(node) or _not_smooth(node) or _not_comparison(node) or _not_known(node)


def completed(expression: sp.Expr) -> sp.Expr:
    """Return the expression with every spline, as sympy's interpolating_spline makes it, continued at both ends.

    Such a Piecewise has neighbouring intervals for conditions and no value outside them; its first and last piece go
    on there. Any other Piecewise stays as it is.
    """
    splines = {
        node: continued
        for node in unique_nodes(expression)
        if isinstance(node, sp.Piecewise) and (continued := _continued(node)) is not None
    }
    return expression.xreplace(splines) if splines else expression


def _continued(piecewise: sp.Piecewise) -> sp.Piecewise | None:
    intervals = [_interval(pair.cond) for pair in piecewise.args]
    if not all(intervals):
        return None
    variables, starts, ends = zip(*(interval for interval in intervals if interval), strict=True)
    if any(variable != variables[0] for variable in variables) or starts[1:] != ends[:-1]:
        return None
    values = [pair.expr for pair in piecewise.args]
    pairs = [(value, variables[0] < end) for value, end in zip(values[:-1], ends[:-1], strict=True)]
    return sp.Piecewise(*pairs, (values[-1], True))


def _interval(condition: sp.Basic) -> tuple[sp.Expr, sp.Expr, sp.Expr] | None:
    """Return (x, a, b) of the condition a <= x <= b with numbers a and b, else None."""
    if not isinstance(condition, sp.And) or len(condition.args) != 2:
        return None
    below = [part for part in condition.args if isinstance(part, Relational) and part.lts.is_number]
    above = [part for part in condition.args if isinstance(part, Relational) and part.gts.is_number]
    if len(below) != 1 or len(above) != 1 or below[0].gts != above[0].lts:
        return None
    return below[0].gts, below[0].lts, above[0].gts


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
    if isinstance(node, ExprCondPair):
        conditions = node.args[1:]
    elif isinstance(node, CONNECTIVES):
        conditions = node.args
    else:
        return None
    for condition in conditions:
        if isinstance(condition, sp.Symbol):
            name = condition.name
            return f"where {name!r} stands as a condition: compare it with a number, such as {name} > 0"
    return None


def _not_known(node: sp.Basic) -> str | None:
    if isinstance(node, AppliedUndef):
        return f"where the function {node.func.__name__} is undefined: write out its expression"
    if isinstance(node, sp.Derivative | sp.Subs):
        return _derivative(node)
    if isinstance(node, _UNEVALUATED):
        return f"an unevaluated {type(node).__name__}: call .doit() on it, or write out its value"
    if isinstance(node, sp.MatrixExpr | MatrixElement):
        return "a symbolic matrix: declare it with problem.parameter(name, shape) and use the Matrix returned"
    if not (is_leaf(node) or isinstance(node, ExprCondPair) or type(node) in MEANINGS):
        return f"where {type(node).__name__} is not supported; supported: {LISTED}"
    return None


def _derivative(node: sp.Derivative | sp.Subs) -> str:
    """Where .doit() would make a velocity 0, since what moves is a symbol already, it must not be advised."""
    if isinstance(node, sp.Derivative) and is_partial(node, node.expr.free_symbols):
        return "an unevaluated Derivative: call .doit() on it, or write out its value"
    return LOST_VELOCITY


def is_partial(derivative: sp.Derivative, declared: Collection[sp.Basic]) -> bool:
    """Whether a derivative is by ``declared`` symbols and of no undefined function, so that evaluating it is right."""
    return not derivative.atoms(AppliedUndef) and all(v in declared for v in derivative.variables)


def short_text(node: sp.Basic) -> str:
    """Return the text of an expression for a message, cut where it is long or shared deeply."""
    if len(unique_nodes(node)) > 60:
        return f"{type(node).__name__}(...)"
    text = str(node)
    return text if len(text) <= 120 else f"{text[:117]}..."
