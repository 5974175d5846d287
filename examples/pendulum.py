"""Swing a torque-limited pendulum up: the paper's pendulum, n = 3, m = 1.

The angle enters through its cosine and sine, so that the cost knows no wrap-around; upright is angle 0.
"""

import sympy as sp

import mpcgen

DT = 0.05  # s, one stage

problem = mpcgen.Problem("pendulum", horizon=19)
cos_theta, sin_theta, omega = problem.states("cos_theta sin_theta omega")  # -, -, rad/s
torque = problem.control("torque", lower=-2.0, upper=2.0)  # N m
gravity, mass, length = problem.parameters("gravity mass length", default=[10.0, 1.0, 1.0])  # m/s², kg, m

# Semi-implicit Euler: the angle moves with the new velocity.
theta = sp.atan2(sin_theta, cos_theta)
omega_next = omega + DT * (3 * gravity / (2 * length) * sin_theta + 3 * torque / (mass * length**2))
theta_next = theta + DT * omega_next
problem.dynamics = [sp.cos(theta_next), sp.sin(theta_next), omega_next]

# Cost ½ τᵀ diag(q) τ + pᵀτ with τ = (x, u): weights (1, 1, 0.1) about the goal (1, 0, 0), where
# p = -√weight · goal as in the paper's experiments, and 0.001 on the torque.
q = problem.parameter("q", shape=4, default=[1.0, 1.0, 0.1, 0.001])
p = problem.parameter("p", shape=4, default=[-1.0, 0.0, 0.0, 0.0])


def cost(tau):
    return sum(q[i] * tau[i] ** 2 / 2 + p[i] * tau[i] for i in range(len(tau)))


state = [cos_theta, sin_theta, omega]
problem.stage_cost = cost([*state, torque])
problem.terminal_cost = cost(state)


def initial_states(count, seed=0, dtype=None):
    """(count, 3) float64 or ``dtype``: angle ~ U(-π/2, π/2), velocity ~ U(-1, 1) rad/s."""
    import torch

    dtype = torch.float64 if dtype is None else dtype
    generator = torch.Generator().manual_seed(seed)
    draws = 2 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 1
    angle, velocity = draws[:, 0] * torch.pi / 2, draws[:, 1]
    return torch.stack([angle.cos(), angle.sin(), velocity], dim=-1).to(dtype)
