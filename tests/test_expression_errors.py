"""Expressions that have no real value, no counterpart in C or a jump: a typed error that names them and the remedy."""

import pytest
import sympy as sp
from drafts import refused

import mpcgen
from mpcgen import UnsupportedExpressionError

x, y, force = sp.symbols("x velocity force", real=True)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        (sp.I * x, ("imaginary",)),
        (sp.sqrt(-1 - x**2).subs(x, 0) * x, ("imaginary",)),
        (sp.nan, ("nan",)),
        (sp.oo + 0 * x, ("oo",)),
        (sp.zoo * x, ("zoo",)),
        (sp.Float("1e400") * x, ("double precision",)),
        (sp.Pow(-2, x), ("(-2)**x", "negative")),
        (sp.asin(2) * x, ("asin(2)", "not a real")),
        (sp.gamma(x), ("gamma(x)", "not supported", "tanh")),
        (sp.besselj(0, x), ("besselj", "not supported")),
        (sp.Function("drag")(x), ("drag(x)", "undefined")),
        (sp.Derivative(sp.Function("drag")(x), x), ("Derivative", "velocity")),
        (sp.Derivative(sp.sin(x) * x, x, evaluate=False), ("Derivative", "doit")),
        (sp.Integral(sp.exp(-(x**2)), (x, 0, y)), ("Integral", "doit")),
        (sp.MatrixSymbol("M", 2, 2)[0, 1] * x, ("M[0, 1]", "problem.parameter")),
        (sp.Piecewise((x, x < 0)), ("Piecewise", "(value, True)")),
        (sp.Piecewise((0, x), (x, True)), ("'x' stands as a condition", "x > 0")),
        (sp.Piecewise((0, sp.Eq(x, 0)), (x, True)), ("Eq(x, 0)", "inequality")),
    ],
)
def test_expressions_without_a_real_value_or_a_counterpart(draft, expression, words):
    draft.problem.stage_cost = draft.u**2 + draft.x**2
    draft.problem.terminal_cost = expression
    with refused("terminal cost", *words, kind=UnsupportedExpressionError):
        draft.problem.spec()


t = sp.Symbol("t")
q = sp.Function("q")(t)


@pytest.mark.parametrize(
    "expression",
    [
        q.diff(t),
        q.diff(t).subs(q, x),
        q.diff(t, 2).subs(q, x),
        sp.Derivative(sp.sin(q), t).subs(q, x),
        sp.Derivative(x * t, t),
        y + sp.cos(x) * (q**2).diff(t).subs(q, x),
    ],
    ids=str,
)
def test_a_velocity_that_would_be_evaluated_to_0_is_not_advised_so(draft, expression):
    draft.problem.dynamics = [draft.v, draft.u + expression.subs({x: draft.x, y: draft.v})]
    with refused("row 1", "Derivative", "velocities", "first", kind=UnsupportedExpressionError) as caught:
        draft.problem.spec()
    assert "doit" not in str(caught.value)


def pendulum(name, theta_rate, scheme):
    problem = mpcgen.Problem(name, horizon=5)
    theta, omega = problem.states("theta omega")
    (torque,) = problem.controls("torque")
    rates = [theta_rate(theta, omega), torque - sp.sin(theta)]
    if scheme == "discrete":
        problem.dynamics = [theta + rates[0], omega + rates[1]]
    else:
        problem.dynamics = mpcgen.rk4(problem, rates, dt=0.1)
    problem.stage_cost = theta**2 + torque**2
    return problem


@pytest.mark.parametrize("scheme", ["discrete", "rk4"])
def test_a_velocity_that_was_evaluated_to_0_is_found_by_what_it_leaves(scheme):
    pendulum("right", lambda theta, omega: q.diff(t).subs(q.diff(t), omega), scheme).spec()
    lost = pendulum("lost", lambda theta, omega: q.diff(t).subs(q, theta).doit(), scheme)
    lost.stage_cost = lost.stage_cost + sp.Symbol("theta", real=True) ** 4
    with refused("'theta' as it is", "nothing reads state 'omega'", "velocities first"):
        lost.spec()


@pytest.mark.parametrize("by_dt", [False, True])
def test_a_duration_that_is_a_state_may_stand_beside_a_state_that_nothing_reads(by_dt):
    problem = mpcgen.Problem("duration", horizon=4)
    way, speed, duration = problem.states("way speed duration")
    force = problem.control("force", lower=-1.0, upper=1.0)
    rates, dt = [speed, force, 0], duration / 4
    if not by_dt:
        rates, dt = [rate * dt for rate in rates], 1.0
    problem.dynamics = mpcgen.euler(problem, rates, dt=dt)
    problem.stage_cost = force**2
    problem.terminal_cost = (speed - 1) ** 2
    assert problem.spec().states == (way, speed, duration)


@pytest.mark.parametrize(
    "expression",
    [
        2 * sp.Max(0, x) * sp.Heaviside(x),
        sp.diff(sp.Max(0, x) ** 2, x),
        sp.sign(x) * x,
        sp.exp(sp.sign(x)) * x**3,
        sp.sign(x - y) * sp.sin(x - y) + y,
        (1 + sp.sign(x)) * sp.Min(x, 1) / 2,
        x * sp.Piecewise((0, x < 0), (1, True)),
        sp.Heaviside(x) * sp.Heaviside(-x) * x,
        sp.Piecewise((x * sp.Heaviside(x), y > 0), (x * sp.Heaviside(x), True)),
    ],
    ids=str,
)
def test_steps_that_do_not_jump_together_are_taken(draft, expression):
    own = expression.subs({x: draft.x, y: draft.v})
    draft.problem.dynamics = [draft.x + draft.v, draft.u + own]
    assert draft.problem.spec().dynamics.expressions[1] == draft.u + own


@pytest.mark.parametrize(
    "expression",
    [
        *(
            sp.floor(x),
            sp.ceiling(x),
            sp.frac(x),
            sp.Mod(x, 2),
            sp.Heaviside(x),
            sp.sign(x),
            sp.DiracDelta(x),
        ),
        (1 + x) * sp.Heaviside(x),
        sp.sign(x) * sp.cos(x) + x**2,
        (y + sp.Max(0, x)) * sp.Heaviside(x),
        sp.Max(0, x) * sp.Heaviside(x - 1),
        sp.Piecewise((sp.Heaviside(x), y > x), (0, True)),
        1e9 * y + sp.sign(x),
    ],
    ids=str,
)
def test_discontinuous_functions(draft, expression):
    draft.problem.dynamics = [draft.v + expression, draft.u]
    with refused("row 0", "discontinuity", "tanh", kind=UnsupportedExpressionError):
        draft.problem.spec()


@pytest.mark.parametrize(
    "expression",
    [
        sp.Piecewise((0, x < 1), (1, True)),
        sp.Piecewise((0, x < 1), (1, True)) * x,
        sp.Piecewise((x**2, sp.Abs(x) < 1), (2 * sp.Abs(x), True)),
        sp.Piecewise((x, x < y), (x + 0.01, True)),
        sp.Piecewise((0, x < 500), (x, True)),
        sp.Piecewise((0, (x > 0) & (x < 1)), (x, True)),
        sp.Piecewise((1, x**2 + y**2 < 1), (0, True)),
        sp.sin(sp.Piecewise((0, sp.exp(x) < 2), (1, True))),
        sp.Piecewise((1, sp.Symbol("mass", real=True) > 2.5), (0, True)),
    ],
    ids=str,
)
def test_a_piecewise_whose_branches_do_not_meet(draft, expression):
    draft.problem.dynamics = [draft.v, draft.u / draft.mass + expression]
    with refused("row 1", "Piecewise", "jumps from", "meet", kind=UnsupportedExpressionError):
        draft.problem.spec()
