"""The stage functions: names, what they read and write, and what that means.

The derivation makes a `Function` for each row (`mpcgen.derivative`), C printing takes signatures, comments and places
from it (`mpcgen.codegen`), and the headers in `templates/runtime` call by it. x, u are state and control of a stage;
theta the parameters constant over the stages, theta_t those of one; lambda the costate of the next state; V the Hessian
of the value function there; d the differential of (x, u). A problem with constraints has rows besides the bounds of its
controls, c of a stage (the path rows: mixed ones, then those of states) and of the last state (the end rows: those of
states, then terminal ones); its functions read and write more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache

from mpcgen.stages.network import MAPS, body_functions
from mpcgen.stages.slots import CHANGE, LOSS, SUMS, THETA, member, slot
from mpcgen.stages.substeps import outer, rate_functions
from mpcgen.stages.table import Slot, StageFunction

PREPARE = "prepare_parameters"
DYNAMICS = "stage_dynamics"
ROWS = "stage_rows"
KINDS = ("gauss_newton", "exact")
"""Whose second derivatives a stage's quadratic model has: the cost's alone, or those of cost + weight lambda'f."""
EXPAND = {kind: f"stage_expand_{kind}" for kind in KINDS}
"""The quadratic model of the cost-to-go, by kind."""
DERIVE = {kind: f"stage_derivatives_{kind}" for kind in KINDS}
"""The matrices from which loops make that model, by kind: where its products are too many to be unrolled."""

MATRICES = "stage_matrices"
"""The Hessian of the quadratic model alone, of linear-quadratic problems, where it seldom changes,"""
SLOPES = "stage_slopes"
"""and its gradients. Both together are their `EXPAND`."""

REMEMBERING, REMEMBERED = "stage_dynamics_remembering", "stage_expand_remembered"
"""Next state and cost of a stage, which leave what took long behind the next state in memory, and its exact model,
which finds it there: of problems with constraints, whose candidates become iterates with what they left."""
PULLBACK, END_PULLBACK = "stage_pullback", "terminal_pullback"
"""F'offset + J'force alone, of a stage and of the last state: of those that are linear-quadratic but for rows."""
ADJOINT = "stage_adjoint"
"""The gradients of a stage's Lagrangian alone: of problems with constraints, whose first costates need no Hessian."""
STEP = "stage_step"
"""F d from entries of F that an exact model has kept: of problems with constraints whose F takes long to compute."""

WHOLE = (PULLBACK, END_PULLBACK)
"""Functions of stages that no loop is part of: the others have none of them."""
COMPOSED = (DYNAMICS, *DERIVE.values(), ADJOINT, "stage_tangent", "stage_gradient", "stage_forward")
"""What a loop over substeps is part of, and a stage's cost that reads networks."""
ENDED = ("terminal_cost", "terminal_expand", "terminal_gradient", "terminal_forward")
"""What a terminal cost that reads networks is part of."""
ROWED = {
    "stage": (ROWS, "stage_rows_tangent"),
    "end": ("terminal_rows", "terminal_rows_tangent"),
}
"""What rows that read networks are part of besides, of a stage and of the last state."""

_END = (slot("stored_reals restrict state", "x", "NX"), *THETA)
_POINT = (_END[0], slot("stored_reals restrict control", "u", "NU"), *THETA)
_WEIGHT = slot("const real *restrict weight", "weight", "1")
_MODEL = "stage_model *restrict q"
_VALUE = "const value_model *restrict value"


def _model_rows(rows: str) -> tuple[Slot, ...]:
    """What a quadratic model reads of constraints."""
    return tuple(slot(f"const real *restrict {name}", name, rows) for name in ("dual", "stiffness", "force"))


def _duals(rows: str, differential: bool = False) -> tuple[Slot, ...]:
    name = "d_dual" if differential else "dual"
    return (slot(f"stored_reals restrict {name}", name, rows),)


def _row_changes(rows: str, constrained: bool) -> tuple[Slot, ...]:
    return (slot("reals restrict d_rows", "d_rows", rows, "change of the rows"),) if constrained else ()


@cache
def contract(constrained: bool) -> Mapping[str, StageFunction]:
    """The stage functions by name, of problems with or without constraints.

    A problem has those that it needs: of `EXPAND` or `DERIVE`, no exact ones if there are no second derivatives, or
    `MATRICES` and `SLOPES`; `PREPARE` if there is anything to prepare; weights of rows if any row is soft. Where
    substeps are a loop, those of `COMPOSED` are made of outer functions and those of rates, see
    `mpcgen.stages.substeps`, which networks leave to the functions of a body and of maps, see
    `mpcgen.stages.network`.
    """
    functions = (*_values(), *_models(constrained), *_differentials(constrained), *_bounds())
    functions += (*_rows(), *_remembering(functions)) if constrained else ()
    looped = (*COMPOSED, *ENDED, *ROWED["stage"], *ROWED["end"])
    functions += (
        *rate_functions(),
        *body_functions(),
        *(function for of in MAPS for function in of.functions()),
        *(outer(function) for function in functions if function.name in looped),
    )
    return {function.name: function for function in functions}


def _values() -> Iterator[StageFunction]:
    yield StageFunction(
        PREPARE,
        "what the stages need of the parameters and is the same at all of them",
        (slot("in_reals restrict theta", "theta", "NTHETA"),),
        (slot("out_reals restrict prepared", "prepared", "NPREPARED", "what is read behind theta"),),
        inline=False,
    )
    yield StageFunction(
        DYNAMICS,
        "next state f(x_t, u_t, theta_t) and cost of a stage",
        _POINT,
        (
            slot("reals restrict next_state", "x_next", "NX", "next state"),
            slot("real *restrict cost", "cost", "1", "stage cost"),
        ),
    )
    cost = slot("real *restrict cost", "cost", "1", "terminal cost")
    yield StageFunction("terminal_cost", "cost of the last state", _END, (cost,))


def _slopes_of_model() -> tuple[Slot, ...]:
    return (member(_MODEL, "costate", "costate", "NX", "gradient of the Lagrangian by x"),
            member(_MODEL, "gradient_u", "gradient_u", "NU", "and by u"))  # fmt: skip


def _models(constrained: bool) -> Iterator[StageFunction]:
    yield _terminal_expand(constrained)
    terms, rows = "lambda'f", ""
    more: tuple[Slot, ...] = ()
    if constrained:
        terms, rows, more = (
            "(lambda'f + dual'rows)",
            ", plus J' stiffness J of the rows",
            _model_rows("NPATH"),
        )
    offsets = (member(_MODEL, "offset_x", "offset_x", "NX", "gradient of the value function's share beside lambda"),
               member(_MODEL, "offset_u", "offset_u", "NU", "the same by u"))  # fmt: skip
    gradients = _slopes_of_model()
    for kind in KINDS:
        weight = (_WEIGHT,) if kind == "exact" else ()
        Q = member(_MODEL, "hessian", "Q", "TRIANGLE(NTAU, 0)", "Q, lower triangle")
        of = f"cost + weight {terms}{rows}" if kind == "exact" else f"the cost{rows}"
        kept = (member(_MODEL, "kept", "kept", "NKEPT", "entry of F"),) if constrained and weight else ()
        yield StageFunction(
            EXPAND[kind],
            f"quadratic model of the cost-to-go: Q = H + F'VF, with H the Hessian of {of}",
            (
                *_POINT,
                *weight,
                member(_VALUE, "costate", "costate", "NX"),
                member(_VALUE, "hessian", "V", "NXX"),
                member(_VALUE, "offset", "offset", "NX"),
                *more,
            ),
            (Q, *gradients, *offsets, *kept),
            inline=False,
            knows_next=not constrained,
        )
        if kind == "gauss_newton" and not constrained:
            yield StageFunction(
                MATRICES,
                "Hessian of the quadratic model of the cost-to-go: Q = H + F'VF, with H that of the cost",
                (*_POINT, member(_VALUE, "hessian", "V", "NXX")),
                (Q,),
                inline=False,
            )
            yield StageFunction(
                SLOPES,
                "gradients of the quadratic model of the cost-to-go",
                (
                    *_POINT,
                    member(_VALUE, "costate", "costate", "NX"),
                    member(_VALUE, "offset", "offset", "NX"),
                ),
                (*gradients, *offsets),
                inline=False,
            )
        yield StageFunction(
            DERIVE[kind],
            f"matrices F = df/d(x, u), H = Hessian of {of} (lower triangle), and gradients of the Lagrangian",
            (*_POINT, *weight, slot("const real *restrict costate", "costate", "NX"), *more),
            (
                member(_MODEL, "F", "F", "NX * NTAU", "F, row by row"),
                member(_MODEL, "hessian", "H", "TRIANGLE(NTAU, 0)", "H, lower triangle"),
                *gradients,
                *(offsets if constrained else ()),
            ),
            inline=False,
            knows_next=not constrained,
        )


def _remembering(functions: Iterable[StageFunction]) -> Iterator[StageFunction]:
    """The two that share what is remembered of a point, each beside the one that does without."""
    table = {function.name: function for function in functions}
    dynamics, expand = table[DYNAMICS], table[EXPAND["exact"]]
    (next_state,) = (write.declaration for write in dynamics.writes if write.group == "x_next")
    (state,) = (read.declaration for read in expand.reads if read.group == "x")
    left = slot(
        next_state, "point", "NREMEMBERED", "what the model of the stage needs, too", "(next_state + NX)"
    )
    found = slot(state, "point", "NREMEMBERED", place="(state + 2 * NX)")
    purpose = f"{dynamics.purpose}; and what took long, for {REMEMBERED}"
    yield replace(dynamics, name=REMEMBERING, purpose=purpose, writes=(*dynamics.writes, left))
    purpose = f"the same as {expand.name}, with what {REMEMBERING} has left"
    yield replace(expand, name=REMEMBERED, purpose=purpose, reads=(*expand.reads, found))


def _terminal_expand(constrained: bool) -> StageFunction:
    hessian = slot("real *restrict hessian", "hessian", "NXX", "Hessian, lower triangle")
    costate = slot("real *restrict costate", "costate", "NX", "gradient")
    if not constrained:
        purpose = (
            "value function of the last stage: Hessian (lower triangle) and gradient of the terminal cost"
        )
        return StageFunction("terminal_expand", purpose, _END, (hessian, costate))
    return StageFunction(
        "terminal_expand",
        "value function of the last stage: Hessian of terminal cost + weight dual'rows, plus J' stiffness J "
        "(lower triangle), gradient of terminal cost + dual'rows, and J'force",
        (*_END, _WEIGHT, *_model_rows("NEND")),
        (hessian, costate, slot("real *restrict offset", "offset", "NX", "J'force")),
        inline=False,
    )


def _differentials(constrained: bool) -> Iterator[StageFunction]:
    along = (slot("in_reals restrict d_state", "d_x", "NX"), slot("in_reals restrict d_control", "d_u", "NU"))
    d_next = (slot("out_reals restrict d_next", "d_next", "NX", "differential of the next state"),)
    purpose = "directional derivative of the dynamics, F d"
    yield StageFunction("stage_tangent", purpose, (*_POINT, *along), d_next, knows_next=not constrained)
    if constrained:
        kept = slot("in_reals restrict kept", "kept", "NKEPT")
        yield StageFunction(STEP, f"{purpose}, from what its model has kept of F", (kept, *along), d_next)
        yield from _pullbacks()
        yield _adjoint()
    yield _stage_gradient(constrained)
    dual, d_dual = (_duals("NEND"), _duals("NEND", True)) if constrained else ((), ())
    of = "d'grad(terminal cost + dual'rows) + d_dual'rows + loss_cost (terminal cost + dual'rows)"
    if not constrained:
        of = "d'grad(terminal cost) + loss_cost terminal cost"
    yield StageFunction(
        "terminal_gradient",
        f"gradient with respect to theta of {of}",
        (*_END, *dual, slot("const real *restrict d_state", "d_x", "NX"), *d_dual, LOSS),
        SUMS,
        inline=not constrained,
    )
    yield _stage_forward(constrained)
    of = "terminal cost + dual'rows" if constrained else "terminal cost"
    purpose = "change along d_theta of the terminal cost's gradient and of the terminal cost"
    if constrained:
        purpose = f"change along d_theta of grad({of}), of the rows, and of {of}"
    yield StageFunction(
        "terminal_forward",
        purpose,
        (*_END, *dual, *CHANGE),
        (
            slot("reals restrict r_state", "r_x", "NX", "change of the gradient by x"),
            *_row_changes("NEND", constrained),
            slot("real *restrict d_cost", "d_cost", "1", of),
        ),
        inline=not constrained,
    )


def _pullbacks() -> Iterator[StageFunction]:
    offset = slot("const real *restrict offset", "offset", "NX")
    path, end = (slot("const real *restrict force", "force", rows) for rows in ("NPATH", "NEND"))
    by_x, at_end = (
        slot("real *restrict change_x", group, "NX", "gradient by x") for group in ("offset_x", "offset")
    )
    by_u = slot("real *restrict change_u", "offset_u", "NU", "and by u")
    purpose = "what changes of forces and of the value function change in the gradient of a stage's model"
    yield StageFunction(PULLBACK, f"{purpose}, F'offset + J'force", (*_POINT, offset, path), (by_x, by_u))
    yield StageFunction(END_PULLBACK, "the same of the last state, J'force", (*_END, end), (at_end,))


def _adjoint() -> StageFunction:
    return StageFunction(
        ADJOINT,
        "gradients of the Lagrangian cost + lambda'f + dual'rows",
        (
            *_POINT,
            slot("const real *restrict costate", "costate", "NX"),
            slot("const real *restrict dual", "dual", "NPATH"),
        ),
        _slopes_of_model(),
        inline=False,
    )


def _stage_gradient(constrained: bool) -> StageFunction:
    dual, d_dual = (_duals("NPATH"), _duals("NPATH", True)) if constrained else ((), ())
    terms, more = ("lambda'f + dual'rows", " + d_dual'rows") if constrained else ("lambda'f", "")
    return StageFunction(
        "stage_gradient",
        f"gradient with respect to theta and u of d'grad(cost + {terms}) + d_lambda'f{more}"
        f" + loss_cost (cost + {terms})",
        (
            *_POINT,
            slot("stored_reals restrict costate", "costate", "NX"),
            *dual,
            slot("const real *restrict d_state", "d_x", "NX"),
            slot("const real *restrict d_control", "d_u", "NU"),
            slot("const real *restrict d_costate", "d_costate", "NX"),
            *d_dual,
            LOSS,
        ),
        (*SUMS, slot("real *restrict g_control", "g_u", "NU", "gradient by u")),
        inline=False,
        knows_next=not constrained,
    )


def _stage_forward(constrained: bool) -> StageFunction:
    dual = _duals("NPATH") if constrained else ()
    terms, of = ("lambda'f + dual'rows", "of f and the rows") if constrained else ("lambda'f", "of f")
    return StageFunction(
        "stage_forward",
        f"change along d_theta of grad(cost + {terms}), {of}, and of cost + {terms} itself",
        (*_POINT, slot("const real *restrict costate", "costate", "NX"), *dual, *CHANGE),
        (
            slot("reals restrict r_state", "r_x", "NX", "change of the Lagrangian's gradient by x"),
            slot("reals restrict r_control", "r_u", "NU", "and by u"),
            slot("reals restrict affine", "affine", "NX", "change of f"),
            *_row_changes("NPATH", constrained),
            slot("real *restrict d_cost", "d_cost", "1", f"cost + {terms}"),
        ),
        inline=False,
        knows_next=not constrained,
    )


def _bounds() -> Iterator[StageFunction]:
    yield _pair("stage_bounds", "bounds of the controls", "lower", "upper", "NU")
    yield _pair_gradient("bounds_gradient", "lower", "upper", "NU")
    yield _pair_forward("bounds_forward", "change of the bounds along d_theta", "lower", "upper", "NU")


def _rows() -> Iterator[StageFunction]:
    yield from _rows_of("stage", "", "NPATH", _POINT, "a stage, mixed and then of states")
    yield from _rows_of("terminal", "terminal_", "NEND", _END, "the last state, of states and then terminal")


def _rows_of(
    place: str, prefix: str, size: str, point: tuple[Slot, ...], which: str
) -> Iterator[StageFunction]:
    values = slot("out_reals restrict rows", "rows", size, "values of the rows")
    yield StageFunction(f"{place}_rows", f"rows of {which}", point, (values,))
    along = tuple(
        slot(f"in_reals restrict d_{read.argument}", f"d_{read.group}", read.size)
        for read in point
        if read not in THETA
    )
    d_rows = slot("out_reals restrict d_rows", "d_rows", size, "differential of the rows")
    what = "directional derivative of the rows"
    yield StageFunction(f"{place}_rows_tangent", what, (*point, *along), (d_rows,))
    price = (
        "price of exceeding a row by e, linear e + quadratic e^2 / 2; a linear one of infinity: a hard row"
    )
    yield _pair(f"{place}_row_bounds", "bounds of the rows", "lower", "upper", size)
    yield _pair(f"{place}_row_weights", price, "linear", "quadratic", size)
    for what, first, second in (("bounds", "lower", "upper"), ("weights", "linear", "quadratic")):
        yield _pair_gradient(f"{prefix}row_{what}_gradient", first, second, size)
        change = f"change of the rows' {what} along d_theta"
        yield _pair_forward(f"{prefix}row_{what}_forward", change, first, second, size)


def _pair(name: str, purpose: str, first: str, second: str, size: str) -> StageFunction:
    writes = tuple(slot(f"out_reals restrict {x}", x, size, f"{x} of each") for x in (first, second))
    return StageFunction(name, purpose, THETA, writes)


def _pair_gradient(name: str, first: str, second: str, size: str) -> StageFunction:
    reads = tuple(
        slot(f"const real *restrict g_{x}", f"g_{x}", size, f"derivative by {x}") for x in (first, second)
    )
    purpose = f"gradient with respect to theta of g_{first}'{first} + g_{second}'{second}"
    return StageFunction(name, purpose, (*THETA, *reads), SUMS)


def _pair_forward(name: str, purpose: str, first: str, second: str, size: str) -> StageFunction:
    writes = tuple(slot(f"real *restrict d_{x}", f"d_{x}", size, f"change of {x}") for x in (first, second))
    return StageFunction(name, purpose, (*THETA, *CHANGE), writes)
