"""Heat a building at prices that change by the hour: n = 2, m = 1, a comfort band that may be left at a price.

Air and walls are one temperature each. The prices, the weather and the edges of the band have a value for every stage.
A degree and an hour outside of the band cost ``discomfort``, and a degree more than the last one: so the band is a soft
constraint, which can be met however cold it is, and whose multiplier says what a degree is worth.
"""

import math

import mpcgen

DT = 0.5  # h, one stage; the horizon spans a day

problem = mpcgen.Problem("building", horizon=48)
air, wall = problem.states("air wall")  # °C
heat = problem.control("heat", lower=0.0, upper=problem.parameter("largest", default=8.0))  # kW
air_capacity, wall_capacity = problem.parameters("air_capacity wall_capacity", default=[2.0, 20.0])  # kWh/K
inside, outside = problem.parameters(
    "inside outside", default=[0.9, 0.25]
)  # kW/K: air to wall, wall to weather
leak = problem.parameter("leak", default=0.1)  # kW/K, air to weather
efficiency = problem.parameter("efficiency", default=3.0)  # of the heat pump at no load
decline = problem.parameter("decline", default=0.02)  # of power to heat, rising with the load: 1/kW
price = problem.parameter("price", default=0.3, per_stage=True)  # per kWh
weather = problem.parameter("weather", default=0.0, per_stage=True)  # °C
coldest = problem.parameter("coldest", default=20.0, per_stage=True)  # °C
warmest = problem.parameter("warmest", default=24.0, per_stage=True)  # °C
discomfort = problem.parameter("discomfort", default=0.8, per_stage=True)  # per kelvin and hour

problem.dynamics = mpcgen.rk4(
    problem,
    [
        (heat + inside * (wall - air) + leak * (weather - air)) / air_capacity,
        (inside * (air - wall) + outside * (weather - wall)) / wall_capacity,
    ],
    dt=DT,
)
problem.stage_cost = DT * price * (heat / efficiency + decline * heat**2)
problem.terminal_cost = 0
problem.constraint(
    "comfort", air, lower=coldest, upper=warmest, soft=DT * discomfort, soft_quadratic=DT * discomfort / 10
)


def initial_states(count, seed=0, dtype=None):
    """(count, 2) float64 or ``dtype``: air ~ U(17, 23) °C, walls a kelvin or two colder."""
    import torch

    dtype = torch.float64 if dtype is None else dtype
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    air = 17 + 6 * draws[:, 0]
    return torch.stack([air, air - 1 - draws[:, 1]], dim=1).to(dtype)


def parameter_values(seed=0):
    """A winter's day from midnight on: weather and prices of every stage, and a band that matters less at night."""
    hours = [DT * t for t in range(problem.horizon)]
    awake = [7 <= hour % 24 <= 22 for hour in [*hours, DT * problem.horizon]]  # of the last state, too
    return {
        "weather": [-2 - 4 * math.cos(2 * math.pi * (hour - 2) / 24) for hour in hours],
        "price": [0.45 if 6 <= hour < 9 or 17 <= hour < 20 else 0.25 for hour in hours],
        "coldest": [20.0 if up else 17.0 for up in awake],
        "warmest": [24.0] * len(awake),
        "discomfort": [0.8 if up else 0.2 for up in awake],
    }
