"""Swing up a pole on a cart between two walls: n = 4, m = 1, the example of Safe-PDP.

Jin, Mou and Pappas, "Safe Pontryagin differentiable programming" (2021): explicit Euler, stages of 0.1 s, the pole
hangs at angle 0. A wall on either side is a bound of the cart's position.
"""

import sympy as sp

import mpcgen

DT = sp.Rational(1, 10)  # s, one stage; the horizon spans 3.5 s

problem = mpcgen.Problem("safe_cartpole", horizon=35)
wall = problem.parameter("wall", default=0.8)  # m, on either side
x = problem.state("x", lower=-wall, upper=wall)  # m
angle, v, omega = problem.states("angle v omega")  # rad, m/s, rad/s
force = problem.control("force", lower=-5.0, upper=5.0)  # N
cart_mass, pole_mass = problem.parameters("cart_mass pole_mass", default=[0.5, 0.5])  # kg
length = problem.parameter("length", default=1.0)  # m
gravity = problem.parameter("gravity", default=10.0)  # m/s²
weight = problem.parameter("weight", shape=4, default=[0.1, 1.0, 0.1, 0.1])  # of x, angle, v, omega
force_weight = problem.parameter("force_weight", default=0.1)

sine, cosine = sp.sin(angle), sp.cos(angle)
across = cart_mass + pole_mass * sine**2
acceleration = (force + pole_mass * sine * (length * omega**2 + gravity * cosine)) / across
angular = -(
    force * cosine + pole_mass * length * omega**2 * sine * cosine + (cart_mass + pole_mass) * gravity * sine
) / (length * across)
problem.dynamics = [x + DT * v, angle + DT * omega, v + DT * acceleration, omega + DT * angular]

target = sp.Matrix([x, angle - sp.pi, v, omega])
cost = sum(w * deviation**2 for w, deviation in zip(weight, target, strict=True))
problem.stage_cost = cost + force_weight * force**2
problem.terminal_cost = cost


def initial_states(count, seed=0, dtype=None):
    """(count, 4) float64 or ``dtype``: hanging, nearly at rest between the walls.

    x ~ U(-0.5, 0.5) m, angle ~ U(-0.5, 0.5) rad, v ~ U(-0.3, 0.3) m/s, omega ~ U(-0.5, 0.5) rad/s.
    """
    import torch

    dtype = torch.float64 if dtype is None else dtype
    generator = torch.Generator().manual_seed(seed)
    draws = 2 * torch.rand(count, 4, generator=generator, dtype=torch.float64) - 1
    return (draws * torch.tensor([0.5, 0.5, 0.3, 0.5], dtype=torch.float64)).to(dtype)
