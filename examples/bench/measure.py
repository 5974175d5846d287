"""Measure a group of cells: the same instances, in turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from examples.bench.calls import MAX_ITERATIONS, Batch, Solved, receding
from examples.bench.cells import DTYPES, Cell, Iterations, Measurement, Selection
from examples.bench.flops import Work
from examples.bench.peak import PeakRate
from examples.bench.problems import Problem
from examples.bench.timing import Timing, alternate, clock
from mpcgen.errors import BuildError

INSTANCES = 256
"""Least number of random problems behind a figure: small batches are measured on several, one after another."""

LEAST_ROUNDS = 3
SHORTEST_SAMPLE = 1e-3
"""s: a faster task is run several times in one sample, so that the clock does not matter."""


@dataclass(frozen=True)
class _Task:
    """What a cell runs in one sample: ``times`` over all its ``count`` instances."""

    cell: Cell
    run: Callable[[], object]
    iterations: Iterations | None
    count: int
    times: int = 1

    @property
    def sample(self) -> Callable[[], None]:
        """One sample."""

        def repeat() -> None:
            for _ in range(self.times):
                self.run()

        return repeat


def measure_group(
    problem: Problem,
    work: Work,
    selection: Selection,
    cells: Sequence[Cell],
    peaks: Mapping[str, PeakRate],
    expected: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """Measure cells of a problem, all in turns, and the peak rates among them.

    peaks: by device; a cell of another device gets none. expected: seconds per problem of the dearest cell of a
    smaller batch, by dtype, where it is known.
    """
    tasks: list[_Task] = []
    skipped: list[Measurement] = []
    for key in dict.fromkeys((cell.device, cell.dtype, cell.batch) for cell in cells):
        chosen = [cell for cell in cells if (cell.device, cell.dtype, cell.batch) == key]
        reason = _too_much(problem, selection, chosen[0], (expected or {}).get(chosen[0].dtype, 0.0))
        group = _Group.of(problem, selection, chosen[0]) if reason is None else reason
        if isinstance(group, str):
            skipped += [Measurement(cell, skipped=group) for cell in chosen]
            continue
        for task in group.tasks(chosen):
            sized = _sized(task, selection)
            if isinstance(sized, str):
                skipped.append(Measurement(task.cell, skipped=sized))
            else:
                tasks.append(sized)
    return [*_in_turns(tasks, selection, work, peaks), *skipped]


def _sized(task: _Task, selection: Selection) -> _Task | str:
    """The task, repeated until a sample is long enough; or why it takes too long."""
    task.run()
    seconds = clock(task.run, _clock(task.cell, selection))
    if LEAST_ROUNDS * seconds > selection.budget:
        return _over_budget(selection, LEAST_ROUNDS * seconds)
    return replace(task, times=max(1, math.ceil(SHORTEST_SAMPLE / max(seconds, 1e-9))))


def _clock(cell: Cell, selection: Selection) -> str:
    return "cuda" if cell.device == "cuda" else selection.clock


def _in_turns(
    tasks: Sequence[_Task], selection: Selection, work: Work, peaks: Mapping[str, PeakRate]
) -> list[Measurement]:
    if not tasks:
        return []
    cell_of = {_peak_key(task.cell): task.cell for task in tasks if task.cell.device in peaks}
    rates = [peaks[device].task(bits, vector, threads) for device, bits, vector, threads in cell_of]
    clocks = [_clock(cell, selection) for cell in (*(task.cell for task in tasks), *cell_of.values())]
    samples = [task.sample for task in tasks]
    whole = sum(clock(sample, own) for sample, own in zip(samples, clocks, strict=False))
    rounds = int(min(selection.repetitions, max(LEAST_ROUNDS, selection.seconds * len(tasks) / whole)))
    timings = alternate([*samples, *(run for run, _ in rates)], rounds, clocks)
    micro_kernels = _rates(list(cell_of), [operations for _, operations in rates], timings[len(tasks) :])
    return [
        _measurement(
            task,
            timing.per(task.times * task.count),
            rounds,
            work,
            *micro_kernels.get(_peak_key(task.cell), (None, None)),
        )
        for task, timing in zip(tasks, timings, strict=False)
    ]


_Key = tuple[str, int, bool, int]


def _rates(
    keys: Sequence[_Key], operations: Sequence[int], timings: Sequence[Timing]
) -> dict[_Key, tuple[float, float | None]]:
    """Peak of each micro-kernel, and the gain of its threads over one of them, where that was measured, too.

    The peak is the fastest run's: a busy machine only lowers it, and a lower one would flatter. The gain is that of
    medians, so that what others took from the machine meets it as it meets the cells.
    """
    median = {
        key: count / timing.median for key, count, timing in zip(keys, operations, timings, strict=True)
    }
    found: dict[_Key, tuple[float, float | None]] = {}
    for key, count, timing in zip(keys, operations, timings, strict=True):
        single = median.get((*key[:3], 1))
        found[key] = count / timing.fastest, None if single is None else median[key] / single
    return found


def _peak_key(cell: Cell) -> _Key:
    """Device, bits, vector or single, threads: which micro-kernel is as wide as the cell's kernel."""
    return cell.device, 64 if cell.dtype == "float64" else 32, cell.batch > 1, cell.threads


def _measurement(
    task: _Task, timing: Timing, rounds: int, work: Work, peak: float | None, ceiling: float | None
) -> Measurement:
    cell = task.cell
    operations = livermore = 0.0
    if cell.what != "backward" and task.iterations is not None:
        operations, livermore = work.forward(task.iterations.passes)
    if cell.what != "forward":
        operations, livermore = operations + work.reverse.total, livermore + work.reverse.livermore
    return Measurement(
        cell,
        seconds=timing.median,
        fastest=timing.fastest,
        spread=timing.spread,
        repetitions=rounds,
        iterations=task.iterations,
        operations=operations,
        livermore=livermore,
        peak=peak,
        ceiling=ceiling,
    )


def _too_much(problem: Problem, selection: Selection, cell: Cell, expected: float) -> str | None:
    n, m, N = problem.sizes
    count = _instances(cell)
    # States, costates, both solutions and a cotangent; as many controls, and the gains.
    numbers = count * ((N + 1) * 5 * n + N * m * (n + 5))
    arrays = numbers * (8 if cell.dtype == "float64" else 4)
    if arrays > selection.memory:
        return f"over memory: {arrays / 1e9:.0f} GB of arrays"
    if LEAST_ROUNDS * expected * count > selection.budget:
        return _over_budget(selection, LEAST_ROUNDS * expected * count)
    return None


def _instances(cell: Cell) -> int:
    return cell.batch * max(1, INSTANCES // cell.batch)


def _over_budget(selection: Selection, seconds: float) -> str:
    return f"over budget: {seconds:.0f} s > {selection.budget:g} s"


def statistics_of(solved: Sequence[Solved]) -> Iterations:
    """Return iterations and convergence over several solves."""
    iterations = torch.cat([s.iterations for s in solved]).double()
    status = torch.cat([s.status for s in solved])
    return Iterations(
        float(iterations.mean()),
        float(iterations.quantile(0.99)) if len(iterations) < 10_000_000 else float(iterations.max()),
        int(iterations.max()),
        float((status == 0).double().mean()),
    )


class _Group:
    """Instances of one problem, device, dtype and batch, solved once, and what the cells run on them."""

    @staticmethod
    def of(problem: Problem, selection: Selection, cell: Cell) -> _Group | str:
        """The group of a cell; or why the CPU that is to stand beside a device has none."""
        try:
            return _Group(problem, selection, cell)
        except BuildError as error:
            if cell.device == selection.device:
                raise
            return f"not built: {str(error).splitlines()[0]}"

    def __init__(self, problem: Problem, selection: Selection, cell: Cell) -> None:
        self.problem, self.tol, self.count = problem, selection.tol(cell.dtype), _instances(cell)
        device = "cuda" if cell.device == "cuda" else "cpu"
        instances = problem.draw(self.count, DTYPES[cell.dtype], selection.seed)
        self.parameters = {name: value.to(device) for name, value in instances.parameters.items()}
        self.batches = [
            Batch(problem, x0, self.parameters, kernels=cell.device)
            for x0 in instances.x0.to(device).split(cell.batch)
        ]
        self.cold, self.warm, self.warm_start = [], [], []
        for part in self.batches:
            part.solve(self.tol, threads=1)()
            self.cold.append(part.solved)
            start = receding(self.cold[-1])
            part.solve(self.tol, 1, *start)()
            self.warm_start.append(start)
            self.warm.append(part.solved)
        self.statistics = {"cold": statistics_of(self.cold), "warm": statistics_of(self.warm)}

    def tasks(self, cells: Sequence[Cell]) -> list[_Task]:
        return [self._task(cell) for cell in cells]

    def _task(self, cell: Cell) -> _Task:
        runs = self._torch_runs(cell) if cell.through == "torch" else self._kernel_runs(cell)
        iterations = None if cell.what == "backward" else self.statistics[cell.start]
        return _Task(cell, _all(runs), iterations, self.count)

    def _kernel_runs(self, cell: Cell) -> list[Callable[[], object]]:
        runs: list[Callable[[], object]] = []
        solutions = self.cold if cell.start == "cold" else self.warm
        for part, solved, start in zip(self.batches, solutions, self.warm_start, strict=True):
            if cell.what != "backward":
                runs.append(part.solve(self.tol, cell.threads, *(start if cell.start == "warm" else ())))
            if cell.what != "forward":
                runs.append(part.differentiate(solved, cell.threads))
        return runs

    def _torch_runs(self, cell: Cell) -> list[Callable[[], object]]:
        options = {"tol": self.tol, "max_iterations": MAX_ITERATIONS, "threads": cell.threads}
        mpc = self.problem.package_for(cell.device).MPC(on_unconverged="ignore", **options)
        parameters = self.parameters
        backward = cell.what != "forward"
        runs: list[Callable[[], object]] = []
        for part, (x_next, u_init) in zip(self.batches, self.warm_start, strict=True):
            x0 = (part.x0 if cell.start == "cold" else x_next).clone().requires_grad_(backward)
            extra = {} if cell.start == "cold" else {"u_init": u_init}

            def run(x0: torch.Tensor = x0, extra: dict[str, torch.Tensor] = extra) -> None:
                solution = mpc(x0, **extra, **parameters)
                if backward:
                    torch.autograd.grad(solution.u.sum(), x0)

            runs.append(run)
        return runs


def _all(runs: Sequence[Callable[[], object]]) -> Callable[[], None]:
    def run() -> None:
        for each in runs:
            each()

    return run
