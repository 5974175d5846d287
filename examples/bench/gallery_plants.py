"""The gallery's plants and vehicles: constraints of process, energy, medicine and transport, from x0 drawn at random.

Each function returns a fresh `mpcgen.Problem`; `DRAWS` has the centre of its x0 and how far it is drawn from there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp

import mpcgen
from examples.bench.gallery_robots import drawn_around

CARS = 4


def epidemic() -> mpcgen.Problem:
    """Distance and vaccine by steps of 3 days, so that hospitals hold out; in shares of the population (SEIR)."""
    problem = mpcgen.Problem("epidemic", horizon=52)
    susceptible, exposed, ill, treated, _immune = problem.states(
        "susceptible exposed ill treated immune", lower=0, upper=[1, 1, 1, 0.004, 1]
    )
    distance, vaccine = problem.controls("distance vaccine", lower=0, upper=[0.8, 0.01])  # share, 1/day
    contacts = problem.parameter("contacts", default=0.45)  # 1/day
    infected, vaccinated = contacts * (1 - distance) * susceptible * ill, vaccine * susceptible
    rates = [
        -infected - vaccinated,
        infected - 0.2 * exposed,
        0.2 * exposed - 0.15 * ill,
        0.01 * ill - 0.1 * treated,
        0.15 * ill + 0.1 * treated + vaccinated,
    ]
    problem.dynamics = mpcgen.rk4(problem, rates, dt=3.0, substeps=2)
    problem.stage_cost = distance**2 + 100 * vaccine**2 + 10 * ill**2
    problem.terminal_cost = 50 * ill + 20 * exposed
    return problem


def four_tanks() -> mpcgen.Problem:
    """Levels of four tanks by two pumps, where each fills the other's tank first (Johansson, 2000); cm, s, V."""
    problem = mpcgen.Problem("four_tanks", horizon=60)
    levels = problem.states("level1 level2 level3 level4", lower=0.1, upper=20)
    first, second = problem.controls("pump1 pump2", lower=0, upper=10)
    aims = problem.parameters("aim1 aim2", default=[12.0, 13.0], per_stage=True)
    out = [0.07 * sp.sqrt(2 * 981 * level) for level in levels]
    fill1, fill2, share1, share2 = 3.33 * first, 3.35 * second, 0.43, 0.34
    rates = [
        (out[2] - out[0] + share1 * fill1) / 28,
        (out[3] - out[1] + share2 * fill2) / 32,
        ((1 - share2) * fill2 - out[2]) / 28,
        ((1 - share1) * fill1 - out[3]) / 32,
    ]
    problem.dynamics = mpcgen.rk4(problem, rates, dt=5.0, substeps=2)
    off = (levels[0] - aims[0]) ** 2 + (levels[1] - aims[1]) ** 2
    problem.stage_cost = off + (first**2 + second**2) / 100
    problem.terminal_cost = 10 * off
    return problem


def reservoirs() -> mpcgen.Problem:
    """Three reservoirs in a row that sell power by the hour's price, by their heads; an hour a stage, hm³."""
    problem = mpcgen.Problem("reservoirs", horizon=48)
    full = problem.states("full1 full2 full3", lower=[10, 5, 8], upper=[100, 40, 60])
    turbines = problem.controls("turbine1 turbine2 turbine3", lower=0, upper=6)
    spills = problem.controls("spill1 spill2 spill3", lower=0, upper=20)
    price = problem.parameter("price", default=1.0, per_stage=True)
    inflow = problem.parameter("inflow", default=3.0, per_stage=True)
    out = [turbine + spill for turbine, spill in zip(turbines, spills, strict=True)]
    problem.dynamics = [
        full[0] + inflow - out[0],
        full[1] + out[0] + inflow / 5 - out[1],
        full[2] + out[1] - out[2],
    ]
    power = sum((5 + sp.sqrt(level)) * turbine for level, turbine in zip(full, turbines, strict=True))
    wear = sum(turbine**2 for turbine in turbines) / 100 + sum(spill**2 for spill in spills) / 1000
    problem.stage_cost = wear - price * power / 10
    problem.terminal_cost = -0.8 * (3 * full[0] + 2 * full[1] + full[2])
    problem.constraint("river", out[2], lower=1)
    return problem


def ship_at_quay() -> mpcgen.Problem:
    """A ship comes alongside in a current, and no corner may touch the quay (Fossen's model in three directions)."""
    problem = mpcgen.Problem("ship_at_quay", horizon=60)
    x, y, heading, surge, sway, turn = problem.states("x y heading surge sway turn")
    ahead, aside, about = problem.controls("ahead aside about", lower=[-2, -1, -1], upper=[2, 1, 1])
    current = problem.parameter("current", default=0.1)
    cosine, sine = sp.cos(heading), sp.sin(heading)

    def drag(linear: float, quadratic: float, speed: sp.Expr) -> sp.Expr:
        return (linear + quadratic * sp.sqrt(speed**2 + 1e-4)) * speed

    rates = [
        cosine * surge - sine * sway + current,
        sine * surge + cosine * sway,
        turn,
        ahead - drag(0.5, 0.8, surge) + 1.3 * sway * turn,
        (aside - drag(0.8, 1.5, sway) - surge * turn) / 1.3,
        (about - drag(0.6, 1.0, turn) - 0.3 * surge * sway) / 0.5,
    ]
    problem.dynamics = mpcgen.rk4(problem, rates, dt=0.5)
    for i, (front, right) in enumerate(((1.5, 0.4), (1.5, -0.4), (-1.5, 0.4), (-1.5, -0.4))):
        problem.constraint(f"corner{i}", y + sine * front + cosine * right, upper=0.5)
    problem.stage_cost = (x**2 + y**2 + 2 * heading**2) / 20 + (ahead**2 + aside**2 + about**2) / 10
    problem.terminal_cost = 0
    problem.terminal_constraint("berth", [x, y, heading, surge, sway, turn], equals=0)
    return problem


def telescope_slew() -> mpcgen.Problem:
    """A satellite turns its telescope a half turn, past the sun, with little torque; quaternions."""
    problem = mpcgen.Problem("telescope_slew", horizon=50)
    w, x, y, z = problem.states("w x y z")
    rates = problem.states("rate1 rate2 rate3", lower=-0.3, upper=0.3)
    torques = problem.controls("torque1 torque2 torque3", lower=-0.05, upper=0.05)
    sun = problem.parameters("sun1 sun2 sun3", default=[0.0, 0.9986, -0.05])
    p, q, r = rates
    turning = [
        (-x * p - y * q - z * r) / 2,
        (w * p + y * r - z * q) / 2,
        (w * q - x * r + z * p) / 2,
        (w * r + x * q - y * p) / 2,
        torques[0] + 0.4 * q * r,
        (torques[1] - 0.2 * p * r) / 1.2,
        (torques[2] - 0.2 * p * q) / 0.8,
    ]
    problem.dynamics = mpcgen.rk4(problem, turning, dt=0.6)
    axis = [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)]
    problem.constraint("sun", sum(a * b for a, b in zip(axis, sun, strict=True)), upper=math.cos(math.pi / 6))
    problem.stage_cost = 10 * sum(torque**2 for torque in torques) + sum(rate**2 for rate in rates) / 100
    problem.terminal_cost = 0
    problem.terminal_constraint("aim", [x, y, z - 1, *rates], lower=-0.01, upper=0.01)
    return problem


def platoon() -> mpcgen.Problem:
    """Four cars behind a leader that brakes, each with half a second and three metres to the next, or at a price."""
    problem = mpcgen.Problem("platoon", horizon=40)
    names = {name: " ".join(f"{name}{i}" for i in range(CARS)) for name in ("gap", "speed", "pull", "pedal")}
    gaps = problem.states(names["gap"], lower=5)  # m
    speeds = problem.states(names["speed"], lower=0, upper=35)  # m/s
    pulls = problem.states(names["pull"], lower=-6, upper=3)  # m/s²
    pedals = problem.controls(names["pedal"], lower=-6, upper=3)
    leader = problem.parameter("leader", default=20.0, per_stage=True)  # m/s
    before = [leader, *speeds[:-1]]
    closing = [front - speed for front, speed in zip(before, speeds, strict=True)]
    lag = [(pedal - pull) / 0.4 for pedal, pull in zip(pedals, pulls, strict=True)]
    problem.dynamics = mpcgen.rk4(problem, [*closing, *pulls, *lag], dt=0.25)
    cost: sp.Expr = sp.Integer(0)
    for i, (gap, speed, pull, pedal) in enumerate(zip(gaps, speeds, pulls, pedals, strict=True)):
        problem.constraint(f"headway{i}", gap - speed / 2, lower=3, soft=50.0)
        cost += (gap - 5 - speed) ** 2 / 10 + pull**2 + (pedal - pull) ** 2 / 5
    problem.stage_cost = cost
    problem.terminal_cost = 0
    return problem


DRAWS: dict[Callable[[], mpcgen.Problem], tuple[list[float], list[float]]] = {
    epidemic: ([0.95, 0.005, 0.005, 0.0005, 0.04], [0.03, 0.003, 0.003, 0.0003, 0.0]),
    four_tanks: ([8, 8, 3, 3], [5, 5, 2, 2]),
    reservoirs: ([50, 20, 30], [30, 10, 15]),
    ship_at_quay: ([-6, -5, 0.8, 0.5, 0, 0], [2, 2, 0.8, 0.3, 0.1, 0.1]),
    telescope_slew: ([1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0.05, 0.05, 0.05]),
    platoon: ([25.0] * CARS + [20.0] * CARS + [0.0] * CARS, [8.0] * CARS + [3.0] * CARS + [1.0] * CARS),
}
"""Of each problem: the centre of x0, and the largest distance from it in each state."""

STARTS = {make: functools.partial(drawn_around, *draws) for make, draws in DRAWS.items()}
OPTIMA: dict[Any, float] = {}
"""None is known: each start has its own."""


def parameters_of(make: Callable[[], mpcgen.Problem], horizon: int) -> dict[str, Any]:
    """Return the prices and inflows of two days, the levels that are wanted, or how the leader drives."""
    stages = np.arange(horizon)
    ends = np.arange(horizon + 1)
    if make is four_tanks:
        return {"aim1": np.where(ends < 30, 12.0, 15.0), "aim2": np.full(horizon + 1, 13.0)}
    if make is reservoirs:
        day = 2 * math.pi * stages / 24
        return {"price": 1 + 0.6 * np.sin(day), "inflow": 3 + 2 * np.sin(day / 2)}
    if make is platoon:
        return {"leader": np.where((stages > 8) & (stages < 24), 8.0, 20.0)}
    return {}
