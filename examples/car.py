"""Drive a car to a parking place at the origin, heading along x: n = 4, m = 2.

A kinematic bicycle with its reference point on the rear axle. The cost follows the parking example of Tassa,
Mansard and Todorov (2014): a pseudo-Huber measure of the remaining pose, so that far starts are not dominated
by their distance, and small control costs.
"""

import sympy as sp

import mpcgen

DT = 0.1  # s, one stage; the horizon spans 6 s

problem = mpcgen.Problem("car", horizon=60)
x, y, heading, speed = problem.states("x y heading speed")  # m, m, rad, m/s
acceleration, steering = problem.controls(  # m/s², rad
    "acceleration steering", lower=[-2.0, -0.5], upper=[2.0, 0.5]
)
wheelbase = problem.parameter("wheelbase", default=2.0)  # m

problem.dynamics = mpcgen.midpoint(
    problem,
    [
        speed * sp.cos(heading),
        speed * sp.sin(heading),
        speed * sp.tan(steering) / wheelbase,
        acceleration,
    ],
    dt=DT,
)

# Weights of (x, y, heading, speed) along the way and at the end, and of (acceleration, steering).
stage_weight = problem.parameter("stage_weight", shape=4, default=[0.1, 0.1, 0.0, 0.01])
terminal_weight = problem.parameter("terminal_weight", shape=4, default=[10.0, 10.0, 10.0, 3.0])
control_weight = problem.parameter("control_weight", shape=2, default=[0.1, 1.0])
width = problem.parameter(
    "width", default=1.0
)  # of the quadratic bottom of the measure, in the states' units


def huber(z):
    """Smooth: z²/(2 width) near zero, |z| - width far away."""
    return sp.sqrt(z**2 + width**2) - width


state = [x, y, heading, speed]
pose_cost = sum(weight * huber(z) for weight, z in zip(stage_weight, state, strict=True))
control_cost = (control_weight[0] * acceleration**2 + control_weight[1] * steering**2) / 2
problem.stage_cost = pose_cost + control_cost
problem.terminal_cost = sum(weight * huber(z) for weight, z in zip(terminal_weight, state, strict=True))


def initial_states(count, seed=0, dtype=None):
    """(count, 4) float64 or ``dtype``: behind the place and roughly towards it.

    x ~ U(-6, -2) m, y ~ U(-1.5, 1.5) m, heading ~ U(-0.6, 0.6) rad, speed ~ U(0, 2) m/s.
    """
    import torch

    dtype = torch.float64 if dtype is None else dtype
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(count, 4, generator=generator, dtype=torch.float64)
    low = torch.tensor([-6.0, -1.5, -0.6, 0.0], dtype=torch.float64)
    high = torch.tensor([-2.0, 1.5, 0.6, 2.0], dtype=torch.float64)
    return (low + draws * (high - low)).to(dtype)
