"""A comparison as tables on the terminal."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from mpcgen.baseline.compare import Comparison


def print_comparison(comparison: "Comparison", console: Console | None = None) -> None:
    """Print one table for the solvers and one for the gradients."""
    out = console or Console(highlight=False)
    threads = "1 thread" if comparison.threads == 1 else f"{comparison.threads} threads"
    out.print(f"{comparison.name}: {comparison.count} random problems, tol {comparison.tol:g}, {threads}")
    out.print(_solvers(comparison))
    out.print(_gradients(comparison))


def _solvers(comparison: "Comparison") -> Table:
    table = Table(
        title="solutions (differences: largest where both solved in one basin)", title_justify="left"
    )
    for header in ("solver", "solved", "same basin", "|dx|", "|du|", "|dcost| rel.", "mean cost"):
        table.add_column(header, justify="left" if header == "solver" else "right")
    for header in ("iterations", "time", "ratio"):
        table.add_column(header, justify="right")
    costs = [row.own_mean_cost for row in comparison.rows]
    own = [f"{costs[0]:.9g}" if costs else "", f"{comparison.mean_iterations:.1f}"]
    time = [_milliseconds(comparison.seconds), "1"]
    table.add_row("mpcgen", f"{comparison.solved}/{comparison.count}", "", "", "", "", *own, *time)
    for row in comparison.rows:
        table.add_row(
            row.solver,
            f"{row.solved}/{comparison.count}",
            str(row.same),
            *(f"{value:.1e}" for value in (row.x_difference, row.u_difference, row.cost_difference)),
            f"{row.mean_cost:.9g}",
            f"{row.mean_iterations:.1f}",
            _milliseconds(row.seconds),
            f"{row.seconds / comparison.seconds:.1f}",
        )
    return table


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def _gradients(comparison: "Comparison") -> Table:
    title = f"gradients against CasADi's KKT system, {comparison.differentiable} differentiable solutions"
    table = Table(title=title, title_justify="left")
    table.add_column("with respect to")
    table.add_column("largest relative difference", justify="right")
    for name, value in comparison.gradients.items():
        table.add_row(name, f"{value:.1e}")
    return table
