"""Everything that a run measured, and its JSON file."""

from __future__ import annotations

import dataclasses
import datetime
import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from examples.bench.cells import CORE_BATCH, Measurement, Selection
from examples.bench.device import Device
from examples.bench.peers import PeerRow
from examples.bench.sweeps import LoopPoint, SweepPoint
from examples.bench.timing import load_average, machine_name
from mpcgen.build.toolchain import find_toolchain
from mpcgen.errors import BuildError

FORMAT = 1
"""Version of the JSON file's layout."""

_PACKAGES = ("mpcgen", "torch", "casadi", "mpc", "numpy", "sympy", "cffi")


@dataclass(frozen=True)
class Build:
    """Compiler CPU seconds per precision, from an empty cache, and lines of C."""

    problem: str
    seconds: float
    lines: int


@dataclass(frozen=True)
class Environment:
    """Where and when a run was made, and with what."""

    date: str
    machine: str
    load: str
    compiler: str
    flags: tuple[str, ...]
    target: str
    versions: dict[str, str]

    @staticmethod
    def now() -> Environment:
        """Describe this machine and moment; taken before the run loads the machine itself."""
        try:
            toolchain = find_toolchain()
            compiler = toolchain.compiler.version, toolchain.compile_flags, str(toolchain.target)
        except BuildError:  # a run on packages made elsewhere needs none
            compiler = "no C compiler", (), ""
        return Environment(
            datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            machine_name(),
            load_average(),
            *compiler,
            {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Beside:
    """A device's time beside one CPU core's: how many times as fast, by problem and by problem and iteration."""

    device: Measurement
    core: Measurement

    @property
    def times(self) -> float | None:
        """How many problems the device finishes while the core finishes one."""
        return _over(self.core.seconds, self.device.seconds)

    @property
    def times_per_pass(self) -> float | None:
        """The same of passes of the solver, of a forward pass."""
        return _over(self.core.microseconds_per_pass, self.device.microseconds_per_pass)


def _over(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


@dataclass(frozen=True)
class Results:
    """A run: what was asked for, and what was measured."""

    environment: Environment
    selection: Selection
    measurements: tuple[Measurement, ...] = ()
    peers: tuple[PeerRow, ...] = ()
    sweeps: tuple[SweepPoint, ...] = ()
    loops: tuple[LoopPoint, ...] = ()
    builds: tuple[Build, ...] = ()
    device: Device | None = None

    def beside(self) -> list[Beside]:
        """Every cold cell of a device beside the same of one CPU core, whose batch ends at `CORE_BATCH`."""
        cores = {
            (m.cell.problem, m.cell.dtype, m.cell.what, m.cell.batch): m
            for m in self.measurements
            if m.cell.device == "cpu" and m.cell.threads == 1 and m.seconds
        }
        found = []
        for m in self.measurements:
            c = m.cell
            core = cores.get((c.problem, c.dtype, c.what, min(c.batch, CORE_BATCH)))
            if c.device != "cpu" and c.start == "cold" and core is not None and m.seconds:
                found.append(Beside(m, core))
        return found

    def content(self) -> dict[str, Any]:
        """What the JSON file holds; derived figures are included, so that a reader needs no formulas."""
        from examples.bench.targets import judge

        return {
            "format": FORMAT,
            "environment": dataclasses.asdict(self.environment),
            "selection": dataclasses.asdict(self.selection),
            "measurements": [dataclasses.asdict(m) | _derived(m) for m in self.measurements],
            "peers": [
                dataclasses.asdict(row) | {"ratio_single": row.ratio_single, "ratio_batch": row.ratio_batch}
                for row in self.peers
            ],
            "sweeps": [dataclasses.asdict(point) for point in self.sweeps],
            "loops": [dataclasses.asdict(point) for point in self.loops],
            "builds": [dataclasses.asdict(build) for build in self.builds],
            "device": None if self.device is None else dataclasses.asdict(self.device),
            "beside_a_core": [_beside(pair) for pair in self.beside()],
            "targets": [dataclasses.asdict(verdict) for verdict in judge(self)],
        }

    def write(self, path: Path) -> None:
        """Write the JSON file."""
        path.write_text(json.dumps(self.content(), indent=1) + "\n", encoding="utf-8")


def _beside(pair: Beside) -> dict[str, Any]:
    cells = {"device": dataclasses.asdict(pair.device.cell), "core": dataclasses.asdict(pair.core.cell)}
    return cells | {"times": pair.times, "times_per_pass": pair.times_per_pass}


def _derived(m: Measurement) -> dict[str, float | None]:
    return {
        "microseconds": m.microseconds,
        "microseconds_per_pass": m.microseconds_per_pass,
        "gflops": m.gflops,
        "share_of_peak": m.share_of_peak,
        "livermore_share": m.livermore_share,
    }
