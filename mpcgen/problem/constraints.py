"""Constraints as users write them: from the arguments of `Problem.constraint` to a checked `Constraint`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import sympy as sp
from sympy.core.relational import Relational

from mpcgen.errors import SpecError
from mpcgen.problem import values
from mpcgen.problem.expressions import symbols_in
from mpcgen.problem.spec import Constraint, Spec

Reader = Callable[[sp.Expr, str, tuple[str, ...]], sp.Expr]
"""Checks an expression that stands in a place and may depend on some kinds of symbols; returns it."""


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


def checked_bound(bound: sp.Expr, word: str, of: str, read: Reader) -> sp.Expr:
    """Return a bound (``word``: "lower" or "upper") that may stand there: a number, an absent one, parameters."""
    absent = -sp.oo if word == "lower" else sp.oo
    if bound is sp.nan or bound == -absent:
        raise SpecError(f"the {word} bound of {of} is {bound}; expected a number, {absent} or a parameter")
    if bound.is_infinite and bound.is_number:
        return bound
    return read(bound, f"the {word} bound of {of}", ("parameter",))


def checked(constraint: Constraint, spec: Spec, read: Reader) -> Constraint:
    """Return the constraint with every expression checked, and ``reads_control`` filled in."""
    kinds: tuple[str, ...] = (
        ("state", "parameter") if constraint.terminal else ("state", "control", "parameter")
    )
    place = "the terminal constraint" if constraint.terminal else "the constraint"
    labels = constraint.labels
    rows = tuple(
        read(row, f"{place} {label!r}", kinds) for label, row in zip(labels, constraint.rows, strict=True)
    )
    controls = {control.symbol for control in spec.controls}
    states = set(spec.states)
    reads_control = []
    for label, row in zip(labels, rows, strict=True):
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
    lower, upper = (
        tuple(
            checked_bound(bound, word, repr(label), read) for bound, label in zip(bounds, labels, strict=True)
        )
        for bounds, word in ((constraint.lower, "lower"), (constraint.upper, "upper"))
    )
    for label, low, high in zip(labels, lower, upper, strict=True):
        _check_order(place, label, low, high)
    soft = tuple(
        _weight(weight, "soft", label, read) for weight, label in zip(constraint.soft, labels, strict=True)
    )
    quadratic = tuple(
        _weight(weight, "soft_quadratic", label, read)
        for weight, label in zip(constraint.soft_quadratic, labels, strict=True)
    )
    for label, linear, square in zip(labels, soft, quadratic, strict=True):
        if linear == 0 and square == 0:
            raise SpecError(
                f"{place} {label!r} is soft with weight 0, so that it does nothing; give it a weight"
            )
    return replace(
        constraint,
        rows=rows,
        lower=lower,
        upper=upper,
        soft=soft,
        soft_quadratic=quadratic,
        reads_control=any(reads_control),
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


def _weight(weight: sp.Expr, word: str, label: str, read: Reader) -> sp.Expr:
    if word == "soft" and weight is sp.oo:
        return weight
    if weight is sp.nan or weight.is_negative or weight.is_infinite:
        raise SpecError(
            f"{word} of the constraint {label!r} is {weight}; expected a weight >= 0, a number or a parameter"
        )
    return read(weight, f"{word} of the constraint {label!r}", ("parameter",))
