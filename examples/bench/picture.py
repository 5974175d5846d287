"""The picture of a run: time over batch, over horizon, over state size, and the share of peak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from examples.bench.cells import Measurement
from examples.bench.results import Results
from mpcgen.errors import MpcgenError, pip_install


class PlottingUnavailableError(MpcgenError, ImportError):
    """matplotlib, which the picture needs, is not installed."""


def figure(**options: Any) -> Any:
    """Return an empty matplotlib Figure; raises PlottingUnavailableError where there is no matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlottingUnavailableError(
            f"the picture needs matplotlib; install it with: {pip_install('plot')}, or use --no-picture"
        ) from error
    return Figure(**options)


def draw(results: Results, path: Path) -> None:
    """Write the picture; the ending of ``path`` says its format."""
    picture = figure(figsize=(12, 9), layout="constrained")
    axes = picture.subplots(2, 2)
    chosen = [m for m in results.measurements if _is_drawn(m)]
    _batches(axes[0, 0], chosen)
    _sweep(axes[0, 1], results, "horizon", "N, controls")
    _sweep(axes[1, 0], results, "state size", "n, states")
    _shares(axes[1, 1], chosen)
    for ax in axes.flat:
        if not ax.lines:  # an empty panel with logarithmic axes cannot be drawn
            ax.set(xscale="linear", yscale="linear", xticks=[], yticks=[])
            ax.text(0.5, 0.5, "not measured", ha="center", va="center", transform=ax.transAxes)
    picture.suptitle(results.environment.machine, fontsize="small")
    picture.savefig(path, dpi=150)


def _is_drawn(m: Measurement) -> bool:
    c = m.cell
    return m.seconds is not None and (c.what, c.start, c.through) == ("forward", "cold", "kernel")


def _lines(rows: list[Measurement]) -> dict[tuple[str, str, int], list[Measurement]]:
    """Measurements by problem, precision and threads, batches ascending."""
    lines: dict[tuple[str, str, int], list[Measurement]] = {}
    for m in sorted(rows, key=lambda m: m.cell.batch):
        lines.setdefault((m.cell.problem, m.cell.dtype, m.cell.threads), []).append(m)
    return dict(sorted(lines.items()))


def _style(dtype: str, threads: int) -> dict[str, Any]:
    return {"linestyle": "-" if dtype == "float64" else ":", "marker": "o" if threads == 1 else "^", "ms": 4}


def _draw_lines(ax: Any, rows: list[Measurement], value: Any) -> None:
    problems = list(dict.fromkeys(m.cell.problem for m in rows))
    for (problem, dtype, threads), line in _lines(rows).items():
        label = problem if dtype == "float64" and threads == 1 else None
        color = f"C{problems.index(problem)}"
        batches = [m.cell.batch for m in line]
        ax.plot(batches, [value(m) for m in line], color=color, label=label, **_style(dtype, threads))
    ax.set(xscale="log", xlabel="batch; dotted: float32, triangles: all threads")
    if rows:
        ax.legend(fontsize="small")


def _batches(ax: Any, rows: list[Measurement]) -> None:
    _draw_lines(ax, rows, lambda m: m.microseconds)
    ax.set(yscale="log", ylabel="µs per problem", title="Cold start")


def _shares(ax: Any, rows: list[Measurement]) -> None:
    _draw_lines(ax, rows, lambda m: 100 * (m.share_of_peak or 0.0))
    ax.set(ylabel="% of the multiply-add rate at the same width", title="Share of peak", ylim=(0, None))


def _sweep(ax: Any, results: Results, sweep: str, label: str) -> None:
    points = [p for p in results.sweeps if p.sweep == sweep]
    if not points:
        return
    ax.plot([p.value for p in points], [1e6 * p.seconds for p in points], "o-")
    problem = points[0].problem if sweep == "horizon" else "|u| <= 1, linear-quadratic, N = 40"
    ax.set(xscale="log", yscale="log", xlabel=label, ylabel="µs per problem and iteration")
    ax.set_title(f"{problem}, batch 128, one thread")
