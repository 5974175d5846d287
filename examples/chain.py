"""Bring a chain of masses to rest: n = 21 with three free masses, m = 3, the velocity of the chain's end.

The chain hangs between a wall at the origin and an end that is moved, after Wirsching, Bock and Diehl, "Fast
NMPC of a chain of masses connected by springs" (2006), with dampers beside the springs.
"""

import sympy as sp

import mpcgen

DT = 0.1  # s, one stage
FREE_MASSES = 3

problem = mpcgen.Problem("chain", horizon=40)
places = range(1, FREE_MASSES + 1)
positions = [sp.Matrix(problem.states(f"x_{i} y_{i} z_{i}")) for i in places]  # m, z up
end = sp.Matrix(problem.states("x_end y_end z_end"))  # m
velocities = [sp.Matrix(problem.states(f"vx_{i} vy_{i} vz_{i}")) for i in places]  # m/s
end_velocity = sp.Matrix(problem.controls("ux uy uz", lower=-1.0, upper=1.0))  # m/s

gravity, mass = problem.parameters("gravity mass", default=[9.81, 0.03])  # m/s², kg, each free mass
stiffness, damping = problem.parameters("stiffness damping", default=[1.0, 0.1])  # N/m, N s/m, each link
rest_length = problem.parameter("rest_length", default=0.033)  # m, each link

# Links from mass to mass, the wall being the first and the end the last.
wall = sp.zeros(3, 1)
at = [wall, *positions, end]
moving = [wall, *velocities, end_velocity]


def pull(link):
    """Force of a link on its left mass; N. Neighbours do not meet, so that its length has a derivative."""
    across = at[link + 1] - at[link]
    length = sp.sqrt(across.dot(across))
    return stiffness * (1 - rest_length / length) * across + damping * (moving[link + 1] - moving[link])


pulls = [pull(link) for link in range(FREE_MASSES + 1)]
weight = sp.Matrix([0, 0, -gravity])
accelerations = [(pulls[i] - pulls[i - 1]) / mass + weight for i in places]
rates = [entry for vector in (*velocities, end_velocity, *accelerations) for entry in vector]
problem.dynamics = mpcgen.rk4(problem, rates, dt=DT)

# The end's place, the masses' rest, and little effort: at rest the masses hang where gravity wants them.
target = problem.parameter("target", shape=3, default=[1.0, 0.0, 0.0])  # m, of the end
end_weight = problem.parameter("end_weight", default=2.5)
velocity_weight = problem.parameter("velocity_weight", default=1.0)
control_weight = problem.parameter("control_weight", default=0.1)


def squared(vector):
    return sum(entry**2 for entry in vector)


state_cost = (
    end_weight * squared(end - target) + velocity_weight * sum(squared(velocity) for velocity in velocities)
) / 2
problem.stage_cost = state_cost + control_weight * squared(end_velocity) / 2
problem.terminal_cost = state_cost


def initial_states(count, seed=0, dtype=None):
    """(count, 21) float64 or ``dtype``: the end off its target, the masses along the line to it, in motion.

    Offset of the end ~ U(-0.5, 0.5) m, of each mass from the line ~ U(-0.1, 0.1) m, velocities
    ~ U(-0.2, 0.2) m/s.
    """
    import torch

    dtype = torch.float64 if dtype is None else dtype
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return 2 * torch.rand(count, *shape, generator=generator, dtype=torch.float64) - 1

    end = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64) + 0.5 * uniform(3)
    share = torch.arange(1, FREE_MASSES + 1, dtype=torch.float64) / (FREE_MASSES + 1)
    line = share[:, None] * end[:, None, :] + 0.1 * uniform(FREE_MASSES, 3)
    speeds = 0.2 * uniform(FREE_MASSES, 3)
    return torch.cat([line.flatten(1), end, speeds.flatten(1)], dim=-1).to(dtype)
