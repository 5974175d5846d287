"""How a detour depends on what it goes around: the gradient of its length by the places of two discs.

mpcgen build examples/obstacle.py
python -m examples.detour
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

START = (-0.3, 0.1, 0.3, 0.7)  # m, m, rad, m/s
MIDDLES = ((1.0, 0.5), (2.4, 1.5))  # m
RADII = (0.45, 0.5)  # m
PUSHES = 7  # places of the first disc, drawn beside each other
FARTHEST = 0.1  # m, that it is moved


@dataclass(frozen=True)
class Detour:
    """A path past the discs: x (N+1, 4), u (N, 2), its length in m, the length's gradient by the discs' middles (2, 2).

    duals: (N, 2), by how much a unit of each disc's squared radius would raise the cost, at stages 1..N.
    """

    x: torch.Tensor
    u: torch.Tensor
    length: float
    gradient: torch.Tensor
    duals: torch.Tensor


def length_of(x: torch.Tensor) -> torch.Tensor:
    """(...): length in m of paths x (..., N+1, 4)."""
    return x[..., :2].diff(dim=-2).norm(dim=-1).sum(-1)


def detour(mpc: Callable[..., Any]) -> Detour:
    """Solve from `START` past `MIDDLES`, and differentiate the path's length by these."""
    x0 = torch.tensor(START, dtype=torch.float64)
    middle = torch.tensor(MIDDLES, dtype=torch.float64, requires_grad=True)
    radius = torch.tensor(RADII, dtype=torch.float64)
    solution = mpc(x0, middle=middle, radius=radius)
    length = length_of(solution.x)
    (gradient,) = torch.autograd.grad(length, middle)
    x, u, duals = (t.detach() for t in (solution.x, solution.u, -solution.duals["clear"]))
    return Detour(x, u, float(length.detach()), gradient, duals)


def pushed(mpc: Callable[..., Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Paths (PUSHES, N+1, 4) past the first disc moved along the gradient by (PUSHES,) metres, the other left alone."""
    found = detour(mpc)
    direction = found.gradient[0] / found.gradient[0].norm()
    steps = torch.linspace(-FARTHEST, FARTHEST, PUSHES, dtype=torch.float64)
    middle = torch.tensor(MIDDLES, dtype=torch.float64).expand(PUSHES, 2, 2).clone()
    middle[:, 0] += steps[:, None] * direction
    with torch.no_grad():
        x0, radius = torch.tensor(START, dtype=torch.float64), torch.tensor(RADII, dtype=torch.float64)
        # from the controls found, so that all pass on the same sides
        solution = mpc(x0, middle=middle, radius=radius, u_init=found.u)
    return solution.x, steps


def plot(mpc: Callable[..., Any], file: Path) -> None:
    """Draw the path past the forbidden discs with the gradient as arrows, and the length against the first's place."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    found = detour(mpc)
    paths, steps = pushed(mpc)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    for (a, b), radius, slope in zip(MIDDLES, RADII, found.gradient.tolist(), strict=True):
        left.add_patch(
            Circle((a, b), radius, facecolor="#f0a868", alpha=0.5, edgecolor="#444444", hatch="//")
        )
        left.annotate(
            "", (a + slope[0], b + slope[1]), (a, b), arrowprops={"arrowstyle": "->", "color": "#8b1a1a"}
        )
    for path in paths:
        left.plot(path[:, 0].tolist(), path[:, 1].tolist(), color="#7fb3d5", linewidth=0.8)
    touching = found.duals.amax(1) > 1e-6
    left.plot(found.x[:, 0].tolist(), found.x[:, 1].tolist(), color="#1f4e79", linewidth=1.8)
    touched = found.x[1:][touching]
    left.plot(
        touched[:, 0].tolist(),
        touched[:, 1].tolist(),
        "o",
        color="#1f4e79",
        markersize=3,
        label="held by a disc",
    )
    left.set(
        aspect="equal", xlabel="x (m)", ylabel="y (m)", title="plan; arrows: d length / d middle, in m per m"
    )
    left.legend(frameon=False, loc="upper left")
    slope = float(found.gradient[0].norm())
    right.plot(steps.tolist(), length_of(paths).tolist(), color="#1f4e79", marker=".", label="solved")
    right.plot(
        steps.tolist(),
        (found.length + slope * steps).tolist(),
        "--",
        color="#8b1a1a",
        label="by the gradient",
    )
    right.set(xlabel="first disc moved along its arrow (m)", ylabel="length of the path (m)")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Print the gradient and draw the picture."""
    from generated import obstacle

    mpc = obstacle.MPC()
    found = detour(mpc)
    print(f"the path is {found.length:.4f} m long")
    for (a, b), slope in zip(MIDDLES, found.gradient.tolist(), strict=True):
        print(
            f"disc at ({a:g}, {b:g}): moving it by (1, 0) or (0, 1) cm changes that by "
            f"{slope[0]:+.4f} or {slope[1]:+.4f} cm"
        )
    picture = Path("pictures/detour.png")
    plot(mpc, picture)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main()
