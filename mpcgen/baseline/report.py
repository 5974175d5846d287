"""A comparison as tables on the terminal."""

import os
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table

from mpcgen.baseline.compare import Comparison, SolverRow, compare


def main_compare(
    path: str | os.PathLike[str],
    count: int = 16,
    seed: int = 0,
    tol: float = 1e-8,
    spec: str | os.PathLike[str] | None = None,
) -> Comparison:
    """Print `compare` as tables and return it."""
    comparison = compare(path, count, seed, tol, spec)
    print_comparison(comparison)
    return comparison


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print one table for the solvers and one for the gradients."""
    out = console or Console(highlight=False)
    threads = "1 thread" if comparison.threads == 1 else f"{comparison.threads} threads"
    out.print(f"{comparison.name}: {comparison.count} random problems, tol {comparison.tol:g}, {threads}\n")
    out.print(_solvers(comparison))
    out.print("Differences: the largest over the problems that both solved in one basin.")
    for note in _notes(comparison):
        out.print(note)
    out.print()
    out.print(_gradients(comparison))
    out.print(
        f"Over {comparison.differentiable} of {comparison.count} solutions: solved, second-order conditions "
        "hold, no bound or constraint weakly active."
    )


def _solvers(comparison: Comparison) -> Table:
    table = Table(title="solutions", title_justify="left")
    table.add_column(overflow="fold")
    for name in ("mpcgen", *(row.solver for row in comparison.rows)):
        table.add_column(name, justify="right", overflow="fold")

    def add(label: str, own: str, theirs: Callable[[SolverRow], str]) -> None:
        table.add_row(label, own, *(theirs(row) for row in comparison.rows))

    add("solved", f"{comparison.solved}/{comparison.count}", lambda r: f"{r.solved}/{comparison.count}")
    add("same basin", "", lambda r: str(r.same))
    add("state difference", "", lambda r: f"{r.x_difference:.1e}")
    add("control difference", "", lambda r: f"{r.u_difference:.1e}")
    add("cost difference, relative", "", lambda r: f"{r.cost_difference:.1e}")
    add("mean cost where both solved", "", lambda r: f"{r.mean_cost:.9g}")
    add("  mpcgen's", "", lambda r: f"{r.own_mean_cost:.9g}")
    add("mean iterations", f"{comparison.mean_iterations:.1f}", lambda r: f"{r.mean_iterations:.1f}")
    own = comparison.seconds
    add("time for all", _time(own, comparison.solved), lambda r: _time(r.seconds, r.solved))
    add("time ratio", "1", lambda r: f"{r.seconds / own:.0f}" if r.solved and comparison.solved else "")
    return table


def _time(seconds: float, solved: int) -> str:
    """A time of problems of which some were solved: how fast a solver gives up says nothing."""
    return f"{1e3 * seconds:.3g} ms" if solved else "none solved"


def _notes(comparison: Comparison) -> Iterator[str]:
    """What the solvers say of problems that they did not solve, and what else the numbers depend on."""
    failures = {"mpcgen": comparison.failures} | {row.solver: row.failures for row in comparison.rows}
    for solver, counts in failures.items():
        if counts:
            said = ", ".join(f"{status} ({times})" for status, times in counts.items())
            yield f"Of what {solver} did not solve it says: {said}."
    if any(row.failures for row in comparison.rows):
        yield "A peer's time is that until it gave up; problems whose start is not finite it was not given."
    if not comparison.own_states:
        yield (
            "The starts are from N(0, 1), which may be none of yours: define initial_states(count, seed) in the "
            "specification."
        )


def _gradients(comparison: Comparison) -> Table:
    table = Table(title="gradients against CasADi's KKT system", title_justify="left")
    table.add_column("with respect to", overflow="fold")
    table.add_column("relative difference", justify="right")
    for name, value in comparison.gradients.items():
        table.add_row(name, f"{value:.1e}")
    return table
