"""The gallery's command, its table and its picture."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from examples.bench.gallery import METHODS, PEER, Comparison, Outcome, Settings, chosen, compare, measure
from examples.bench.picture import figure
from examples.bench.timing import load_average, machine_name
from mpcgen.errors import ParameterError

HEADERS = (
    "problem",
    "solver",
    "solved",
    "iterations: mean / 99 % / most",
    "µs each",
    *Comparison.__annotations__,
)
WIDTH = 180
MOST_RATIO = 100.0
"""Right end of the picture."""


def main_gallery(
    *,
    problems: Sequence[str] = (),
    methods: Sequence[str] = (),
    count: int | None = None,
    peer_count: int | None = None,
    tol: float | None = None,
    seed: int = 0,
    picture: bool = True,
    output: Path = Path("bench"),
) -> list[Outcome]:
    """Measure the gallery and print its table; write gallery.json, gallery.txt and gallery.png to ``output``.

    peer_count: of the ``count`` starts, those that IPOPT gets; None: all, 0: it is left out.
    """
    for method in methods:
        if method not in METHODS:
            raise ParameterError(
                f"the gallery has no method {method!r}; its methods are {', '.join(METHODS)}"
            )
    starts = Settings.starts if count is None else count
    if starts < 1 or (peer_count or 0) < 0:
        raise ParameterError(f"--count {starts} --peer-count {peer_count}; at least 1 and 0 are expected")
    settings = Settings(
        starts,
        starts if peer_count is None else min(starts, peer_count),
        tuple(methods) or Settings.methods,
        Settings.tol if tol is None else tol,
        seed=seed,
    )
    outcomes = _measure_all(problems, settings)
    output.mkdir(parents=True, exist_ok=True)
    rows = [
        {**asdict(o), **{k: getattr(o, k).tolist() for k in ("solved", "iterations", "cost")}}
        for o in outcomes
    ]
    (output / "gallery.json").write_text(
        json.dumps({"settings": asdict(settings), "outcomes": rows}), encoding="utf-8"
    )
    with (output / "gallery.txt").open("w", encoding="utf-8") as file:
        show(outcomes, settings, Console(file=file, width=WIDTH, highlight=False))
    if picture:
        draw(outcomes, output / "gallery.png")
    show(outcomes, settings, Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH))
    return outcomes


def _measure_all(problems: Sequence[str], settings: Settings) -> list[Outcome]:
    """Measure one problem after the other under a line of progress; an interrupted run returns what it has."""
    outcomes: list[Outcome] = []
    with Console(stderr=True).status("") as line:
        try:
            for entry in chosen(problems):
                line.update(entry.name)
                outcomes.extend(measure(entry, settings))
        except KeyboardInterrupt:
            line.console.print("interrupted: what was done so far is kept")
    return outcomes


def show(outcomes: Sequence[Outcome], settings: Settings, console: Console) -> None:
    """Print the table, and the statuses of what was not solved."""
    console.print(f"{machine_name()}; {load_average()}")
    console.print(
        f"{settings.starts} starts, IPOPT from the first {settings.peer_starts}; tol {settings.tol:g}, "
        f"at most {settings.max_iterations} iterations; costs relative to IPOPT's where both solve"
    )
    table = Table(box=None, pad_edge=False)
    for header in HEADERS:
        table.add_column(header, justify="left" if header in ("problem", "solver") else "right")
    theirs = {o.problem: o for o in outcomes if o.solver == PEER}
    for outcome in outcomes:
        table.add_row(*row(outcome, theirs.get(outcome.problem)))
    console.print(table)
    for o in outcomes:
        if not o.solved.all():
            counts = ", ".join(f"{count} {name}" for name, count in sorted(o.statuses.items()))
            console.print(f"{o.problem}, {o.solver}: {counts}")


def row(outcome: Outcome, theirs: Outcome | None) -> list[str]:
    """One row of the table; iterations are those of the solved starts."""
    its = outcome.iterations[outcome.solved]
    spread = f"{its.mean():.1f} / {np.percentile(its, 99):.0f} / {its.max()}" if len(its) else "-"
    cells = [
        outcome.problem,
        outcome.solver,
        f"{outcome.solved.sum()} of {len(outcome.solved)}",
        spread,
        f"{1e6 * outcome.seconds / len(outcome.solved):.0f}",
    ]
    if theirs is None or outcome is theirs:
        return cells + [""] * (len(HEADERS) - len(cells))
    compared = compare(outcome, theirs)
    counts = (compared.both, compared.same, compared.cheaper, compared.dearer)
    return [*cells, *map(str, counts), f"{compared.above:.1e}", f"{compared.above_same:.1e}"]


def profile(outcomes: Sequence[Outcome]) -> dict[str, np.ndarray]:
    """Iterations over those of the best solver for the same start, ascending, by solver (Dolan and Moré 2002).

    Infinite where a solver failed; starts that none solved are left out, as are those that not all solvers got.
    """
    solvers = list(dict.fromkeys(o.solver for o in outcomes))
    ratios: dict[str, list[np.ndarray]] = {solver: [] for solver in solvers}
    for problem in dict.fromkeys(o.problem for o in outcomes):
        mine = {o.solver: o for o in outcomes if o.problem == problem}
        if len(mine) < len(solvers):
            continue
        count = min(len(o.solved) for o in mine.values())
        costs = {
            solver: np.where(o.solved[:count], np.maximum(o.iterations[:count], 1), np.inf)
            for solver, o in mine.items()
        }
        best = np.min(list(costs.values()), axis=0)
        for solver, cost in costs.items():
            ratios[solver].append(cost[np.isfinite(best)] / best[np.isfinite(best)])
    return {s: np.sort(np.concatenate(r)) if r else np.zeros(0) for s, r in ratios.items()}


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the performance profile; the ending of ``path`` says its format."""
    picture = figure(figsize=(7, 4.5), layout="constrained")
    ax: Any = picture.subplots()
    grid = np.geomspace(1, MOST_RATIO, 200)
    for solver, ratios in profile(outcomes).items():
        if len(ratios):
            share = np.searchsorted(ratios, grid, side="right") / len(ratios)
            ax.step(grid, 100 * share, where="post", label=solver)
    ax.set(xscale="log", xlim=(1, MOST_RATIO), ylim=(0, 101), ylabel="% of the starts solved")
    ax.set(xlabel="iterations, at most so many times those of the best solver", title="Gallery")
    if ax.lines:
        ax.legend()
    picture.savefig(path, dpi=150)
