"""Learn a pendulum's mass on several processes, each with its share of the data.

    torchrun --nproc_per_node=2 examples/distributed.py

The controller is an ordinary module: DistributedDataParallel averages the gradients of its learned mass, so that
every process takes the same step, and the result is that of one process with all the data (up to rounding).
"""

import gc
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # before init_process_group: see `leave`
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import mpcgen

STEPS = 60
PROBLEMS = 64
EXPERT_MASS = 1.0  # kg
START_MASS = 2.0
STEP_SIZE = 0.1  # Adam's, in the logarithm of the mass


def make_controller(mass: float) -> torch.nn.Module:
    """A controller of the pendulum that learns its mass (kg), in whichever process builds it first."""
    problem = mpcgen.load_problem(Path(__file__).with_name("pendulum.py"))
    return mpcgen.compile(problem).MPC(learn={"mass": "positive"}, initial={"mass": mass})


def initial_states() -> torch.Tensor:
    """(PROBLEMS, 3) states near upright, from which few of the expert's controls are at a bound."""
    angle = torch.linspace(-0.2, 0.2, PROBLEMS, dtype=torch.float64)
    return torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], dim=-1)


def train(rank: int, world: int, wrap: Callable[[torch.nn.Module], torch.nn.Module]) -> torch.Tensor:
    """Mass (kg) before each step and at the end, (STEPS + 1), as process ``rank`` of ``world`` sees it.

    wrap: what makes the controller one of several, or the identity.
    """
    x0 = initial_states()[rank::world]
    with torch.no_grad():
        expert_controls = make_controller(EXPERT_MASS)(x0).u
    controller = make_controller(START_MASS)
    model = wrap(controller)
    optimizer = torch.optim.Adam(model.parameters(), lr=STEP_SIZE, betas=(0.5, 0.9))
    # The steps shrink to nothing, so that Adam does not circle about the goal.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    masses = [controller.mass.detach()]
    for _ in range(STEPS):
        optimizer.zero_grad()
        (model(x0).u - expert_controls).square().mean().backward()
        optimizer.step()
        schedule.step()
        masses.append(controller.mass.detach())
    return torch.stack(masses)


def main() -> None:
    """Train as one of the processes that torchrun started, and print what it found."""
    dist.init_process_group("gloo")
    try:
        rank, world = dist.get_rank(), dist.get_world_size()
        masses = train(rank, world, DistributedDataParallel).tolist()
        found = f"{masses[0]!r} -> {masses[STEPS // 2]!r} half-way -> {masses[-1]!r} kg, expert {EXPERT_MASS!r} kg"
        # The end of line is part of the text: one write, which those of the others do not cut in two.
        print(f"process {rank} of {world}: {found}\n", end="")
        if not math.isclose(masses[-1], EXPERT_MASS, rel_tol=1e-3):
            raise SystemExit("the mass was not found")
    finally:
        leave()


def leave() -> None:
    """Leave the group, and with it Gloo's threads.

    One of them may have the last step's gradients to free, for which it needs Python's lock; while the interpreter
    ends it cannot have it, and aborts the process. `destroy_process_group` ends the threads when nothing refers to the
    group any more: neither the model, which is part of a cycle with its optimizer's schedule, nor torch._dynamo,
    which keeps the group if it is imported while there is one (seen with torch 2.13), as DistributedDataParallel does.
    """
    gc.collect()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
