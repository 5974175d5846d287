"""Measure what must hold, and print it beside what is required: `make measure`.

Convergence, optimal costs beside IPOPT's, gradients beside CasADi's and beside central differences, build
times and solve times. The controllers must have been built (`mpcgen build examples/<name>.py`).
"""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from examples.bench.timing import alternate, load_average, machine_name
from examples.gradients import compare_gradients
from mpcgen.baseline import Baseline

CONVERGENCE_EXAMPLES = ("pendulum", "cartpole", "car")
PROBLEMS = 1024
ITERATION_LIMIT = 100
# Two solutions within this of each other, relative to the largest control, are of one basin: far above a
# converged solver's error, far below the distance between two local minima.
BASIN = 1e-3
MEAN_ITERATIONS = {"cartpole": 15.0}
BATCH_MILLISECONDS = {"pendulum": 1.0, "cartpole": 4.0}
BUILD_SECONDS = {"cartpole": 6.0, "quadrotor": 40.0}
UNCHANGED_SECONDS = 1.5
ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure; ``required`` and ``met`` are None where nothing is required of it.

    ``details``: the figures behind a worst case, by name, for the JSON file.
    """

    example: str
    what: str
    measured: float
    unit: str = ""
    required: str | None = None
    met: bool | None = None
    details: dict[str, float] = dataclasses.field(default_factory=dict)


def at_most(example: str, what: str, measured: float, limit: float | None, unit: str = "") -> Row:
    """Return the row of a figure that may not exceed ``limit``; None: nothing is required."""
    if limit is None:
        return Row(example, what, measured, unit)
    return Row(example, what, measured, unit, f"<= {limit:g}", bool(measured <= limit))


def at_least(example: str, what: str, measured: float, limit: float, unit: str = "") -> Row:
    """Return the row of a figure that must reach ``limit``."""
    return Row(example, what, measured, unit, f">= {limit:g}", bool(measured >= limit))


def load(example: str) -> tuple[Any, Any]:
    """Return the generated package and the example's module with its ``initial_states``."""
    return importlib.import_module(f"generated.{example}"), importlib.import_module(f"examples.{example}")


def convergence(example: str) -> Iterator[Row]:
    """1,024 random initial states from zero controls to a KKT residual of 1e-8 in float64."""
    package, module = load(example)
    mpc = package.MPC(tol=1e-8, max_iterations=ITERATION_LIMIT, on_unconverged="ignore")
    solution = mpc(module.initial_states(PROBLEMS))
    iterations = solution.iterations.double()
    share = 100 * float((solution.status == 0).double().mean())
    yield at_least(
        example, f"of {PROBLEMS} to residual 1e-8 in {ITERATION_LIMIT} iterations", share, 99.9, "%"
    )
    yield at_most(example, "mean iterations", float(iterations.mean()), MEAN_ITERATIONS.get(example))
    yield Row(example, "99 % of problems within iterations", float(iterations.quantile(0.99)))
    yield Row(example, "most iterations", float(iterations.max()))


def costs(example: str, count: int) -> Iterator[Row]:
    """Optimal costs beside IPOPT's from the same zero controls, on the first ``count`` initial states."""
    package, module = load(example)
    x0 = module.initial_states(PROBLEMS)[:count]
    own = package.MPC(tol=1e-8, max_iterations=ITERATION_LIMIT, on_unconverged="ignore")(x0)
    ipopt = Baseline(module.problem.spec(), tol=1e-10).solve_batch(x0.numpy())
    both = ipopt.success & (own.status == 0).numpy()
    own_cost, u = own.cost.numpy(), own.u.numpy()
    scale = np.maximum(1.0, np.abs(ipopt.u).max(axis=(1, 2)))
    same = both & (np.abs(u - ipopt.u).max(axis=(1, 2)) <= BASIN * scale)
    excess = (own_cost - ipopt.cost) / np.maximum(1.0, np.abs(ipopt.cost))
    mean_excess = own_cost[both].mean() - ipopt.cost[both].mean()
    yield Row(example, f"of {count} solved by both", int(both.sum()))
    yield Row(example, "of these in IPOPT's basin", int(same.sum()))
    yield at_most(example, "cost above IPOPT's, same basin, relative", float(excess[same].max()), 1e-7)
    yield Row(example, "in another basin, cheaper", int((both & ~same & (excess < 0)).sum()))
    yield Row(example, "in another basin, dearer", int((both & ~same & (excess > 0)).sum()))
    yield at_most(
        example,
        "mean cost above IPOPT's, relative",
        mean_excess / max(1.0, abs(ipopt.cost[both].mean())),
        1e-7,
    )


def gradients(example: str, count: int, differenced: int) -> Iterator[Row]:
    """Gradients of x, u and cost beside CasADi's KKT system and beside central differences of IPOPT."""
    module = importlib.import_module(f"examples.{example}")
    for case in ("free", "active"):
        found = compare_gradients(module.problem.spec(), module, case, count, differenced)
        bounds = "no bounds" if case == "free" else f"{found.active_share:.0%} of controls at a bound"
        what = f"gradients against CasADi, {found.compared} solutions, {bounds}, relative"
        yield _worst(example, what, found.casadi, 1e-7)
        what = f"gradients against differences, {found.differenced} solutions, {bounds}, relative"
        yield _worst(example, what, found.differences, 1e-4)


def _worst(example: str, what: str, values: dict[str, float], limit: float) -> Row:
    name = max(values, key=values.__getitem__)
    row = at_most(example, f"{what} (worst: {name})", values[name], limit)
    return dataclasses.replace(row, details=values)


def solve_times(repetitions: int) -> Iterator[Row]:
    """Batch of 128 from zero controls to 1e-4 in float64, one thread; medians of alternating repetitions."""
    tasks = []
    for example in CONVERGENCE_EXAMPLES:
        package, module = load(example)
        mpc = package.MPC(tol=1e-4, on_unconverged="ignore", threads=1)
        tasks.append(_call(mpc, module.initial_states(128)))
    what = "128 problems to 1e-4, one thread"
    for example, timing in zip(CONVERGENCE_EXAMPLES, alternate(tasks, repetitions), strict=True):
        yield at_most(example, what, 1e3 * timing.median, BATCH_MILLISECONDS.get(example), "ms")
        yield Row(example, f"{what}, fastest of {repetitions}", 1e3 * timing.fastest, "ms")


def _call(mpc: Callable[[torch.Tensor], Any], x0: torch.Tensor) -> Callable[[], Any]:
    return lambda: mpc(x0)


def build_times(example: str) -> Iterator[Row]:
    """Wall time of `mpcgen build` with an empty cache, and again without changes; imports included."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MPCGEN_CACHE_DIR": f"{folder}/cache"}
        main = "from mpcgen.cli import main; main()"
        command = [sys.executable, "-c", main, "build", f"examples/{example}.py", "-o", f"{folder}/generated"]
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True)
            seconds.append(time.perf_counter() - began)
    yield at_most(example, "build from nothing", seconds[0], BUILD_SECONDS.get(example), "s")
    yield at_most(example, "build, unchanged", seconds[1], UNCHANGED_SECONDS, "s")


def measure(
    sections: tuple[str, ...],
    examples: tuple[str, ...],
    ipopt: int,
    kkt: int,
    differenced: int,
    repetitions: int,
) -> list[Row]:
    """Run the chosen sections, one after the other so that no timing is disturbed by another."""
    plan: list[tuple[str, Callable[[], Iterator[Row]]]] = []
    if "times" in sections:
        plan.append(("solve times", lambda: solve_times(repetitions)))
    if "builds" in sections:
        plan += [(f"{e}: builds", lambda e=e: build_times(e)) for e in BUILD_SECONDS]
    for e in examples:
        if "convergence" in sections:
            plan.append((f"{e}: convergence", lambda e=e: convergence(e)))
        if "costs" in sections:
            plan.append((f"{e}: costs beside IPOPT", lambda e=e: costs(e, ipopt)))
        if "gradients" in sections:
            plan.append((f"{e}: gradients", lambda e=e: gradients(e, kkt, differenced)))
    rows: list[Row] = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(plan))
        for title, section in plan:
            progress.update(task, description=title)
            rows += section()
            progress.advance(task)
    return rows


def print_rows(rows: list[Row], title: str) -> None:
    """Print the table, required beside measured."""
    table = Table(title=title, title_justify="left")
    for header in ("example", "what", "measured", "required", ""):
        table.add_column(header, justify="left" if header in ("example", "what") else "right")
    previous = None
    for row in rows:
        if previous is not None and row.example != previous:
            table.add_section()
        verdict = {None: "", True: "[green]met[/]", False: "[red]NOT MET[/]"}[row.met]
        table.add_row(row.example, row.what, f"{row.measured:.4g} {row.unit}", row.required or "", verdict)
        previous = row.example
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)


SECTIONS = ("times", "builds", "convergence", "costs", "gradients")


@click.command()
@click.option("--only", multiple=True, type=click.Choice(SECTIONS), help="Section to run. Default: all.")
@click.option("--example", multiple=True, help="For convergence, costs and gradients. Default: the three.")
@click.option(
    "--ipopt", default=PROBLEMS, show_default=True, help="Problems of each example to solve with IPOPT."
)
@click.option(
    "--kkt", default=32, show_default=True, help="Solutions whose gradients to compare with CasADi's."
)
@click.option("--differenced", default=3, show_default=True, help="Of these, how many to difference.")
@click.option("--repetitions", default=31, show_default=True, help="Of each timing.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures here too.")
@click.option("--check", is_flag=True, help="Exit with status 1 if a requirement is not met.")
def main(
    only: tuple[str, ...],
    example: tuple[str, ...],
    ipopt: int,
    kkt: int,
    differenced: int,
    repetitions: int,
    json_file: Path | None,
    check: bool,
) -> None:
    """Measure what must hold."""
    # Taken before we load the machine ourselves: other work spoils the times.
    title = f"{machine_name()}; {load_average()} at the start"
    rows = measure(only or SECTIONS, example or CONVERGENCE_EXAMPLES, ipopt, kkt, differenced, repetitions)
    print_rows(rows, title)
    if json_file is not None:
        content = {"machine": title, "rows": [dataclasses.asdict(row) for row in rows]}
        json_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    unmet = sum(row.met is False for row in rows)
    click.echo(f"{unmet} of {sum(row.met is not None for row in rows)} requirements not met")
    if check and unmet:
        sys.exit(1)


if __name__ == "__main__":
    main()
