"""A run of the benchmark: the plan, worked off under a progress bar."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.bench.cells import Cell, Selection, cells, groups
from examples.bench.comparing import compare_peers
from examples.bench.device import describe, require_device
from examples.bench.device_peak import LIBRARIES, DevicePeak, compile_peak, device_toolchain
from examples.bench.flops import count_work
from examples.bench.measure import PeakRate, measure_group
from examples.bench.packages import COMPILED_HERE, Packages
from examples.bench.peak import Peak
from examples.bench.problems import Problem, load
from examples.bench.results import Build, Environment, Results
from examples.bench.sweeps import LOOP_BATCHES, sweep_horizon, sweep_size, training_loop
from examples.bench.workspace import measure_workspace
from mpcgen.build.driver import build, render_spec
from mpcgen.build.extension import compile_extension
from mpcgen.errors import ParameterError
from mpcgen.problem.spec import Spec

LOOP_PROBLEMS = ("pendulum", "cartpole")
HORIZON_PROBLEM = "cartpole"


@dataclass(frozen=True)
class Parts:
    """Which parts a run has besides its grid. ``peer_count``: instances for each peer at most; None: its own."""

    peers: bool = True
    growth: bool = True
    loop: bool = True
    build: bool = False
    peer_count: int | None = None
    compiled_peers: bool = True


@dataclass(frozen=True)
class _Step:
    title: str
    do: Callable[[], object]


class Run:
    """One run; `steps` fill `results`. Raises DeviceError where there is no device to run on."""

    def __init__(self, selection: Selection, parts: Parts, examples: Path, packages: Packages) -> None:
        require_device(selection.device)
        self.selection, self.parts, self.examples = selection, parts, examples
        self.problems = load(selection.problems, examples, packages)
        self.results = Results(Environment.now(), selection)
        self._expected: dict[tuple[str, str], float] = {}
        on_cpu = selection.device == "cpu"
        self._peak: PeakRate = Peak() if on_cpu else DevicePeak(selection.device, packages)

    def steps(self) -> Iterator[_Step]:
        """What there is to do, in order."""
        for problem in self.problems:
            if self.parts.build:
                yield _Step(f"{problem.name}: compiler time", partial(self._build, problem))
            yield _Step(f"{problem.name}: build", partial(problem.package_for, self.selection.device))
        for problem in self.problems:
            for name, batch in groups(self.selection):
                if name == problem.name:
                    title = f"{name}: batch {batch}"
                    yield _Step(title, partial(self._group, problem, batch))
        if self.selection.device == "cpu":
            yield _Step("workspace", self._workspace)
            yield from self._further()
        else:
            yield _Step("kernels", self._describe)

    def _further(self) -> Iterator[_Step]:
        if self.parts.growth:
            yield _Step("growth with the horizon", self._horizon)
            yield _Step("growth with the state", self._size)
        for problem in self.problems:
            if self.parts.loop and problem.name in LOOP_PROBLEMS:
                for batch in LOOP_BATCHES:
                    title = f"{problem.name}: training loop, batch {batch}"
                    yield _Step(title, partial(self._loop, problem, batch))
        for problem in self.problems:
            if self.parts.peers:
                yield _Step(f"{problem.name}: peers", partial(self._peers, problem))

    def _group(self, problem: Problem, batch: int) -> None:
        expected = {dtype: self._expected.get((problem.name, dtype), 0.0) for dtype in self.selection.dtypes}
        found = measure_group(
            problem,
            count_work(problem.spec),
            self.selection,
            cells(self.selection, problem.name, batch),
            {self.selection.device: self._peak},
            expected,
        )
        for dtype in self.selection.dtypes:
            own = [m for m in found if (m.cell.device, m.cell.dtype) == (self.selection.device, dtype)]
            known = [m.seconds for m in own if m.seconds is not None]
            if known and batch > 1:  # what torch adds to a call of one problem is no measure of a batch
                self._expected[problem.name, dtype] = max(known)
        self._add(measurements=(*self.results.measurements, *found))

    def _add(self, **parts: tuple[object, ...]) -> None:
        self.results = replace(self.results, **parts)  # type: ignore[arg-type]

    def _workspace(self) -> None:
        sizes = measure_workspace(self.selection, self.examples)

        def size(cell: Cell) -> int | None:
            parts = [part for part in ("forward", "backward") if part in cell.what]
            found = [sizes.get((cell.problem, cell.batch, cell.threads, cell.dtype, p)) for p in parts]
            return max((f for f in found if f is not None), default=None)

        rows = (replace(m, workspace=size(m.cell)) for m in self.results.measurements)
        self._add(measurements=tuple(rows))

    def _describe(self) -> None:
        self.results = replace(self.results, device=describe(self.selection.device, self.problems))

    def _horizon(self) -> None:
        problem = next((p for p in self.problems if p.name == HORIZON_PROBLEM), self.problems[0])
        found = sweep_horizon(problem, self.selection, self._peak)
        self._add(sweeps=(*self.results.sweeps, *found))

    def _size(self) -> None:
        self._add(sweeps=(*self.results.sweeps, *sweep_size(self.selection, self._peak)))

    def _loop(self, problem: Problem, batch: int) -> None:
        self._add(loops=(*self.results.loops, *training_loop(problem, self.selection, batch)))

    def _peers(self, problem: Problem) -> None:
        rows = compare_peers(problem, self.selection, self.parts.peer_count, self.parts.compiled_peers)
        self._add(peers=(*self.results.peers, *rows))

    def _build(self, problem: Problem) -> None:
        self._add(builds=(*self.results.builds, compiler_time(problem)))


def compiler_time(problem: Problem) -> Build:
    """Compile a problem from nothing and return the compilers' CPU time, half of it for each precision."""
    rendered = render_spec(problem.spec)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory(prefix="mpcgen-bench-") as folder:
        compile_extension(rendered, Path(folder), digest="")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Build(problem.name, seconds / 2, rendered.source.count("\n"))


def run(
    selection: Selection, parts: Parts, examples: Path, console: Console, packages: Packages = COMPILED_HERE
) -> Results:
    """Work off the plan under a progress bar on ``console``; an interrupted run returns what it has."""
    work = Run(selection, parts, examples, packages)
    _work_off(list(work.steps()), console)
    return work.results


def prepare(selection: Selection, examples: Path, console: Console, packages: Packages) -> None:
    """Build into the packages' folder what a run on another machine needs: kernels for device and CPU, its peak.

    Raises BuildError, and CompilerNotFoundError where there is no compiler for the device.
    """
    folder, kind = packages.folder, selection.device
    if folder is None or kind == "cpu":
        raise ParameterError(
            f"--prepare with --device {kind} and --packages {folder}; it builds for a CUDA device into a folder, as in "
            "`mpcgen bench --device cuda --packages DIR --prepare`"
        )
    toolchain = device_toolchain(kind, packages)

    def made(spec: Spec) -> None:
        for target in ("cpu", kind):
            build(
                spec,
                folder / target,
                targets=(target,),
                architectures=packages.architectures,
                cuda_kernel=packages.cuda_kernel,
            )

    specs = {problem.spec.name: problem.spec for problem in load(selection.problems, examples)}
    plan = [_Step(f"{name}: build", partial(made, spec)) for name, spec in specs.items()]
    _work_off([*plan, _Step("peak", partial(compile_peak, toolchain, folder / LIBRARIES[kind]))], console)


def _work_off(plan: list[_Step], console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(plan))
        for step in plan:
            progress.update(task, description=step.title)
            try:
                step.do()
            except KeyboardInterrupt:
                console.print("interrupted: what was done so far is kept")
                break
            progress.advance(task)
