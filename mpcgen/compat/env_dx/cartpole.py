"""The cartpole of the paper, n = 5, m = 1; upright is the angle 0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mpcgen.compat.env_dx.frames import draw_rod, quadratic
from mpcgen.errors import ParameterError


class CartpoleDx(nn.Module):
    """Next (x, v, cos θ, sin θ, ω) of a cart with a pole that a force pushes, by explicit Euler.

    params: gravity, mass of the cart, mass of the pole, half of its length, in m/s², kg, kg, m; defaults 9.8, 1, 0.1,
    0.5. Gradients reach them.
    """

    def __init__(self, params: Tensor | None = None) -> None:
        super().__init__()
        self.params = torch.tensor([9.8, 1.0, 0.1, 0.5]) if params is None else params
        if tuple(self.params.shape) != (4,):
            raise ParameterError(f"params has shape {tuple(self.params.shape)}; (4,) is expected")
        self.n_state, self.n_ctrl = 5, 1
        self.dt = 0.05  # s
        self.force_mag = 100.0  # N
        self.lower, self.upper = -self.force_mag, self.force_mag
        self.theta_threshold_radians, self.x_threshold, self.max_velocity = torch.pi, 2.4, 10
        self.goal_state = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
        self.goal_weights = torch.tensor([0.1, 0.1, 1.0, 1.0, 0.1])
        self.ctrl_penalty = 0.001
        self.mpc_eps, self.linesearch_decay, self.max_linesearch_iter = 1e-4, 0.5, 2

    def forward(self, state: Tensor, u: Tensor) -> Tensor:
        """(..., 5) from (..., 5) and (..., 1)."""
        gravity, cart, pole, length = self.params.to(state.device).unbind()
        force = u[..., 0].clamp(-self.force_mag, self.force_mag)
        position, speed, cosine, sine, rate = state.unbind(-1)
        total = cart + pole
        push = (force + pole * length * rate**2 * sine) / total
        turning = (gravity * sine - cosine * push) / (length * (4 / 3 - pole * cosine**2 / total))
        pulled = push - pole * length * turning * cosine / total
        angle = torch.atan2(sine, cosine) + self.dt * rate
        return torch.stack(
            (
                position + self.dt * speed,
                speed + self.dt * pulled,
                angle.cos(),
                angle.sin(),
                rate + self.dt * turning,
            ),
            -1,
        )

    def get_true_obj(self) -> tuple[Tensor, Tensor]:
        """Return q and p, (6,) each, of the cost ½ τᵀdiag(q)τ + pᵀτ of a stage."""
        return quadratic(self.goal_state, self.goal_weights, self.ctrl_penalty, self.n_ctrl)

    def get_frame(self, state: Tensor, ax: Any = None) -> tuple[Any, Any]:
        """Draw a state (5,) with matplotlib; returns figure and axes."""
        flat = state.reshape(-1)
        return draw_rod(flat[0].item(), flat[2:4], self.params[3].item(), 2.0, ax)
