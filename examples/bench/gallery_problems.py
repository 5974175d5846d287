"""The gallery's problems whose controls alone have bounds: from the literature, with optima where they are known.

Each function returns a fresh `mpcgen.Problem`. The running cost has two forms: "integral", one more state that
accumulates it and is the terminal cost (Mayer's form); "sum", the stage cost dt·ℓ(x, u). Controls are held over a
stage, which rk4 integrates.
"""

from __future__ import annotations

from collections.abc import Sequence

import sympy as sp

import mpcgen

Form = str
"""``"integral"`` or ``"sum"``."""


def _pose(
    problem: mpcgen.Problem,
    rates: Sequence[sp.Expr],
    running: sp.Expr,
    dt: float,
    substeps: int,
    form: Form,
    terminal: sp.Expr | int = 0,
) -> mpcgen.Problem:
    """Give a problem its dynamics and, in either form, the integral of ``running`` and ``terminal`` as its cost."""
    if form == "integral":
        spent = problem.state("spent")
        problem.dynamics = mpcgen.rk4(problem, [*rates, running], dt=dt, substeps=substeps)
        problem.stage_cost, problem.terminal_cost = 0, spent + terminal
    else:
        problem.dynamics = mpcgen.rk4(problem, list(rates), dt=dt, substeps=substeps)
        problem.stage_cost, problem.terminal_cost = dt * running, terminal
    return problem


def van_der_pol(form: Form) -> mpcgen.Problem:
    """Van der Pol's oscillator, a benchmark of collocation codes: x0 = (0, 1)."""
    problem = mpcgen.Problem(f"van_der_pol_{form}", horizon=50)
    x1, x2 = problem.states("x1 x2")
    u = problem.control("u", lower=-0.3, upper=1)
    rates = [(1 - x2**2) * x1 - x2 + u, x1]
    return _pose(problem, rates, x1**2 + x2**2 + u**2, 5 / 50, 2, form)


def rayleigh(form: Form) -> mpcgen.Problem:
    """Rayleigh's oscillator (Maurer and Augustin): x0 = (-5, -5)."""
    problem = mpcgen.Problem(f"rayleigh_{form}", horizon=90)
    x1, x2 = problem.states("x1 x2")
    u = problem.control("u", lower=-1, upper=1)
    rates = [x2, -x1 + x2 * (sp.Float("1.4") - sp.Float("0.14") * x2**2) + 4 * u]
    return _pose(problem, rates, u**2 + x1**2, 4.5 / 90, 2, form)


def luus_reactor() -> mpcgen.Problem:
    """Luus's stirred tank reactor, which has two minima: x0 = (0.09, 0.09)."""
    problem = mpcgen.Problem("luus_reactor", horizon=78)
    x1, x2 = problem.states("x1 x2")
    u = problem.control("u", lower=0, upper=5)
    half, quarter = sp.Rational(1, 2), sp.Rational(1, 4)
    reaction = (x2 + half) * sp.exp(25 * x1 / (x1 + 2))
    rates = [-(2 + u) * (x1 + quarter) + reaction, half - x2 - reaction]
    return _pose(problem, rates, x1**2 + x2**2 + u**2 / 10, 0.78 / 78, 2, "integral")


def catalyst(weight: float = 0.0) -> mpcgen.Problem:
    """Mixing of two catalysts, with a singular arc where the control has no ``weight``: x0 = (1, 0)."""
    problem = mpcgen.Problem("catalyst_weighted" if weight else "catalyst", horizon=100)
    x1, x2 = problem.states("x1 x2")
    u = problem.control("u", lower=0, upper=1)
    rates = [u * (10 * x2 - x1), u * (x1 - 10 * x2) - (1 - u) * x2]
    problem.dynamics = mpcgen.rk4(problem, rates, dt=1 / 100)
    problem.stage_cost = weight * u**2
    problem.terminal_cost = -1 + x1 + x2
    return problem


def jensen_reactor() -> mpcgen.Problem:
    """Jensen's reactor with eight states and four feeds, bang-bang: the profit at the end, negative."""
    problem = mpcgen.Problem("jensen_reactor", horizon=20)
    x = problem.states([f"x{i}" for i in range(1, 9)])
    u = problem.controls([f"u{i}" for i in range(1, 5)], lower=[0] * 4, upper=[20, 6, 4, 20])
    flow = u[0] + u[1] + u[3]
    r12 = sp.Float("17.6") * x[0] * x[1]
    r23 = x[1] * x[2]
    r45 = sp.Float("51.3") * x[3] * x[4]
    r16 = x[0] * x[5] * u[2]
    profit = (
        sp.Float("5.8") * (flow * x[0] - u[3])
        - sp.Float("3.7") * u[0]
        - sp.Float("4.1") * u[1]
        + flow * (23 * x[3] + 11 * x[4] + 28 * x[5] + 35 * x[6])
        - 5 * u[2] ** 2
        - sp.Float("0.099")
    )
    rates = [
        u[3] - flow * x[0] - r12 - 23 * r16,
        u[0] - flow * x[1] - r12 - 146 * r23,
        u[1] - flow * x[2] - 73 * r23,
        -flow * x[3] + 2 * r12 - r45,
        -flow * x[4] + 219 * r23 - r45,
        -flow * x[5] + 2 * r45 - 23 * r16,
        -flow * x[6] + 46 * r16,
        profit,
    ]
    problem.dynamics = mpcgen.rk4(problem, rates, dt=0.2 / 20, substeps=2)
    problem.stage_cost, problem.terminal_cost = 0, -x[7]
    return problem


def crane(form: Form) -> mpcgen.Problem:
    """A load on a rope whose trolley and winch accelerate: x0 = (-2, 0, 2, 0, 0, 0)."""
    problem = mpcgen.Problem(f"crane_{form}", horizon=60)
    x = problem.states("place speed rope rope_speed swing swing_rate")
    u = problem.controls("push pull", lower=[-2, -2], upper=[2, 2])
    _, speed, rope, rope_speed, swing, swing_rate = x
    force = sp.Float("9.81") * sp.sin(swing) + sp.cos(swing) * u[0] + 2 * rope_speed * swing_rate
    rates = [speed, u[0], rope_speed, u[1], swing_rate, -force / rope]
    aim, weight = (2, 0, 2, 0, 0, 0), (1, 2, 2, 1, 1, 4)
    running = sum(w * (s - a) ** 2 for w, s, a in zip(weight, x, aim, strict=True))
    return _pose(problem, rates, running + (u[0] ** 2 + u[1] ** 2) / 20, 6 / 60, 2, form)


def ball_on_plate() -> mpcgen.Problem:
    """A ball on a plate whose angle is bounded: x0 = (0.1, 0.01)."""
    problem = mpcgen.Problem("ball_on_plate", horizon=10)
    x1, x2 = problem.states("x1 x2")
    u = problem.control("u", lower=-0.0524, upper=0.0524)
    cost = 50 * (x1 + sp.Float("0.2")) ** 2 + 5 * x2**2
    rates = [x2 - sp.Float("0.04") * u, -sp.Float("7.01") * u]
    return _pose(problem, rates, cost + 90 * u**2, 0.3 / 10, 1, "integral", terminal=cost)


def acrobot() -> mpcgen.Problem:
    """Two links, the elbow driven, from anywhere to upright; angles from hanging."""
    problem = mpcgen.Problem("acrobot", horizon=60)
    angle, elbow, rate, elbow_rate = problem.states("angle elbow rate elbow_rate")
    torque = problem.control("torque", lower=-10, upper=10)
    half, g = sp.Rational(1, 2), sp.Float("9.8")
    c2, s2 = sp.cos(elbow), sp.sin(elbow)
    d11, d12, d22 = half**2 + 1 + half**2 + c2 + 2, half**2 + half * c2 + 1, half**2 + 1
    b1 = half * s2 * elbow_rate * (elbow_rate + 2 * rate) - (half + 1) * g * sp.sin(angle)
    pull = half * g * sp.sin(angle + elbow)
    b1, b2 = b1 - pull, torque - half * s2 * rate**2 - pull
    determinant = d11 * d22 - d12**2
    rates = [rate, elbow_rate, (d22 * b1 - d12 * b2) / determinant, (d11 * b2 - d12 * b1) / determinant]
    problem.dynamics = mpcgen.rk4(problem, rates, dt=0.05)
    height = 2 * (1 + sp.cos(angle)) + 2 * (1 + sp.cos(angle + elbow))
    speed = rate**2 + elbow_rate**2
    problem.stage_cost = (speed / 10 + torque**2 / 100 + height) / 20
    problem.terminal_cost = 10 * height + speed
    return problem


def rocket_landing() -> mpcgen.Problem:
    """A rocket in a plane that has to land softly; throttle and gimbal are bounded, nothing else."""
    problem = mpcgen.Problem("rocket_landing", horizon=50)
    x, z, vx, vz, tilt, rate, mass = problem.states("x z vx vz tilt rate mass")
    throttle, gimbal = problem.controls("throttle gimbal", lower=[0.3, -0.2], upper=[1, 0.2])
    force, g = 25_000 * throttle, sp.Float("9.81")
    rates = [
        vx,
        vz,
        -force * sp.sin(tilt + gimbal) / mass,
        force * sp.cos(tilt + gimbal) / mass - g,
        rate,
        -3 * force * sp.sin(gimbal) / (3 * mass),
        -force / (280 * g),
    ]
    problem.dynamics = mpcgen.rk4(problem, rates, dt=0.3)
    hold = throttle**2 / 1000 + gimbal**2 / 10
    problem.stage_cost = hold + rate**2 / 10_000 + tilt**2 / 1000
    landing = (x**2 + z**2) / 10 + vx**2 + vz**2 + 100 * (tilt**2 + rate**2)
    problem.terminal_cost = landing - mass / 100
    return problem
