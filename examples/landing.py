"""Land a rocket on its pad with little fuel: n = 7, m = 3, a thrust's norm, a glide slope and a terminal equality.

A point of falling mass under a thrust that may point anywhere, after Acikmese and Ploen, "Convex programming approach
to powered descent guidance for Mars landing" (2007). The engine cannot be throttled below a share of its thrust, which
makes the problem nonconvex. The glide slope is a cone whose tip lies a metre below the pad.
"""

import sympy as sp

import mpcgen

DT = 0.5  # s, one stage; the landing takes 20 s
TIP = 1.0  # m, below the pad: at the tip itself the cone has no slope

problem = mpcgen.Problem("landing", horizon=40)
east, north, height = problem.states("east north height")  # m, from the pad
east_rate, north_rate, climb = problem.states("east_rate north_rate climb")  # m/s
mass = problem.state("mass", lower=problem.parameter("dry_mass", default=1.2))  # t
thrust = sp.Matrix(problem.controls("thrust_east thrust_north thrust_up"))  # kN
gravity = problem.parameter("gravity", default=3.71)  # m/s²
exhaust = problem.parameter("exhaust", default=2.2)  # km/s, what a tonne of fuel gives
least, most = problem.parameters("least most", default=[3.0, 14.0])  # kN
slope = problem.parameter("slope", default=0.8)  # tangent of the glide slope's angle above the ground
smoothness = problem.parameter("smoothness", default=0.001)  # price of thrust along the ground

# The hundredth gives it a slope at no thrust, where a solver may begin.
force = sp.sqrt(thrust.dot(thrust) + sp.Rational(1, 100))
problem.dynamics = mpcgen.rk4(
    problem,
    [
        east_rate,
        north_rate,
        climb,
        thrust[0] / mass,
        thrust[1] / mass,
        thrust[2] / mass - gravity,
        -force / (1000 * exhaust),
    ],
    dt=DT,
)
problem.stage_cost = DT * smoothness * (thrust[0] ** 2 + thrust[1] ** 2)
problem.terminal_cost = -100 * mass

problem.constraint("thrust", force, lower=least, upper=most)
problem.constraint("glide", height - slope * sp.sqrt(east**2 + north**2 + 1), lower=-TIP)
problem.terminal_constraint(
    "touchdown", [east, north, height, east_rate, north_rate, climb], equals=[0, 0, 0, 0, 0, 0]
)


def initial_states(count, seed=0, dtype=None):
    """(count, 7) float64 or ``dtype``: 250 m up, somewhere in the cone, sinking; 2 t.

    east, north ~ U(-180, 180) m, horizontal rates ~ U(-10, 10) m/s, climb ~ U(-25, -15) m/s.
    """
    import torch

    dtype = torch.float64 if dtype is None else dtype
    generator = torch.Generator().manual_seed(seed)
    draws = 2 * torch.rand(count, 7, generator=generator, dtype=torch.float64) - 1
    middle = torch.tensor([0.0, 0.0, 250.0, 0.0, 0.0, -20.0, 2.0], dtype=torch.float64)
    spread = torch.tensor([180.0, 180.0, 20.0, 10.0, 10.0, 5.0, 0.0], dtype=torch.float64)
    return (middle + draws * spread).to(dtype)
