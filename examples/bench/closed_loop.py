"""Closed loops beside the same loop in Python: `python -m examples.bench.closed_loop`.

The protocol of DiffMPC: 64 random linear-quadratic problems, 8 states, 4 controls, 40 stages, 50 steps, free and with
|u| <= 1, forward alone and with the gradient of what states and controls add up to. The loop in Python solves from the
last solution, and takes the next state from it. With `--other-plant` the plant is a generated model by itself, whose
matrices are 1.01 times the controller's: in Python its step is a call. They take turns; CPU milliseconds of one thread,
or with `--threads` of more by the wall, which takes a machine where nobody else works.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import mpcgen
from examples.bench.problems import linear_quadratic
from examples.bench.timing import load_average, machine_name

PROBLEMS, STEPS = 64, 50


Plant = dict[str, Tensor]
"""The parameters of a plant by itself; empty where it is the controller's own model."""


def in_python(mpc: Any, x0: Tensor, values: dict[str, Tensor], plant: Plant) -> tuple[Tensor, Tensor]:
    """The loop as a user would write it."""
    states, controls = [x0], []
    start: dict[str, Any] = {}
    for _ in range(STEPS):
        solution = mpc(states[-1], **start, **values)
        start = {"warm_start": solution}
        controls.append(solution.u[:, 0])
        moved = mpc.dynamics(states[-1], controls[-1], **plant) if plant else solution.x[:, 1]
        states.append(moved)
    return torch.stack(states, 1), torch.stack(controls, 1)


def in_one_call(mpc: Any, x0: Tensor, values: dict[str, Tensor], plant: Plant) -> tuple[Tensor, Tensor]:
    """`mpc.closed_loop`."""
    other = {"plant": mpc, "plant_parameters": plant} if plant else {}
    found = mpc.closed_loop(x0, STEPS, **other, **values)
    return found.x, found.u


def of_one_stage(values: dict[str, Tensor]) -> Plant:
    """The parameters of a plant that is not quite the model."""
    return {name: 1.01 * value.reshape(-1, *value.shape[-2:])[0] for name, value in values.items()}


Loop = Callable[[Any, Tensor, dict[str, Tensor], Plant], tuple[Tensor, Tensor]]


def milliseconds(
    loop: Loop,
    mpc: Any,
    x0: Tensor,
    values: dict[str, Tensor],
    plant: Plant,
    backward: bool,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """What one run takes, with backward or without."""
    start = x0.clone().requires_grad_(backward)
    begin = clock()
    x, u = loop(mpc, start, values, plant)
    if backward:
        ((x**2).sum() + (u**2).sum()).backward()
    return 1e3 * (clock() - begin)


def main() -> None:
    """Print both loops' medians and their ratio."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.bench.closed_loop",
        description="Closed loops beside the same loop in Python.",
    )
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--other-plant", action="store_true")
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--method", choices=("auto", "ddp", "interior_point"), default="auto")
    given = parser.parse_args()
    dtype = getattr(torch, given.dtype)
    torch.set_num_threads(given.threads)
    clock = time.process_time if given.threads == 1 else time.perf_counter
    print(
        f"{machine_name()}, {load_average()}; threads {given.threads}; {given.dtype}; {given.method}; "
        f"{PROBLEMS} problems, {STEPS} steps; medians (least)"
    )
    for name, bound in (("free", None), ("|u| <= 1", 1.0)):
        problem = linear_quadratic(8, 4, 40, bound=bound)
        module = mpcgen.compile(problem.spec, dtypes=(dtype,))
        mpc = module.MPC(on_unconverged="ignore", method=given.method)
        drawn = problem.draw(PROBLEMS, dtype, 0)
        plant = of_one_stage(drawn.parameters) if given.other_plant else {}
        for backward in (False, True):
            turns = [
                [
                    milliseconds(loop, mpc, drawn.x0, drawn.parameters, plant, backward, clock)
                    for loop in (in_python, in_one_call)
                ]
                for _ in range(given.turns + 1)
            ][1:]
            python, ours = (
                f"{statistics.median(times):7.1f} ({min(times):.1f})" for times in zip(*turns, strict=True)
            )
            ratio = statistics.median(b / a for a, b in turns)
            what = "with backward" if backward else "forward"
            print(f"{name:<9} {what:<14} in Python {python} ms, in one call {ours} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
