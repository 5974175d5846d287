"""Figure 5: a simple pendulum learns to imitate one that it cannot be, by next states and by controls."""

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import mpcgen
from examples.paper.common import PAPER_COLOUR, Claim, Results, progress, tidy
from examples.paper.imitation import MPCPolicy, evaluate, train
from examples.paper.systems import SYSTEMS, TRAIN, collect, complex_pendulum

METHODS = ("sysid", "mpc.dx")
SEEDS = tuple(range(8))
EPOCHS = 250
# Where the curves of the paper settle, read by eye. Its control losses are means over one more control: comparison.py.
PAPER = {("sysid", "next state"): 0.0020, ("mpc.dx", "next state"): 0.0027}
PAPER |= {("sysid", "imitation"): 0.19 * 20 / 19, ("mpc.dx", "imitation"): 0.135 * 20 / 19}
ONE_DATA_SET = (0,) * len(SEEDS)


def run(results: Results) -> list[Claim]:
    """Train both methods, and mpc.dx with the paper's gradient too; then both from eight data sets."""
    epochs = 150 if results.quick else EPOCHS
    runs = {
        f"{method}-{gradient}": (method, gradient, ONE_DATA_SET)
        for method, gradient in (("sysid", "exact"), ("mpc.dx", "exact"), ("mpc.dx", "gauss_newton"))
    }
    if not results.quick:
        runs |= {f"{method}-data": (method, "exact", SEEDS) for method in METHODS}
    curves, seconds = {}, 0.0
    with progress() as bar:
        task = bar.add_task("runs of eight learners", total=len(runs), note="")
        for name, arguments in runs.items():
            bar.update(task, note=name)
            trial = results.trial(
                name, {"run": arguments, "epochs": epochs}, lambda a=arguments: learn(*a, epochs)
            )
            curves[name] = trial.value
            seconds += trial.cpu_seconds
            bar.advance(task)
    claims = compare(curves)
    results.save_numbers(table(curves), claims, cpu_seconds=seconds)
    results.save_figure(draw(curves))
    return claims


def learn(
    method: str, gradient: str, data_seeds: tuple[int, ...], epochs: int
) -> dict[str, list[list[float]]]:
    """Train eight learners; return their losses on the training data after each epoch, (epochs+1, 8)."""
    system = SYSTEMS["pendulum"]
    expert = mpcgen.compile(complex_pendulum(), dtypes=("float64",)).MPC(on_unconverged="raise", threads=1)
    mpc = mpcgen.compile(system.problem, dtypes=("float64",)).MPC(
        gradient=gradient, on_unconverged="ignore", threads=1
    )
    data = collect(expert, system.initial_states, data_seeds)
    training, validation, _ = data.split(TRAIN)
    policy = MPCPolicy(mpc, system, method, len(SEEDS), starts(SEEDS))
    optimizer = torch.optim.RMSprop(policy.parameters(), lr=1e-2, alpha=0.5)
    losses: dict[str, list[list[float]]] = {"imitation": [], "next state": []}

    def record(epoch: int) -> None:
        losses["imitation"].append(six_digits(evaluate(policy, training)))
        with torch.no_grad():
            losses["next state"].append(six_digits(policy.next_state_loss(training.x, training.u)))

    record(0)
    train(policy, optimizer, training, validation, SEEDS, epochs, after_epoch=record)
    return losses


def six_digits(values: Tensor) -> list[float]:
    """Return numbers that are short to write."""
    return [float(f"{value:.6g}") for value in values.tolist()]


def starts(seeds: tuple[int, ...]) -> Tensor:
    """(S, 3) gravity, mass and length to start from, (5, 1, 1) + (3, 1, 1) * U(-1/2, 1/2)."""
    centre = torch.tensor([5.0, 1.0, 1.0], dtype=torch.float64)
    width = torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    draws = torch.stack([torch.rand(3, generator=g, dtype=torch.float64) for g in generators])
    return centre + width * (draws - 0.5)


def settled(values: list[list[float]]) -> Tensor:
    """(8,) losses at the end, mean over the last 50 epochs."""
    return torch.tensor(values[-50:]).mean(0)


def epochs_until_apart(lower: list[list[float]], upper: list[list[float]]) -> int:
    """Return the first epoch from which on all learners of one method are below all of the other; (epochs+1, 8)."""
    overlap = torch.tensor(lower).amax(1) >= torch.tensor(upper).amin(1)
    return int(overlap.nonzero().max()) + 1


def compare(curves: dict[str, Any]) -> list[Claim]:
    """Return what the paper claims: the better model of the next state is the worse imitator."""
    end = {name: {loss: settled(v) for loss, v in losses.items()} for name, losses in curves.items()}
    sysid, ours = end["sysid-exact"], end["mpc.dx-exact"]
    claims = [
        Claim(
            f"imitation loss of all seeds: mpc.dx at most {ours['imitation'].max():.3f}, "
            f"sysid at least {sysid['imitation'].min():.3f}",
            bool(ours["imitation"].max() < sysid["imitation"].min()),
        ),
        Claim(
            f"next-state loss, mean: sysid {sysid['next state'].mean():.4f} below "
            f"mpc.dx {ours['next state'].mean():.4f}",
            bool(sysid["next state"].mean() < ours["next state"].mean()),
        ),
    ]
    apart = epochs_until_apart(curves["mpc.dx-exact"]["imitation"], curves["sysid-exact"]["imitation"])
    claims.append(
        Claim(f"the bands of the imitation losses are apart from epoch {apart} on", apart < EPOCHS / 2)
    )
    ratio = end["mpc.dx-gauss_newton"]["imitation"].mean() / ours["imitation"].mean()
    text = f"the paper's gradient ends at {ratio:.3f} times the imitation loss of the exact one"
    claims.append(Claim(text, abs(ratio.item() - 1) < 0.05))
    if "mpc.dx-data" in end:
        ratio = end["mpc.dx-data"]["imitation"] / end["sysid-data"]["imitation"]
        text = (
            f"eight data sets: imitation loss of mpc.dx is {ratio.min():.2f} to {ratio.max():.2f} of sysid's"
        )
        claims.append(Claim(text, bool(ratio.max() < 1)))
    return claims


def table(curves: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each run and loss: at the end over the learners, and in the paper."""
    rows = []
    for name, losses in curves.items():
        for loss, values in losses.items():
            end = settled(values)
            row = {"run": name, "loss": loss, "mean": end.mean(), "least": end.min(), "largest": end.max()}
            row = {key: v.item() if isinstance(v, Tensor) else v for key, v in row.items()}
            rows.append(row | {"epochs": len(values) - 1, "paper": PAPER[name.split("-")[0], loss]})
    return rows


def draw(curves: dict[str, Any]) -> Figure:
    """Draw both losses over the epochs: mean and range of the learners."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    lines = (
        ("sysid-exact", "sysid", "C2", True),
        ("mpc.dx-exact", "mpc.dx", "C0", True),
        ("mpc.dx-gauss_newton", "mpc.dx, the paper's gradient", "C1", False),
    )
    for name, label, colour, fill in lines:
        for axes, loss in ((left, "next state"), (right, "imitation")):
            band(axes, torch.tensor(curves[name][loss]), label, colour, fill)
            if fill:
                axes.axhline(PAPER[label, loss], color=colour, linestyle=":", linewidth=1.2)
    left.set(title='next-state loss ("SysId loss")', ylabel="mean squared error of the next state")
    right.set(title="imitation loss", ylabel="mean squared control difference, (N m)²")
    left.set_ylim(0, 0.01)
    right.set_ylim(0.1, 0.5)
    right.plot([], [], color=PAPER_COLOUR, linestyle=":", label="where the paper's settle, by eye")
    right.legend(frameon=False)
    return figure


def band(axes: Axes, losses: Tensor, label: str, colour: str, fill: bool) -> None:
    """Draw the mean of losses (epochs, seeds), and their range."""
    epochs = range(len(losses))
    axes.plot(epochs, losses.mean(1), color=colour, linestyle="-" if fill else "--", label=label)
    if fill:
        axes.fill_between(epochs, losses.amin(1), losses.amax(1), color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("epoch")
    tidy(axes)
