"""Figure 6: training and test losses of the trials of figure 4, over the number of trajectories."""

from collections.abc import Mapping
from dataclasses import replace
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from examples.paper.cells import METHODS, SIZES, Cell, cells_of, run_cells
from examples.paper.common import Claim, Results, tidy
from examples.paper.comparison import PAPER, TO_OURS
from examples.paper.systems import SYSTEMS

COLOURS = dict(zip(METHODS, ("C7", "C2", "C0", "C1", "C3"), strict=True))


def run(results: Results) -> list[Claim]:
    """Read the trials of figure 4, running those that are missing, and draw their losses."""
    cells = cells_of(results)
    if results.quick:
        cells = [cell for cell in cells if cell.method in ("nn", "mpc.dx")]
    trials = run_cells(replace(results, experiment="figure4"), cells)
    losses = {c: trial.value for c, trial in trials.items() if c.variant in ("", "paper's gradient")}
    rows = [
        {
            **{name: getattr(cell, name) for name in ("system", "method", "trajectories", "variant")},
            **{f"{part}_mean": mean(value[part]) for part in ("train", "validation", "test")},
            **{f"train_{seed}": loss for seed, loss in enumerate(value["train"])},
        }
        for cell, value in losses.items()
    ]
    claims = advantage(losses)
    results.save_numbers(rows, claims)
    results.save_figure(draw(losses))
    return claims


def advantage(losses: Mapping[Cell, Any]) -> list[Claim]:
    """Return how far the methods with and without structure are apart, with the most trajectories."""
    claims = []
    largest = max(c.trajectories for c in losses)
    for system in dict.fromkeys(c.system for c in losses):
        of = {
            c.method: v
            for c, v in losses.items()
            if (c.system, c.trajectories, c.variant) == (system, largest, "")
        }
        ratio = mean(of["mpc.dx"]["test"]) / mean(of["nn"]["test"])
        text = f"{system}: test loss of mpc.dx over that of nn with the most trajectories {ratio:.1e}, below 1e-3"
        claims.append(Claim(text, ratio < 1e-3))
    return claims


def draw(losses: Mapping[Cell, Any]) -> Figure:
    """Draw a row for each system, training losses on the left and test losses on the right."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    for row, system in zip(panels, SYSTEMS, strict=True):
        for axes, part in zip(row, ("train", "test"), strict=True):
            draw_panel(axes, system, part, losses)
    handles = [Line2D([], [], color=COLOURS[method], marker="o", label=method) for method in METHODS]
    handles.append(Line2D([], [], color="0.4", linestyle="--", label="the paper's gradient"))
    handles.append(
        Line2D([], [], color="0.4", marker="D", markerfacecolor="none", linestyle="none", label="the paper")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def draw_panel(axes: Axes, system: str, part: str, losses: Mapping[Cell, Any]) -> None:
    """Draw one line for each method and gradient; the paper's test losses as diamonds."""
    for method in METHODS:
        for gradient, style in (("exact", "-"), ("gauss_newton", "--")):
            points = sorted(
                (c.trajectories, mean(v[part]))
                for c, v in losses.items()
                if (c.system, c.method, c.gradient) == (system, method, gradient)
            )
            if points:
                axes.plot(*zip(*points, strict=True), style, marker="o", markersize=4, color=COLOURS[method])
        if part == "test":
            paper = [loss * TO_OURS for loss in PAPER[system, method]]
            axes.plot(SIZES, paper, "D", color=COLOURS[method], markerfacecolor="none", markersize=6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(SIZES, [str(size) for size in SIZES])
    axes.minorticks_off()
    axes.set(
        title=f"{system}, {'training' if part == 'train' else part} loss", xlabel="training trajectories"
    )
    axes.set_ylabel("mean squared control difference")
    tidy(axes)
