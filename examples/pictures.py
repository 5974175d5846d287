"""Pictures of the demo: optimal trajectories with their bounds, and families of solutions."""

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples import cartpole as cartpole_example
from examples import pendulum as pendulum_example

SHOWN = 24  # trajectories of one system
MEMBERS = 15  # of a family


def trajectories(file: Path) -> None:
    """Draw angle, angular velocity and control over time, for random starts of pendulum and cartpole."""
    from generated import cartpole, pendulum

    figure = Figure(figsize=(11, 6), layout="constrained")
    for column, (package, example, unit, bound) in enumerate(
        ((pendulum, pendulum_example, "torque (N m)", 2.0), (cartpole, cartpole_example, "force (N)", None))
    ):
        solution = package.MPC()(example.initial_states(SHOWN, seed=1))
        names = package.CONTROLLER.states
        cosine, sine = names.index("cos_theta"), names.index("sin_theta")
        angle = torch.atan2(solution.x[..., sine], solution.x[..., cosine])
        start = angle[:, 0] / angle[:, 0].abs().max()
        colours = mpl.colormaps["turbo"]((0.5 + 0.5 * start).tolist())
        above, middle, below = (figure.add_subplot(3, 2, 2 * row + column + 1) for row in range(3))
        _angles(above, angle, colours, example.DT)
        _lines(middle, solution.x[..., names.index("omega")], colours, example.DT)
        _controls(below, solution.u[..., 0], colours, example.DT, bound)
        title = f"{package.CONTROLLER.name}, plans: {SHOWN} starts, coloured by their angle"
        above.set(ylabel="angle (rad)", title=title)
        middle.set_ylabel("rate (rad/s)")
        below.set(ylabel=unit, xlabel="time (s)")
    save(figure, file)


def families(file: Path) -> None:
    """Draw how the solution changes with one number: a start angle, a mass, a bound on the control."""
    from generated import cartpole

    figure = Figure(figsize=(11, 6), layout="constrained")
    mpc = cartpole.MPC()
    angles = torch.linspace(0.2, 3.0, MEMBERS, dtype=torch.float64)
    masses = torch.linspace(0.05, 1.0, MEMBERS, dtype=torch.float64)
    lengths = torch.linspace(0.2, 1.2, MEMBERS, dtype=torch.float64)
    zero = torch.zeros_like(angles)
    starts = torch.stack([zero, zero, angles.cos(), angles.sin(), zero], dim=-1)
    one = starts[-4]
    members = (
        ("start angle (rad)", angles, mpc(starts)),
        ("mass of the pole (kg)", masses, mpc(one, mass_pole=masses)),
        ("half length of the pole (m)", lengths, mpc(one, length=lengths)),
    )
    for column, (label, values, solution) in enumerate(members):
        norm = mpl.colors.Normalize(float(values[0]), float(values[-1]))
        colours = mpl.colormaps["viridis"](norm(values.numpy()))
        above, below = (figure.add_subplot(2, 3, 3 * row + column + 1) for row in (0, 1))
        _angles(above, torch.atan2(solution.x[..., 3], solution.x[..., 2]), colours, cartpole_example.DT)
        _controls(below, solution.u[..., 0], colours, cartpole_example.DT, None)
        above.set(title=f"by {label.partition(' (')[0]}")
        below.set_xlabel("time (s)")
        if column == 0:
            above.set_ylabel("angle (rad)")
            below.set_ylabel("force (N)")
        figure.colorbar(mpl.cm.ScalarMappable(norm, "viridis"), ax=[above, below], label=label, aspect=40)
    figure.suptitle("cartpole: how a plan depends on one number")
    save(figure, file)


def unwrapped(angle: torch.Tensor) -> torch.Tensor:
    """(B, N+1) angles without jumps of 2π, from a start in (-π, π]."""
    steps = torch.remainder(torch.diff(angle, dim=-1) + torch.pi, 2 * torch.pi) - torch.pi
    return torch.cumsum(torch.cat([angle[..., :1], steps], dim=-1), dim=-1)


def _angles(axes: Axes, angle: torch.Tensor, colours: Any, dt: float) -> None:
    """Draw angles with every turn, and the upright positions that they come near."""
    _lines(axes, unwrapped(angle), colours, dt)
    axes.margins(y=0.12)
    upright_lines(axes)


def upright_lines(axes: Axes) -> None:
    """Draw a line at each upright position, whole turns from 0, that lies in the axes' range or near it."""
    low, high = axes.get_ylim()
    for turn in range(math.floor(low / math.tau), math.ceil(high / math.tau) + 1):
        upright = math.tau * turn
        if turn == 0 or low - 0.5 < upright < high + 0.5:
            axes.axhline(upright, color="0.4", linewidth=0.8, linestyle=":", zorder=0)
            place = axes.get_yaxis_transform()
            axes.text(1.0, upright, " upright", transform=place, color="0.4", size=7, va="center")


def _lines(axes: Axes, values: torch.Tensor, colours: Any, dt: float) -> None:
    time = dt * torch.arange(values.shape[1])
    for line, colour in zip(values, colours, strict=True):
        axes.plot(time, line, color=colour, linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)


def _controls(axes: Axes, values: torch.Tensor, colours: Any, dt: float, bound: float | None) -> None:
    """Draw each control as the staircase it is, and the bounds where they are reached."""
    edges = dt * torch.arange(values.shape[1] + 1)
    for line, colour in zip(values, colours, strict=True):
        axes.stairs(line, edges, baseline=None, color=colour, linewidth=1)
    if bound is not None:
        for side in (-bound, bound):
            axes.axhline(side, color="0.2", linestyle="--", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
