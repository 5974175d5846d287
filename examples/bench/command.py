"""The options of `mpcgen bench`, and what it does with them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from examples.bench.cells import select
from examples.bench.packages import Packages
from examples.bench.picture import draw
from examples.bench.results import Results
from examples.bench.run import Parts, run
from examples.bench.run import prepare as prepare_packages
from examples.bench.table import show
from mpcgen.cli import KERNEL_HELP
from mpcgen.errors import ParameterError

WIDTH = 180
"""Columns of the tables where the output is no terminal."""
QUICK_PEER_COUNT = 4


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="A minute: small problems, fewer batches, few rounds.")
@click.option(
    "--problem", "problems", multiple=True, help="Problem to measure; may be repeated. Default: all."
)
@click.option("--batch", "batches", multiple=True, type=int, help="Batch size; may be repeated.")
@click.option("--threads", multiple=True, type=int, help="May be repeated. Default: 1 and all cores.")
@click.option("--dtype", "dtypes", multiple=True, help="float64 or float32. Default: both.")
@click.option("--start", "starts", multiple=True, help="cold or warm. Default: both.")
@click.option("--what", "passes", multiple=True, help="forward, backward or forward+backward. Default: all.")
@click.option("--tol", type=float, help="KKT residual. Default: 1e-6 in float64, 1e-4 in float32.")
@click.option("--budget", type=float, help="Seconds; what would take longer is left out. Default: 20.")
@click.option("--repetitions", type=int, help="Most rounds of a measurement. Default: 31.")
@click.option("--seed", default=0, show_default=True, help="Of the random problems.")
@click.option(
    "--clock", default="wall", show_default=True, help="wall, or cpu: for one thread, if others work."
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="cpu; cuda, beside one CPU core (cuda-host: for tests).",
)
@click.option(
    "--packages",
    type=click.Path(path_type=Path),
    help="Take CUDA packages from here, as --prepare made them.",
)
@click.option("--arch", metavar="NAMES", help="CUDA architectures to build for, as for build.")
@click.option("--cuda-kernel", default="auto", show_default=True, help=KERNEL_HELP)
@click.option(
    "--prepare", is_flag=True, help="Build what --device needs into --packages, and measure nothing."
)
@click.option("--peers/--no-peers", default=True, show_default=True, help="Other solvers beside ours.")
@click.option("--growth/--no-growth", default=None, help="Sweeps of horizon and state. Default: full runs.")
@click.option("--loop/--no-loop", default=None, help="Training loops with torch. Default: full runs.")
@click.option("--build", is_flag=True, help="Measure compiler time too, from an empty cache.")
@click.option("--picture/--no-picture", default=True, show_default=True, help="Write bench.png.")
@click.option(
    "--gallery", is_flag=True, help="Problems from many starts, beside IPOPT: how reliably they are solved."
)
@click.option("--count", type=int, help="Of the gallery: starts for each problem. Default: 128.")
@click.option("--peer-count", type=int, help="Of the gallery: starts that IPOPT gets. Default: all; 0: none.")
@click.option(
    "--method", "methods", multiple=True, help="Of the gallery: auto, ddp, interior_point; may be repeated."
)
@click.option("-o", "--output", default="bench", show_default=True, type=click.Path(path_type=Path))
@click.option("--examples", default="examples", show_default=True, type=click.Path(path_type=Path))
def main(**options: Any) -> None:
    """Time the generated solvers and their peers; write tables, JSON and a picture into OUTPUT.

    With --gallery: solve hard problems from many starts instead, and write how many each solver solves.
    """
    own = {name: options.pop(name) for name in ("count", "peer_count", "methods")}
    if options.pop("gallery"):
        shared = {name: options[name] for name in ("problems", "tol", "seed", "picture", "output")}
        # Needs CasADi and numpy, which the rest does without.
        from examples.bench.gallery_report import main_gallery

        main_gallery(**shared, **own)
    elif any(value not in (None, ()) for value in own.values()):
        raise ParameterError("--count, --peer-count and --method are options of --gallery; give that too")
    else:
        main_bench(**options)


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
