"""Learn an LSTM cell from an oven's data, and control the oven with it.

The heater follows the voltage after a dead time and a lag, so that the temperature alone does not say what comes next.
The cell's memory does: h and c are states of the problem beside the temperature, moved on by the model within a solve,
and by the model and what was measured between solves. A network without a memory is learned and used beside it.

    python -m examples.lstm

prints prediction errors and tracking errors of both, and writes pictures/lstm.png.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mpcgen

DEAD_TIME = 3  # stages until the heater sees a voltage
WIDTH = 5  # of the cell, which adds twice as many states
HORIZON = 15
TARGETS = (0.3, 0.7, 0.45)  # of the temperature, one after the other
STAGES = 30  # for each


class Oven:
    """Temperatures (B,) above ambient, in 100 K, of ovens that start cold; a voltage is between 0 and 1."""

    def __init__(self, count: int) -> None:
        self.queue = [torch.zeros(count, dtype=torch.float64)] * DEAD_TIME
        self.power = torch.zeros(count, dtype=torch.float64)
        self.temperature = torch.zeros(count, dtype=torch.float64)

    def step(self, voltage: Tensor) -> Tensor:
        """Hold voltages (B,) for a stage; returns the temperatures after it."""
        self.queue.append(voltage)
        self.power = self.power + 0.25 * (self.queue.pop(0) ** 2 - self.power)
        loss = 0.6 * self.temperature + 0.4 * self.temperature**2
        self.temperature = self.temperature + 0.2 * (self.power - loss)
        return self.temperature


class Remembering(nn.Module):
    """The next (temperature, h, c) from an LSTM cell that reads temperature and voltage."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.width = width
        self.cell = nn.LSTMCell(2, width)
        self.change = nn.Linear(width, 1)

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """(..., 1 + 2 width) from (..., 1 + 2 width) and (..., 1)."""
        temperature, h, c = x.split([1, self.width, self.width], -1)
        h, c = self.cell(torch.cat([temperature, u], -1), (h, c))
        return torch.cat([temperature + 0.2 * self.change(h), h, c], -1)


class Forgetful(nn.Module):
    """The next temperature from temperature and voltage."""

    width = 0

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 1))

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """(..., 1) from (..., 1) and (..., 1)."""
        return x + 0.2 * self.net(torch.cat([x, u], -1))


Model = Remembering | Forgetful


def experiment(count: int, stages: int, seed: int) -> tuple[Tensor, Tensor]:
    """Voltages (stages, count, 1), held for some stages each, and the temperatures (stages + 1, count, 1)."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.rand(stages, count, generator=generator, dtype=torch.float64)
    change = torch.rand(stages, count, generator=generator, dtype=torch.float64) < 0.2
    oven, voltage = Oven(count), levels[0]
    voltages, temperatures = [], [oven.temperature]
    for level, now in zip(levels, change, strict=True):
        voltage = torch.where(now, level, voltage)
        voltages.append(voltage)
        temperatures.append(oven.step(voltage))
    return torch.stack(voltages)[..., None], torch.stack(temperatures)[..., None]


def cold(model: Model, count: int) -> Tensor:
    """States (count, ...) of the model of a cold oven: zeros."""
    return torch.zeros(count, 1 + 2 * model.width, dtype=torch.float64)


def measured(x: Tensor, temperature: Tensor) -> Tensor:
    """The state with the temperature that was measured."""
    return torch.cat([temperature, x[:, 1:]], -1)


def fit(model: Model, steps: int) -> None:
    """Learn the next temperature from 32 experiments, each from a cold start."""
    voltages, temperatures = experiment(32, 60, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x, error = cold(model, 32), torch.zeros((), dtype=torch.float64)
        for u, before, after in zip(voltages, temperatures[:-1], temperatures[1:], strict=True):
            x = model(measured(x, before), u)
            error = error + (x[:, :1] - after).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        schedule.step()


def predict(model: Model, seen: int = 20, ahead: int = 20) -> tuple[Tensor, Tensor]:
    """Temperatures (ahead, 64) that the model foretells after some stages of other experiments, and the true ones."""
    voltages, temperatures = experiment(64, seen + ahead, seed=1)
    x, found = cold(model, 64), []
    with torch.no_grad():
        for t, u in enumerate(voltages):
            x = model(measured(x, temperatures[t]) if t <= seen else x, u)
            found.append(x[:, 0])
    return torch.stack(found[seen:]), temperatures[seen + 1 :, :, 0]


def controller(model: Model) -> Any:
    """The module that solves for voltages with the model as the dynamics; weights are given at each call."""
    problem = mpcgen.Problem(f"oven_{type(model).__name__.lower()}", HORIZON)
    memory = [f"{kind}_{i}" for kind in "hc" for i in range(model.width)]
    temperature, *_ = problem.states(["temperature", *memory])
    voltage = problem.control("voltage", lower=0, upper=1)
    target = problem.parameter("target")
    problem.dynamics = mpcgen.torch_model(problem, model)
    problem.stage_cost = (temperature - target) ** 2 + 1e-3 * voltage**2
    problem.terminal_cost = (temperature - target) ** 2
    return mpcgen.compile(problem, dtypes=(torch.float64,)).MPC()


def track(model: Model, stages: int = STAGES) -> tuple[Tensor, Tensor]:
    """Temperatures and voltages (3 * stages,) of a true oven whose targets change."""
    mpc, oven, x, plan = controller(model), Oven(1), cold(model, 1), None
    temperatures, voltages = [], []
    with torch.no_grad():
        for target in TARGETS:
            for _ in range(stages):
                plan = mpc(x, warm_start=plan, target=target, **mpcgen.torch_parameters(model))
                u = plan.u[:, 0]
                x = measured(model(x, u), oven.step(u[:, 0])[:, None])
                temperatures.append(oven.temperature)
                voltages.append(u[:, 0])
    return torch.cat(temperatures), torch.cat(voltages)


@dataclass(frozen=True)
class Outcome:
    """Of one model: what it foretells and what is true, (ahead, 64); temperatures and voltages under its control."""

    predicted: Tensor
    actual: Tensor
    temperatures: Tensor
    voltages: Tensor

    @property
    def prediction_error(self) -> float:
        """Root mean square, in K."""
        return 100 * (self.predicted - self.actual).square().mean().sqrt().item()

    @property
    def tracking_error(self) -> float:
        """Root mean square distance from the targets, in K."""
        targets = torch.tensor(TARGETS, dtype=torch.float64).repeat_interleave(len(self.temperatures) // 3)
        return 100 * (self.temperatures - targets).square().mean().sqrt().item()


def learn(make: Callable[[], Model], steps: int = 300, stages: int = STAGES) -> Outcome:
    """Fit a model, look at what it foretells, and control an oven with it."""
    torch.manual_seed(0)
    model = make().double()
    fit(model, steps)
    return Outcome(*predict(model), *track(model, stages))


def draw(outcomes: dict[str, Outcome], path: Path) -> None:
    """Write a picture: predictions of three experiments, and the ovens under control."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for (name, found), color in zip(outcomes.items(), ("C0", "C1"), strict=True):
        axes[0].plot(100 * found.predicted[:, :3], color=color, linewidth=1)
        axes[1].plot(100 * found.temperatures, color=color, label=name)
        axes[2].plot(found.voltages, color=color)
    axes[0].plot(100 * found.actual[:, :3], "k:", linewidth=1)
    axes[1].plot(100 * torch.tensor(TARGETS).repeat_interleave(len(found.temperatures) // 3), "k:")
    axes[0].set(
        xlabel="stages ahead", ylabel="temperature above ambient / K", title="foretold, true (dotted)"
    )
    axes[1].set(xlabel="stage", title="under control")
    axes[2].set(xlabel="stage", title="voltage")
    axes[1].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    torch.set_num_threads(1)  # what is fitted is small
    found = {"LSTM cell": learn(Remembering), "without memory": learn(Forgetful)}
    for name, outcome in found.items():
        print(
            f"{name:<15} errors: {outcome.prediction_error:5.2f} K over 20 stages ahead, "
            f"{outcome.tracking_error:5.2f} K from the targets"
        )
    draw(found, Path("pictures/lstm.png"))
