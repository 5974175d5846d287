"""The functions of a right-hand side around a network: those of rates, which read the network's results besides.

A network y = N(p) is computed and differentiated by loops over its layers (`mpcgen_network_loops.h`), p being some of
the moving states z and of what a stage holds, v. The body is the rest, k(z, v, y), derived as if y were held like v;
`mpcgen_network_rates.h` makes the functions of rates of both by the chain rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mpcgen.stages.slots import slot
from mpcgen.stages.substeps import BOTH, HELD, MOVING, NEWTON, rate_functions
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
        if function.name != NEWTON:
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
