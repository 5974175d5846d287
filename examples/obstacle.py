"""Drive a car past discs to a pose: n = 4, m = 2, obstacles as constraints whose places are parameters.

The car is a kinematic bicycle, its reference point on the rear axle. Every disc is one row of the constraint ``clear``:
the squared distance from its middle is at least its squared radius. Start and discs decide on which side it passes.
"""

import sympy as sp

import mpcgen

DT = 0.1  # s, one stage; the horizon spans 6 s
DISCS = 2

problem = mpcgen.Problem("obstacle", horizon=60)
x, y, heading, speed = problem.states("x y heading speed")  # m, m, rad, m/s
acceleration, steering = problem.controls(  # m/s², rad
    "acceleration steering", lower=[-2.0, -0.6], upper=[2.0, 0.6]
)
wheelbase = problem.parameter("wheelbase", default=0.5)  # m
goal = problem.parameter("goal", shape=2, default=[4.0, 2.0])  # m, where the car comes to rest, along x
middle = problem.parameter("middle", shape=(DISCS, 2), default=[[1.0, 0.4], [2.0, 1.7]])  # m
radius = problem.parameter("radius", shape=DISCS, default=[0.45, 0.5])  # m, that of the car included
control_weight = problem.parameter("control_weight", shape=2, default=[0.5, 0.5])
speed_weight = problem.parameter("speed_weight", default=0.02)

problem.dynamics = mpcgen.rk4(
    problem,
    [
        speed * sp.cos(heading),
        speed * sp.sin(heading),
        speed * sp.tan(steering) / wheelbase,
        acceleration,
    ],
    dt=DT,
)
effort = control_weight[0] * acceleration**2 + control_weight[1] * steering**2
problem.stage_cost = DT * (effort + speed_weight * speed**2)
problem.terminal_cost = 0

distances = [(x - middle[i, 0]) ** 2 + (y - middle[i, 1]) ** 2 for i in range(DISCS)]
problem.constraint("clear", distances, lower=[radius[i] ** 2 for i in range(DISCS)])
problem.terminal_constraint("pose", [x, y, heading, speed], equals=[goal[0], goal[1], 0, 0])


def initial_states(count, seed=0, dtype=None):
    """(count, 4) float64 or ``dtype``: on the way, far enough from the first disc to pass or to stop.

    x ~ U(-0.8, 0) m, y ~ U(-0.4, 0.4) m, heading ~ U(0, 0.6) rad, speed ~ U(0.5, 1) m/s.
    """
    import torch

    dtype = torch.float64 if dtype is None else dtype
    generator = torch.Generator().manual_seed(seed)
    draws = 2 * torch.rand(count, 4, generator=generator, dtype=torch.float64) - 1
    middle = torch.tensor([-0.4, 0.0, 0.3, 0.75], dtype=torch.float64)
    return (middle + draws * torch.tensor([0.4, 0.4, 0.3, 0.25], dtype=torch.float64)).to(dtype)
