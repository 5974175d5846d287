"""Explicit integrators, composed on the graph: the right-hand side is lowered once and substituted.

Each takes the right-hand side dx/dt (n expressions), the states x (n symbols) and the step h, and returns
the n states one step later, the controls held.
"""

from collections.abc import Callable, Sequence

from mpcgen.errors import SpecError
from mpcgen.ir.expr import Expr
from mpcgen.ir.walk import substitute

Step = Callable[[Sequence[Expr], Sequence[Expr], Expr], list[Expr]]


def euler(rhs: Sequence[Expr], states: Sequence[Expr], h: Expr) -> list[Expr]:
    """First order: x + h f(x)."""
    return _advance(states, h, rhs)


def midpoint(rhs: Sequence[Expr], states: Sequence[Expr], h: Expr) -> list[Expr]:
    """Second order: x + h f(x + h/2 f(x))."""
    return _advance(states, h, _at(rhs, states, _advance(states, h * 0.5, rhs)))


def rk4(rhs: Sequence[Expr], states: Sequence[Expr], h: Expr) -> list[Expr]:
    """Fourth order, the classical Runge-Kutta scheme."""
    k1 = list(rhs)
    k2 = _at(rhs, states, _advance(states, h * 0.5, k1))
    k3 = _at(rhs, states, _advance(states, h * 0.5, k2))
    k4 = _at(rhs, states, _advance(states, h, k3))
    slopes = [a + 2.0 * (b + c) + d for a, b, c, d in zip(k1, k2, k3, k4, strict=True)]
    return _advance(states, h / 6.0, slopes)


SCHEMES: dict[str, Step] = {"euler": euler, "midpoint": midpoint, "rk4": rk4}
"""The integrators by the name a specification calls them."""


def integrate(
    scheme: str, rhs: Sequence[Expr], states: Sequence[Expr], dt: Expr, substeps: int = 1
) -> list[Expr]:
    """Return the n states after ``dt`` in ``substeps`` equal steps of ``scheme``.

    Raises `SpecError` for an unknown scheme or fewer than one step.
    """
    if scheme not in SCHEMES:
        raise SpecError(f"unknown integrator {scheme!r}; use one of {', '.join(SCHEMES)}")
    if substeps < 1:
        raise SpecError(f"an integrator was given {substeps} substeps; use at least 1")
    one_step = SCHEMES[scheme](rhs, states, dt / float(substeps))
    current = one_step
    for _ in range(substeps - 1):
        current = _at(one_step, states, current)
    return current


def _advance(states: Sequence[Expr], h: Expr, slopes: Sequence[Expr]) -> list[Expr]:
    return [x + h * slope for x, slope in zip(states, slopes, strict=True)]


def _at(rhs: Sequence[Expr], states: Sequence[Expr], point: Sequence[Expr]) -> list[Expr]:
    return substitute(rhs, dict(zip(states, point, strict=True)))
