"""The functions around networks: those of rates, which read the networks' results besides, and those of their inputs.

Networks y = N(p) are computed and differentiated by loops over their layers (`mpcgen_network_loops.h`); their inputs p
are functions of the moving states z and of what a stage holds, v: a map of the point w = (z, v). The body is the rest,
k(z, v, y), derived as if y were held like v; `mpcgen_network_rates.h` makes the functions of rates of all three by the
chain rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mpcgen.stages.slots import CHANGE, SUMS, THETA, slot
from mpcgen.stages.substeps import ADJOINT, BOTH, HELD, MOVING, NEWTON, rate_functions
from mpcgen.stages.table import Slot, StageFunction

INNER = "NINNER"
"""Size of v and y."""
ALL = f"{MOVING} + {INNER}"
_SIZES = {
    HELD: INNER,
    BOTH: ALL,
    f"TRIANGLE({BOTH}, 0)": f"TRIANGLE({ALL}, 0)",
    f"{MOVING} * ({BOTH})": f"{MOVING} * ({ALL})",
}
_D_INNER = slot("const real *restrict d_inner", "d_u", INNER, "differential of v and y")
_BEFORE = slot("real *restrict before", "before", ALL, "gradient of share c + lambda'k by (z, v, y)")


def body_name(name: str) -> str:
    """The body's function for one of rates."""
    return name.replace("rate_", "body_", 1)


def body_functions() -> Iterator[StageFunction]:
    """The functions of the body."""
    for function in rate_functions():
        if function.name not in (NEWTON, ADJOINT):
            yield _of_body(function)


def _of_body(function: StageFunction) -> StageFunction:
    reads, writes = (tuple(map(_sized, slots)) for slots in (function.reads, function.writes))
    if function.name in ("rate_change", "rate_forward"):  # where v stays, and y does not
        place = next(i for i, read in enumerate(reads) if read.group == "d_x") + 1
        reads = (*reads[:place], _D_INNER, *reads[place:])
    writes = tuple(_BEFORE if written.group == "before" else written for written in writes)
    purpose = f"{function.purpose}; v includes the results y of a network"
    return replace(function, name=body_name(function.name), purpose=purpose, reads=reads, writes=writes)


def _sized(of: Slot) -> Slot:
    declaration = of.declaration.replace("held", "inner")
    place = of.place.replace("held", "inner")
    return replace(of, size=_SIZES.get(of.size, of.size), declaration=declaration, place=place)


@dataclass(frozen=True)
class Map:
    """Functions k(w) of a point w: what their stage functions are called, and the sizes of w and k."""

    prefix: str
    width: str
    rows: str
    what: str

    @property
    def triangle(self) -> str:
        """Size of second derivatives by w."""
        return f"TRIANGLE({self.width}, 0)"

    def name(self, function: str) -> str:
        """The stage function's name."""
        return f"{self.prefix}_{function}"

    def functions(self) -> Iterator[StageFunction]:
        """The rows of the contract."""
        width, rows = self.width, self.rows
        point = (slot("const real *restrict point", "x", width, "the point w"), *THETA)
        costate = slot("const real *restrict costate", "costate", rows, "lambda, what multiplies k")
        d_point = slot("const real *restrict d_point", "d_x", width, "differential of w")
        d_costate = slot("const real *restrict d_costate", "d_costate", rows, "differential of lambda")
        d_values = slot("real *restrict d_values", "d_values", rows, "differential of k")
        before = slot("real *restrict before", "before", width, "gradient of lambda'k by w")
        shapes = (
            ("values", "k", (), (slot("real *restrict values", "values", rows, "k"),)),
            (
                "slopes",
                "dk/dw",
                (),
                (slot("real *restrict F", "F", f"{rows} * {width}", "dk/dw, row by row"),),
            ),
            (
                "curvature",
                "Hessian of lambda'k by w",
                (costate,),
                (slot("real *restrict H", "H", self.triangle, "Hessian of lambda'k, lower triangle"),),
            ),
            ("tangent", "directional derivative of k", (d_point,), (d_values,)),
            (
                "gradient",
                "gradient with respect to theta and w of d'grad(lambda'k) + d_lambda'k",
                (costate, d_point, d_costate),
                (*SUMS, slot("real *restrict g", "g", width, "gradient by w"), before),
            ),
            ("change", "change of k along d_theta and a change of w", (d_point, *CHANGE), (d_values,)),
            (
                "forward",
                "gradient of lambda'k by w, and its change along d_theta, d_lambda and a change of w",
                (costate, d_point, d_costate, *CHANGE),
                (before, slot("real *restrict d_slope", "d_slope", width, "change of the gradient by w")),
            ),
        )
        for name, purpose, reads, writes in shapes:
            yield StageFunction(
                self.name(name),
                f"{self.what}, k: {purpose}",
                (*point, *reads),
                writes,
                inline=name in ("values", "tangent"),
            )


INPUTS = Map("input", BOTH, "NINPUTS", "inputs of the networks that rates read")
"""Of rates; w = (z, v)."""
PRICED = {
    "stage": Map(
        "priced", "NTAU + STAGE_OUTPUTS", "NPRICED", "what of a stage's cost and rows reads networks"
    ),
    "end": Map(
        "end_priced", "NX + END_OUTPUTS", "NPRICED", "what of the terminal cost and rows reads networks"
    ),
}
"""A cost, then rows, of w, which is (x, u) or x, and the outputs of networks: see `mpcgen_network_costs.h`."""
PRICED_INPUTS = {
    "stage": Map(
        "priced_input", "NTAU", "STAGE_INPUTS", "inputs of the networks that a stage's cost and rows read"
    ),
    "end": Map(
        "end_input", "NX", "END_INPUTS", "inputs of the networks that the terminal cost and rows read"
    ),
}
MAPS = (INPUTS, *PRICED.values(), *PRICED_INPUTS.values())
