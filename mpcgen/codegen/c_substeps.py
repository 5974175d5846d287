"""The functions of a stage that has a loop over substeps, as C text: what is outside of the loop, then the loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mpcgen.codegen.c_function import CFunction, call, comment, signature, with_products
from mpcgen.stages import StageFunction
from mpcgen.stages.contract import COMPOSED, DERIVE, DYNAMICS

_POINT = ("state", "control", "theta", "theta_t")
_LOOPS = {
    DYNAMICS: ("advance_substeps", ("next_state", "cost")),
    DERIVE["gauss_newton"]: ("slopes_of_substeps", ("costate", "q")),
    DERIVE["exact"]: ("expand_substeps", ("*weight", "costate", "q")),
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


def composed_functions(table: Mapping[str, StageFunction], printed: set[str]) -> Iterator[CFunction]:
    """The functions of a stage. printed: names of the outer functions that there are; table: the contract."""
    for name in COMPOSED:
        stage = table[name]
        outer = table[name.replace("stage_", "outer_", 1)]
        if outer.name not in printed:  # all outside of the loop is quadratic
            outer = table[DERIVE["gauss_newton"].replace("stage_", "outer_", 1)]
        loop, arguments = _LOOPS[name]
        body = (call(outer.name, outer.arguments), call(loop, (*_POINT, *arguments)))
        yield CFunction(name, comment(stage.purpose), signature("FUNCTION", stage), body)
    for kind in DERIVE:
        yield with_products(kind, table)
