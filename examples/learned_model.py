"""Learn a network of the cartpole from random data, control with it, and fine-tune it through the controller.

The network knows nothing of mechanics: it maps (x, u) to the change of x in a stage. First it learns that from random
states and controls. Its controller then balances the true cartpole, and the weights go on to follow the gradient of
the closed-loop cost, through the plant and through every solve: what the model is for, not how near it is.

    python -m examples.learned_model

prints open-loop error and closed-loop cost before and after, and writes pictures/learned_model.png.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mpcgen

DT = 0.05  # s, one stage
FORCE = 20.0  # N at a push of 1
WIDTH = 32
STAGES = 30  # of a closed loop
WEIGHTS = torch.tensor([0.1, 0.1, 1.0, 1.0, 0.1], dtype=torch.float64)  # of the cost, about (0, 0, 1, 0, 0)
GOAL = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
EFFORT = 0.02


def plant(x: Tensor, u: Tensor) -> Tensor:
    """(..., 5) the next x, v, cos, sin and rate of the paper's cartpole, from (..., 5) and a push (..., 1)."""
    position, speed, cosine, sine, rate = x.unbind(-1)
    gravity, mass_pole, mass, length = 9.8, 0.1, 1.1, 0.5
    push = (FORCE * u[..., 0] + mass_pole * length * rate**2 * sine) / mass
    angular = (gravity * sine - cosine * push) / (length * (4 / 3 - mass_pole * cosine**2 / mass))
    linear = push - mass_pole * length * angular * cosine / mass
    angle = torch.atan2(sine, cosine) + DT * rate
    return torch.stack(
        [position + DT * speed, speed + DT * linear, angle.cos(), angle.sin(), rate + DT * angular], -1
    )


class Model(nn.Module):
    """The change of the state in a stage, by two hidden layers."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 5)
        )

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """(..., 5) from (..., 5) and (..., 1)."""
        return x + 0.2 * self.net(torch.cat([x, u], -1))


def random_states(count: int, spread: float, seed: int) -> Tensor:
    """(count, 5): positions within ±1 m, speeds within ±2, angles within ±spread, rates within ±3."""
    generator = torch.Generator().manual_seed(seed)
    draws = 2 * torch.rand(count, 4, generator=generator, dtype=torch.float64) - 1
    position, speed, angle, rate = (
        draws * torch.tensor([1.0, 2.0, spread, 3.0], dtype=torch.float64)
    ).unbind(-1)
    return torch.stack([position, speed, angle.cos(), angle.sin(), rate], -1)


def fit(model: Model, steps: int = 1500, count: int = 160, batch: int = 64) -> None:
    """Learn the change of the state from few random transitions."""
    generator = torch.Generator().manual_seed(1)
    x = random_states(count, 1.2, seed=0)
    u = 2 * torch.rand(count, 1, generator=generator, dtype=torch.float64) - 1
    following = plant(x, u)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(count, (batch,), generator=generator)
        optimizer.zero_grad()
        (model(x[chosen], u[chosen]) - following[chosen]).square().sum(-1).mean().backward()
        optimizer.step()
        schedule.step()


def controller(model: Model, horizon: int = 20) -> Any:
    """The module that solves for controls with the network as the dynamics; weights are given at each call."""
    problem = mpcgen.Problem("learned_cartpole", horizon=horizon)
    states = problem.states("x v cos_theta sin_theta omega")
    push = problem.control("push", lower=-1, upper=1)
    problem.dynamics = mpcgen.torch_model(problem, model)
    pairs = zip(states, WEIGHTS.tolist(), GOAL.tolist(), strict=True)
    distance = sum(weight * (state - goal) ** 2 for state, weight, goal in pairs)
    problem.stage_cost = distance + EFFORT * push**2
    problem.terminal_cost = 5 * distance
    return mpcgen.compile(problem, dtypes=torch.float64).MPC(on_unconverged="ignore")


def closed_loop(mpc: Any, model: Model, x: Tensor, stages: int = STAGES) -> tuple[Tensor, Tensor]:
    """Mean cost of a stage on the true cartpole, and its states (stages + 1, batch, 5)."""
    cost, path, plan = x.new_zeros(()), [x], None
    for _ in range(stages):
        plan = mpc(x, warm_start=plan, **mpcgen.torch_parameters(model))
        u = plan.where_converged().u[:, 0]
        cost = cost + ((x - GOAL).square() @ WEIGHTS + EFFORT * u[:, 0] ** 2).mean()
        x = plant(x, u)
        path.append(x)
    return cost / stages, torch.stack(path)


def open_loop_error(model: Model, x: Tensor, stages: int = 10) -> float:
    """Root mean square difference of the states after random controls of some stages."""
    controls = (
        2 * torch.rand(stages, len(x), 1, generator=torch.Generator().manual_seed(4), dtype=x.dtype) - 1
    )
    with torch.no_grad():
        predicted = actual = x
        for u in controls:
            predicted, actual = model(predicted, u), plant(actual, u)
        return (predicted - actual).square().mean().sqrt().item()


@dataclass(frozen=True)
class Outcome:
    """Closed-loop cost of each step of fine-tuning, on the training's starts; errors and costs elsewhere."""

    training: list[float]
    open_loop: tuple[float, float]
    cost: tuple[float, float]
    paths: tuple[Tensor, Tensor]


def learn(steps: int = 25, batch: int = 16, fitting: int = 1500) -> Outcome:
    """Fit, control, and fine-tune through the controller."""
    torch.manual_seed(0)
    model = Model().double()
    fit(model, fitting)
    mpc = controller(model)
    training, test = random_states(batch, 0.6, seed=2), random_states(64, 0.6, seed=3)

    def tested() -> tuple[float, float, Tensor]:
        with torch.no_grad():
            cost, path = closed_loop(mpc, model, test)
        return open_loop_error(model, test), cost.item(), path

    before, costs = tested(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        cost, _ = closed_loop(mpc, model, training)
        cost.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        costs.append(cost.item())
    after = tested()
    return Outcome(costs, (before[0], after[0]), (before[1], after[1]), (before[2], after[2]))


def draw(outcome: Outcome, path: Path) -> None:
    """Write a picture: the cost while fine-tuning, and the poles' angles before and after."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.plot(outcome.training)
    left.set(xlabel="step of fine-tuning", ylabel="closed-loop cost of a stage")
    for axes, states, title in zip((middle, right), outcome.paths, ("fitted", "fine-tuned"), strict=True):
        axes.plot(torch.atan2(states[..., 3], states[..., 2]), linewidth=0.6, color="C0")
        axes.set(xlabel="stage", ylabel="angle / rad", title=title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    torch.set_num_threads(1)  # what is fitted is small
    found = learn()
    for name, (first, last) in {"open-loop error": found.open_loop, "closed-loop cost": found.cost}.items():
        print(f"{name:<17} {first:8.4f} after fitting, {last:8.4f} after fine-tuning")
    draw(found, Path("pictures/learned_model.png"))
