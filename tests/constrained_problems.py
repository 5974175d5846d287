"""Problems with constraints on states, paths and ends, and their optima where they are known.

Every function returns a fresh `mpcgen.Problem`; `x0` of each is in `STARTS`. Optima were found with CasADi and IPOPT,
multiple shooting, from several starts; where a problem has several minima, the best that was seen.
"""

import math

import numpy as np
import sympy as sp

import mpcgen


def jacobson_lele(horizon=50):
    """Jacobson and Lele (1969): a bound on a state that differs at every stage."""
    problem = mpcgen.Problem("jacobson_lele", horizon=horizon)
    position, velocity, integral = problem.states("position velocity integral")
    (u,) = problem.controls("u", lower=-20, upper=20)
    limit = problem.parameter("limit", per_stage=True)
    rates = [velocity, -velocity + u, position**2 + velocity**2 + sp.Float("0.005") * u**2]
    problem.dynamics = mpcgen.rk4(problem, rates, dt=1 / horizon)
    problem.stage_cost = 0
    problem.terminal_cost = integral
    problem.constraint("parabola", velocity, upper=limit)
    return problem


def parabola(horizon):
    """(N+1,) the bound of `jacobson_lele`: 8 (t - 1/2)² - 1/2; the first is not used."""
    t = np.arange(horizon + 1) / horizon
    return 8 * (t - 0.5) ** 2 - 0.5


def beam(horizon=100):
    """The bounded double integrator of Bryson and Denham: 8/(9 limit) where time is continuous."""
    problem = mpcgen.Problem("beam", horizon=horizon)
    limit = problem.parameter("limit", default=0.1)
    position = problem.state("position", upper=limit)
    velocity, integral = problem.states("velocity integral")
    (u,) = problem.controls("u", lower=-10, upper=10)
    problem.dynamics = mpcgen.rk4(problem, [velocity, u, u**2], dt=1 / horizon)
    problem.stage_cost = 0
    problem.terminal_cost = integral
    problem.terminal_constraint("end", [position, velocity], equals=[0, -1])
    return problem


def van_der_pol(horizon=50):
    """Van der Pol's oscillator with a bound on a state."""
    problem = mpcgen.Problem("van_der_pol_bounded", horizon=horizon)
    x1 = problem.state("x1", lower=problem.parameter("floor_x1", default=-0.4))
    x2, integral = problem.states("x2 integral")
    (u,) = problem.controls("u", lower=-0.3, upper=1)
    rates = [(1 - x2**2) * x1 - x2 + u, x1, x1**2 + x2**2 + u**2]
    problem.dynamics = mpcgen.rk4(problem, rates, dt=5 / horizon, substeps=2)
    problem.stage_cost = 0
    problem.terminal_cost = integral
    return problem


def cartpole_rates(angle, velocity, rate, force, cart, pole, length, gravity):
    """Rates of (position, angle, velocity, rate); the angle is 0 where the pole hangs."""
    sine, cosine = sp.sin(angle), sp.cos(angle)
    across = cart + pole * sine**2
    acceleration = (force + pole * sine * (length * rate**2 + gravity * cosine)) / across
    angular = (-force * cosine - pole * length * rate**2 * sine * cosine - (cart + pole) * gravity * sine) / (
        length * across
    )
    return [velocity, rate, acceleration, angular]


def safe_cartpole():
    """The cart-pole of Safe-PDP (Jin et al., 2021): a wall on either side."""
    problem = mpcgen.Problem("safe_pdp_cartpole", horizon=35)
    cart, pole, length, wall = problem.parameters("cart pole length wall", default=[0.5, 0.5, 1.0, 0.8])
    position = problem.state("position", lower=-wall, upper=wall)
    angle, velocity, rate = problem.states("angle velocity rate")
    (force,) = problem.controls("force", lower=-5, upper=5)
    rates = cartpole_rates(angle, velocity, rate, force, cart, pole, length, 10)
    states = (position, angle, velocity, rate)
    problem.dynamics = [x + dx / 10 for x, dx in zip(states, rates, strict=True)]
    cost = position**2 / 10 + (angle - sp.pi) ** 2 + velocity**2 / 10 + rate**2 / 10
    problem.stage_cost = cost + force**2 / 10
    problem.terminal_cost = cost
    return problem


def pendulum_swing_up(horizon=80):
    """A pendulum that has to stand at the end."""
    problem = mpcgen.Problem("pendulum_swing_up", horizon=horizon)
    mass, length, damping = problem.parameters("mass length damping", default=[1.0, 1.0, 0.1])
    angle, rate = problem.states("angle rate")
    (torque,) = problem.controls("torque", lower=-5, upper=5)
    weight = mass * sp.Float("9.81") * length
    acceleration = (torque - damping * rate - weight * sp.sin(angle)) / (mass * length**2)
    problem.dynamics = mpcgen.rk4(problem, [rate, acceleration], dt=0.05)
    problem.stage_cost = 0.05 * (torque**2 + 0.1 * rate**2)
    problem.terminal_constraint("upright", [angle, rate], equals=[sp.pi, 0])
    return problem


def cartpole_swing_up():
    """A cart-pole between walls that has to stand at the end."""
    problem = mpcgen.Problem("cartpole_swing_up", horizon=50)
    cart, pole, length = problem.parameters("cart pole length", default=[1.0, 0.3, 0.5])
    position = problem.state("position", lower=-1.2, upper=1.2)
    angle, velocity, rate = problem.states("angle velocity rate")
    (force,) = problem.controls("force", lower=-20, upper=20)
    rates = cartpole_rates(angle, velocity, rate, force, cart, pole, length, sp.Float("9.81"))
    problem.dynamics = mpcgen.rk4(problem, rates, dt=0.05)
    problem.stage_cost = 0.05 * (0.1 * force**2 + 0.1 * position**2)
    problem.terminal_constraint("upright", [position, angle, velocity, rate], equals=[0, sp.pi, 0, 0])
    return problem


def car_among_discs():
    """A car that has to reach a pose past two discs; several minima."""
    problem = mpcgen.Problem("car_among_discs", horizon=60)
    px, py, heading, speed = problem.states("px py heading speed")
    acceleration, steer = problem.controls("acceleration steer", lower=[-2, -0.6], upper=[2, 0.6])
    discs = problem.parameter("discs", shape=(2, 3), default=[[1.0, 0.4, 0.45], [2.0, 1.7, 0.5]])
    rates = [speed * sp.cos(heading), speed * sp.sin(heading), 2 * speed * sp.tan(steer), acceleration]
    problem.dynamics = mpcgen.rk4(problem, rates, dt=0.1)
    problem.stage_cost = 0.1 * (0.5 * acceleration**2 + 0.5 * steer**2 + 0.02 * speed**2)
    distances = [(px - discs[i, 0]) ** 2 + (py - discs[i, 1]) ** 2 for i in range(2)]
    problem.constraint("clear", distances, lower=[discs[i, 2] ** 2 for i in range(2)])
    problem.terminal_constraint("pose", [px, py, heading, speed], equals=[4, 2, 0, 0])
    return problem


def double_integrator():
    """A speed limit and a wall; infeasible where it moves towards the wall too fast."""
    problem = mpcgen.Problem("double_integrator_bounded", horizon=40)
    limit, wall = problem.parameters("limit wall", default=[0.6, 0.0])
    position, velocity = problem.states("position velocity", lower=[wall, -limit], upper=[sp.oo, limit])
    (force,) = problem.controls("force", lower=-1, upper=1)
    tenth = sp.Rational(1, 10)
    problem.dynamics = [position + tenth * velocity + tenth**2 / 2 * force, velocity + tenth * force]
    problem.stage_cost = position**2 + tenth * velocity**2 + force**2 / 100
    problem.terminal_cost = 10 * (position**2 + velocity**2)
    return problem


def rocket():
    """The rocket of Safe-PDP: a thrust's norm and a tilt."""
    problem = mpcgen.Problem("safe_pdp_rocket", horizon=40)
    largest, tilt = problem.parameters("largest tilt", default=[20.0, 0.3])
    r = sp.Matrix(problem.states("rx ry rz"))
    v = sp.Matrix(problem.states("vx vy vz"))
    q = sp.Matrix(problem.states("q0 q1 q2 q3"))
    w = sp.Matrix(problem.states("wx wy wz"))
    thrust = sp.Matrix(problem.controls("tx ty tz"))
    inertia = sp.diag(sp.Rational(1, 2), 1, 1)
    turn = attitude(q)
    spin = sp.Matrix(
        [
            [0, -w[0], -w[1], -w[2]],
            [w[0], 0, w[2], -w[1]],
            [w[1], -w[2], 0, w[0]],
            [w[2], w[1], -w[0], 0],
        ]
    )
    arm = sp.Matrix([-sp.Rational(1, 2), 0, 0])
    torque = arm.cross(thrust) - w.cross(inertia * w)
    rates = [*v, *(turn.T * thrust + sp.Matrix([-10, 0, 0])), *(spin * q / 2), *(inertia.inv() * torque)]
    states = [*r, *v, *q, *w]
    problem.dynamics = [x + dx / 10 for x, dx in zip(states, rates, strict=True)]
    nose = turn.T * sp.Matrix([1, 0, 0])
    cost = 10 * r.dot(r) + v.dot(v) + 50 * (nose[1] ** 2 + nose[2] ** 2) + w.dot(w)
    problem.stage_cost = cost + thrust[1] ** 2 + thrust[2] ** 2 + sp.Rational(2, 5) * thrust.dot(thrust)
    problem.terminal_cost = cost
    problem.constraint("thrust", thrust.dot(thrust), upper=largest**2)
    problem.constraint("upright", (turn.trace() - 1) / 2, lower=sp.cos(tilt))
    return problem


def attitude(q):
    """(3, 3) rotation from the inertial to the body frame."""
    return sp.Matrix(
        [
            [
                1 - 2 * (q[2] ** 2 + q[3] ** 2),
                2 * (q[1] * q[2] + q[0] * q[3]),
                2 * (q[1] * q[3] - q[0] * q[2]),
            ],
            [
                2 * (q[1] * q[2] - q[0] * q[3]),
                1 - 2 * (q[1] ** 2 + q[3] ** 2),
                2 * (q[2] * q[3] + q[0] * q[1]),
            ],
            [
                2 * (q[1] * q[3] + q[0] * q[2]),
                2 * (q[2] * q[3] - q[0] * q[1]),
                1 - 2 * (q[1] ** 2 + q[2] ** 2),
            ],
        ]
    )


def linear_quadratic():
    """Eight states in a box, four bounded controls: a convex problem."""
    n, m = 8, 4
    generator = np.random.default_rng(3)
    A = np.eye(n) + 0.2 * generator.standard_normal((n, n))
    A *= 1.02 / max(abs(np.linalg.eigvals(A)))
    B = generator.standard_normal((n, m))
    problem = mpcgen.Problem("linear_quadratic_bounded", horizon=40)
    (box,) = problem.parameters("box", default=[3.0])
    x = sp.Matrix(problem.states([f"x{i}" for i in range(n)], lower=-box, upper=box))
    u = sp.Matrix(problem.controls([f"u{i}" for i in range(m)], lower=-0.5, upper=0.5))
    problem.dynamics = sp.Matrix(A.tolist()) * x + sp.Matrix(B.tolist()) * u
    problem.stage_cost = x.dot(x) / 2 + u.dot(u) / 20
    problem.terminal_cost = 5 * x.dot(x)
    return problem


def linear_quadratic_start():
    """(8,) the initial state that belongs to the matrices of `linear_quadratic`."""
    generator = np.random.default_rng(3)
    generator.standard_normal((8, 8))
    generator.standard_normal((8, 4))
    return np.clip(3 * generator.standard_normal(8), -2.8, 2.8)


def coupled_cartpole():
    """Two actuators tied by a curved equality, which is said twice: its Jacobian has not full rank."""
    problem = mpcgen.Problem("coupled_cartpole", horizon=40)
    cart, pole, length = problem.parameters("cart pole length", default=[1.0, 0.3, 0.5])
    position, angle, velocity, rate = problem.states("position angle velocity rate")
    left, right = problem.controls("left right", lower=-15, upper=15)
    rates = cartpole_rates(angle, velocity, rate, left + right, cart, pole, length, sp.Float("9.81"))
    problem.dynamics = mpcgen.rk4(problem, rates, dt=0.05)
    cost = (angle - sp.pi) ** 2 + position**2 / 10 + (velocity**2 + rate**2) / 20
    problem.stage_cost = 0.05 * (cost + (left**2 + right**2) / 100)
    problem.terminal_cost = 5 * cost
    tie = left - 2 * right + right**3 / 20
    problem.constraint("tie", [tie, 2 * tie], equals=0)
    return problem


def corridor(linear=False, horizon=20):
    """A car, or a double integrator, whose states have to stay in a box of their own at every stage."""
    problem = mpcgen.Problem("straight_corridor" if linear else "corridor", horizon=horizon)
    names, limits = (["position", "speed"], [1]) if linear else (["px", "py", "heading", "speed"], [2, 0.6])
    low = problem.parameter("low", shape=len(names), per_stage=True)
    high = problem.parameter("high", shape=len(names), per_stage=True)
    x = problem.states(names, lower=list(low), upper=list(high))
    u = problem.controls(["push", "steer"][: len(limits)], lower=[-v for v in limits], upper=limits)
    turning = [] if linear else [x[3] * sp.cos(x[2]), x[3] * sp.sin(x[2]), 2 * x[3] * sp.tan(u[1])]
    problem.dynamics = mpcgen.rk4(problem, [*(turning or [x[1]]), u[0]], dt=0.1)
    problem.stage_cost = sum(v**2 for v in x) + sum(v**2 for v in u) / 10
    problem.terminal_cost = 0
    return problem


def far_wall(horizon=30, effort=1e-4):
    """Four integrators one after another: the control steers the last, and the first has a wall."""
    problem = mpcgen.Problem("far_wall", horizon=horizon)
    wall = problem.parameter("wall", default=0.6)
    x = problem.states("x0 x1 x2 x3", upper=[wall, sp.oo, sp.oo, sp.oo])
    (u,) = problem.controls("u", lower=-200, upper=200)
    problem.dynamics = mpcgen.rk4(problem, [*x[1:], u], dt=0.1)
    problem.stage_cost = (x[0] - 1) ** 2 + effort * u**2 + sum(v**2 for v in x[1:]) / 100
    problem.terminal_cost = 0
    return problem


STARTS = {
    jacobson_lele: [0.0, -1.0, 0.0],
    beam: [0.0, 1.0, 0.0],
    van_der_pol: [0.0, 1.0, 0.0],
    safe_cartpole: [0.0] * 4,
    pendulum_swing_up: [0.0, 0.0],
    cartpole_swing_up: [0.0] * 4,
    car_among_discs: [0.0] * 4,
    double_integrator: [1.0, 0.0],
    rocket: [10.0, -8.0, 5.0, -0.1, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    linear_quadratic: linear_quadratic_start().tolist(),
    coupled_cartpole: [0.0, math.pi - 0.8, 0.0, 0.0],
}
"""x_0 by problem."""

INFEASIBLE_START = [0.3, -1.5]
"""Of `double_integrator`: the speed limit of the first stage cannot be met."""

OPTIMA = {
    jacobson_lele: 0.1699017155,
    beam: 8.8913592724,
    van_der_pol: 2.9562226106,
    safe_cartpole: 180.1867047,
    pendulum_swing_up: 31.41251,
    cartpole_swing_up: 4.1335373,
    car_among_discs: 0.87843782,
    double_integrator: 9.5079427,
    rocket: 26223.495,
    linear_quadratic: 17.786957,
    coupled_cartpole: 13.829696,
}
"""Least cost that is known, with the digits that are certain."""


def parameters_of(make, horizon):
    """The parameters that a problem has no default for, by name."""
    return {"limit": parabola(horizon)} if make is jacobson_lele else {}
