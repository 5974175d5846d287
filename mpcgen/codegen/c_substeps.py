"""The functions of a stage that has loops, as C text: what is outside of the loops, then the loops."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from mpcgen.codegen.c_function import CFunction, call, comment, signature, with_products
from mpcgen.stages import StageFunction
from mpcgen.stages.contract import ADJOINT, COMPOSED, DERIVE, DYNAMICS, ENDED, ROWED
from mpcgen.stages.substeps import outer_name

_POINT = ("state", "control", "theta", "theta_t")
_END = ("state", "theta", "theta_t")
_LOOPS = {
    DYNAMICS: ("advance_substeps", ("next_state", "cost")),
    DERIVE["gauss_newton"]: ("slopes_of_substeps", ("costate", "q")),
    DERIVE["exact"]: ("expand_substeps", ("*weight", "costate", "q")),
    ADJOINT: ("adjoint_of_substeps", ("costate", "q")),
    "stage_tangent": ("tangent_of_substeps", ("d_state", "d_control", "d_next")),
    "stage_gradient": (
        "gradient_of_substeps",
        ("costate", "d_state", "d_control", "d_costate", "loss_cost", "g_theta", "g_theta_t", "g_control"),
    ),
    "stage_forward": (
        "forward_of_substeps",
        ("costate", "d_theta", "d_theta_t", "r_state", "r_control", "affine", "d_cost"),
    ),
}
"""What `mpcgen_substeps.h` has for each function of `COMPOSED`, and what it takes besides the stage's point."""
_MODEL_OF_ROWS = ("dual", "stiffness", "force")


def _prices(rows: bool) -> dict[str, tuple[str, tuple[str, ...]]]:
    """What `mpcgen_network_costs.h` has for the functions that a stage's cost, and rows, are part of."""

    def of(*names: str) -> tuple[str, ...]:
        return names if rows else ()

    gradient = (
        *of("dual"),
        "d_state",
        "d_control",
        *of("d_dual"),
        "loss_cost",
        "g_theta",
        "g_theta_t",
        "g_control",
    )
    forward = (*of("dual"), "d_theta", "d_theta_t", "r_state", "r_control", *of("d_rows"), "d_cost")
    priced = {
        DYNAMICS: ("add_price", ("cost",)),
        DERIVE["gauss_newton"]: ("expand_price", (*of("ALL(0)", *_MODEL_OF_ROWS), "q")),
        DERIVE["exact"]: ("expand_price", (*of("*weight", *_MODEL_OF_ROWS), "q")),
        "stage_gradient": ("gradient_of_price", gradient),
        "stage_forward": ("forward_of_price", forward),
    }
    tangent = ("d_state", "d_control", "d_rows")
    rowed = zip(ROWED["stage"], (("add_stage_rows", ("rows",)), ("add_stage_tangent", tangent)), strict=True)
    return priced | dict(rowed) if rows else priced


def _end_prices(rows: bool) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The same of the last state."""

    def of(*names: str) -> tuple[str, ...]:
        return names if rows else ()

    model = (*of("*weight", *_MODEL_OF_ROWS), "hessian", *of("offset"), "costate")
    gradient = (*of("dual"), "d_state", *of("d_dual"), "loss_cost", "g_theta", "g_theta_t")
    forward = (*of("dual"), "d_theta", "d_theta_t", "r_state", *of("d_rows"), "d_cost")
    calls = (
        ("add_end_price", ("cost",)),
        ("expand_end_price", model),
        ("gradient_of_end_price", gradient),
        ("forward_of_end_price", forward),
    )
    priced = dict(zip(ENDED, calls, strict=True))
    rowed = zip(
        ROWED["end"], (("add_end_rows", ("rows",)), ("add_end_tangent", ("d_state", "d_rows"))), strict=True
    )
    return priced | dict(rowed) if rows else priced


def composed_functions(
    table: Mapping[str, StageFunction], printed: set[str], substeps: bool, priced: Mapping[str, bool]
) -> Iterator[CFunction]:
    """The functions of a stage and of the last state that loops are part of.

    printed: names of the outer functions that there are; table: the contract; substeps: whether there is a loop over
    these; priced: of which sites, "stage" and "end", the costs are loops; True: rows are, too.
    """
    if substeps or "stage" in priced:
        loops = [*([_LOOPS] if substeps else []), *([_prices(priced["stage"])] if "stage" in priced else [])]
        for name in (*COMPOSED, *(ROWED["stage"] if priced.get("stage") else ())):
            if name == ADJOINT and outer_name(name) not in printed:
                continue
            outer = table[outer_name(name)]
            if outer.name not in printed:  # all outside of the loops is quadratic
                outer = table[outer_name(DERIVE["gauss_newton"])]
            yield _composed(table[name], outer, _POINT, loops)
        for kind in DERIVE:
            yield with_products(kind, table)
    if "end" in priced:
        for name in (*ENDED, *(ROWED["end"] if priced["end"] else ())):
            yield _composed(table[name], table[outer_name(name)], _END, [_end_prices(priced["end"])])


def _composed(
    stage: StageFunction,
    outer: StageFunction,
    point: tuple[str, ...],
    loops: Sequence[Mapping[str, tuple[str, tuple[str, ...]]]],
) -> CFunction:
    """A function of what is outside of loops, and of loops."""
    calls = [call(outer.name, outer.arguments)]
    for loop in loops:
        if stage.name in loop:
            name, arguments = loop[stage.name]
            calls.append(call(name, (*point, *arguments)))
    unused = [f"(void){name};" for name in stage.arguments if not any(name in _words(line) for line in calls)]
    return CFunction(stage.name, comment(stage.purpose), signature("FUNCTION", stage), (*unused, *calls))


def _words(statement: str) -> set[str]:
    return set(re.findall(r"\w+", statement))
