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
COLOURS = {"sysid": "C2", "mpc.dx": "C0"}
# Where the curves of the paper settle, read by eye; its control losses are means over one more control, see cells.py.
PAPER = {("sysid", "next state"): 0.0020, ("mpc.dx", "next state"): 0.0027}
PAPER |= {("sysid", "imitation"): 0.19 * 20 / 19, ("mpc.dx", "imitation"): 0.135 * 20 / 19}


def run(results: Results) -> list[Claim]:
    """Train both methods with both gradients, and draw the bands over the seeds."""
    epochs = 150 if results.quick else EPOCHS
    curves, seconds = {}, 0.0
    names = [(method, "exact") for method in METHODS] + [("mpc.dx", "gauss_newton")]
    with progress() as bar:
        task = bar.add_task("epochs of eight seeds", total=epochs * len(names), note="")
        for method, gradient in names:
            bar.update(task, note=method)
            settings = {"method": method, "gradient": gradient, "epochs": epochs, "seeds": SEEDS}
            trial = results.trial(
                f"{method}-{gradient}", settings, lambda m=method, g=gradient: learn(m, g, epochs)
            )
            curves[method, gradient] = trial.value
            seconds += trial.cpu_seconds
            bar.advance(task, epochs)
    claims = compare(curves)
    results.save_numbers(table(curves), claims, cpu_seconds=seconds)
    results.save_figure(draw(curves))
    return claims


def learn(method: str, gradient: str, epochs: int) -> dict[str, list[list[float]]]:
    """Train eight learners; return their losses on the training data after each epoch, (epochs+1, 8)."""
    system = SYSTEMS["pendulum"]
    expert = mpcgen.compile(complex_pendulum()).MPC(on_unconverged="raise")
    mpc = mpcgen.compile(system.problem).MPC(gradient=gradient, on_unconverged="ignore")
    # One data set, and eight draws of the parameters to start from.
    data = collect(expert, system.initial_states, [0] * len(SEEDS))
    training, validation, _ = data.split(TRAIN)
    policy = MPCPolicy(mpc, system, method, len(SEEDS), starts(SEEDS))
    optimizer = torch.optim.RMSprop(policy.parameters(), lr=1e-2, alpha=0.5)
    losses: dict[str, list[list[float]]] = {"imitation": [], "next state": []}

    def record(epoch: int) -> None:
        losses["imitation"].append(evaluate(policy, training).tolist())
        with torch.no_grad():
            losses["next state"].append(policy.next_state_loss(training.x, training.u).tolist())

    record(0)
    train(policy, optimizer, training, validation, SEEDS, epochs, after_epoch=record)
    return losses


def starts(seeds: tuple[int, ...]) -> Tensor:
    """(S, 3) gravity, mass and length to start from, (5, 1, 1) + (3, 1, 1) * U(-1/2, 1/2)."""
    centre = torch.tensor([5.0, 1.0, 1.0], dtype=torch.float64)
    width = torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    draws = torch.stack([torch.rand(3, generator=g, dtype=torch.float64) for g in generators])
    return centre + width * (draws - 0.5)


def compare(curves: dict[tuple[str, str], Any]) -> list[Claim]:
    """Return what the paper claims: the better model of the next state is the worse imitator."""
    last = {
        name: {loss: torch.tensor(values[-1]) for loss, values in c.items()} for name, c in curves.items()
    }
    sysid, ours = last["sysid", "exact"], last["mpc.dx", "exact"]
    return [
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


def table(curves: dict[tuple[str, str], Any]) -> list[dict[str, Any]]:
    """Return a row for each method and loss: at the end over the seeds, and in the paper."""
    rows = []
    for (method, gradient), losses in curves.items():
        for loss, values in losses.items():
            last = torch.tensor(values[-1])
            rows.append(
                {
                    "method": method,
                    "gradient": gradient,
                    "loss": loss,
                    "epochs": len(values) - 1,
                    "mean": last.mean().item(),
                    "least": last.min().item(),
                    "largest": last.max().item(),
                    "paper": PAPER[method, loss],
                }
            )
    return rows


def draw(curves: dict[tuple[str, str], Any]) -> Figure:
    """Draw both losses over the epochs: mean and range of the seeds."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (method, gradient), losses in curves.items():
        ours = gradient == "exact"
        label = method if ours else f"{method}, the paper's gradient"
        for axes, loss in ((left, "next state"), (right, "imitation")):
            band(axes, torch.tensor(losses[loss]), label, COLOURS[method] if ours else "C1", ours)
            if ours:
                axes.axhline(PAPER[method, loss], color=COLOURS[method], linestyle=":", linewidth=1.2)
    left.set(
        title='next-state loss ("SysId loss")', ylabel="mean squared error of the next state", ylim=(0, 0.01)
    )
    right.set(title="imitation loss", ylabel="mean squared control difference, (N m)²", ylim=(0, 1.0))
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
