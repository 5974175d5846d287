"""Figure 4: imitation of pendulum and cartpole by five methods from 10, 50 and 100 trajectories, four seeds."""

from collections.abc import Mapping
from statistics import mean, median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from examples.paper.cells import METHODS, SIZES, Cell, all_cells, run_cells
from examples.paper.common import PAPER_COLOUR, Claim, Results, Trial, tidy
from examples.paper.systems import SYSTEMS

# Test imitation losses shown in the paper, (system, method) -> for 10, 50 and 100 trajectories.
PAPER = {
    ("pendulum", "nn"): (3.88e-1, 7.80e-2, 2.69e-2),
    ("pendulum", "sysid"): (1.47e-4, 2.12e-5, 2.39e-6),
    ("pendulum", "mpc.dx"): (5.15, 4.62e-7, 3.42e-8),
    ("pendulum", "mpc.cost"): (4.29e-3, 1.24e-5, 2.78e-5),
    ("pendulum", "mpc.cost.dx"): (6.26e-2, 2.13e-4, 1.79e-4),
    ("cartpole", "nn"): (4.58e1, 2.15e1, 9.70),
    ("cartpole", "sysid"): (1.62e-2, 3.22e-3, 8.02e-4),
    ("cartpole", "mpc.dx"): (2.23e-2, 8.86e-2, 1.58e-4),
    ("cartpole", "mpc.cost"): (1.99e1, 3.22e-1, 9.53e-4),
    ("cartpole", "mpc.cost.dx"): (2.17e1, 1.81, 4.34e-3),
}
# The paper's means are over 20 controls, of which the last is the expert's by construction; ours over the 19 others.
TO_OURS = 20 / 19


def run(results: Results) -> list[Claim]:
    """Run the trials, draw the figure, and compare with the paper's values."""
    trials = run_cells(results, all_cells(results.quick))
    rows = table(trials)
    claims = quick_claims(trials) if results.quick else [against_paper(rows), against_network(rows)]
    results.save_numbers(rows, claims, **costs(trials))
    results.save_figure(draw(trials))
    return claims


def table(trials: Mapping[Cell, Trial]) -> list[dict[str, Any]]:
    """Return a row for each cell; losses are means over 19 controls, the paper's converted to that."""
    rows = []
    for cell, trial in trials.items():
        value, losses = trial.value, trial.value["test"]
        paper = PAPER[cell.system, cell.method][SIZES.index(cell.trajectories)] * TO_OURS
        rows.append(
            {
                "system": cell.system,
                "method": cell.method,
                "trajectories": cell.trajectories,
                "variant": cell.variant,
                "test_mean": mean(losses),
                "test_median": median(losses),
                "paper": paper,
                "reached": mean(losses) <= paper,
                **{f"test_{seed}": loss for seed, loss in enumerate(losses)},
                "train_mean": mean(value["train"]),
                "validation_mean": mean(value["validation"]),
                "epochs": value["epochs"],
                "best_epochs": value["best_epoch"],
                "unconverged": value.get("unconverged"),
                "cpu_seconds": trial.cpu_seconds,
                "wall_seconds": trial.wall_seconds,
            }
        )
    return rows


def costs(trials: Mapping[Cell, Trial]) -> dict[str, float]:
    """Seconds of all trials of the paper's figure without `nn`, and of `nn`."""
    seconds = {"cpu_seconds": 0.0, "cpu_seconds_nn": 0.0}
    for cell, trial in trials.items():
        if not cell.variant:
            seconds["cpu_seconds_nn" if cell.method == "nn" else "cpu_seconds"] += trial.cpu_seconds
    return seconds


def of_variant(rows: list[dict[str, Any]], variant: str) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the rows of one variant by system, method and number of trajectories."""
    keys = ("system", "method", "trajectories")
    return {tuple(row[key] for key in keys): row for row in rows if row["variant"] == variant}


def against_paper(rows: list[dict[str, Any]]) -> Claim:
    """Return how many cells reach the paper's value, and whether a decaying rate mends the others."""
    ours = {key: row for key, row in of_variant(rows, "").items() if key[1] != "nn"}
    short = [key for key, row in ours.items() if not row["reached"]]
    mended = [key for key in short if of_variant(rows, "decaying rate")[key]["reached"]]
    text = (
        f"{len(ours) - len(short)} of {len(ours)} cells reach the paper's value with its settings, "
        f"and with a decaying learning rate {len(mended)} of the {len(short)} others: {short}"
    )
    return Claim(text, len(short) == len(mended))


def against_network(rows: list[dict[str, Any]]) -> Claim:
    """Return how many cells are below the neural network's."""
    loss = {key: row["test_mean"] for key, row in of_variant(rows, "").items()}
    ours = [key for key in loss if key[1] != "nn"]
    ahead = sum(loss[system, method, size] < loss[system, "nn", size] for system, method, size in ours)
    return Claim(f"{ahead} of {len(ours)} cells are below the neural network's", ahead == len(ours))


def quick_claims(trials: Mapping[Cell, Trial]) -> list[Claim]:
    """Return what 200 epochs from 50 trajectories show."""
    loss = {(cell.system, cell.method): mean(trial.value["test"]) for cell, trial in trials.items()}
    claims = []
    for system in SYSTEMS:
        network = loss[system, "nn"]
        for method in ("sysid", "mpc.dx"):
            text = f"{system}: test loss of {method} {loss[system, method]:.2g}, 1000 times below nn's {network:.2g}"
            claims.append(Claim(text, 1000 * loss[system, method] < network))
        for method in ("mpc.cost", "mpc.cost.dx"):
            text = f"{system}: test loss of {method} {loss[system, method]:.2g}, below nn's {network:.2g}"
            claims.append(Claim(text, loss[system, method] < network))
    return claims


def draw(trials: Mapping[Cell, Trial]) -> Figure:
    """Draw the test losses: mean and each trial, beside the paper's."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    for axes, system in zip(figure.subplots(1, 2), SYSTEMS, strict=True):
        draw_system(axes, system, trials)
    figure.legend(handles=legend(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def position(cell: Cell) -> float:
    """Place on the horizontal axis."""
    return 4 * METHODS.index(cell.method) + SIZES.index(cell.trajectories)


def draw_system(axes: Axes, system: str, trials: Mapping[Cell, Trial]) -> None:
    """Draw one panel."""
    for cell, trial in trials.items():
        x, losses = position(cell), trial.value["test"]
        if cell.system != system or cell.variant not in ("", "paper's gradient"):
            continue
        if cell.variant:
            axes.plot(x + 0.35, mean(losses), **PAPER_GRADIENT)
            continue
        axes.plot([x] * len(losses), losses, **EACH_TRIAL)
        axes.plot(x, mean(losses), **OURS)
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
THEIRS = OURS | {"marker": "D", "color": PAPER_COLOUR, "markerfacecolor": "none", "markersize": 7}


def legend() -> list[Line2D]:
    """Return one entry for each kind of mark."""
    return [
        Line2D([], [], label="the paper", **THEIRS),
        Line2D([], [], label="mpcgen, mean of four trials", **OURS),
        Line2D([], [], label="each trial", **EACH_TRIAL),
        Line2D([], [], label="mean with the paper's gradient", **PAPER_GRADIENT),
    ]
