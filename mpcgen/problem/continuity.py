"""Refuses a Piecewise that jumps: its derivative at the boundary does not exist, and none would be missed.

Numerically, with 50 digits: on the boundary of each comparison (found along one symbol, the others at fixed
random values) the values a hair to both sides must agree. A boundary that is not found is not judged.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import mpmath
import sympy as sp
from sympy.core.relational import Relational

from mpcgen.errors import UnsupportedExpressionError
from mpcgen.problem.expressions import short_text, symbols_in, unique_nodes
from mpcgen.problem.spec import Spec

_MP = mpmath.MPContext()
_MP.dps = 50

# Either side of the boundary. The square root of this is still far below the tolerance, so that sqrt(x)
# meeting zero passes.
_SIDE = _MP.mpf(10) ** -30
# Constants of a join are often typed with a few digits less than double precision.
_ABSOLUTE, _RELATIVE = _MP.mpf("1e-9"), _MP.mpf("1e-6")
_BASES = 4
_SCAN = tuple(_MP.mpf(sign * value) for value in (0.001, 0.03, 0.3, 1, 3, 10, 100, 10000) for sign in (-1, 1))

_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    sp.Pow: _MP.power,
    sp.exp: _MP.exp,
    sp.log: _MP.log,
    sp.sin: _MP.sin,
    sp.cos: _MP.cos,
    sp.tan: _MP.tan,
    sp.asin: _MP.asin,
    sp.acos: _MP.acos,
    sp.atan: _MP.atan,
    sp.atan2: _MP.atan2,
    sp.sinh: _MP.sinh,
    sp.cosh: _MP.cosh,
    sp.tanh: _MP.tanh,
    sp.asinh: _MP.asinh,
    sp.acosh: _MP.acosh,
    sp.atanh: _MP.atanh,
    sp.erf: _MP.erf,
    sp.Abs: abs,
    sp.Min: min,
    sp.Max: max,
    sp.Add: lambda *terms: _MP.fsum(terms),
    sp.Mul: lambda *factors: _MP.fprod(factors),
    sp.StrictLessThan: lambda left, right: left < right,
    sp.LessThan: lambda left, right: left <= right,
    sp.StrictGreaterThan: lambda left, right: left > right,
    sp.GreaterThan: lambda left, right: left >= right,
    sp.And: lambda *conditions: all(conditions),
    sp.Or: lambda *conditions: any(conditions),
    sp.Not: lambda condition: not condition,
}

_Point = dict[sp.Symbol, Any]


def check_continuous(spec: Spec) -> None:
    """Raise UnsupportedExpressionError for the first Piecewise of the specification found to jump."""
    places = [
        *(
            (f"dynamics row {index} (state {state})", row)
            for index, (state, row) in enumerate(zip(spec.states, spec.dynamics.expressions, strict=True))
        ),
        ("the stage cost", spec.stage_cost),
        ("the terminal cost", spec.terminal_cost),
        *((f"the lower bound of {control.symbol}", control.lower) for control in spec.controls),
        *((f"the upper bound of {control.symbol}", control.upper) for control in spec.controls),
        *_places_of_constraints(spec),
    ]
    if spec.dynamics.dt is not None:
        places.append(("dt", spec.dynamics.dt))
    seen: set[sp.Basic] = set()
    for place, expression in places:
        for node in unique_nodes(expression):
            if isinstance(node, sp.Piecewise) and node not in seen:
                seen.add(node)
                _check_piecewise(node, place, spec)


def _places_of_constraints(spec: Spec) -> Iterator[tuple[str, sp.Expr]]:
    for constraint in spec.constraints:
        for index, label in enumerate(constraint.labels):
            yield f"the constraint {label!r}", constraint.rows[index]
            yield f"the lower bound of {label!r}", constraint.lower[index]
            yield f"the upper bound of {label!r}", constraint.upper[index]
            yield f"soft of {label!r}", constraint.soft[index]
            yield f"soft_quadratic of {label!r}", constraint.soft_quadratic[index]


def _check_piecewise(piecewise: sp.Piecewise, place: str, spec: Spec) -> None:
    for comparison, base in itertools.product(_comparisons(piecewise), _bases(piecewise, spec)):
        for symbol, root in _boundary_points(comparison.lhs - comparison.rhs, base):
            jump = _jump(piecewise, base, symbol, root)
            if jump is None:
                continue
            before, after = (_MP.nstr(value, 6) for value in jump)
            sides = f"{short_text(comparison.lhs)} meets {short_text(comparison.rhs)}"
            raise UnsupportedExpressionError(
                f"{place} contains {short_text(piecewise)}, a discontinuity with no derivative where one is "
                f"needed: where {sides} (at {symbol} = {_MP.nstr(root, 6)}) its value jumps from {before} to "
                f"{after}; let the branches meet, or smooth the step with tanh(k*x)"
            )


def _comparisons(piecewise: sp.Piecewise) -> list[Relational]:
    """Return the comparisons of the conditions, in order; not those of Piecewise nested in them."""
    found: list[Relational] = []
    pending = [pair.cond for pair in reversed(piecewise.args)]
    while pending:
        node = pending.pop()
        if isinstance(node, Relational):
            found.append(node)
        elif isinstance(node, sp.And | sp.Or | sp.Not):
            # args of And and Or are sets in disguise: sort, for the same error message on every run
            pending.extend(sorted(node.args, key=lambda item: item.sort_key(), reverse=True))
    return found


def _bases(piecewise: sp.Piecewise, spec: Spec) -> list[_Point]:
    """Return random points; parameters near their defaults, or positive, as masses and lengths are."""
    generator = random.Random(0)
    defaults: dict[sp.Symbol, float] = {}
    for parameter in spec.parameters:
        defaults.update(
            zip(parameter.symbols, parameter.default or [1.0] * len(parameter.symbols), strict=True)
        )
    used = sorted(symbols_in(piecewise), key=lambda symbol: symbol.name)
    bases = []
    for _ in range(_BASES):
        base = {}
        for symbol in used:
            draw = generator.uniform(0.7, 1.3)
            state = generator.choice((-1, 1)) * draw
            base[symbol] = _MP.mpf(defaults[symbol] * draw if symbol in defaults else state)
        bases.append(base)
    return bases


def _boundary_points(gap: sp.Expr, base: _Point) -> Iterator[tuple[sp.Symbol, Any]]:
    """Yield (symbol, value) where ``gap`` changes sign along one symbol's axis through ``base``."""
    for symbol in sorted(symbols_in(gap), key=lambda item: item.name):

        def along(value: Any, symbol: sp.Symbol = symbol) -> Any:
            return _value(gap, {**base, symbol: value})

        at = [along(_MP.mpf(value)) for value in (0, 1, 2)]
        if None not in at and at[1] != at[0] and abs(at[2] - 2 * at[1] + at[0]) <= _SIDE * abs(at[1] - at[0]):
            yield symbol, at[0] / (at[0] - at[1])
            continue
        start = base[symbol]
        for offset in _SCAN:
            root = _bisect(along, start, start + offset)
            if root is not None:
                yield symbol, root
                break


def _bisect(function: Callable[[Any], Any], left: Any, right: Any) -> Any | None:
    """Return a sign change of ``function`` between two points to about 45 digits, or None."""
    at_left, at_right = function(left), function(right)
    if at_left is None or at_right is None or at_left * at_right >= 0:
        return None
    while abs(right - left) > _SIDE * _SIDE**0.5:
        middle = (left + right) / 2
        at_middle = function(middle)
        if at_middle is None:
            return None
        if at_left * at_middle <= 0:
            right = middle
        else:
            left, at_left = middle, at_middle
    return (left + right) / 2


def _jump(piecewise: sp.Piecewise, base: _Point, symbol: sp.Symbol, root: Any) -> tuple[Any, Any] | None:
    """Return the two values at a boundary if they differ, None if they agree or cannot be had."""
    step = _SIDE * max(1, abs(root))
    before = _value(piecewise, {**base, symbol: root - step})
    after = _value(piecewise, {**base, symbol: root + step})
    if before is None or after is None:
        return None
    if abs(after - before) <= _ABSOLUTE + _RELATIVE * max(abs(before), abs(after)):
        return None
    return before, after


def _value(expression: sp.Basic, point: _Point) -> Any | None:
    """Return the value with 50 digits; None where it is not a finite real number."""
    try:
        value = _evaluate(expression, dict(point))
    except (ValueError, ZeroDivisionError, OverflowError, TypeError, RecursionError):
        return None
    return value if isinstance(value, _MP.mpf) and _MP.isfinite(value) else None


def _evaluate(node: sp.Basic, known: dict[sp.Basic, Any]) -> Any:
    if node in known:
        return known[node]
    if isinstance(node, sp.Piecewise):
        # only the branch that holds: the others may be undefined here
        branch = next(pair.expr for pair in node.args if _evaluate(pair.cond, known))
        value = _evaluate(branch, known)
    elif node in (sp.true, sp.false):
        value = bool(node)
    elif isinstance(node, sp.Number | sp.NumberSymbol):
        value = _MP.mpf(sp.Float(node, _MP.dps))
    else:
        value = _FUNCTIONS[node.func](*(_evaluate(argument, known) for argument in node.args))
    known[node] = value
    return value
