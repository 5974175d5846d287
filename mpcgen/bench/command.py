"""What `mpcgen bench` does with its options."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mpcgen.bench.cells import select
from mpcgen.bench.packages import Packages
from mpcgen.bench.picture import draw
from mpcgen.bench.results import Results
from mpcgen.bench.run import Parts, run
from mpcgen.bench.run import prepare as prepare_packages
from mpcgen.bench.table import show
from mpcgen.errors import ParameterError

WIDTH = 180
"""Columns of the tables where the output is no terminal."""
QUICK_PEER_COUNT = 4


def main_bench(
    *,
    quick: bool,
    problems: Sequence[str],
    batches: Sequence[int],
    threads: Sequence[int],
    dtypes: Sequence[str],
    starts: Sequence[str],
    passes: Sequence[str],
    tol: float | None,
    budget: float | None,
    repetitions: int | None,
    seed: int,
    clock: str,
    device: str,
    packages: Path | None,
    arch: str | None,
    cuda_kernel: str,
    prepare: bool,
    peers: bool,
    growth: bool | None,
    loop: bool | None,
    build: bool,
    picture: bool,
    output: Path,
    examples: Path,
) -> Results | None:
    """Run, print the tables, and write bench.json, bench.txt and bench.png into ``output``.

    growth and loop default to whether the run is neither quick nor of chosen problems. On a device there are neither,
    nor peers nor a picture. prepare: build into ``packages`` what such a run needs, and measure nothing.
    """
    selection = select(
        quick=quick,
        problems=problems,
        batches=batches,
        threads=threads,
        dtypes=dtypes,
        starts=starts,
        passes=passes,
        tol=tol,
        budget=budget,
        repetitions=repetitions,
        seed=seed,
        clock=clock,
        device=device,
    )
    architectures = tuple(arch.split(",")) if arch else None
    console, source = Console(stderr=True), Packages(packages, architectures, cuda_kernel)
    if prepare:
        prepare_packages(selection, examples, console, source)
        return None
    on_cpu = device == "cpu"
    if not on_cpu and (growth or loop or build):
        raise ParameterError(
            f"--growth, --loop and --build measure the CPU; leave them out with --device {device}"
        )
    whole = on_cpu and not quick and not problems
    parts = Parts(
        peers=peers,
        growth=whole if growth is None else growth,
        loop=whole if loop is None else loop,
        build=build,
        peer_count=QUICK_PEER_COUNT if quick else None,
        compiled_peers=not quick,
    )
    results = run(selection, parts, examples, console, source)
    output.mkdir(parents=True, exist_ok=True)
    results.write(output / "bench.json")
    with (output / "bench.txt").open("w", encoding="utf-8") as file:
        show(results, Console(file=file, width=WIDTH, highlight=False))
    if picture and on_cpu:
        draw(results, output / "bench.png")
    show(results, Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH))
    return results
