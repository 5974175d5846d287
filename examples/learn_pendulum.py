"""Learn a pendulum's mass and length back from the controls of an expert: imitation through the solver.

The expert's controller knows the true parameters. The learner sees nothing but the expert's controls, starts
with a wrong mass and length, and follows the gradient of the imitation loss through its own controller: the
experiment of section 5.3 of Amos et al., "Differentiable MPC for End-to-end Planning and Control" (2018).

Only 3g/(2l) and 3/(m l²) enter the dynamics, so that three parameters cannot be told apart from any data. The
learner knows the gravity and learns the other two. Starts whose controls are all at a bound say nothing about
the model, their gradient being zero; they are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from examples.pendulum import initial_states

EXPERT = {"gravity": 10.0, "mass": 1.0, "length": 1.0}  # m/s², kg, m
START = {"mass": 2.0, "length": 0.5}
STEPS = 300
PROBLEMS = 64
STEP_SIZE = 0.05  # Adam's, in the logarithm of the parameters


@dataclass(frozen=True)
class LearningCurve:
    """loss: mean squared difference of the controls, (N m)², before each step and at the end.

    parameters: name -> value at the same times.
    """

    loss: list[float]
    parameters: dict[str, list[float]]


def learn(on_step: Callable[[], Any] = lambda: None, steps: int = STEPS) -> LearningCurve:
    """Recover mass and length by Adam on their logarithms, which keeps them positive."""
    from generated import pendulum

    controller = pendulum.MPC()
    x0 = informative_states(controller)
    with torch.no_grad():
        expert_controls = controller(x0, **EXPERT).u

    log_parameters = {
        name: torch.tensor(value, dtype=x0.dtype).log().requires_grad_() for name, value in START.items()
    }
    optimizer = torch.optim.Adam(log_parameters.values(), lr=STEP_SIZE)
    # The steps shrink to nothing, so that Adam does not circle about the goal.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    curve = LearningCurve([], {name: [] for name in START})

    for step in range(steps + 1):
        parameters = {name: value.exp() for name, value in log_parameters.items()}
        controls = controller(x0, gravity=EXPERT["gravity"], **parameters).u
        loss = (controls - expert_controls).square().mean()
        curve.loss.append(loss.item())
        for name, value in parameters.items():
            curve.parameters[name].append(value.item())
        if step < steps:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            on_step()
    return curve


def informative_states(controller: Any, count: int = PROBLEMS) -> torch.Tensor:
    """(count, 3) initial states from which at most half of the expert's controls are at a bound."""
    candidates = initial_states(16 * count)
    with torch.no_grad():
        controls = controller(candidates, **EXPERT).u
    at_bound = (controls.abs() == 2.0).double().mean(dim=(1, 2))
    return candidates[at_bound <= 0.5][:count]


def plot(curve: LearningCurve, file: Path) -> None:
    """Write the loss and the parameters over the steps as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.semilogy(curve.loss, color="C0")
    left.set(xlabel="step", ylabel="mean squared control difference (N m)²", title="imitation loss")
    for colour, (name, values) in zip(("C0", "C1"), curve.parameters.items(), strict=True):
        unit = {"mass": "kg", "length": "m"}[name]
        right.plot(values, color=colour, label=f"{name} ({unit})")
    right.axhline(1.0, color="0.4", linestyle="--", linewidth=1, label="the expert's, both")
    right.set(xlabel="step", title="learned parameters")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Learn, print what was learned and draw the curve."""
    from rich.progress import Progress

    with Progress() as progress:
        task = progress.add_task("learning", total=STEPS)
        curve = learn(on_step=lambda: progress.advance(task))
    for name, values in curve.parameters.items():
        print(f"{name}: {values[0]:.3f} -> {values[-1]:.9f}, expert {EXPERT[name]:.3f}")
    print(f"loss: {curve.loss[0]:.3g} -> {curve.loss[-1]:.3g}")
    picture = Path("pictures/learn_pendulum.png")
    plot(curve, picture)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main()
