"""The peak rate of multiply-adds of this machine, measured with the kernels' own width, compiler and flags."""

from __future__ import annotations

import ctypes
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from examples.bench.timing import clock
from mpcgen.build.digest import HEADER_FOLDER
from mpcgen.build.extension import VARIANTS
from mpcgen.build.toolchain import Toolchain, find_toolchain, run_compiler
from mpcgen.errors import BuildError

SOURCE = Path(__file__).with_name("peak.c")
_SHORTEST_RUN = 2e-3
"""s: a measurement takes about this long, far above the time to start a thread."""


class PeakRate(Protocol):
    """A micro-kernel of multiply-adds: `Peak`, or `examples.bench.device_peak.DevicePeak`."""

    def task(self, bits: int, vector: bool, threads: int) -> tuple[Callable[[], Any], int]:
        """Return a run of it, for timing, and the number of its operations.

        bits: 64 or 32. vector: of a CPU's kernels, whether a vector of problems at a time. threads: of a CPU.
        """


class Peak:
    """The micro-kernel in all variants of the kernels: 64 or 32 bits, a vector of problems or a single one."""

    def __init__(self) -> None:
        self._libraries = _libraries()
        self._rounds: dict[tuple[int, bool, int], int] = {}

    def task(self, bits: int, vector: bool, threads: int) -> tuple[Callable[[], Any], int]:
        """See `PeakRate`."""
        library = self._libraries[f"f{bits}_{'batch' if vector else 'single'}"]
        key = (bits, vector, threads)
        if key not in self._rounds:
            self._rounds[key] = enough_rounds(lambda rounds: library.peak_run(rounds, threads))
        rounds = self._rounds[key]
        return lambda: library.peak_run(rounds, threads), int(library.peak_run(rounds, threads))


def enough_rounds(run: Callable[[int], object], kind: str = "wall") -> int:
    """Return how many rounds of a micro-kernel take long enough to be measured by a clock."""
    rounds = 1000
    while min(clock(functools.partial(run, rounds), kind) for _ in range(3)) < _SHORTEST_RUN:
        rounds *= 2
    return rounds


@functools.cache
def _libraries() -> dict[str, Any]:
    toolchain = find_toolchain()
    with tempfile.TemporaryDirectory(prefix="mpcgen-peak-") as folder:
        # An opened library stays mapped after its file is gone.
        return {
            variant: _open(_compile(toolchain, variant, definitions, Path(folder)))
            for variant, definitions in VARIANTS
        }


def _open(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.peak_run.argtypes = (ctypes.c_int64, ctypes.c_int32)
    library.peak_run.restype = ctypes.c_int64
    return library


def _compile(toolchain: Toolchain, variant: str, definitions: tuple[str, ...], folder: Path) -> Path:
    output = folder / f"peak_{variant}.so"
    flags = (*toolchain.compile_flags, "-fvisibility=default", f"-I{HEADER_FOLDER}", *definitions)
    command = [*toolchain.compiler.command, *flags, str(SOURCE), *toolchain.link_flags, "-o", str(output)]
    process = run_compiler([*command, *toolchain.libraries])
    if process.returncode:
        raise BuildError(f"the compiler refused {SOURCE.name}: {' '.join(command)}\n{process.stderr}")
    return output
