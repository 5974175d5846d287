"""Figure 4: imitation of pendulum and cartpole by five methods from 10, 50 and 100 trajectories, four seeds."""

from collections.abc import Mapping
from dataclasses import replace
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from examples.paper.cells import METHODS, SIZES, Cell, cells_of, run_cells
from examples.paper.common import PAPER_COLOUR, Claim, Results, Trial, tidy
from examples.paper.comparison import PAPER, TO_OURS, claims_of, costs, page_table, quick_claims, table
from examples.paper.systems import SYSTEMS


def run(results: Results) -> list[Claim]:
    """Run the trials, draw the figure, and compare with the paper's values."""
    trials = run_cells(results, cells_of(results))
    if not results.quick:
        trials |= run_cells(results, explanations(trials))
    rows = table(trials)
    claims = quick_claims(trials) if results.quick else claims_of(rows)
    results.save_numbers(rows, claims, **costs(rows))
    results.save_table(page_table(rows))
    results.save_figure(draw(trials))
    return claims


def explanations(trials: Mapping[Cell, Trial]) -> list[Cell]:
    """Return the cells that fall short of the paper's value once more, with a decaying learning rate."""
    ours = [cell for cell in trials if not cell.variant and cell.method != "nn"]
    short = [row["reached"] for row in table({cell: trials[cell] for cell in ours})]
    return [replace(cell, decay=True) for cell, reached in zip(ours, short, strict=True) if not reached]


def draw(trials: Mapping[Cell, Trial]) -> Figure:
    """Draw the test losses: mean and each trial, beside the paper's."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    for axes, system in zip(figure.subplots(1, 2), SYSTEMS, strict=True):
        draw_system(axes, system, trials)
    figure.legend(handles=legend(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def position(cell: Cell) -> float:
    """Place on the horizontal axis."""
    return 4 * METHODS.index(cell.method) + SIZES.index(cell.trajectories)


def draw_system(axes: Axes, system: str, trials: Mapping[Cell, Trial]) -> None:
    """Draw one panel."""
    for cell, trial in trials.items():
        x, losses = position(cell), trial.value["test"]
        if cell.system != system:
            continue
        if cell.variant == "":
            axes.plot([x] * len(losses), losses, **EACH_TRIAL)
            axes.plot(x, mean(losses), **OURS)
        elif cell.variant == "paper's gradient":
            axes.plot(x + 0.35, mean(losses), **PAPER_GRADIENT)
        elif cell.variant == "four data sets":
            axes.plot([x - 0.35] * len(losses), losses, **EACH_DATA_SET)
    for method in METHODS:
        places = [4 * METHODS.index(method) + place for place in range(len(SIZES))]
        axes.plot(places, [loss * TO_OURS for loss in PAPER[system, method]], **THEIRS)
    axes.set_yscale("log")
    ticks = [4 * group + place for group in range(len(METHODS)) for place in range(3)]
    labels = [f"{size}\n{method if size == 50 else ''}" for method in METHODS for size in SIZES]
    axes.set_xticks(ticks, labels)
    unit = "(N m)²" if system == "pendulum" else "N²"
    axes.set(
        title=system,
        xlabel="training trajectories",
        ylabel=f"test loss: mean squared control difference, {unit}",
    )
    tidy(axes)


OURS = {"marker": "o", "color": "C0", "markersize": 8, "linestyle": "none"}
EACH_TRIAL = OURS | {"markersize": 3.5, "alpha": 0.45}
PAPER_GRADIENT = OURS | {"marker": "^", "color": "C1", "markersize": 5}
EACH_DATA_SET = OURS | {"marker": "_", "color": "C2", "markersize": 7}
THEIRS = OURS | {"marker": "D", "color": PAPER_COLOUR, "markerfacecolor": "none", "markersize": 7}


def legend() -> list[Line2D]:
    """Return one entry for each kind of mark."""
    return [
        Line2D([], [], label="the paper", **THEIRS),
        Line2D([], [], label="mpcgen, mean of four trials", **OURS),
        Line2D([], [], label="each trial", **EACH_TRIAL),
        Line2D([], [], label="four data sets", **EACH_DATA_SET),
        Line2D([], [], label="mean with the paper's gradient", **PAPER_GRADIENT),
    ]
