"""Refuses what jumps: its derivative at the boundary does not exist, and none would be missed.

Numerically, with 50 digits: on the boundary of each comparison, Heaviside and sign (found along one symbol, the others
at fixed random values) the values a hair to both sides must agree, if not those of the Piecewise or step itself then
those of something that it stands in, as a product with a factor that is 0 there. A boundary that is not found is not
judged.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import mpmath
import sympy as sp
from sympy.core.relational import Relational

from mpcgen.errors import UnsupportedExpressionError
from mpcgen.problem.expressions import short_text
from mpcgen.problem.functions import CONNECTIVES, MEANINGS, STEPS
from mpcgen.problem.nodes import Joined
from mpcgen.problem.spec import Spec
from mpcgen.problem.walks import inner_first, symbols_in, unique_nodes

_MP = mpmath.MPContext()
_MP.dps = 50

# Either side of the boundary. The square root of this is still far below the tolerance, so that sqrt(x)
# meeting zero passes.
_SIDE = _MP.mpf(10) ** -30
# Constants of a join are often typed with a few digits less than double precision.
_ABSOLUTE, _RELATIVE = _MP.mpf("1e-9"), _MP.mpf("1e-6")
_BASES = 4
_SCAN = tuple(_MP.mpf(sign * value) for value in (0.001, 0.03, 0.3, 1, 3, 10, 100, 10000) for sign in (-1, 1))


def _atan2(y: Any, x: Any) -> Any:
    if isinstance(y, _MP.mpc) or isinstance(x, _MP.mpc):
        raise ValueError(f"atan2 of {y} and {x}, which are not both real")
    return _MP.atan2(y, x)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": _MP.power,
    "abs": abs,
    "sign": _MP.sign,
    "atan2": _atan2,
    "length": _MP.sqrt,
    "min": min,
    "max": max,
    "select": lambda condition, then, other: then if condition else other,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
}
"""What the meanings of `mpcgen.problem.functions` are written in, for numbers with 50 digits."""
_SAME_NAME = "sqrt exp expm1 log log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf"
OPERATIONS |= {name: getattr(_MP, name) for name in _SAME_NAME.split()}

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
    smooth: set[sp.Basic] = set()
    seen: set[sp.Basic] = set()
    if not any(isinstance(node, STEPS) for _, place in places for node in unique_nodes(place, seen)):
        return
    for place, expression in places:
        known: dict[Any, _Sides] = {}
        nodes = inner_first(expression)
        for node in unique_nodes(expression):
            if isinstance(node, STEPS) and node not in smooth and not _jumps(node, nodes, known, place, spec):
                smooth.add(node)


def _places_of_constraints(spec: Spec) -> Iterator[tuple[str, sp.Expr]]:
    for constraint in spec.constraints:
        for index, label in enumerate(constraint.labels):
            yield f"the constraint {label!r}", constraint.rows[index]
            yield f"the lower bound of {label!r}", constraint.lower[index]
            yield f"the upper bound of {label!r}", constraint.upper[index]
            yield f"soft of {label!r}", constraint.soft[index]
            yield f"soft_quadratic of {label!r}", constraint.soft_quadratic[index]


def _jumps(
    step: sp.Basic, nodes: Sequence[sp.Basic], known: dict[Any, "_Sides"], place: str, spec: Spec
) -> bool:
    """Whether a step jumps by itself; UnsupportedExpressionError if the expression around it does, too.

    nodes: that expression, as `inner_first` lists it. known: boundaries of the expression's other steps, which often
    are the same; values there are computed once.
    """
    found = False
    for gap, base in itertools.product(_gaps(step), _bases(step, nodes[-1], spec)):
        for symbol, root in _boundary_points(gap, base):
            sides = known.setdefault((symbol, root, *base.items()), _Sides(nodes, base, symbol, root))
            jump = sides.jump(step)
            if jump is None:
                continue
            found = True
            if not sides.reached:
                continue
            before, after = (_MP.nstr(value, 6) for value in jump)
            raise UnsupportedExpressionError(
                f"{place} contains {short_text(step)}, a discontinuity with no derivative where one is "
                f"needed: where {short_text(gap)} meets 0 (at {symbol} = {_MP.nstr(root, 6)}) its value jumps from "
                f"{before} to {after}, and what it stands in jumps with it; let the branches meet, or smooth the step "
                "with tanh(k*x)"
            )
    return found


class _Sides:
    """Values a hair to both sides of a boundary, at ``symbol`` = ``root``, the other symbols as in ``base``.

    nodes: an expression with all that it contains, itself last, see `inner_first`.
    """

    def __init__(self, nodes: Sequence[sp.Basic], base: _Point, symbol: sp.Symbol, root: Any) -> None:
        self._nodes = nodes
        step = _SIDE * max(1, abs(root))
        self._before: dict[sp.Basic, Any] = {**base, symbol: root - step}
        self._after: dict[sp.Basic, Any] = {**base, symbol: root + step}

    def judge(self, *terms: sp.Basic) -> bool | None:
        """Whether the two values of a sum differ; None where one cannot be had."""
        before = [value_at(term, self._before) for term in terms]
        after = [value_at(term, self._after) for term in terms]
        if None in before or None in after:
            return None
        left, right = _MP.fsum(before), _MP.fsum(after)
        return bool(abs(right - left) > _ABSOLUTE + _RELATIVE * max(abs(left), abs(right)))

    def jump(self, node: sp.Basic) -> tuple[Any, Any] | None:
        """The two values if they differ, None if they agree or cannot be had."""
        return (value_at(node, self._before), value_at(node, self._after)) if self.judge(node) else None

    @cached_property
    def reached(self) -> bool:
        """Whether a step's jump shows in the expression: in 2*Max(0, x)*Heaviside(x) it does not.

        What has no value at one side, as the terms of a branch not taken, passes a jump on to what it stands in.
        """
        jumping: set[sp.Basic] = set()
        for node in self._nodes:
            inner = not jumping.isdisjoint(node.args)
            if isinstance(node, STEPS):
                judged = self.judge(node)
                jumps = bool(judged) or (inner and judged is None)
            elif inner and isinstance(
                node, sp.Add
            ):  # large terms that do not jump must not hide those that do
                jumps = self.judge(*(term for term in node.args if term in jumping)) is not False
            else:
                jumps = inner and (not isinstance(node, sp.Expr) or self.judge(node) is not False)
            if jumps:
                jumping.add(node)
        return self._nodes[-1] in jumping


def _gaps(step: sp.Basic) -> list[sp.Expr]:
    """Return the expressions whose change of sign is a step's boundary, in order."""
    if not isinstance(step, sp.Piecewise):
        return [step.args[0]]
    return [comparison.lhs - comparison.rhs for comparison in _comparisons(step)]


def _comparisons(piecewise: sp.Piecewise) -> list[Relational]:
    """Return the comparisons of the conditions, in order; not those of Piecewise nested in them."""
    found: list[Relational] = []
    pending = [pair.cond for pair in reversed(piecewise.args)]
    while pending:
        node = pending.pop()
        if isinstance(node, Relational):
            found.append(node)
        elif isinstance(node, CONNECTIVES):
            # args of And and Or are sets in disguise: sort, for the same error message on every run
            pending.extend(sorted(node.args, key=lambda item: item.sort_key(), reverse=True))
    return found


def _bases(step: sp.Basic, expression: sp.Expr, spec: Spec) -> list[_Point]:
    """Return random points; parameters near their defaults, or positive, as masses and lengths are."""
    generator = random.Random(0)
    defaults: dict[sp.Symbol, float] = {}
    for parameter in spec.parameters:
        defaults.update(
            zip(parameter.symbols, parameter.default or [1.0] * len(parameter.symbols), strict=True)
        )
    inner = symbols_in(step)
    used = sorted(symbols_in(expression), key=lambda symbol: (symbol not in inner, symbol.name))
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
            return value_at(gap, {**base, symbol: value})

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


def number(value: float) -> Any:
    """A number as `value_at` takes them."""
    return _MP.mpf(value)


def value_at(expression: sp.Basic, known: dict[sp.Basic, Any]) -> Any | None:
    """Return the value with 50 digits; None where it is not a finite real number.

    known: values of the symbols, and of whatever was computed from them before.
    """
    try:
        value = _evaluate(expression, known)
    except (KeyError, ValueError, ZeroDivisionError, OverflowError, TypeError, RecursionError):
        return None  # a KeyError: of a function without a meaning
    return value if isinstance(value, _MP.mpf) and _MP.isfinite(value) else None


def _evaluate(node: sp.Basic, known: dict[sp.Basic, Any]) -> Any:
    if node in known:
        return known[node]
    if isinstance(node, sp.Piecewise):
        # only the branch that holds: the others may be undefined here
        branch = next(pair.expr for pair in node.args if _evaluate(pair.cond, known))
        value = _evaluate(branch, known)
    elif isinstance(node, Joined):
        value = _evaluate(node.args[1 if _evaluate(node.args[0], known) else 2], known)
    elif node in (sp.true, sp.false):
        value = bool(node)
    elif isinstance(node, sp.Number | sp.NumberSymbol):
        value = _MP.mpf(sp.Float(node, _MP.dps))
    else:
        apply = lambda operation, *values: OPERATIONS[operation](*values)  # noqa: E731
        value = MEANINGS[type(node)](apply, *(_evaluate(argument, known) for argument in node.args))
        if isinstance(value, float):
            value = _MP.mpf(value)
    known[node] = value
    return value
