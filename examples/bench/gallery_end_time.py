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


STARTS: dict[Any, list[float]] = {
    goddard: [1, 0, 1, 0.2],
    telescopic_arm: [4.5, 0, math.pi / 4, 0, 0, 0, 8],
    tumour: [8000, 10000, 0, 1],
    hang_glider: [0, 13.2275675, 1000, -1.28750052, 100],
    free_flyer: [-10, -10, math.pi / 2, 0, 0, 0],
    docking: [30, 200, -20, 0.1, -0.2, 0],
}
"""x_0 by problem; of a free duration, the guess."""

OPTIMA: dict[Any, float] = {
    goddard: -1.0128369,
    telescopic_arm: 9.1433674,
    tumour: 7599.2577,
    hang_glider: -1247.59731,
    free_flyer: 7.7073885,
    docking: 0.8955462,
}
"""Least cost that is known, with the digits that are certain."""


def parameters_of(make: Any, horizon: int) -> dict[str, np.ndarray]:
    """Return the parameters that a problem needs: a free duration may be corrected in the first stage alone."""
    return (
        {"free": np.array([LARGEST_CORRECTION] + [0.0] * (horizon - 1))} if make().spec().parameters else {}
    )
