"""The instruction sets that a controller can be built for."""

import platform
from dataclasses import dataclass

from mpcgen.errors import BuildError
from mpcgen.runtime.cpu import X86_64_V3, X86_64_V4, missing_features


@dataclass(frozen=True)
class Target:
    """An instruction set: the compiler's flags for it and what it asks of the CPU.

    ``vector_bytes`` is the width of its vector registers: a batch kernel holds ``vector_bytes`` / 8
    problems per vector in float64, twice as many in float32.
    """

    name: str
    flags: tuple[str, ...]
    cpu_features: tuple[str, ...]
    vector_bytes: int

    @property
    def lanes(self) -> tuple[tuple[str, int], ...]:
        """Problems per vector for each precision."""
        return (("f64", self.vector_bytes // 8), ("f32", self.vector_bytes // 4))

    def __str__(self) -> str:
        return f"{self.name} ({self.vector_bytes * 8}-bit vectors)"


_X86_64 = (
    Target("x86-64-v4", ("-march=x86-64-v4", "-mprefer-vector-width=512"), X86_64_V4, 64),
    Target("x86-64-v3", ("-march=x86-64-v3",), X86_64_V3, 32),
    Target("x86-64", ("-march=x86-64",), (), 16),
)
_X86_64_MACHINES = ("x86_64", "amd64", "x64")


def known_targets() -> tuple[Target, ...]:
    """The targets of this machine's architecture, the widest first."""
    machine = platform.machine().lower()
    if machine in _X86_64_MACHINES:
        return _X86_64
    # Other architectures: their compiler's default, which on aarch64 includes its 128-bit vectors.
    return (Target(machine or "generic", (), (), 16),)


def select_target(march: str | None = None) -> Target:
    """The target called ``march``, or by default (also "native") the widest that this CPU can run.

    Raises BuildError for a name that is not among this architecture's targets.
    """
    targets = known_targets()
    if march is None or march == "native":
        return next(target for target in targets if not missing_features(target.cpu_features))
    for target in targets:
        if target.name == march:
            return target
    names = ", ".join(target.name for target in targets)
    raise BuildError(f"unknown target --march {march}: on this machine it can be native, {names}")
