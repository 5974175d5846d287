"""The pendulum of the paper, n = 3, m = 1; upright is the angle 0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mpcgen.compat.env_dx.frames import draw_rod, quadratic
from mpcgen.errors import ParameterError


class PendulumDx(nn.Module):
    """Next (cos θ, sin θ, ω) of a rod that a torque turns, by semi-implicit Euler.

    params: (g, m, l) in m/s², kg, m; with simple=False (g, m, l, damping, bias of the angle at which gravity acts).
    Defaults: g = 10, m = l = 1. Gradients reach them.
    """

    def __init__(self, params: Tensor | None = None, simple: bool = True) -> None:
        super().__init__()
        self.simple = simple
        count = 3 if simple else 5
        self.params = torch.tensor([10.0, 1.0, 1.0, 0.0, 0.0][:count]) if params is None else params
        if tuple(self.params.shape) != (count,):
            raise ParameterError(f"params has shape {tuple(self.params.shape)}; ({count},) is expected")
        self.n_state, self.n_ctrl = 3, 1
        self.dt = 0.05  # s
        self.max_torque = 2.0  # N m
        self.lower, self.upper = -2.0, 2.0
        self.goal_state = torch.tensor([1.0, 0.0, 0.0])
        self.goal_weights = torch.tensor([1.0, 1.0, 0.1])
        self.ctrl_penalty = 0.001
        self.mpc_eps, self.linesearch_decay, self.max_linesearch_iter = 1e-3, 0.2, 5

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """(..., 3) from (..., 3) and (..., 1)."""
        gravity, mass, length = self.params.to(x.device)[:3].unbind()
        torque = u[..., 0].clamp(-self.max_torque, self.max_torque)
        cosine, sine, rate = x.unbind(-1)
        angle = torch.atan2(sine, cosine)
        pull, damping = sine, torch.zeros_like(angle)
        if not self.simple:
            friction, bias = self.params.to(x.device)[3:].unbind()
            pull, damping = torch.sin(angle + bias), friction * angle
        turning = 3 * gravity / (2 * length) * pull + 3 * torque / (mass * length**2)
        rate = rate + self.dt * (turning - damping)
        angle = angle + self.dt * rate
        return torch.stack((angle.cos(), angle.sin(), rate), -1)

    def get_true_obj(self) -> tuple[Tensor, Tensor]:
        """Return q and p, (4,) each, of the cost ½ τᵀdiag(q)τ + pᵀτ of a stage."""
        return quadratic(self.goal_state, self.goal_weights, self.ctrl_penalty, self.n_ctrl)

    def get_frame(self, x: Tensor, ax: Any = None) -> tuple[Any, Any]:
        """Draw a state (3,) with matplotlib; returns figure and axes."""
        return draw_rod(0.0, x.reshape(-1)[:2], self.params[2].item(), 1.2, ax)
