"""Wall times that can be compared, and the name of the machine they were taken on."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def machine_name() -> str:
    """Return e.g. "AMD EPYC, 2 cores, x86-64-v4 (AVX-512), Linux, Python 3.11.2"."""
    from mpcgen.runtime.cpu import describe_cpu

    cores = f"{os.cpu_count()} cores"
    return ", ".join(
        [_processor(), cores, describe_cpu(), platform.system(), f"Python {platform.python_version()}"]
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def alternate(tasks: Sequence[Callable[[], Any]], repetitions: int) -> list[float]:
    """Median wall seconds of each task over ``repetitions`` rounds, after one round that is not counted.

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
    return [statistics.median(times) for times in seconds]
