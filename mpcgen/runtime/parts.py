"""The parts of a controller's kernels that are compiled apart (`mpcgen_parts.h`), and who calls which."""

PARTS = {
    "solve": ("solve", "closed_loop"),
    "interior_point": ("interior_point",),
    "sensitivities": ("differentiate", "differentiate_loop", "tangent", "examine", "evaluate"),
}
"""Entry points by part: the method that a problem starts with, the other one, and what is asked of solutions
and of single stages."""

OF_LOOPS = ("closed_loop", "differentiate_loop")
"""Those of closed loops, which are for CPUs."""

BITS = {part: 1 << place for place, part in enumerate(PARTS)}
"""Each part's value of ``MPCGEN_PART``."""


def parts_of(constrained: bool) -> tuple[str, ...]:
    """The parts that a problem has: one with constraints starts with the interior point."""
    return tuple(part for part in PARTS if not (constrained and part == "interior_point"))


def part_of(verb: str) -> str:
    """The part that has an entry point."""
    return next(part for part, verbs in PARTS.items() if verb in verbs)
