"""Constraints as users write them: from the arguments of `Problem.constraint` to a `Constraint`, and its checks."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import sympy as sp
from sympy.core.relational import Relational

from mpcgen.errors import SpecError
from mpcgen.problem import values
from mpcgen.problem.expressions import completed
from mpcgen.problem.spec import Constraint, Spec
from mpcgen.problem.walks import symbols_in

Reader = Callable[[sp.Expr, str, tuple[str, ...]], None]
"""Checks an expression that stands in a place and may depend on some kinds of symbols."""


def make_constraint(
    name: str,
    expressions: Any,
    *,
    lower: Any,
    upper: Any,
    equals: Any,
    soft: Any,
    soft_quadratic: Any,
    terminal: bool,
) -> Constraint:
    """Return the constraint that the arguments describe, one entry per row; its symbols are not checked yet."""
    what = f"constraint {name!r}"
    rows, vector = _rows(expressions, what)
    labels = [f"{name}[{index}]" for index in range(len(rows))] if vector else [name]
    lows, highs = _sides(labels, lower, upper, equals, what)
    if soft is None and soft_quadratic is None:
        linear, quadratic = [sp.oo] * len(rows), [sp.S.Zero] * len(rows)
    else:
        if equals is not None:
            raise SpecError(
                f"{what} has equals= and a soft weight; an equality that may be violated is a penalty on both "
                "sides: say so with lower= and upper= of the same value, or leave the weight out"
            )
        linear = values.one_each(0 if soft is None else soft, labels, f"soft of {what}")
        quadratic = values.one_each(
            0 if soft_quadratic is None else soft_quadratic, labels, f"soft_quadratic of {what}"
        )
    return Constraint(
        name,
        tuple(rows),
        tuple(lows),
        tuple(highs),
        tuple(linear),
        tuple(quadratic),
        terminal=terminal,
        vector=vector,
    )


def state_bounds(symbol: sp.Symbol, lower: sp.Expr, upper: sp.Expr) -> Constraint:
    """Return the bounds of a state as a constraint of its name."""
    return Constraint(symbol.name, (symbol,), (lower,), (upper,), (sp.oo,), (sp.S.Zero,))


def placed(constraint: Constraint, controls: Collection[sp.Symbol]) -> Constraint:
    """Return the constraint with splines completed and ``reads_control`` as its rows do."""
    rows = tuple(map(completed, constraint.rows))
    return replace(constraint, rows=rows, reads_control=not symbols_in(*rows).isdisjoint(controls))


def _rows(expressions: Any, what: str) -> tuple[list[sp.Expr], bool]:
    """The rows, and whether they were given as a vector."""
    if isinstance(expressions, Relational):
        raise SpecError(
            f"{what} is the comparison {expressions}; give the expression and its bounds apart, as in "
            f"problem.constraint(name, {expressions.lhs - expressions.rhs}, upper=0)"
        )
    if not isinstance(values.as_nested(expressions), list):
        return [values.as_expression(expressions, f"the expression of {what}")], False
    entries = values.as_vector(expressions, f"the expressions of {what}")
    if not entries:
        raise SpecError(f"{what} has no rows; expected an expression or a list of them")
    rows = [values.as_expression(entry, f"row {index} of {what}") for index, entry in enumerate(entries)]
    return rows, True


def _sides(
    labels: Sequence[str], lower: Any, upper: Any, equals: Any, what: str
) -> tuple[list[sp.Expr], list[sp.Expr]]:
    if equals is not None:
        if lower is not None or upper is not None:
            side = "upper" if lower is None else "lower"
            raise SpecError(f"{what} has equals= and {side}=; expected one or the other")
        both = values.one_each(equals, labels, f"equals of {what}")
        return both, both
    if lower is None and upper is None:
        raise SpecError(f"{what} has no bounds: give lower=, upper= or equals=")
    return (
        values.one_each(-sp.oo if lower is None else lower, labels, f"the lower bound of {what}"),
        values.one_each(sp.oo if upper is None else upper, labels, f"the upper bound of {what}"),
    )


def check_bound(bound: sp.Expr, word: str, of: str, read: Reader) -> None:
    """Check that a bound (``word``: "lower" or "upper") may stand there: a number, an absent one, parameters."""
    absent = -sp.oo if word == "lower" else sp.oo
    if bound is sp.nan or bound == -absent:
        raise SpecError(f"the {word} bound of {of} is {bound}; expected a number, {absent} or a parameter")
    if not (bound.is_infinite and bound.is_number):
        read(bound, f"the {word} bound of {of}", ("parameter",))


def check(constraint: Constraint, spec: Spec, read: Reader) -> None:
    """Check every expression of a constraint, and that ``reads_control`` says what its rows read."""
    kinds: tuple[str, ...] = (
        ("state", "parameter") if constraint.terminal else ("state", "control", "parameter")
    )
    place = "the terminal constraint" if constraint.terminal else "the constraint"
    labels = constraint.labels
    for label, row in zip(labels, constraint.rows, strict=True):
        read(row, f"{place} {label!r}", kinds)
    _check_reading(constraint, spec, place)
    for index, label in enumerate(labels):
        low, high = constraint.lower[index], constraint.upper[index]
        check_bound(low, "lower", repr(label), read)
        check_bound(high, "upper", repr(label), read)
        _check_order(place, label, low, high)
        linear, square = constraint.soft[index], constraint.soft_quadratic[index]
        _check_weight(linear, "soft", label, read)
        _check_weight(square, "soft_quadratic", label, read)
        if linear == 0 and square == 0:
            raise SpecError(
                f"{place} {label!r} is soft with weight 0, so that it does nothing; give it a weight"
            )


def _check_reading(constraint: Constraint, spec: Spec, place: str) -> None:
    """Every row reads a state or a control, and all of them a control or none."""
    controls = {control.symbol for control in spec.controls}
    states = set(spec.states)
    labels = constraint.labels
    reads_control = []
    for label, row in zip(labels, constraint.rows, strict=True):
        symbols = symbols_in(row)
        if symbols.isdisjoint(states | controls):
            raise SpecError(
                f"{place} {label!r}, {row}, reads no state and no control, so nothing can make it hold; "
                "constrain an expression in them, or remove it"
            )
        reads_control.append(not symbols.isdisjoint(controls))
    if any(reads_control) and not all(reads_control):
        raise SpecError(
            f"{place} {constraint.name!r} has rows that read a control ({labels[reads_control.index(True)]}), which "
            f"hold at stages 0..N-1, and rows that do not ({labels[reads_control.index(False)]}), which hold at stages "
            "1..N; give them two names"
        )
    if constraint.reads_control != any(reads_control):
        raise SpecError(
            f"reads_control of {place} {constraint.name!r} is {constraint.reads_control}, but its rows say "
            f"{any(reads_control)}; leave it to mpcgen.Problem, or set it so"
        )


def _check_order(place: str, label: str, low: sp.Expr, high: sp.Expr) -> None:
    if low == -sp.oo and high == sp.oo:
        raise SpecError(
            f"{place} {label!r} is bounded by nothing on either side; give a finite bound or remove it"
        )
    if (low - high).is_positive:
        raise SpecError(
            f"{place} {label!r} contradicts itself: its lower bound {low} exceeds its upper bound {high} whatever "
            "the parameters; expected lower <= upper"
        )


def _check_weight(weight: sp.Expr, word: str, label: str, read: Reader) -> None:
    if word == "soft" and weight is sp.oo:
        return
    if weight is sp.nan or weight.is_negative or weight.is_infinite:
        raise SpecError(
            f"{word} of the constraint {label!r} is {weight}; expected a weight >= 0, a number or a parameter"
        )
    read(weight, f"{word} of the constraint {label!r}", ("parameter",))
