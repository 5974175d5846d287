"""What the solver is meant to reach, beside what a run measured: the one list of targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from examples.bench.cells import Cell, Measurement
from examples.bench.problems import NAMES
from examples.bench.results import Beside, Results

PASS_MICROSECONDS = {"pendulum": 0.41, "cartpole": 0.60}
SHARES = {"pendulum": 0.25, "cartpole": 0.35, "box_lq": 0.45, "free_lq": 0.45, "quadrotor": 0.45} | {
    "chain": 0.45,
    "lqr37": 0.45,
}
LATENCY = {"pendulum": 30.0, "cartpole": 40.0}
MEAN_ITERATIONS = {"cartpole": 10.0}
BUILD_SECONDS = dict.fromkeys(("pendulum", "cartpole", "car", "box_lq"), 3.0) | {
    "quadrotor": 20.0,
    "chain": 20.0,
    "lqr37": 60.0,
}
LARGE_BATCH = 128
SHARED_BATCH = 512
SPEEDUP = 1.8
SHARE_OF_CEILING = 0.9
"""Of what as many threads gain on the micro-kernel, which two cores of a virtual machine do not always double."""
NOT_SLOWER = 0.97
"""Two runs of the same code differ by some 3 % on a quiet machine."""
REVERSE_PASSES = 2.0
DEVICE_BATCH = 65536
DEVICE_TIMES = dict.fromkeys(("pendulum", "cartpole"), 30.0)
"""A CUDA device beside one core, float32, forward and backward."""
DEVICE_PASS_BATCH = 4096
DEVICE_PASS_SHARE = {"quadrotor": 0.2}
"""Of a core's time by problem and iteration, float32."""
SMALL_DEVICE_BATCH = 64
SMALL_DEVICE_MILLISECONDS = {"box_lq": (0.6, 0.3), "free_lq": (0.2, 0.3)}
"""Forward and backward of a whole batch, float32."""
WORKSPACE_GROWTH = 1.01
"""The same but for the allocator's rounding."""
GROWTH = 1.1
"""Exponent of time over horizon or batch; 1 is linear, and the rest is measuring error."""


@dataclass(frozen=True)
class Verdict:
    """A target and its worst figure; ``met`` is None where the run did not measure it. ``where``: the worst case."""

    target: str
    problem: str
    required: str
    measured: float | None
    met: bool | None
    where: str = ""


def judge(results: Results) -> list[Verdict]:
    """Return every target of the problems that the run measured; CUDA's shim has none."""
    if results.selection.device != "cpu":
        return list(_device(results)) if results.selection.device == "cuda" else []
    problems = [name for name in NAMES if any(m.cell.problem == name for m in results.measurements)]
    found: list[Verdict] = []
    for name in problems:
        found += _problem(name, [m for m in results.measurements if m.cell.problem == name])
    found += _growth(results)
    found += _loops(results)
    for build in results.builds:
        limit = BUILD_SECONDS.get(build.problem)
        if limit is not None:
            found.append(_at_most("compiler seconds per precision", build.problem, build.seconds, limit))
    return found


def _problem(name: str, measurements: Sequence[Measurement]) -> Iterator[Verdict]:
    cold = _index(measurements, "forward", "cold", "float64")
    large = {key: m for key, m in cold.items() if key[0] >= LARGE_BATCH and key[1] == 1}
    if name in PASS_MICROSECONDS:
        values = {_at(m.cell): m.microseconds_per_pass for m in large.values()}
        yield _worst("µs per problem and iteration, batch >= 128", name, values, PASS_MICROSECONDS[name], max)
    if name in SHARES:
        shares = {_at(m.cell): m.share_of_peak for m in large.values()}
        yield _worst("share of peak, batch >= 128", name, shares, SHARES[name], min)
    yield from _threads(name, measurements)
    yield from _precision(name, measurements, large)
    if name in LATENCY:
        for start, factor in (("cold", 1.0), ("warm", 1 / 3)):
            values = {
                _at(m.cell): m.microseconds
                for key, m in _index(measurements, "forward", start, "float64").items()
                if key == (1, 1)
            }
            yield _worst(f"µs, one problem, {start}", name, values, LATENCY[name] * factor, max)
    if name in MEAN_ITERATIONS:
        means = {_at(m.cell): m.iterations.mean for m in large.values() if m.iterations is not None}
        yield _worst("mean iterations", name, means, MEAN_ITERATIONS[name], max)
    reverse = _index(measurements, "backward", "cold", "float64")
    ratios = {
        _at(m.cell): _ratio(reverse[key].microseconds, m.microseconds_per_pass)
        for key, m in large.items()
        if key in reverse
    }
    yield _worst("backward over one iteration, batch >= 128", name, ratios, REVERSE_PASSES, max)
    sizes = {_at(m.cell): m.workspace for m in large.values() if m.workspace is not None}
    if len(sizes) > 1:
        grown = {"largest over smallest": max(sizes.values()) / min(sizes.values())}
        yield _worst("workspace over batches", name, grown, WORKSPACE_GROWTH, max)


def _threads(name: str, measurements: Sequence[Measurement]) -> Iterator[Verdict]:
    most = max(m.cell.threads for m in measurements)
    if most == 1:
        return
    by_cell = {m.cell: m for m in measurements if m.microseconds and m.cell.through == "kernel"}
    gains = {}
    for cell, m in by_cell.items():
        single = by_cell.get(_replaced(cell, threads=1))
        if cell.threads == most and single is not None:
            gains[cell] = _ratio(single.microseconds, m.microseconds)
    shared = {_at(c): g for c, g in gains.items() if c.batch >= SHARED_BATCH and c.dtype == "float64"}
    yield _worst(f"{most} threads over one, batch >= {SHARED_BATCH}", name, shared, SPEEDUP, min)
    shares = {_at(c): _ratio(g, by_cell[c].ceiling) for c, g in gains.items() if _at(c) in shared}
    target = f"{most} threads over one, over the micro-kernel's, batch >= {SHARED_BATCH}"
    yield _worst(target, name, shares, SHARE_OF_CEILING, min)
    every = {_at(c): g for c, g in gains.items()}
    yield _worst(f"{most} threads over one, every batch", name, every, NOT_SLOWER, min)


def _precision(
    name: str, measurements: Sequence[Measurement], large: dict[tuple[int, int], Measurement]
) -> Iterator[Verdict]:
    single = _index(measurements, "forward", "cold", "float32")
    gains = {
        _at(m.cell): _ratio(m.microseconds_per_pass, single[key].microseconds_per_pass)
        for key, m in large.items()
        if key in single
    }
    yield _worst("float32 over float64 per iteration, batch >= 128", name, gains, SPEEDUP, min)


def _device(results: Results) -> Iterator[Verdict]:
    """What a CUDA device is meant to reach."""
    problems = {m.cell.problem for m in results.measurements}
    for name, least in DEVICE_TIMES.items():
        if name in problems:
            times = {at: pair.times for at, pair in _pairs(results, name, DEVICE_BATCH)}
            yield _worst(f"times one core, batch {DEVICE_BATCH}, float32", name, times, least, min)
    for name, most in DEVICE_PASS_SHARE.items():
        if name in problems:
            pairs = _pairs(results, name, DEVICE_PASS_BATCH)
            shares = {at: _ratio(1.0, pair.times_per_pass) for at, pair in pairs}
            target = f"time per iteration over one core's, batch {DEVICE_PASS_BATCH}, float32"
            yield _worst(target, name, shares, most, max)
    for name, limits in SMALL_DEVICE_MILLISECONDS.items():
        for what, limit in zip(("forward", "backward"), limits, strict=True):
            if name in problems:
                yield _worst(
                    f"ms, batch {SMALL_DEVICE_BATCH}, float32, {what}",
                    name,
                    _small(results, name, what),
                    limit,
                    max,
                )


def _pairs(results: Results, name: str, batch: int) -> list[tuple[str, Beside]]:
    """A problem's float32 cells of one batch on the device, beside a core's."""
    return [
        (_at(pair.device.cell), pair)
        for pair in results.beside()
        if (pair.device.cell.problem, pair.device.cell.batch, pair.device.cell.dtype)
        == (name, batch, "float32")
    ]


def _small(results: Results, name: str, what: str) -> dict[str, float]:
    """Milliseconds of a whole small batch on the device."""
    return {
        _at(m.cell): 1e3 * m.seconds * m.cell.batch
        for m in results.measurements
        if m.seconds is not None
        and (m.cell.problem, m.cell.device, m.cell.batch, m.cell.dtype, m.cell.what, m.cell.start)
        == (name, "cuda", SMALL_DEVICE_BATCH, "float32", what, "cold")
    }


def _growth(results: Results) -> Iterator[Verdict]:
    points = [(p.value, p.seconds) for p in results.sweeps if p.sweep == "horizon" and p.value >= 20]
    if len(points) > 1:
        name = next(p.problem for p in results.sweeps if p.sweep == "horizon")
        yield _at_most("growth exponent over N >= 20", name, exponent(points), GROWTH)
    for name in NAMES:
        chosen = [m for m in results.measurements if m.cell.problem == name]
        large = _index(chosen, "forward", "cold", "float64").items()
        points = [
            (batch, 1e-6 * batch * m.microseconds_per_pass)
            for (batch, threads), m in large
            if threads == 1 and batch >= LARGE_BATCH and m.microseconds_per_pass
        ]
        if len(points) > 1:
            yield _at_most("growth exponent over batch >= 128", name, exponent(points), GROWTH)


def _loops(results: Results) -> Iterator[Verdict]:
    most = max((p.threads for p in results.loops), default=1)
    if most == 1:
        return
    for name in dict.fromkeys(p.problem for p in results.loops):
        seconds = {(p.batch, p.threads): p.seconds for p in results.loops if p.problem == name}
        gains = {
            f"batch {batch}": seconds[batch, 1] / value
            for (batch, threads), value in seconds.items()
            if threads == most and (batch, 1) in seconds
        }
        yield _worst(f"training loop, {most} threads over one, every batch", name, gains, NOT_SLOWER, min)


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """Slope of the least-squares line through the points' logarithms."""
    x = [math.log(value) for value, _ in points]
    y = [math.log(seconds) for _, seconds in points]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean_x) ** 2 for a in x
    )


def _index(
    measurements: Iterable[Measurement], what: str, start: str, dtype: str
) -> dict[tuple[int, int], Measurement]:
    """(batch, threads) -> what was measured of the kernel."""
    return {
        (m.cell.batch, m.cell.threads): m
        for m in measurements
        if m.seconds is not None
        and (m.cell.what, m.cell.start, m.cell.dtype, m.cell.through) == (what, start, dtype, "kernel")
    }


def _replaced(cell: Cell, threads: int) -> Cell:
    return Cell(cell.problem, cell.batch, threads, cell.dtype, cell.what, cell.start, cell.through)


def _at(cell: Cell) -> str:
    where = f"{cell.threads} thr." if cell.device == "cpu" else cell.device
    return f"batch {cell.batch}, {where}, {cell.dtype}, {cell.what}, {cell.start}"


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def _worst(
    target: str,
    problem: str,
    values: dict[str, float | None] | dict[str, float],
    limit: float,
    pick: Callable[..., str],
) -> Verdict:
    """The figure furthest on the wrong side: ``pick`` is max where ``limit`` is an upper one, min for a lower."""
    known = {where: value for where, value in values.items() if value is not None}
    sign = "<=" if pick is max else ">="
    required = f"{sign} {limit:.3g}"
    if not known:
        return Verdict(target, problem, required, None, None)
    where = pick(known, key=known.__getitem__)
    met = known[where] <= limit if pick is max else known[where] >= limit
    return Verdict(target, problem, required, known[where], met, where)


def _at_most(target: str, problem: str, measured: float, limit: float) -> Verdict:
    return Verdict(target, problem, f"<= {limit:.3g}", measured, measured <= limit)
