"""Continuous-time dynamics: a right-hand side and the scheme that integrates it.

The ODE is kept as written; the scheme is composed later, on the expression graph, where the calls of the
right-hand side share their text. Expanding it in sympy would not.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sympy as sp

from mpcgen.errors import SpecError
from mpcgen.problem.rates import is_rate
from mpcgen.problem.spec import MOST_NEWTON_STEPS, SCHEMES, DynamicsSpec
from mpcgen.problem.values import as_expression, as_integer, as_mapping, as_nested, as_vector
from mpcgen.problem.walks import symbols_in

if TYPE_CHECKING:
    from mpcgen.problem.problem import Problem

_LEFT = "that discrete= and residual= leave "


def euler(
    problem: "Problem", rhs: Any, dt: Any, substeps: int = 1, discrete: Mapping[Any, Any] | None = None
) -> DynamicsSpec:
    """Explicit Euler: x[t+1] = x + dt f(x, u). Arguments as for `rk4`."""
    return integrated(problem, rhs, dt, substeps, "euler", discrete)


def midpoint(
    problem: "Problem", rhs: Any, dt: Any, substeps: int = 1, discrete: Mapping[Any, Any] | None = None
) -> DynamicsSpec:
    """Explicit midpoint rule: x[t+1] = x + dt f(x + dt/2 f(x, u), u). Arguments as for `rk4`."""
    return integrated(problem, rhs, dt, substeps, "midpoint", discrete)


def rk4(
    problem: "Problem", rhs: Any, dt: Any, substeps: int = 1, discrete: Mapping[Any, Any] | None = None
) -> DynamicsSpec:
    """Classic fourth-order Runge-Kutta, the control held over the stage.

    Args:
        problem: whose states ``rhs`` differentiates, one row each.
        rhs: (n) dx/dt, a list or a sympy column Matrix; a row for each state that is integrated, in order.
        dt: duration of one stage, a positive number or an expression in parameters, and in states whose dynamics keep
            them as they are.
        substeps: equal integration steps in one stage, at least 1.
        discrete: the next value of states that are not integrated, ``{u_last: u}``: an expression in the stage's first
            state and its controls. They keep their values while the others are integrated.

    Returns:
        A value to assign to ``problem.dynamics``.

    Raises:
        SpecError: wrong number of rows, dt <= 0, substeps < 1, discrete rows of what is no state.

    """
    return integrated(problem, rhs, dt, substeps, "rk4", discrete)


def integrated(
    problem: "Problem",
    rhs: Any,
    dt: Any,
    substeps: int,
    scheme: str,
    discrete: Mapping[Any, Any] | None = None,
    what: str | None = None,
    residual: Mapping[Any, Any] | Sequence[Any] | None = None,
    newton: int = MOST_NEWTON_STEPS,
) -> DynamicsSpec:
    """Return dynamics whose rows are rates, but for those of ``discrete`` and ``residual``; arguments as for `rk4`.

    what: whose rows they are, for a message.
    """
    held = discrete_rows(problem, discrete, f"discrete= of {scheme}")
    zero = algebraic_rows(problem, residual, held, f"residual= of {scheme}")
    rows = _mixed_rows(
        problem, held | zero, [] if rhs is None else rhs, what or f"the right-hand side given to {scheme}"
    )
    flags = tuple(state in held for state in problem.state_symbols) if held else ()
    algebraic = tuple(state in zero for state in problem.state_symbols) if zero else ()
    step = as_expression(dt, f"dt of {scheme}")
    if not step.free_symbols and not (step.is_positive and step.is_finite):
        raise SpecError(f"dt of {scheme} is {step}; expected a positive, finite duration")
    return DynamicsSpec(
        rows,
        scheme,
        step,
        as_integer(substeps, f"substeps of {scheme}", 1),
        flags,
        algebraic,
        as_integer(newton, f"newton of {scheme}", 1),
    )


def discrete_rows(problem: "Problem", discrete: Any, what: str) -> dict[sp.Symbol, sp.Expr]:
    """Return next states by state, of what a user wrote; None is none."""
    rows = _rows_by_state(problem, discrete, what, "{u_last: u}, the next state by state", "discrete row")
    if rows and len(rows) == len(problem.state_symbols):
        raise SpecError(f"{what} has all states; assign the next state itself to problem.dynamics")
    return rows


def algebraic_rows(
    problem: "Problem", residual: Any, held: Mapping[sp.Symbol, sp.Expr], what: str
) -> dict[sp.Symbol, sp.Expr]:
    """Return residuals by state, of what a user wrote; None is none. ``held``: discrete rows.

    A list has a residual for each state without a discrete row.
    """
    if isinstance(as_nested(residual), list):
        others = [state for state in problem.state_symbols if state not in held]
        entries = dynamics_rows(residual, tuple(state.name for state in others), what, _LEFT if held else "")
        residual = dict(zip(others, entries, strict=True))
    rows = _rows_by_state(
        problem, residual, what, "{y: y**2 - x}, what is zero, by state, or a list", "residual"
    )
    for state in rows:
        if state in held:
            raise SpecError(f"state {state} has a row in discrete= and one in residual=; give it one of them")
    has_rates = any(map(is_rate, symbols_in(*rows.values())))
    if rows and not has_rates and len(rows) + len(held) == len(problem.state_symbols):
        raise SpecError(
            f"{what} leaves no state that has a rate; expected at least one row in the right-hand side, or a residual "
            "that reads a rate, as mpcgen.rate(x) - v does"
        )
    return rows


def _rows_by_state(
    problem: "Problem", rows: Any, what: str, example: str, kind: str
) -> dict[sp.Symbol, sp.Expr]:
    if rows is None:
        return {}
    names = ", ".join(problem.state_names)
    for state in as_mapping(rows, what, example):
        if isinstance(state, str) or state not in problem.state_symbols:
            raise SpecError(
                f"{what} has {state!r}; expected states of the problem, the symbols {names}: {example}"
            )
    return {state: as_expression(row, f"the {kind} of {state}") for state, row in rows.items()}


def _mixed_rows(
    problem: "Problem", held: Mapping[sp.Symbol, sp.Expr], rows: Any, what: str
) -> tuple[sp.Expr, ...]:
    """A row per state: those that have a row already, ``held``, and the others in order."""
    others = tuple(state.name for state in problem.state_symbols if state not in held)
    if held and not others and not len(as_vector(rows, what)):
        return tuple(held[state] for state in problem.state_symbols)
    given = iter(dynamics_rows(rows, others, what, _LEFT if held else ""))
    return tuple(held[state] if state in held else next(given) for state in problem.state_symbols)


def dynamics_of(
    problem: "Problem",
    rows: Any,
    scheme: str,
    dt: Any,
    substeps: int,
    what: str,
    discrete: Mapping[Any, Any] | None = None,
) -> DynamicsSpec:
    """Return dynamics whose scheme is an argument: "discrete", for which ``rows`` are the next state, or another.

    what: whose rows they are, for a message. discrete: rows of the states that ``rows`` leaves out.
    """
    if scheme == "discrete":
        if dt is not None or substeps != 1:
            raise SpecError(
                f"{what} was given dt or substeps with scheme 'discrete', whose rows are the next state; leave them "
                "out, or say how to integrate: scheme='rk4'"
            )
        held = discrete_rows(problem, discrete, f"discrete= of {what}")
        return DynamicsSpec(_mixed_rows(problem, held, rows, what))
    if scheme not in SCHEMES:
        raise SpecError(f"the scheme of {what} is {scheme!r}; expected one of {', '.join(SCHEMES)}")
    if dt is None:
        raise SpecError(f"{what} with scheme {scheme!r} needs dt, the duration of one stage")
    return integrated(problem, rows, dt, substeps, scheme, discrete, what)


def dynamics_rows(rows: Any, states: tuple[str, ...], what: str, which: str = "") -> tuple[sp.Expr, ...]:
    """Return one expression per state; SpecError where the count differs. ``which`` says of which states."""
    entries = as_vector(rows, what)
    if not states and not which:
        raise SpecError(f"{what} is given before any state: call problem.states('x v ...') first")
    if len(entries) != len(states):
        raise SpecError(
            f"{what} has {len(entries)} {'row' if len(entries) == 1 else 'rows'} for the {len(states)} "
            f"{'state' if len(states) == 1 else 'states'} {which}({', '.join(states)}); expected one row per state, "
            "in this order"
        )
    return tuple(
        as_expression(entry, f"{what}, row {index} (state {state})")
        for index, (entry, state) in enumerate(zip(entries, states, strict=True))
    )
