"""Swing up and stay: cartpoles in closed loop from many angles, pushed once they stand, as a picture and a moving one.

mpcgen build examples/cartpole.py
python -m examples.closed_loop
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from examples import cartpole
from examples.pictures import save, unwrapped, upright_lines

ANGLES = (3.0, -2.6, 2.2, -1.6)  # rad, of the starts; upright is 0
STEPS = 120  # of 0.05 s
PUSHED_AT, PUSH = 70, 2.0  # step, rad/s
EVERY = 2  # steps from frame to frame of the moving picture
POLE = 1.0  # m, drawn; its half is the model's length


def swing_up(mpc: Callable[..., Any]) -> Any:
    """Closed loop (4, STEPS+1, 5) from rest at `ANGLES`, with a push of the poles on the way."""
    angle = torch.tensor(ANGLES, dtype=torch.float64)
    zero = torch.zeros_like(angle)
    x0 = torch.stack([zero, zero, angle.cos(), angle.sin(), zero], dim=-1)
    push = torch.zeros(STEPS, 5, dtype=torch.float64)
    push[PUSHED_AT, 4] = PUSH
    return mpc.closed_loop(x0, steps=STEPS, disturbance=push)


def angles(loop: Any) -> torch.Tensor:
    """(B, STEPS+1) angles in rad, without jumps of a turn."""
    return unwrapped(torch.atan2(loop.x[..., 3], loop.x[..., 2]))


def plot(loop: Any, file: Path) -> None:
    """Draw angle, place and force over time."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    above, middle, below = figure.subplots(3, 1, sharex=True)
    time = cartpole.DT * torch.arange(STEPS + 1)
    for number, colour in enumerate(_colours()):
        above.plot(time, angles(loop)[number], color=colour, label=f"from {ANGLES[number]:g} rad")
        middle.plot(time, loop.x[number, :, 0], color=colour)
        below.stairs(loop.u[number, :, 0], time, baseline=None, color=colour)
    for axes in (above, middle, below):
        axes.axvline(cartpole.DT * (PUSHED_AT + 1), color="0.6", linestyle=":", linewidth=1)
        axes.spines[["top", "right"]].set_visible(False)
    upright_lines(above)
    above.set(ylabel="angle (rad)")
    middle.set(ylabel="place of the cart (m)")
    below.set(ylabel="force (N)", xlabel="time (s); dotted: the poles are pushed")
    figure.suptitle("cartpole, closed loop: swung up from four angles, and pushed")
    figure.legend(loc="outside lower center", ncols=len(ANGLES), frameon=False)
    save(figure, file)


def animate(loop: Any, file: Path) -> None:
    """Draw the carts as they move, and their angles up to then beside them."""
    figure = Figure(figsize=(7.2, 2.6), dpi=80, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _scene(left, float(loop.x[..., 0].abs().max()) + 0.6)
    _chart(right, angles(loop))
    canvas, frames = FigureCanvasAgg(figure), []
    moving: list[Any] = []
    for step in range(0, STEPS + 1, EVERY):
        for artist in moving:
            artist.remove()
        moving = _draw(left, right, loop, step)
        canvas.draw()
        figure.set_layout_engine("none")  # as the first frame found it
        frame = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        frames.append(frame.quantize(32, dither=Image.Dither.NONE))
    file.parent.mkdir(parents=True, exist_ok=True)
    pause = round(1000 * EVERY * cartpole.DT)
    durations = [pause] * (len(frames) - 1) + [1500]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)


def _draw(left: Axes, right: Axes, loop: Any, step: int) -> list[Any]:
    """One frame; returns what it added."""
    time = cartpole.DT * torch.arange(step + 1)
    artists: list[Any] = []
    for number, colour in enumerate(_colours()):
        place, angle = float(loop.x[number, step, 0]), angles(loop)[number, : step + 1]
        lean = float(angle[-1])
        tip = place + POLE * math.sin(lean), POLE * math.cos(lean)
        artists += left.plot([place, tip[0]], [0, tip[1]], color=colour, linewidth=2.5)
        artists += left.plot(place, 0, color=colour, marker="s", markersize=9)
        artists += right.plot(time, angle, color=colour, linewidth=1.5)
    pushed = 0 < step - PUSHED_AT <= 10
    left.set_title(f"cartpole, closed loop, {cartpole.DT * step:.1f} s" + (": pushed" if pushed else ""))
    return artists


def _scene(axes: Axes, far: float) -> None:
    axes.set(xlim=(-far, far), ylim=(-1.2, 1.2), aspect="equal", xlabel="place (m)", yticks=[])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.axhline(0, color="0.7", linewidth=1, zorder=0)


def _chart(axes: Axes, angle: torch.Tensor) -> None:
    room = 0.3
    axes.set(xlim=(0, cartpole.DT * STEPS), ylim=(float(angle.min()) - room, float(angle.max()) + room))
    upright_lines(axes)
    axes.set(xlabel="time (s)", ylabel="angle (rad)")
    axes.spines[["top", "right"]].set_visible(False)


def _colours() -> list[Any]:
    return [mpl.colormaps["viridis"](0.9 * number / (len(ANGLES) - 1)) for number in range(len(ANGLES))]


def main() -> None:
    """Run the loop and draw it."""
    from generated import cartpole as package

    loop = swing_up(package.MPC())
    for name, draw in (("closed_loop.png", plot), ("closed_loop.gif", animate)):
        draw(loop, Path("pictures") / name)
        print(f"wrote pictures/{name}")


if __name__ == "__main__":
    main()
