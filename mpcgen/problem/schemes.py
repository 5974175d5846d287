"""Integrators. Explicit ones are composed on the graph: the right-hand side is lowered once and substituted.

Each of those takes the right-hand side dx/dt (n expressions), the states x (n symbols) and the step h, and returns
the n states one step later, the controls held.
"""

import math
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

TABLEAUS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "euler": ((0.0,), (1.0,)),
    "midpoint": ((0.0, 0.5), (0.0, 1.0)),
    "rk4": ((0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
"""The same as coefficients: how far a stage is from the first along the slope of the one before, and the share that
each slope has in the step."""


_ROOT = math.sqrt(6)
STAGE_EQUATIONS: dict[str, tuple[tuple[tuple[float, ...], ...], tuple[float, ...], tuple[float, ...]]] = {
    "implicit_midpoint": (((0.5,),), (1.0,), (2.0,)),
    "radau3": (((5 / 12, -1 / 12), (3 / 4, 1 / 4)), (3 / 4, 1 / 4), (0.0, 1.0)),
    "radau5": (
        (
            ((88 - 7 * _ROOT) / 360, (296 - 169 * _ROOT) / 1800, (-2 + 3 * _ROOT) / 225),
            ((296 + 169 * _ROOT) / 1800, (88 + 7 * _ROOT) / 360, (-2 - 3 * _ROOT) / 225),
            ((16 - _ROOT) / 36, (16 + _ROOT) / 36, 1 / 9),
        ),
        ((16 - _ROOT) / 36, (16 + _ROOT) / 36, 1 / 9),
        (0.0, 0.0, 1.0),
    ),
}
"""Implicit integrators: the matrix A and the weights b of a stage's slopes, and b'A^-1, the weights of its states.

Radau IIA: Hairer and Wanner 1996, Solving Ordinary Differential Equations II, tables IV.5.5 and IV.5.6."""


def one_step(
    scheme: str, rhs: Sequence[Expr], states: Sequence[Expr], dt: Expr, substeps: int = 1
) -> list[Expr]:
    """Return the n states after the first of ``substeps`` equal steps of ``scheme``, which take ``dt`` together.

    Raises `SpecError` for an unknown scheme or fewer than one step.
    """
    if scheme not in SCHEMES:
        raise SpecError(f"unknown integrator {scheme!r}; use one of {', '.join(SCHEMES)}")
    if substeps < 1:
        raise SpecError(f"an integrator was given {substeps} substeps; use at least 1")
    return SCHEMES[scheme](rhs, states, dt / float(substeps))


def repeated(step: Sequence[Expr], states: Sequence[Expr], substeps: int) -> list[Expr]:
    """Return the n states after ``substeps`` steps."""
    current = list(step)
    for _ in range(substeps - 1):
        current = _at(step, states, current)
    return current


def _advance(states: Sequence[Expr], h: Expr, slopes: Sequence[Expr]) -> list[Expr]:
    return [x + h * slope for x, slope in zip(states, slopes, strict=True)]


def _at(rhs: Sequence[Expr], states: Sequence[Expr], point: Sequence[Expr]) -> list[Expr]:
    return substitute(rhs, dict(zip(states, point, strict=True)))
