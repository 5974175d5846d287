"""Growth with horizon and state size, and the solver among torch operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from examples.bench.calls import Batch
from examples.bench.cells import DTYPES, Selection
from examples.bench.flops import count_work
from examples.bench.measure import LEAST_ROUNDS, statistics_of
from examples.bench.peak import PeakRate
from examples.bench.problems import LQ_SIZES, Problem, linear_quadratic
from examples.bench.timing import alternate, clock

HORIZONS = (5, 10, 20, 40, 80, 160, 320)
SWEEP_BATCH = 128
LOOP_BATCHES = (1, 8, 128, 512, 4096)
LOOP_WIDTH = 512
"""Of the square layers between the calls: enough that torch's own threads are at work."""


@dataclass(frozen=True)
class SweepPoint:
    """A point of a sweep at batch 128, one thread, float64: ``value`` is N or n; seconds per problem and pass."""

    sweep: str
    problem: str
    value: int
    seconds: float
    share_of_peak: float


@dataclass(frozen=True)
class LoopPoint:
    """Seconds of one training step with torch operations between the calls."""

    problem: str
    batch: int
    threads: int
    seconds: float


def sweep_horizon(problem: Problem, selection: Selection, peak: PeakRate) -> list[SweepPoint]:
    """Time per pass over the horizons of `HORIZONS`."""
    cases = [(problem, horizon, horizon) for horizon in HORIZONS]
    return _sweep("horizon", cases, selection, peak)


def sweep_size(
    selection: Selection, peak: PeakRate, sizes: Sequence[tuple[int, int]] = LQ_SIZES
) -> list[SweepPoint]:
    """Time per pass over linear-quadratic problems of growing state, N = 40, |u| <= 1."""
    cases = [(linear_quadratic(n, m, 40, bound=1.0), 40, n) for n, m in sizes]
    return _sweep("state size", cases, selection, peak)


def _sweep(
    name: str, cases: Sequence[tuple[Problem, int, int]], selection: Selection, peak: PeakRate
) -> list[SweepPoint]:
    tol, runs, passes, works = selection.tol("float64"), [], [], []
    for problem, horizon, _ in cases:
        instances = problem.draw(SWEEP_BATCH, DTYPES["float64"], selection.seed)
        batch = Batch(problem, instances.x0, instances.parameters, horizon)
        run = batch.solve(tol, threads=1)
        run()
        runs.append(run)
        passes.append(statistics_of([batch.solved]).passes)
        works.append(count_work(problem.spec, horizon))
    rate, operations = peak.task(64, True, 1)
    timings = alternate([*runs, rate], _rounds([*runs, rate], selection), selection.clock)
    top = operations / timings[-1].fastest
    points = []
    for (problem, _, value), timing, count, work in zip(cases, timings, passes, works, strict=False):
        share = work.forward(count)[0] * SWEEP_BATCH / timing.median / top
        points.append(SweepPoint(name, problem.name, value, timing.median / SWEEP_BATCH / count, share))
    return points


def _rounds(runs: Sequence[Callable[[], object]], selection: Selection) -> int:
    whole = sum(clock(run) for run in runs)
    return int(min(selection.repetitions, max(LEAST_ROUNDS, selection.seconds * len(runs) / whole)))


def training_loop(problem: Problem, selection: Selection, batch: int) -> list[LoopPoint]:
    """Time a training step: two layers in torch, the solver forward and backward, with each number of threads.

    torch keeps its own number of threads throughout; the solver's is what changes.
    """
    instances = problem.draw(batch, DTYPES["float64"], selection.seed)
    layers = torch.nn.Sequential(
        torch.nn.Linear(LOOP_WIDTH, LOOP_WIDTH), torch.nn.ReLU(), torch.nn.Linear(LOOP_WIDTH, 1)
    ).double()
    features = torch.ones(LOOP_WIDTH, LOOP_WIDTH, dtype=torch.float64)

    def step_with(threads: int) -> Callable[[], None]:
        options = {"tol": selection.tol("float64"), "threads": threads}
        mpc = problem.package.MPC(on_unconverged="ignore", **options)

        def step() -> None:
            layers.zero_grad(set_to_none=True)
            x0 = instances.x0 + 1e-3 * layers(features).mean()
            mpc(x0, **instances.parameters).u.square().mean().backward()

        return step

    steps = [step_with(threads) for threads in selection.threads]
    timings = alternate(steps, _rounds(steps, selection), selection.clock)
    return [
        LoopPoint(problem.name, batch, threads, timing.median)
        for threads, timing in zip(selection.threads, timings, strict=True)
    ]
