"""Problems that the tests of the CasADi baseline share."""

from pathlib import Path

import numpy as np
import sympy as sp

import mpcgen
from mpcgen.problem.spec import Spec

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> Spec:
    return mpcgen.load_problem(EXAMPLES / f"{name}.py").spec()


def bounded_pendulum(limit: float) -> Spec:
    """Return the pendulum with its torque limits as parameters, one of them inside an expression."""
    problem = mpcgen.Problem("pendulum", horizon=12)
    cos, sin, rate = problem.states("c s w")
    low = problem.parameter("low", default=-limit)
    high = problem.parameter("high", shape=2, default=[limit, 0.0])
    (u,) = problem.controls("u", lower=low, upper=high[0] + 2 * high[1])
    mass, length = problem.parameters("mass length", default=[1.0, 1.2])
    weight = problem.parameter("weight", shape=4, default=[1.0, 0.8, 0.1, 0.05])
    next_rate = rate + sp.Rational(1, 10) * (15 / length * sin + 3 * u / (mass * length**2))
    angle = sp.atan2(sin, cos) + next_rate / 10
    problem.dynamics = [sp.cos(angle), sp.sin(angle), next_rate]
    cost = weight[0] * (cos - 1) ** 2 + weight[1] * sin**2 + weight[2] * rate**2
    problem.stage_cost = (cost + weight[3] * u**2) / 2
    problem.terminal_cost = 2 * cost
    return problem.spec()


def random_lqr(seed: int, n: int = 3, m: int = 2, horizon: int = 5):
    """Return a time-varying convex LQ problem: its spec, x0 and parameters."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(horizon + 1, n + m, n + m))
    parameters = {
        "C": root @ root.transpose(0, 2, 1) / 4 + np.eye(n + m),
        "c": rng.normal(size=(horizon + 1, n + m)),
        "F": rng.normal(size=(horizon, n, n + m)) / 2,
        "f": rng.normal(size=(horizon, n)) / 4,
    }
    return mpcgen.lqr(n, m, horizon=horizon).spec(), rng.normal(size=n), parameters
