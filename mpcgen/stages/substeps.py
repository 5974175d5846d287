"""The functions of a right-hand side, where loops integrate a stage, and of what is outside of the loops.

The moving states z change by k(z, v) in a step's time; v is what a stage holds, controls and other states. c(z, v) is
what the running costs add in that time, weighted by ``share``, the part that a slope has in a step. Loops over a step's
slopes and over a stage's steps compose them, forwards and backwards (`mpcgen_runge_kutta.h`, of implicit schemes
`mpcgen_implicit.h`; `mpcgen_substeps.h`). The outer functions are those of a stage without the moving states' rows and
without the running costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mpcgen.stages.slots import CHANGE, LOSS, SUMS, THETA, slot
from mpcgen.stages.table import StageFunction

MOVING, HELD = "NMOVING", "NHELD"
"""Sizes of z and v."""
BOTH = "NMOVING + NHELD"
VALUES = "rate_values"
NEWTON = "rate_newton"
SLOPES = "rate_slopes"
CURVATURE = "rate_curvature"
ADJOINT = "rate_adjoint"
_POINT = (
    slot("const real *restrict moving", "x", MOVING, "moving states z"),
    slot("const real *restrict held", "u", HELD, "what the stage holds, v"),
    *THETA,
    slot("const real *restrict share", "share", "1", "weight of c"),
)
_COSTATE = slot("const real *restrict costate", "costate", MOVING, "lambda, what multiplies k")
_D_MOVING = slot("const real *restrict d_moving", "d_x", MOVING, "differential of z")
_D_HELD = slot("const real *restrict d_held", "d_u", HELD, "differential of v")
_D_COSTATE = slot("const real *restrict d_costate", "d_costate", MOVING, "differential of lambda")
_D_CHANGE = slot("real *restrict d_change", "d_change", MOVING, "differential of k")
_MATRIX = slot("real *restrict F", "F", f"NMOVING * ({BOTH})", "dk/d(z, v), row by row")
_SLOPE = slot("real *restrict slope", "slope", BOTH, "gradient of share c + lambda'k by (z, v)")
_BEFORE = slot("real *restrict before", "before", MOVING, "gradient of share c + lambda'k by z")


def outer_name(name: str) -> str:
    """What is outside of the loops of a function is called so."""
    return f"outer_{name.removeprefix('stage_')}"


def outer(function: StageFunction) -> StageFunction:
    """What is outside of the loops of a function."""
    name = outer_name(function.name)
    return replace(
        function,
        name=name,
        purpose=f"{function.purpose}; all outside of loops",
        knows_next=False,
    )


def rate_functions() -> Iterator[StageFunction]:
    """The functions of a right-hand side."""
    cost = slot("real *restrict cost", "cost", "1", "share c")
    change = slot("real *restrict change", "change", MOVING, "k")
    yield StageFunction(VALUES, "change k of the moving states, and share c", _POINT, (change, cost))
    square = slot("real *restrict J", "J", f"{MOVING} * {MOVING}", "dk/dz, row by row")
    yield StageFunction(
        NEWTON, "change k of the moving states, and dk/dz", _POINT[:-1], (change, square), inline=False
    )
    yield StageFunction(
        SLOPES, "first derivatives of k and share c", (*_POINT, _COSTATE), (_MATRIX, _SLOPE), inline=False
    )
    curvature = slot(
        "real *restrict H", "H", f"TRIANGLE({BOTH}, 0)", "Hessian of share c + lambda'k, lower triangle"
    )
    yield StageFunction(
        CURVATURE,
        "derivatives of k and share c",
        (*_POINT, _COSTATE),
        (_MATRIX, curvature, _SLOPE),
        inline=False,
    )
    yield StageFunction(
        ADJOINT, "gradient of share c + lambda'k", (*_POINT, _COSTATE), (_SLOPE,), inline=False
    )
    yield StageFunction(
        "rate_tangent", "directional derivative of k", (*_POINT, _D_MOVING, _D_HELD), (_D_CHANGE,)
    )
    yield StageFunction(
        "rate_gradient",
        "gradient with respect to theta, z and v of d'grad(L) + d_lambda'k + loss_cost L, with L = share c + lambda'k",
        (*_POINT, _COSTATE, _D_MOVING, _D_HELD, _D_COSTATE, LOSS),
        (*SUMS, slot("real *restrict g", "g", BOTH, "gradient by (z, v)"), _BEFORE),
        inline=False,
    )
    d_cost = slot("real *restrict d_cost", "d_cost", "1", "change of share c")
    yield StageFunction(
        "rate_change",
        "change of k and share c along d_theta and a change of z",
        (*_POINT, _D_MOVING, *CHANGE),
        (_D_CHANGE, d_cost),
        inline=False,
    )
    yield StageFunction(
        "rate_forward",
        "gradient of L = share c + lambda'k by z, and the change of grad(L) along d_theta, d_lambda and a change of z",
        (*_POINT, _COSTATE, _D_MOVING, _D_COSTATE, *CHANGE),
        (_BEFORE, slot("real *restrict d_slope", "d_slope", BOTH, "change of the gradient by (z, v)")),
        inline=False,
    )
