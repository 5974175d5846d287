"""The trials of figure 4 beside the paper's values: a row for each cell, and what the rows say."""

from collections.abc import Mapping
from statistics import mean, median
from typing import Any

from examples.paper.cells import SEEDS, SIZES, Cell, expert_data
from examples.paper.common import Claim, Trial
from examples.paper.systems import SYSTEMS, TRAIN

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
LIMIT = 40 * 60  # s on two cores, for the trials of the paper's figure that are not `nn`

Row = dict[str, Any]
Key = tuple[str, str, int]  # system, method, trajectories


def table(trials: Mapping[Cell, Trial]) -> list[Row]:
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


def costs(rows: list[Row]) -> dict[str, float]:
    """Processor seconds of the paper's figure without `nn`, of `nn`, and of the variants."""
    seconds = {"cpu_seconds": 0.0, "cpu_seconds_nn": 0.0, "cpu_seconds_variants": 0.0}
    for row in rows:
        kind = "_variants" if row["variant"] else "_nn" if row["method"] == "nn" else ""
        seconds[f"cpu_seconds{kind}"] += row["cpu_seconds"]
    return seconds


def of_variant(rows: list[Row], variant: str) -> dict[Key, Row]:
    """Return the rows of one variant that is not a network's, by system, method and number of trajectories."""
    chosen = (row for row in rows if row["variant"] == variant and row["method"] != "nn")
    return {(row["system"], row["method"], row["trajectories"]): row for row in chosen}


def words(keys: Any) -> str:
    """Return cells in words."""
    return "; ".join(f"{system} {method}, {size}" for system, method, size in keys) or "none"


def page_table(rows: list[Row]) -> str:
    """Return the table of the page in Markdown."""
    columns = {
        "mpcgen, its settings": "",
        "with the paper's gradient": "paper's gradient",
        "with a decaying rate": "decaying rate",
        "four data sets": "four data sets",
    }
    head = ["", "trajectories", "the paper", *columns]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    found = {(row["system"], row["method"], row["trajectories"], row["variant"]): row for row in rows}
    for (system, method), paper in PAPER.items():
        for size, loss in zip(SIZES, paper, strict=True):
            name = f"{system} `{method}`" if size == min(SIZES) else ""
            cells = [in_words(found.get((system, method, size, variant))) for variant in columns.values()]
            lines.append("| " + " | ".join([name, str(size), short(loss * TO_OURS), *cells]) + " |")
    return "\n".join(lines) + "\n"


def in_words(row: Row | None) -> str:
    """Return the mean of four trials, or of four data sets the median and range."""
    if row is None:
        return ""
    if "data sets" not in row["variant"]:
        return short(row["test_mean"])
    losses = [row[f"test_{seed}"] for seed in SEEDS]
    return f"{short(row['test_median'])} ({short(min(losses))} to {short(max(losses))})"


def short(loss: float) -> str:
    """Return a loss with two digits, as 1.2e-3."""
    digits, exponent = f"{loss:.1e}".split("e")
    return f"{digits}e{int(exponent)}"


def claims_of(rows: list[Row]) -> list[Claim]:
    """Return what the page says of the trials; of the variants if their rows are here."""
    claims = [against_paper(rows), against_networks(rows), in_time(rows), converged(rows), saturated()]
    if of_variant(rows, "paper's gradient"):
        claims.append(papers_gradient(rows))
    if of_variant(rows, "four data sets"):
        claims.append(other_data(rows))
    return claims


def against_paper(rows: list[Row]) -> Claim:
    """Return how many cells reach the paper's value, and whether a decaying rate mends the others."""
    ours, decaying = of_variant(rows, ""), of_variant(rows, "decaying rate")
    short = [key for key, row in ours.items() if not row["reached"]]
    mended = [key for key in short if decaying[key]["reached"]]
    text = (
        f"{len(ours) - len(short)} of {len(ours)} cells reach the paper's value with its settings, "
        f"not: {words(short)}; with a decaying learning rate these reach it: {words(mended)}"
    )
    return Claim(text, len(short) <= 1 and short == mended)


def against_networks(rows: list[Row]) -> Claim:
    """Return by how much the cells are below the neural network's."""
    network = {(r["system"], r["trajectories"]): r["test_mean"] for r in rows if r["method"] == "nn"}
    ratios = [
        network[system, size] / row["test_mean"] for (system, _, size), row in of_variant(rows, "").items()
    ]
    ahead = sum(ratio > 1 for ratio in ratios)
    text = f"{ahead} of {len(ratios)} cells are below the neural network's, {min(ratios):.2g} times or more"
    return Claim(text, ahead == len(ratios))


def in_time(rows: list[Row]) -> Claim:
    """Return the time of the trials that are not `nn`."""
    seconds = costs(rows)["cpu_seconds"]
    trials = len(SEEDS) * len(of_variant(rows, ""))
    text = (
        f"{trials} trials took {seconds / 60:.0f} minutes of processor time, {seconds / trials:.0f} s each; "
        f"two cores have {2 * LIMIT / 60:.0f} in {LIMIT / 60:.0f} minutes"
    )
    return Claim(text, seconds < 2 * LIMIT)


def converged(rows: list[Row]) -> Claim:
    """Return how many of the solves had no gradient."""
    ours = of_variant(rows, "")
    worst = max(
        row["unconverged"] / (row["epochs"] * size * len(SEEDS)) for (_, _, size), row in ours.items()
    )
    most = max(row["unconverged"] for row in ours.values())
    text = f"at most {most} solves of a cell did not converge, at most {worst:.0e} of a cell's solves"
    return Claim(text, worst < 1e-3)


def saturated() -> Claim:
    """Return how many of the pendulum's training trajectories tell nothing, every control being at a bound."""
    u = expert_data(Cell("pendulum", "mpc.dx", TRAIN)).u[0, :TRAIN]
    (bound,) = SYSTEMS["pendulum"].problem.spec().controls
    share = (u.abs() >= float(bound.upper)).all(dim=(1, 2)).double().mean().item()
    text = f"{share:.0%} of the pendulum's training trajectories have every control at a bound"
    return Claim(text, share > 0.5)


def papers_gradient(rows: list[Row]) -> Claim:
    """Return where the paper's gradient ends at another loss than the exact one."""
    exact, paper = of_variant(rows, ""), of_variant(rows, "paper's gradient")
    ratio = {key: row["test_mean"] / exact[key]["test_mean"] for key, row in paper.items()}
    worse = [key for key in ratio if ratio[key] > 10]
    better = [key for key in ratio if ratio[key] < 1 / 10]
    text = (
        f"in {len(ratio)} cells the paper's gradient ends at more than ten times the exact one's loss: {words(worse)}; "
        f"at less than a tenth of it: {words(better)}"
    )
    return Claim(text, ("cartpole", "mpc.cost.dx", 50) in worse)


def other_data(rows: list[Row]) -> Claim:
    """Return how many of the cells with few trajectories reach the paper's value on four data sets."""
    cells = of_variant(rows, "four data sets")
    by_mean = [key for key, row in cells.items() if row["test_mean"] > row["paper"]]
    by_median = [key for key, row in cells.items() if row["test_median"] > row["paper"]]
    text = (
        f"over four data sets the mean of {len(by_mean)} of {len(cells)} cells is above the paper's value, "
        f"{words(by_mean)}; the median of {len(by_median)}, {words(by_median)}"
    )
    return Claim(text, len(by_median) <= 1)


def quick_claims(trials: Mapping[Cell, Trial]) -> list[Claim]:
    """Return what the short version's epochs from 50 trajectories show."""
    loss = {(cell.system, cell.method): mean(trial.value["test"]) for cell, trial in trials.items()}
    claims = []
    for (system, method), found in loss.items():
        if method == "nn":
            continue
        network = loss[system, "nn"]
        times = 1000 if method in ("sysid", "mpc.dx") else 1
        share = "1000 times " if times == 1000 else ""
        text = f"{system}: test loss of {method} {found:.2g}, {share}below nn's {network:.2g}"
        claims.append(Claim(text, times * found < network))
    return claims
