"""Times that can be compared, and the name of the machine they were taken on."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Task = Callable[[], Any]


def machine_name() -> str:
    """Return e.g. "AMD EPYC, 2 cores, x86-64-v4 (AVX-512), Linux, Python 3.11.2"."""
    from mpcgen.runtime.cpu import describe_cpu

    cores = f"{os.cpu_count()} cores"
    return ", ".join(
        [_processor(), cores, describe_cpu(), platform.system(), f"Python {platform.python_version()}"]
    )


def load_average() -> str:
    """Return e.g. "load 0.3": the processes that wanted a core during the last minute."""
    return f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@dataclass(frozen=True)
class Timing:
    """Seconds of one task: the median, the fastest run, which a busy machine spoils least, and the spread.

    ``spread``: half the distance between the quartiles over the median.
    """

    median: float
    fastest: float
    spread: float

    @staticmethod
    def of(times: Sequence[float]) -> Timing:
        """Summarise the seconds of at least one run."""
        median = statistics.median(times)
        lower, _, upper = statistics.quantiles(times, n=4) if len(times) > 1 else (median,) * 3
        return Timing(median, min(times), (upper - lower) / (2 * median))

    def per(self, count: float) -> Timing:
        """Seconds of one of ``count`` equal parts of the task."""
        return Timing(self.median / count, self.fastest / count, self.spread)


def _by(now: Callable[[], float]) -> Callable[[Task], float]:
    def measure(task: Task) -> float:
        began = now()
        task()
        return now() - began

    return measure


def _between_events(task: Task) -> float:
    """Seconds that torch's current CUDA stream needs for a task: the device's, or the host's where it lags behind."""
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    task()
    ended.record()
    ended.synchronize()
    return 1e-3 * began.elapsed_time(ended)


HOST_CLOCKS = ("wall", "cpu")
CLOCKS: dict[str, Callable[[Task], float]] = {
    "wall": _by(time.perf_counter),
    "cpu": _by(time.thread_time),
    "cuda": _between_events,
}
"""Seconds of the wall; of the calling thread on a core, which a busy machine spoils less; of a CUDA device."""


def clock(task: Task, kind: str = "wall") -> float:
    """Seconds of one run by a clock of `CLOCKS`."""
    return CLOCKS[kind](task)


def alternate(tasks: Sequence[Task], repetitions: int, kind: str | Sequence[str] = "wall") -> list[Timing]:
    """Time each task over ``repetitions`` rounds, after one round that is not counted, by one clock or its own.

    The tasks take turns, so that a change of the machine's speed meets all of them.
    """
    kinds = [kind] * len(tasks) if isinstance(kind, str) else kind
    for task in tasks:
        task()
    rounds = [[clock(task, own) for task, own in zip(tasks, kinds, strict=True)] for _ in range(repetitions)]
    return [Timing.of(times) for times in zip(*rounds, strict=True)]
