"""Balance a pole on a cart from any angle: the paper's cartpole, n = 5, m = 1.

The pole's angle enters through its cosine and sine, so that the cost knows no wrap-around; upright is 0.
"""

import sympy as sp

import mpcgen

DT = 0.05  # s, one stage

problem = mpcgen.Problem("cartpole", horizon=24)
x, v, cos_theta, sin_theta, omega = problem.states("x v cos_theta sin_theta omega")  # m, m/s, -, -, rad/s
force = problem.control("force", lower=-100.0, upper=100.0)  # N
gravity, mass_cart, mass_pole, length = problem.parameters(  # m/s², kg, kg, m (half of the pole)
    "gravity mass_cart mass_pole length", default=[9.8, 1.0, 0.1, 0.5]
)

mass = mass_cart + mass_pole
push = (force + mass_pole * length * omega**2 * sin_theta) / mass
angular_acceleration = (gravity * sin_theta - cos_theta * push) / (
    length * (sp.Rational(4, 3) - mass_pole * cos_theta**2 / mass)
)
acceleration = push - mass_pole * length * angular_acceleration * cos_theta / mass

# Explicit Euler: positions move with the old velocities.
theta_next = sp.atan2(sin_theta, cos_theta) + DT * omega
problem.dynamics = [
    x + DT * v,
    v + DT * acceleration,
    sp.cos(theta_next),
    sp.sin(theta_next),
    omega + DT * angular_acceleration,
]

# Cost ½ τᵀ diag(q) τ + pᵀτ with τ = (x, u): weights (0.1, 0.1, 1, 1, 0.1) about the goal (0, 0, 1, 0, 0),
# where p = -√weight · goal as in the paper's experiments, and 0.001 on the force.
q = problem.parameter("q", shape=6, default=[0.1, 0.1, 1.0, 1.0, 0.1, 0.001])
p = problem.parameter("p", shape=6, default=[0.0, 0.0, -1.0, 0.0, 0.0, 0.0])


def cost(tau):
    return sum(q[i] * tau[i] ** 2 / 2 + p[i] * tau[i] for i in range(len(tau)))


state = [x, v, cos_theta, sin_theta, omega]
problem.stage_cost = cost([*state, force])
problem.terminal_cost = cost(state)


def initial_states(count, seed=0, dtype=None):
    """(count, 5) float64 or ``dtype``: x, v ~ U(-0.5, 0.5), angle ~ U(-π, π), its velocity ~ U(-1, 1)."""
    import torch

    dtype = torch.float64 if dtype is None else dtype
    generator = torch.Generator().manual_seed(seed)
    draws = 2 * torch.rand(count, 4, generator=generator, dtype=torch.float64) - 1
    position, speed, angle, rate = (
        draws * torch.tensor([0.5, 0.5, torch.pi, 1.0], dtype=torch.float64)
    ).unbind(-1)
    return torch.stack([position, speed, angle.cos(), angle.sin(), rate], dim=-1).to(dtype)
