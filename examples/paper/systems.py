"""The systems of the paper's sections 5.3 and 5.4: experts, learners' starts, and the data to imitate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp
import torch
from torch import Tensor

import mpcgen
from examples import cartpole, pendulum

HORIZON = (
    19  # transitions between the paper's T = 20 states; its last control, which moves nothing, is left out
)
TRAIN, VALIDATION, TEST = 100, 10, 10  # trajectories


@dataclass(frozen=True)
class System:
    """A problem, the parameters of its dynamics that the expert knows, and those that a learner starts from."""

    problem: mpcgen.Problem
    initial_states: Callable[..., Tensor]
    expert: dict[str, float]
    start: dict[str, float]


SYSTEMS = {
    "pendulum": System(
        pendulum.problem,
        pendulum.initial_states,
        expert={"gravity": 10.0, "mass": 1.0, "length": 1.0},
        start={"gravity": 15.0, "mass": 3.0, "length": 0.5},
    ),
    "cartpole": System(
        cartpole.problem,
        cartpole.initial_states,
        expert={"gravity": 9.8, "mass_cart": 1.0, "mass_pole": 0.1, "length": 0.5},
        start={"gravity": 9.8, "mass_cart": 3.0, "mass_pole": 0.1, "length": 1.0},
    ),
}


def complex_pendulum() -> mpcgen.Problem:
    """Return the expert of section 5.4, which no simple pendulum can imitate: it has "damping" and "wind".

    As in the authors' code the damping multiplies the angle, not its velocity.
    """
    problem = mpcgen.Problem("complex_pendulum", horizon=HORIZON)
    cos_theta, sin_theta, omega = problem.states("cos_theta sin_theta omega")
    torque = problem.control("torque", lower=-2.0, upper=2.0)
    gravity, mass, length, damping, wind = problem.parameters(
        "gravity mass length damping wind", default=[10.0, 1.0, 1.0, 1.0, 0.1]
    )
    problem.parameter("q", shape=4, default=[1.0, 1.0, 0.1, 0.001])
    problem.parameter("p", shape=4, default=[-1.0, 0.0, 0.0, 0.0])

    theta = sp.atan2(sin_theta, cos_theta)
    push = 3 * gravity / (2 * length) * sp.sin(theta + wind) + 3 * torque / (mass * length**2)
    omega_next = omega + pendulum.DT * (push - damping * theta)
    theta_next = theta + pendulum.DT * omega_next
    problem.dynamics = [sp.cos(theta_next), sp.sin(theta_next), omega_next]
    # Symbols are their names, so that the simple pendulum's cost is one in q, p and these states too.
    problem.stage_cost = pendulum.problem.stage_cost
    problem.terminal_cost = pendulum.problem.terminal_cost
    return problem


@dataclass(frozen=True)
class Data:
    """Trajectories of an expert, of S data sets: x (S, trajectories, N+1, n) and u (S, trajectories, N, m)."""

    x: Tensor
    u: Tensor

    def split(self, trajectories: int) -> tuple["Data", "Data", "Data"]:
        """Return the first ``trajectories`` of the training data, the validation data and the test data."""
        parts = (
            slice(trajectories),
            slice(TRAIN, TRAIN + VALIDATION),
            slice(TRAIN + VALIDATION, TRAIN + VALIDATION + TEST),
        )
        train, validation, test = (Data(self.x[:, part], self.u[:, part]) for part in parts)
        return train, validation, test


def collect(expert: Any, initial_states: Callable[..., Tensor], seeds: Sequence[int]) -> Data:
    """Let the expert's controller plan from random initial states, other ones for each seed."""
    count = TRAIN + VALIDATION + TEST
    x0 = torch.stack([initial_states(count, seed=seed) for seed in seeds])
    solution = expert(x0, horizon=HORIZON)
    return Data(solution.x, solution.u)


def next_state(problem: mpcgen.Problem) -> Callable[..., Tensor]:
    """Return f(x, u, parameters) -> next x, the dynamics of a problem as a function of torch tensors.

    x: (..., n), u: (..., m), parameters: those of the dynamics by name, each broadcasting with (...).
    """
    spec = problem.spec()
    states, controls = spec.states, tuple(control.symbol for control in spec.controls)
    scalars = tuple(p.symbols[0] for p in spec.parameters if p.shape == ())
    torch_names = {"sin": torch.sin, "cos": torch.cos, "atan2": torch.atan2}
    function = sp.lambdify((states, controls, scalars), spec.dynamics.expressions, [torch_names], cse=True)

    def step(x: Tensor, u: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        values = [parameters[symbol.name] for symbol in scalars]
        return torch.stack(function(x.unbind(-1), u.unbind(-1), values), dim=-1)

    return step
