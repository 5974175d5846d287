"""Hover a quadrotor from a tilted, displaced start: n = 13 with a unit quaternion, m = 4 rotor thrusts.

World frame: z up. Body frame: x forward, y left, z up; rotors at +x, +y, -x, -y, those on the x axis turning
one way and those on the y axis the other, so that their drag torques oppose.
"""

import sympy as sp

import mpcgen

problem = mpcgen.Problem("quadrotor", horizon=40)
position = sp.Matrix(problem.states("p_x p_y p_z"))  # m, world
quaternion = sp.Matrix(problem.states("q_w q_x q_y q_z"))  # body to world, unit
velocity = sp.Matrix(problem.states("v_x v_y v_z"))  # m/s, world
rates = sp.Matrix(problem.states("w_x w_y w_z"))  # rad/s, body
thrust = sp.Matrix(
    problem.controls("thrust_front thrust_left thrust_back thrust_right", lower=0.0, upper=4.0)
)  # N

gravity, mass = problem.parameters("gravity mass", default=[9.81, 0.5])  # m/s², kg
arm = problem.parameter("arm", default=0.17)  # m, centre to rotor
inertia = problem.parameter("inertia", shape=3, default=[0.0032, 0.0032, 0.0055])  # kg m², principal
torque_ratio = problem.parameter("torque_ratio", default=0.016)  # m, a rotor's drag torque per thrust

w, i, j, k = quaternion
to_world = sp.Matrix(
    [
        [1 - 2 * (j**2 + k**2), 2 * (i * j - w * k), 2 * (i * k + w * j)],
        [2 * (i * j + w * k), 1 - 2 * (i**2 + k**2), 2 * (j * k - w * i)],
        [2 * (i * k - w * j), 2 * (j * k + w * i), 1 - 2 * (i**2 + j**2)],
    ]
)
front, left, back, right = thrust
force = sp.Matrix([0, 0, front + left + back + right])  # N, body
torque = sp.Matrix(  # N m, body
    [
        arm * (left - right),
        arm * (back - front),
        torque_ratio * (front - left + back - right),
    ]
)

# Half the quaternion product of the attitude with (0, rates).
vector = sp.Matrix([i, j, k])
quaternion_rate = sp.Matrix([-vector.dot(rates), *(w * rates + vector.cross(rates))]) / 2
acceleration = to_world * force / mass - sp.Matrix([0, 0, gravity])
momentum = sp.Matrix([inertia[axis] * rates[axis] for axis in range(3)])
net_torque = torque - rates.cross(momentum)
angular_acceleration = [net_torque[axis] / inertia[axis] for axis in range(3)]

problem.dynamics = mpcgen.rk4(
    problem, [*velocity, *quaternion_rate, *acceleration, *angular_acceleration], dt=0.05
)

# Quadratic cost about upright hover at the target; a tilt of angle a has 1 - q_w = 2 sin²(a/4).
target = problem.parameter("target", shape=3, default=[0.0, 0.0, 0.0])  # m, world
position_weight = problem.parameter("position_weight", default=1.0)
attitude_weight = problem.parameter("attitude_weight", default=1.0)
velocity_weight = problem.parameter("velocity_weight", default=0.1)
rate_weight = problem.parameter("rate_weight", default=0.1)
thrust_weight = problem.parameter("thrust_weight", default=0.1)
terminal_factor = problem.parameter("terminal_factor", default=10.0)


def squared(vector):
    return sum(entry**2 for entry in vector)


state_cost = (
    position_weight * squared(position - target)
    + attitude_weight * squared(quaternion - sp.Matrix([1, 0, 0, 0]))
    + velocity_weight * squared(velocity)
    + rate_weight * squared(rates)
) / 2
hover = mass * gravity / 4
problem.stage_cost = state_cost + thrust_weight * sum((each - hover) ** 2 for each in thrust) / 2
problem.terminal_cost = terminal_factor * state_cost


def initial_states(count, seed=0, dtype=None):
    """(count, 13) float64 or ``dtype``: displaced, tilted and in slow motion.

    Offsets ~ U(-1, 1) m, tilt U(0, 0.6) rad about a random axis, velocities ~ U(-0.5, 0.5) m/s, body rates
    ~ U(-0.5, 0.5) rad/s.
    """
    import torch

    dtype = torch.float64 if dtype is None else dtype
    generator = torch.Generator().manual_seed(seed)
    offset, velocity, rates = 2 * torch.rand(3, count, 3, generator=generator, dtype=torch.float64) - 1
    axis = torch.nn.functional.normalize(
        torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=-1
    )
    half = 0.3 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return torch.cat([offset, half.cos(), half.sin() * axis, velocity / 2, rates / 2], dim=-1).to(dtype)
