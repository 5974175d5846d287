"""A gymnasium environment of the paper's cartpole: the pole starts hanging and is to be swung up and held."""

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv

FORCE = 10.0  # N, largest; the pole's weight is 1 N, the cart's mass 1 kg
DT = 0.05  # s, between decisions
SUBSTEPS = 5


class CartpoleSwingUp(CartPoleEnv):
    """Cart and pole with a continuous force; looks and masses of CartPole-v1, without its end at an angle.

    Observation (p, v, cos θ, sin θ, ω) in m, m/s, 1, 1, rad/s; θ = 0 is upright. Action: force (1,) in N. Reward:
    cos θ. The equations are those of the paper's cartpole, integrated in five semi-implicit steps, so that the
    controller's single explicit Euler step is a model of them and not the same.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.x_threshold = 3.0  # m, the picture's half width
        self.action_space = gymnasium.spaces.Box(-FORCE, FORCE, (1,), np.float32)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (5,), np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Hang the pole within 0.5 rad of straight down, the cart within 0.5 m of the middle."""
        super().reset(seed=seed)
        self.state = self.np_random.uniform([-0.5, -0.1, np.pi - 0.5, -0.1], [0.5, 0.1, np.pi + 0.5, 0.1])
        return self.observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """Hold the force for 0.05 s."""
        force = float(np.clip(action[0], -FORCE, FORCE))
        x, v, theta, omega = self.state
        h = DT / SUBSTEPS
        for _ in range(SUBSTEPS):
            sine, cosine = np.sin(theta), np.cos(theta)
            push = (force + self.polemass_length * omega**2 * sine) / self.total_mass
            turn = (self.gravity * sine - cosine * push) / (
                self.length * (4 / 3 - self.masspole * cosine**2 / self.total_mass)
            )
            v += h * (push - self.polemass_length * turn * cosine / self.total_mass)
            omega += h * turn
            x, theta = x + h * v, theta + h * omega
        self.state = np.array([x, v, theta, omega])
        return self.observation(), float(np.cos(theta)), False, False, {}

    def observation(self) -> np.ndarray:
        """State with the angle as cosine and sine, (5,)."""
        x, v, theta, omega = self.state
        return np.array([x, v, np.cos(theta), np.sin(theta), omega])


gymnasium.register("mpcgen/CartpoleSwingUp-v0", CartpoleSwingUp, max_episode_steps=200)
