"""Hold an exothermic reactor where it does not stay by itself: n = 2, m = 1, stiff, Radau's fifth order.

A stirred tank with a first-order reaction and Arrhenius' law, cooled by a jacket (Henson and Seborg 1997, Nonlinear
Process Control). With the jacket at 300 K the goal is an unstable steady state between a cold tank, in which nothing
happens, and one that has ignited and burns all there is.
"""

import sympy as sp

import mpcgen

DT = 0.1  # min, one stage

problem = mpcgen.Problem("cstr", horizon=20)
concentration, temperature = problem.states("concentration temperature")  # mol/l, K
coolant = problem.control("coolant", lower=280.0, upper=320.0)  # K
flow = problem.parameter("flow", default=1.0)  # 1/min, of the tank's volume
feed, feed_temperature = problem.parameters("feed feed_temperature", default=[1.0, 350.0])  # mol/l, K
frequency = problem.parameter("frequency", default=7.2e10)  # 1/min
activation = problem.parameter("activation", default=8750.0)  # K
heat = problem.parameter("heat", default=209.2)  # K l/mol, of the reaction
exchange = problem.parameter("exchange", default=2.092)  # 1/min, with the jacket
goal = problem.parameter("goal", shape=2, default=[0.5, 350.0])  # mol/l, K
effort = problem.parameter("effort", default=0.01)

reaction = frequency * sp.exp(-activation / temperature) * concentration  # mol/l/min
problem.dynamics = mpcgen.radau(
    problem,
    [
        flow * (feed - concentration) - reaction,
        flow * (feed_temperature - temperature) + heat * reaction + exchange * (coolant - temperature),
    ],
    dt=DT,
)
deviation = ((concentration - goal[0]) / 0.1) ** 2 + ((temperature - goal[1]) / 10) ** 2
problem.stage_cost = DT * (deviation + effort * (coolant - 300) ** 2)
problem.terminal_cost = deviation


def initial_states(count, seed=0, dtype=None):
    """(count, 2) float64 or ``dtype``: concentration ~ U(0.1, 0.9) mol/l, temperature ~ U(300, 340) K."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    x0 = (
        torch.tensor([0.1, 300.0], dtype=torch.float64)
        + torch.tensor([0.8, 40.0], dtype=torch.float64) * draws
    )
    return x0.to(torch.float64 if dtype is None else dtype)
