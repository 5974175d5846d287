"""Measure a group of cells: the same instances, in turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from mpcgen.bench.calls import MAX_ITERATIONS, Batch, Solved, receding
from mpcgen.bench.cells import DTYPES, Cell, Iterations, Measurement, Selection
from mpcgen.bench.flops import Work
from mpcgen.bench.peak import Peak
from mpcgen.bench.problems import Problem
from mpcgen.bench.timing import Timing, alternate, clock

INSTANCES = 256
"""Least number of random problems behind a figure: small batches are measured on several, one after another."""

LEAST_ROUNDS = 3
SHORTEST_SAMPLE = 1e-3
"""s: a faster task is run several times in one sample, so that the clock does not matter."""


@dataclass(frozen=True)
class _Task:
    """What a cell runs in one sample, over all its instances."""

    cell: Cell
    run: Callable[[], object]
    iterations: Iterations | None


def measure_group(
    problem: Problem,
    work: Work,
    selection: Selection,
    cells: Sequence[Cell],
    peak: Peak,
    expected: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """Measure cells that share problem and batch, all in turns, and the peak rates among them.

    expected: seconds per problem of the dearest cell of a smaller batch, by dtype, where it is known.
    """
    sized: list[tuple[_Task, int]] = []
    skipped: list[Measurement] = []
    batch = cells[0].batch
    count = batch * max(1, INSTANCES // batch)
    for dtype in dict.fromkeys(cell.dtype for cell in cells):
        chosen = [cell for cell in cells if cell.dtype == dtype]
        reason = _too_much(problem, selection, chosen[0], (expected or {}).get(dtype, 0.0))
        if reason is not None:
            skipped += [Measurement(cell, skipped=reason) for cell in chosen]
            continue
        for task in _Group(problem, selection, dtype, batch, count).tasks(chosen):
            task.run()
            seconds = clock(task.run)
            if LEAST_ROUNDS * seconds > selection.budget:
                reason = _over_budget(selection, LEAST_ROUNDS * seconds)
                skipped.append(Measurement(task.cell, skipped=reason))
            else:
                sized.append((task, max(1, math.ceil(SHORTEST_SAMPLE / max(seconds, 1e-9)))))
    return [*_in_turns(sized, selection, work, peak, count), *skipped]


def _in_turns(
    sized: Sequence[tuple[_Task, int]], selection: Selection, work: Work, peak: Peak, count: int
) -> list[Measurement]:
    if not sized:
        return []
    keys = list(dict.fromkeys(_peak_key(task.cell) for task, _ in sized))
    rates = [peak.task(*key) for key in keys]
    runs = [_repeated(task.run, times) for task, times in sized]
    whole = sum(clock(run) for run in runs)
    rounds = int(min(selection.repetitions, max(LEAST_ROUNDS, selection.seconds * len(sized) / whole)))
    timings = alternate([*runs, *(run for run, _ in rates)], rounds, selection.clock)
    # The fastest run: a busy machine only lowers it, and a lower peak would flatter.
    peaks = {
        key: operations / timing.fastest
        for key, (_, operations), timing in zip(keys, rates, timings[len(sized) :], strict=True)
    }
    return [
        _measurement(task, timing.per(times * count), rounds, work, peaks[_peak_key(task.cell)])
        for (task, times), timing in zip(sized, timings, strict=False)
    ]


def _peak_key(cell: Cell) -> tuple[int, bool, int]:
    """Bits, vector or single, threads: which micro-kernel is as wide as the cell's kernel."""
    return 64 if cell.dtype == "float64" else 32, cell.batch > 1, cell.threads


def _repeated(run: Callable[[], object], times: int) -> Callable[[], None]:
    def repeat() -> None:
        for _ in range(times):
            run()

    return repeat


def _measurement(task: _Task, timing: Timing, rounds: int, work: Work, peak: float) -> Measurement:
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
    )


def _too_much(problem: Problem, selection: Selection, cell: Cell, expected: float) -> str | None:
    n, m, N = problem.sizes
    count = cell.batch * max(1, INSTANCES // cell.batch)
    # States, costates, both solutions and a cotangent; as many controls, and the gains.
    numbers = count * ((N + 1) * 5 * n + N * m * (n + 5))
    arrays = numbers * (8 if cell.dtype == "float64" else 4)
    if arrays > selection.memory:
        return f"over memory: {arrays / 1e9:.0f} GB of arrays"
    if LEAST_ROUNDS * expected * count > selection.budget:
        return _over_budget(selection, LEAST_ROUNDS * expected * count)
    return None


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
    """Instances of one problem, dtype and batch, solved once, and what the cells run on them."""

    def __init__(self, problem: Problem, selection: Selection, dtype: str, batch: int, count: int) -> None:
        self.problem, self.tol = problem, selection.tol(dtype)
        instances = problem.draw(count, DTYPES[dtype], selection.seed)
        self.parameters = instances.parameters
        self.batches = [Batch(problem, x0, instances.parameters) for x0 in instances.x0.split(batch)]
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
        return _Task(cell, _all(runs), None if cell.what == "backward" else self.statistics[cell.start])

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
        mpc = self.problem.package.MPC(on_unconverged="ignore", **options)
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
