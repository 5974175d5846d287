"""A quadrotor of 27 g that hovers: 12 states, four thrusts, a stage of 50 ms by the midpoint rule."""

import numpy as np
import sympy as sp

import mpcgen

MASS, INERTIA, ARM, DRAG = 0.027, (1.4e-5, 1.4e-5, 2.17e-5), 0.046 / 2**0.5, 0.006  # kg, kg m², m, m

problem = mpcgen.Problem("hover", horizon=10)
place = problem.states("px py pz")  # m
velocity = problem.states("vx vy vz")  # m/s
angles = roll, pitch, yaw = problem.states("roll pitch yaw")  # rad
rates = wx, wy, wz = problem.states("wx wy wz")  # rad/s
thrusts = front, right, back, left = problem.controls("front right back left", lower=0, upper=0.15)  # N
goal = problem.parameter("goal", shape=3, default=(0.0, 0.0, 0.0))  # m

torques = (
    ARM * (front + right - back - left),
    ARM * (-front + right + back - left),
    DRAG * (front - right + back - left),
)
up = (
    sp.cos(roll) * sp.sin(pitch) * sp.cos(yaw) + sp.sin(roll) * sp.sin(yaw),
    sp.cos(roll) * sp.sin(pitch) * sp.sin(yaw) - sp.sin(roll) * sp.cos(yaw),
    sp.cos(roll) * sp.cos(pitch),
)
turning = wy * sp.sin(roll) + wz * sp.cos(roll)
problem.dynamics = mpcgen.midpoint(
    problem,
    [
        *velocity,
        *(sum(thrusts) / MASS * axis - (9.81 if i == 2 else 0) for i, axis in enumerate(up)),
        wx + turning * sp.tan(pitch),
        wy * sp.cos(roll) - wz * sp.sin(roll),
        turning / sp.cos(pitch),
        *(
            (torques[i] + (INERTIA[i - 2] - INERTIA[i - 1]) * rates[i - 2] * rates[i - 1]) / INERTIA[i]
            for i in range(3)
        ),
    ],
    dt=0.05,
)
error = (
    100 * sum((p - g) ** 2 for p, g in zip(place, goal, strict=True))
    + 4 * sum(v**2 for v in (*velocity, *angles))
    + 0.1 * sum(w**2 for w in rates)
)
problem.stage_cost = error + 100 * sum((thrust - MASS * 9.81 / 4) ** 2 for thrust in thrusts)
problem.terminal_cost = 10 * error


def initial_states(count, seed=0):
    """A metre off, tilted by 0.3 rad, at 0.5 m/s and rad/s (one standard deviation each)."""
    size = np.repeat([0.5, 0.3, 0.2, 0.5], 3)
    return size * np.random.default_rng(seed).standard_normal((count, 12))
