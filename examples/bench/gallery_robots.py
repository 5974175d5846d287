"""The gallery's robots: problems with constraints as users of this field write them, each from x0 drawn at random.

Each function returns a fresh `mpcgen.Problem`; `DRAWS` has the centre of its x0 and how far it is drawn from there.
Units are metres, seconds, radians and newtons, but where a comment says otherwise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy as sp

import mpcgen

FEET = ((0.2, 0.13), (0.2, -0.13), (-0.2, 0.13), (-0.2, -0.13))
HEIGHT = 0.28
STEPS = 5  # for which a pair of legs stands
TRACK = (
    0.0,
    0.0,
    0.8,
    1.2,
    0.4,
    -0.6,
    -1.2,
    -0.5,
    0.0,
    0.3,
    0.0,
)  # curvature of its middle, 1/m, metre by metre
PLACES = ((-1.5, 0.0), (1.5, 0.1), (0.05, -1.5), (0.0, 1.5))


def trotting_legs() -> mpcgen.Problem:
    """The body of a quadruped that trots, by forces of feet in friction cones (Di Carlo and others, IROS 2018)."""
    problem = mpcgen.Problem("trotting_legs", horizon=10)
    body = problem.states("roll pitch yaw x y z wx wy wz vx vy vz")
    stands = problem.parameters("stands0 stands1 stands2 stands3", default=1.0, per_stage=True)
    names = " ".join(f"f{foot}{axis}" for foot in range(4) for axis in "xyz")
    least, most = [-sp.oo, -sp.oo, 0], [[sp.oo, sp.oo, 150 * standing] for standing in stands]
    forces = problem.controls(names, lower=least * 4, upper=[bound for foot in most for bound in foot])
    mass, inertia, friction, dt = 12.0, (0.07, 0.26, 0.28), 0.5, 0.03
    feet = [sp.Matrix(forces[3 * foot : 3 * foot + 3]) for foot in range(4)]
    torque = sum((sp.Matrix([*FEET[foot], -HEIGHT]).cross(feet[foot]) for foot in range(4)), sp.zeros(3, 1))
    push = sum(feet, sp.zeros(3, 1))
    turning = [torque[axis] / inertia[axis] for axis in range(3)]
    rates = [*body[6:], *turning, push[0] / mass, push[1] / mass, push[2] / mass - 9.81]
    problem.dynamics = [value + dt * rate for value, rate in zip(body, rates, strict=True)]
    aims = [0, 0, 0, 0, 0, HEIGHT, 0, 0, 0, 0.5, 0, 0]
    weights = [25, 25, 10, 1, 1, 50, 0.3, 0.3, 0.3, 2, 2, 1]
    off = sum(weight * (value - aim) ** 2 for weight, value, aim in zip(weights, body, aims, strict=True))
    problem.stage_cost = off + 1e-5 * sum(force**2 for force in forces)
    problem.terminal_cost = off
    for foot, (x, y, z) in enumerate(feet):
        for name, slide in (("forward", x), ("back", -x), ("left", y), ("right", -y)):
            problem.constraint(f"{name}{foot}", slide - friction * z, upper=0)
    return problem


def race_track() -> mpcgen.Problem:
    """A car of 1:10 on a track of half a metre to each side, as far as it gets: with tyres that hold so much."""
    problem = mpcgen.Problem("race_track", horizon=40)
    along, aside, heading, speed, steer = problem.states(
        "along aside heading speed steer",
        lower=[-sp.oo, -0.5, -sp.oo, 0.1, -0.6],
        upper=[sp.oo, 0.5, sp.oo, 4, 0.6],
    )
    push, turn = problem.controls("push turn", lower=[-3, -3], upper=[2, 3])
    wheelbase = 0.33
    bend = mpcgen.lookup(along, list(range(len(TRACK))), list(TRACK), degree=3)
    slip = steer / 2
    advance = speed * sp.cos(heading + slip) / (1 - aside * bend)
    yaw_rate = speed * steer / wheelbase
    rates = [advance, speed * sp.sin(heading + slip), yaw_rate - bend * advance, push, turn]
    problem.dynamics = mpcgen.rk4(problem, rates, dt=0.05)
    problem.stage_cost = (push**2 + turn**2) / 100 + aside**2 / 10
    problem.terminal_cost = -10 * along
    problem.constraint("grip", (speed * yaw_rate / 6) ** 2 + (push / 4) ** 2, upper=1)
    return problem


def trailer_parking() -> mpcgen.Problem:
    """A car with a trailer that parks, and must neither fold nor touch the kerb."""
    problem = mpcgen.Problem("trailer_parking", horizon=60)
    x, y, heading, trailer, steer = problem.states(
        "x y heading trailer steer",
        lower=[-sp.oo, -1, -sp.oo, -sp.oo, -0.7],
        upper=[sp.oo, sp.oo, sp.oo, sp.oo, 0.7],
    )
    speed, turn = problem.controls("speed turn", lower=[-1.5, -1], upper=[1.5, 1])
    fold = heading - trailer
    rates = [
        speed * sp.cos(heading),
        speed * sp.sin(heading),
        speed * sp.tan(steer) / 2,
        speed * sp.sin(fold) / 3,
        turn,
    ]
    problem.dynamics = mpcgen.rk4(problem, rates, dt=0.25)
    problem.stage_cost = (x**2 + y**2) / 50 + (speed**2 + turn**2) / 10
    problem.terminal_cost = 0
    problem.constraint("fold", fold, lower=-1, upper=1)
    problem.terminal_constraint("parked", [x, y, heading, trailer], equals=[0, 0, 0, 0])
    return problem


def flight_past_balls() -> mpcgen.Problem:
    """A quadrotor with a quaternion, steered by thrust and body rates, past two balls and above the floor."""
    problem = mpcgen.Problem("flight_past_balls", horizon=30)
    *place, vx, vy, vz, w, a, b, c = problem.states("x y z vx vy vz qw qx qy qz")
    thrust, p, q, r = problem.controls("thrust p q r", lower=[2, -6, -6, -2], upper=[25, 6, 6, 2])
    up = [2 * (a * c + w * b), 2 * (b * c - w * a), 1 - 2 * (a**2 + b**2)]  # m/s² by thrust per mass
    spin = [-a * p - b * q - c * r, w * p + b * r - c * q, w * q - a * r + c * p, w * r + a * q - b * p]
    gravity = 9.81
    push = [thrust * up[0], thrust * up[1], thrust * up[2] - gravity]
    problem.dynamics = mpcgen.rk4(problem, [vx, vy, vz, *push, *[rate / 2 for rate in spin]], dt=0.06)
    off = sum((value - aim) ** 2 for value, aim in zip(place, (3, 0, 1), strict=True))
    fast = vx**2 + vy**2 + vz**2
    effort = (thrust - gravity) ** 2 + p**2 + q**2 + r**2
    problem.stage_cost = off + fast / 10 + effort / 100 + (a**2 + b**2 + c**2) / 10
    problem.terminal_cost = 20 * off + 5 * fast
    for name, centre, radius in (("ball", (1.2, 0.1, 1.1), 0.5), ("other", (2.0, -0.7, 1.0), 0.4)):
        away = sum((value - at) ** 2 for value, at in zip(place, centre, strict=True))
        problem.constraint(name, away, lower=radius**2)
    problem.constraint("fast", fast, upper=9)
    problem.constraint("floor", place[2], lower=0.2)
    return problem


def rendezvous() -> mpcgen.Problem:
    """A spacecraft that docks from within a cone behind the target (Clohessy and Wiltshire's equations)."""
    problem = mpcgen.Problem("rendezvous", horizon=50)
    x, y, z, vx, vy, vz = problem.states("x y z vx vy vz")
    ax, ay, az = problem.controls("ax ay az", lower=-0.02, upper=0.02)
    n = 0.00113  # rad/s, of the orbit
    rates = [vx, vy, vz, 3 * n**2 * x + 2 * n * vy + ax, -2 * n * vx + ay, -(n**2) * z + az]
    problem.dynamics = mpcgen.rk4(problem, rates, dt=10)
    problem.stage_cost = 1e4 * (ax**2 + ay**2 + az**2)
    problem.terminal_cost = 0
    problem.constraint("cone", x**2 + z**2 - (math.tan(math.radians(20)) * y) ** 2, upper=0.01)
    problem.constraint("behind", y, upper=0)
    problem.constraint("speed", vx**2 + vy**2 + vz**2, upper=1)
    problem.terminal_constraint("docked", [x, y, z, vx, vy, vz], equals=[0, -1, 0, 0, 0, 0])
    return problem


def crossing_robots() -> mpcgen.Problem:
    """Four robots on wheels that change places and keep 0.4 m apart."""
    problem = mpcgen.Problem("crossing_robots", horizon=30)
    states = problem.states(" ".join(f"x{i} y{i} heading{i}" for i in range(4)))
    controls = problem.controls(
        " ".join(f"speed{i} turn{i}" for i in range(4)), lower=[-1, -2] * 4, upper=[1, 2] * 4
    )
    places = [(states[3 * i], states[3 * i + 1]) for i in range(4)]
    rates = []
    for i in range(4):
        heading, speed, turn = states[3 * i + 2], controls[2 * i], controls[2 * i + 1]
        rates += [speed * sp.cos(heading), speed * sp.sin(heading), turn]
    problem.dynamics = mpcgen.rk4(problem, rates, dt=0.2)
    off = sum((x - to_x) ** 2 + (y - to_y) ** 2 for (x, y), (to_x, to_y) in zip(places, PLACES, strict=True))
    problem.stage_cost = off + sum(control**2 for control in controls) / 10
    problem.terminal_cost = 10 * off
    for i in range(4):
        for j in range(i):
            apart = (places[i][0] - places[j][0]) ** 2 + (places[i][1] - places[j][1]) ** 2
            problem.constraint(f"apart{i}{j}", apart, lower=0.4**2)
    return problem


DRAWS: dict[Callable[[], mpcgen.Problem], tuple[list[float], list[float]]] = {
    trotting_legs: (
        [0, 0, 0, 0, 0, HEIGHT, 0, 0, 0, 0, 0, 0],
        [0.2, 0.2, 0.3, 0.02, 0.02, 0.04, 1, 1, 1, 0.5, 0.3, 0.2],
    ),
    race_track: ([0, 0, 0, 1.5, 0], [0.3, 0.3, 0.2, 0.8, 0.1]),
    trailer_parking: ([3, 3, 0, 0, 0], [2, 1.5, 0.6, 0.6, 0.1]),
    flight_past_balls: ([0, 0, 1, 0, 0, 0, 1, 0, 0, 0], [0.4, 0.6, 0.5, 1, 1, 0.5, 0.2, 0.2, 0.2, 0.2]),
    rendezvous: ([0, -100, 0, 0, 0, 0], [20, 20, 20, 0.1, 0.1, 0.1]),
    crossing_robots: (
        [1.5, 0, math.pi, -1.5, 0, 0, 0, 1.5, -math.pi / 2, 0, -1.5, math.pi / 2],
        [0.2] * 12,
    ),
}
"""Of each problem: the centre of x0, and the largest distance from it in each state."""


def drawn_around(centre: Sequence[float], reach: Sequence[float], count: int, seed: int) -> np.ndarray:
    """Return starts (count, n), no further from the centre than the reach in each state."""
    share = np.random.default_rng(seed).uniform(-1, 1, (count, len(centre)))
    return np.array(centre, dtype=float) + np.array(reach, dtype=float) * share


def draw(make: Callable[[], mpcgen.Problem], count: int, seed: int) -> np.ndarray:
    """Return starts (count, n) of a problem; quaternions have length one."""
    x0 = drawn_around(*DRAWS[make], count, seed)
    if make is flight_past_balls:
        x0[:, 6:] /= np.linalg.norm(x0[:, 6:], axis=1, keepdims=True)
    return x0


STARTS = {make: functools.partial(draw, make) for make in DRAWS}
OPTIMA: dict[Any, float] = {}
"""None is known: each start has its own."""


def parameters_of(make: Callable[[], mpcgen.Problem], horizon: int) -> dict[str, Any]:
    """Return which feet stand at each stage: two across, then the others."""
    if make is not trotting_legs:
        return {}
    first = (np.arange(horizon) < STEPS).astype(float)
    second = 1 - first
    return {"stands0": first, "stands1": second, "stands2": second, "stands3": first}
