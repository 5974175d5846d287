"""Drive a carriage from rest to rest in the least time: n = 3, m = 2, the duration a state of the problem.

The duration is held by a discrete row and integrated with nothing. Its start in x_0 is a guess, which the control
``correction`` puts right in the first stage; ``free`` is how far it may, 0 after that. Without drag the carriage
accelerates for one half of the time and brakes for the other: a distance d takes 2 √(d / a).
"""

import sympy as sp

import mpcgen

STAGES = 20

problem = mpcgen.Problem("minimum_time", horizon=STAGES)
position, speed = problem.states("position speed")  # m, m/s
duration = problem.state("duration", lower=0.1)  # s, of all stages together
free = problem.parameter("free", default=0.0, per_stage=True)  # s
strongest = problem.parameter("strongest", default=1.0)  # m/s²
drag = problem.parameter("drag", default=0.0)  # 1/m, of the square of the speed
goal = problem.parameter("goal", default=0.0)  # m
acceleration, correction = problem.controls(  # m/s², s
    "acceleration correction", lower=[-strongest, -free], upper=[strongest, free]
)

corrected = duration + correction
problem.dynamics = mpcgen.rk4(
    problem,
    [corrected * speed, corrected * (acceleration - drag * speed * sp.sqrt(speed**2 + 1e-4))],
    dt=1 / STAGES,
    discrete={duration: corrected},
)
problem.stage_cost = 0
problem.terminal_cost = duration
problem.terminal_constraint("rest", [position, speed], equals=[goal, 0])


def parameter_values(seed=0):
    """Where the duration may be corrected: in the first stage."""
    return {"free": [100.0] + [0.0] * (STAGES - 1)}


def initial_states(count, seed=0, dtype=None):
    """(count, 3) float64 or ``dtype``: position ~ U(-4, -1) m, at rest, and the guess of 3 s."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    x0 = torch.zeros(count, 3, dtype=torch.float64)
    x0[:, 0] = -1 - 3 * torch.rand(count, generator=generator, dtype=torch.float64)
    x0[:, 2] = 3.0
    return x0.to(torch.float64 if dtype is None else dtype)
