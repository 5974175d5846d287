"""The gallery's problems of least time or fuel, with a fixed end: from the literature, most with a free duration.

Each function returns a fresh `mpcgen.Problem`. A free duration is a state; a control corrects it in the first stage, as
in examples/minimum_time.py. Optima are of these discretisations, by IPOPT; the continuous problems' beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import sympy as sp

import mpcgen

LARGEST_CORRECTION = 100.0  # of a duration


class _FreeEnd:
    """A problem whose duration is free: give it states and bounded controls, then rates, cost and ends."""

    def __init__(self, name: str, horizon: int, states: str, **bounds: Any) -> None:
        self.problem = mpcgen.Problem(name, horizon=horizon)
        self.x = list(self.problem.states(states, **bounds))

    def steer(
        self, names: str, lower: Sequence[Any], upper: Sequence[Any], *, least: float, most: float
    ) -> list[sp.Symbol]:
        """Return the controls, beside the one that corrects the duration, which stays in least to most."""
        self.duration = self.problem.state("duration", lower=least, upper=most)
        free = self.problem.parameter("free", default=0.0, per_stage=True)
        *controls, correction = self.problem.controls(
            f"{names} correction", lower=[*lower, -free], upper=[*upper, free]
        )
        self.corrected = self.duration + correction
        return controls

    def move(self, rates: Sequence[sp.Expr], substeps: int = 1) -> None:
        """Set the dynamics; ``rates`` are by time."""
        self.problem.dynamics = mpcgen.rk4(
            self.problem,
            [self.corrected * rate for rate in rates],
            dt=sp.Rational(1, self.problem.horizon),
            substeps=substeps,
            discrete={self.duration: self.corrected},
        )
        self.problem.stage_cost = 0


def goddard() -> mpcgen.Problem:
    """Goddard's rocket, as high as it gets, in radii of the earth: a singular arc (COPS; 1.01283 there)."""
    end = _FreeEnd(
        "goddard", 60, "height speed mass", lower=[1, 0, sp.Rational(6, 10)], upper=[sp.oo, sp.oo, 1]
    )
    h, v, m = end.x
    (thrust,) = end.steer("thrust", [0], [sp.Rational(7, 2)], least=0.02, most=1.0)
    end.move([v, (thrust - 310 * v**2 * sp.exp(-500 * (h - 1))) / m - 1 / h**2, -2 * thrust])
    end.problem.terminal_cost = -h
    end.problem.terminal_constraint("burnt", m, equals=sp.Rational(6, 10))
    return end.problem


def telescopic_arm(with_tilt: bool = True) -> mpcgen.Problem:
    """A robot's arm of three joints, bang-bang in all, from rest to rest in the least time (COPS; 9.14093 there).

    By symmetry two of its switches come between stages. Then fewer controls are free of their bounds than the end has
    equations: nothing but the slack of bounds is left to meet these. Without tilt it has two joints.
    """
    horizon = 50 if with_tilt else 30
    tilt = ["tilt", "tilt_rate"] if with_tilt else []
    names = ["reach", "turn", *tilt[:1], "reach_rate", "turn_rate", *tilt[1:]]
    end = _FreeEnd("telescopic_arm" if with_tilt else "planar_arm", horizon, " ".join(names))
    half = len(names) // 2
    place, rate = end.x[:half], end.x[half:]
    torques = end.steer(
        "extend swing lift" if with_tilt else "extend swing", [-1] * half, [1] * half, least=1, most=20
    )
    inertia = ((5 - place[0]) ** 3 + place[0] ** 3) / 3
    about = sp.sin(place[2]) ** 2 if with_tilt else 1
    end.move([*rate, *(t / i for t, i in zip(torques, [5, inertia * about, inertia], strict=False))])
    end.problem.terminal_cost = end.duration
    goal = [sp.Rational(9, 2), 2 * sp.pi / 3, sp.pi / 4][:half]
    end.problem.terminal_constraint("rest", end.x, equals=[*goal, *[0] * half])
    return end.problem


def tumour() -> mpcgen.Problem:
    """A tumour made as small as a dose allows, by inhibiting its vessels (Ledzewicz and Schaettler 2007)."""
    least = sp.Rational(1, 10)
    end = _FreeEnd("tumour", 60, "volume capacity dose", lower=[least, least, 0], upper=[sp.oo, sp.oo, 15])
    p, q, _ = end.x
    (rate,) = end.steer("rate", [0], [75], least=0.1, most=10)
    growth = sp.Float("0.02") + sp.Float("0.00873") * p ** sp.Rational(2, 3) + sp.Float("0.15") * rate
    end.move([-sp.Float("0.084") * p * sp.log(p / q), q * (sp.Float("5.85") - growth), rate], substeps=2)
    end.problem.terminal_cost = p
    return end.problem


def hang_glider() -> mpcgen.Problem:
    """A hang glider, as far as a thermal takes it (Bulirsch and others 1993; COPS, 1248.03 there)."""
    end = _FreeEnd("hang_glider", 60, "x vx y vy", lower=[0, 0, -sp.oo, -sp.oo])
    x, vx, y, vy = end.x
    (lift,) = end.steer("lift", [0], [sp.Rational(14, 10)], least=10, most=200)
    thermal = (x / 100 - sp.Rational(5, 2)) ** 2
    sink = vy - sp.Rational(5, 2) * (1 - thermal) * sp.exp(-thermal)
    speed = sp.sqrt(vx**2 + sink**2)
    pressure = sp.Rational(1, 2) * sp.Float("1.13") * 14 * speed / 100  # over the speed, of a mass of 100 kg
    drag = (sp.Float("0.034") + sp.Float("0.069662") * lift**2) * pressure
    pull = lift * pressure
    end.move([vx, -pull * sink - drag * vx, vy, pull * vx - drag * sink - sp.Float("9.80665")], substeps=2)
    end.problem.terminal_cost = -x
    goal = [sp.Float("13.2275675"), 900, sp.Float("-1.28750052")]
    end.problem.terminal_constraint("glide", [vx, y, vy], equals=goal)
    return end.problem


def free_flyer() -> mpcgen.Problem:
    """A robot in space with two engines that push and pull, with the least fuel (Sakawa 1999; 7.9101 there)."""
    horizon = 60
    problem = mpcgen.Problem("free_flyer", horizon=horizon)
    x = list(problem.states("x y heading vx vy spin"))
    u = list(problem.controls("left_push left_pull right_push right_pull", lower=[0] * 4, upper=[1] * 4))
    left, right = u[0] - u[1], u[2] - u[3]
    push, turn = left + right, (left - right) / 5
    rates = [*x[3:], push * sp.cos(x[2]), push * sp.sin(x[2]), turn]
    problem.dynamics = mpcgen.rk4(problem, rates, dt=sp.Rational(12, horizon))
    problem.stage_cost = sp.Rational(12, horizon) * sum(u)
    problem.terminal_cost = 0
    problem.constraint("engines", [u[0] + u[1], u[2] + u[3]], upper=[1, 1])
    problem.terminal_constraint("rest", x, equals=[0] * 6)
    return problem


def docking() -> mpcgen.Problem:
    """A craft that meets a station from within a cone, in Hill's frame, with the least fuel: hardly any curvature."""
    problem = mpcgen.Problem("docking", horizon=40)
    x = list(problem.states("x y z vx vy vz"))  # m, m/s
    most = sp.Rational(2, 100)  # m/s²
    u = list(problem.controls("ax ay az", lower=[-most] * 3, upper=[most] * 3))
    rate = sp.Rational(113, 100_000)  # rad/s
    pulls = [3 * rate**2 * x[0] + 2 * rate * x[4], -2 * rate * x[3], -(rate**2) * x[2]]
    problem.dynamics = mpcgen.rk4(problem, [*x[3:], *(p + a for p, a in zip(pulls, u, strict=True))], dt=10)
    problem.stage_cost = 10 * sp.sqrt(sum(a**2 for a in u) + sp.Rational(1, 10**8))
    problem.terminal_cost = 0
    problem.constraint(
        "cone", x[1] - sp.sqrt(x[0] ** 2 + x[2] ** 2 + sp.Rational(1, 100)), lower=-sp.Rational(2, 10)
    )
    problem.terminal_constraint("docked", x, equals=[0, 1, 0, 0, 0, 0])
    return problem


def orbit_raising() -> mpcgen.Problem:
    """A craft that reaches the widest circle in a given time by the angle of its thrust (Bryson and Ho 1975)."""
    problem = mpcgen.Problem("orbit_raising", horizon=60)
    radius, outward, around, mass = problem.states(
        "radius outward around mass", lower=[0.5, -sp.oo, -sp.oo, 0.1]
    )
    angle = problem.control("angle", lower=-sp.pi, upper=2 * sp.pi)
    burn = sp.Float("0.0749")
    push = sp.Float("0.1405") / mass
    rates = [
        outward,
        around**2 / radius - 1 / radius**2 + push * sp.sin(angle),
        -outward * around / radius + push * sp.cos(angle),
        -burn,
    ]
    problem.dynamics = mpcgen.rk4(problem, rates, dt=sp.Rational(332, 100 * problem.horizon))
    problem.stage_cost = 0
    problem.terminal_cost = -radius
    problem.terminal_constraint("circle", [outward, around - 1 / sp.sqrt(radius)], equals=[0, 0])
    return problem


def shuttle_descent(horizon: int = 100) -> mpcgen.Problem:
    """The space shuttle's descent, as far across as it gets (Betts 2010): in 1e5 ft, 1e4 ft/s, rad and s.

    It is begun at a straight line, `GUESSES`: a rollout of controls that are not chosen well leaves the atmosphere.
    """
    right, degree = math.radians(89), sp.pi / 180
    end = _FreeEnd(
        "shuttle_descent",
        horizon,
        "height aside speed path heading",
        lower=[0, -right, 1e-4, -right, -sp.oo],
        upper=[sp.oo, right, sp.oo, right, sp.oo],
    )
    height, aside, speed, path, heading = end.x
    attack, bank = end.steer(
        "attack bank", [-90 * degree, -89 * degree], [90 * degree, degree], least=100, most=4000
    )
    feet, feet_per_second, mass, area = 1e5 * height, 1e4 * speed, 203000 / 32.174, 2690
    radius = 20902900 + feet
    gravity = 0.14076539e17 / radius**2
    pressure = 0.002378 * sp.exp(-feet / 23800) * feet_per_second**2 / 2
    degrees = attack / degree
    lift = (-0.20704 + 0.029244 * degrees) * area * pressure
    drag = (0.07854 - 0.61592e-2 * degrees + 0.621408e-3 * degrees**2) * area * pressure
    turn = feet_per_second / radius * sp.cos(path)
    momentum = mass * feet_per_second
    rates = [
        feet_per_second * sp.sin(path) / 1e5,
        turn * sp.cos(heading),
        -(drag / mass + gravity * sp.sin(path)) / 1e4,
        lift * sp.cos(bank) / momentum + turn - sp.cos(path) * gravity / feet_per_second,
        lift * sp.sin(bank) / (momentum * sp.cos(path)) + turn * sp.sin(heading) * sp.tan(aside),
    ]
    end.move(rates, substeps=2)
    end.problem.terminal_cost = -aside
    goal = [0.8, 0.25, math.radians(-5)]
    end.problem.terminal_constraint("end", [height, speed, path], equals=goal)
    return end.problem


def straight_descents(count: int, seed: int, horizon: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Return states (count, N+1, 6) and controls (count, N, 3): a straight line, and others up to a tenth off it."""
    first = [2.6, 0, 2.56, -math.radians(1), math.radians(90), 2000]
    last = [0.8, math.radians(20), 0.25, -math.radians(5), math.radians(10), 2000]
    controls = [math.radians(17), -math.radians(60), 0]
    size = np.random.default_rng(seed).uniform(0.9, 1.1, (count, 1, 1))
    size[0] = 1
    return size * np.linspace(first, last, horizon + 1), size * np.tile(controls, (horizon, 1))


STARTS: dict[Any, list[float]] = {
    goddard: [1, 0, 1, 0.2],
    telescopic_arm: [4.5, 0, math.pi / 4, 0, 0, 0, 8],
    tumour: [8000, 10000, 0, 1],
    hang_glider: [0, 13.2275675, 1000, -1.28750052, 100],
    free_flyer: [-10, -10, math.pi / 2, 0, 0, 0],
    docking: [30, 200, -20, 0.1, -0.2, 0],
    orbit_raising: [1, 0, 1, 1],
    shuttle_descent: [2.6, 0, 2.56, -math.radians(1), math.radians(90), 2000],
}
"""x_0 by problem; of a free duration, the guess."""

OPTIMA: dict[Any, float] = {
    goddard: -1.0128369,
    telescopic_arm: 9.1433674,
    tumour: 7599.2577,
    hang_glider: -1247.59731,
    free_flyer: 7.7073885,
    docking: 0.8955462,
    orbit_raising: -1.5252098,
    shuttle_descent: -0.5958685,
}
"""Least cost that is known, with the digits that are certain."""

GUESSES = {shuttle_descent: straight_descents}
"""Where the solves of a problem begin: states and controls."""


def parameters_of(make: Any, horizon: int) -> dict[str, np.ndarray]:
    """Return the parameters that a problem needs: a free duration may be corrected in the first stage alone."""
    return (
        {"free": np.array([LARGEST_CORRECTION] + [0.0] * (horizon - 1))} if make().spec().parameters else {}
    )
