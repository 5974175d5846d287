"""Wall times that can be compared, and the name of the machine they were taken on."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@dataclass(frozen=True)
class Timing:
    """Wall seconds of one task: the median, and the fastest run, which a busy machine spoils least."""

    median: float
    fastest: float


def alternate(tasks: Sequence[Callable[[], Any]], repetitions: int) -> list[Timing]:
    """Time each task over ``repetitions`` rounds, after one round that is not counted.

    The tasks take turns, so that a change of the machine's speed meets all of them.
    """
    seconds: list[list[float]] = [[] for _ in tasks]
    for task in tasks:
        task()
    for _ in range(repetitions):
        for task, times in zip(tasks, seconds, strict=True):
            began = time.perf_counter()
            task()
            times.append(time.perf_counter() - began)
    return [Timing(statistics.median(times), min(times)) for times in seconds]
