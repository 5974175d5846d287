"""Rates of states inside of residuals: dynamics that are not solved for them, F(dx/dt, x, u) = 0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import sympy as sp

from mpcgen.errors import SpecError
from mpcgen.problem.walks import symbols_in

if TYPE_CHECKING:
    from mpcgen.problem.spec import DynamicsSpec


def rate(state: Any) -> sp.Symbol:
    """Return the symbol of dx/dt of a state, for the residuals of `mpcgen.radau`.

    Args:
        state: the symbol of a state that is integrated.

    Raises:
        SpecError: no symbol. Elsewhere than in a residual, and of what is no state that is integrated, the
            specification is refused.

    """
    if not isinstance(state, sp.Symbol):
        raise SpecError(
            f"mpcgen.rate was given {state!r}; expected the symbol of a state, as problem.states returns it"
        )
    return sp.Symbol(f"rate({state.name})", real=True)  # which is no name that a user may choose


def rates_of(states: Iterable[sp.Symbol]) -> dict[sp.Symbol, sp.Symbol]:
    """The states by the symbols of their rates."""
    return {rate(state): state for state in states}


def is_rate(symbol: sp.Symbol) -> bool:
    """Whether `rate` made a symbol, be it of a state or not."""
    return symbol.name.startswith("rate(")


def unknown_rates(states: Sequence[sp.Symbol], dynamics: DynamicsSpec) -> tuple[int, ...]:
    """Positions of the states whose rate residuals read and no row gives."""
    zero = dynamics.is_algebraic
    read = symbols_in(*(row for row, flag in zip(dynamics.expressions, zero, strict=True) if flag))
    return tuple(
        i for i, (state, flag) in enumerate(zip(states, zero, strict=True)) if flag and rate(state) in read
    )


def undetermined(states: Sequence[sp.Symbol], dynamics: DynamicsSpec) -> sp.Symbol | None:
    """The first state with a residual that no choice of a residual for each such state determines, or None.

    A residual can determine what it reads: an algebraic state, or the rate or value of another.
    """
    rows = [
        (state, symbols_in(row))
        for state, row, zero in zip(states, dynamics.expressions, dynamics.is_algebraic, strict=True)
        if zero
    ]
    read = [
        {index for index, (_, symbols) in enumerate(rows) if state in symbols or rate(state) in symbols}
        for state, _ in rows
    ]
    chosen: dict[int, int] = {}

    def finds(unknown: int, tried: set[int]) -> bool:
        for row in sorted(read[unknown] - tried):
            tried.add(row)
            if row not in chosen or finds(chosen[row], tried):
                chosen[row] = unknown
                return True
        return False

    return next((state for unknown, (state, _) in enumerate(rows) if not finds(unknown, set())), None)
