"""Rows that are integrated beside rows that are not; costs integrated with the dynamics; durations that are states."""

import numpy as np
import pytest
import sympy as sp
import torch

import mpcgen
from mpcgen.baseline.functions import Functions
from mpcgen.ir import evaluate
from mpcgen.problem.lowering import lower_spec


def both(problem, point):
    """Next state and stage cost at a point, by the graph and by the baseline."""
    spec = problem.spec()
    model, witness = lower_spec(spec), Functions(spec)
    n, m = len(model.states), len(model.controls)
    values = dict(zip((*model.states, *model.controls, *model.parameters), point, strict=True))
    own = np.array(evaluate([*model.next_state, model.stage_cost], values))
    arguments = point[:n], point[n : n + m], point[n + m :]
    exact = [*np.asarray(witness.f(*arguments)).ravel(), float(witness.stage_cost(*arguments))]
    return own, np.array(exact)


def integrated(rates, y, duration, steps=1000):
    """By the midpoint rule in small steps, extrapolated: of fourth order."""

    def end(count):
        h, at = duration / count, y
        for _ in range(count):
            at = at + h * rates(at + h / 2 * rates(at))
        return at

    return (4 * end(2 * steps) - end(steps)) / 3


def problem_of(scheme=mpcgen.rk4, **options):
    """A damped pendulum, whose last torque is a state."""
    problem = mpcgen.Problem("slew", horizon=10)
    angle, last, rate = problem.states("angle last rate")
    (torque,) = problem.controls("torque")
    problem.parameters("damping dt", default=[0.3, 0.2])
    damping, dt = (problem.find_parameter(name).symbols[0] for name in ("damping", "dt"))
    rhs = [rate, sp.sin(angle) - damping * rate + torque]
    problem.dynamics = scheme(problem, rhs, dt=dt, discrete={last: torque + 0 * last}, **options)
    problem.stage_cost = (torque - last) ** 2 + angle**2
    return problem


@pytest.mark.parametrize("scheme", [mpcgen.euler, mpcgen.midpoint, mpcgen.rk4])
@pytest.mark.parametrize("substeps", [1, 3])
def test_discrete_rows_are_the_next_state_whatever_integrates_the_others(scheme, substeps):
    problem = problem_of(scheme, substeps=substeps)
    point = np.array([0.4, 0.7, -0.2, 0.9, 0.3, 0.2])
    own, exact = both(problem, point)
    assert own == pytest.approx(exact, rel=1e-14)
    assert own[1] == 0.9
    assert "x[t+1][last] = torque" in str(problem.spec()) and "dx/dt[rate]" in str(problem.spec())


def test_discrete_states_are_held_while_others_are_integrated():
    problem = mpcgen.Problem("held", horizon=3)
    x, signal = problem.states("x signal")
    (u,) = problem.controls("u")
    problem.dynamics = mpcgen.rk4(problem, [signal * x], dt=0.5, substeps=4, discrete={signal: u})
    problem.stage_cost = x**2 + u**2
    own, exact = both(problem, np.array([1.0, -0.8, 0.3]))
    assert own[0] == pytest.approx(np.exp(-0.4), rel=1e-6)
    assert own == pytest.approx(exact, rel=1e-14)


def test_a_running_cost_is_the_integral_over_the_stage():
    problem = mpcgen.Problem("running", horizon=3)
    x, v = problem.states("x v")
    (u,) = problem.controls("u")
    problem.dynamics = mpcgen.rk4(problem, [v, -sp.sin(x) + u], dt=0.4, substeps=10)
    problem.stage_cost = 2 * mpcgen.running_cost(x**2 + u**2) + mpcgen.running_cost(v**2) + 0.5 * x**4
    own, exact = both(problem, np.array([0.6, -0.3, 0.8]))
    assert own == pytest.approx(exact, rel=1e-13)

    def rates(y):
        return np.array([y[1], -np.sin(y[0]) + 0.8, 2 * (y[0] ** 2 + 0.64) + y[1] ** 2])

    end = integrated(rates, np.array([0.6, -0.3, 0.0]), 0.4)
    assert own[:2] == pytest.approx(end[:2], rel=1e-7)  # rk4 in steps of 0.04
    assert own[2] - 0.5 * 0.6**4 == pytest.approx(end[2], rel=1e-7)


def test_without_one_the_cost_is_that_of_the_first_state():
    problem = problem_of()
    assert both(problem, np.array([0.4, 0.7, -0.2, 0.9, 0.3, 0.2]))[0][-1] == pytest.approx(0.2**2 + 0.4**2)


def test_dt_may_be_a_state_that_stays():
    problem = mpcgen.Problem("final_time", horizon=4)
    x, T = problem.states("x T")
    (u,) = problem.controls("u")
    problem.dynamics = mpcgen.rk4(problem, [u - x, 0], dt=T / 4, substeps=2)
    problem.stage_cost = mpcgen.running_cost(u**2) + x**2
    own, exact = both(problem, np.array([0.5, 2.0, 0.25]))
    assert own == pytest.approx(exact, rel=1e-14)
    assert own[1:] == pytest.approx([2.0, 0.5 * 0.0625 + 0.25])
    problem.dynamics = mpcgen.rk4(problem, [u - x], dt=T / 4, discrete={T: T})
    problem.spec()
    problem.dynamics = mpcgen.rk4(problem, [u - x, -T], dt=T / 4)
    with pytest.raises(mpcgen.SpecError, match="dt of rk4 reads state 'T', which changes"):
        problem.spec()


def test_a_slew_rate_controller_solves_and_its_gradient_is_exact():
    problem = problem_of()
    angle, _, rate = problem.state_symbols
    problem.stage_cost = problem.stage_cost + mpcgen.running_cost(rate**2)
    problem.terminal_cost = 10 * angle**2
    mpc = mpcgen.compile(problem, dtypes=("float64",)).MPC(tol=1e-11)
    x0 = torch.tensor([[0.5, 1.0, 0.0], [-0.3, 0.0, 0.2]], dtype=torch.float64)
    damping = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    solution = mpc(x0, damping=damping)
    assert torch.equal(solution.x[:, 1:, 1], solution.u[:, :, 0])
    solution.cost.sum().backward()
    step = 1e-5
    with torch.no_grad():
        up, down = (mpc(x0, damping=damping + s * step).cost.sum() for s in (1, -1))
    assert damping.grad.item() == pytest.approx(((up - down) / (2 * step)).item(), rel=1e-7)


def refused(message, change):
    problem = mpcgen.Problem("refused", horizon=3)
    x, v = problem.states("x v")
    (u,) = problem.controls("u")
    problem.dynamics = mpcgen.rk4(problem, [v, u], dt=0.1)
    problem.stage_cost = x**2 + u**2
    with pytest.raises(mpcgen.SpecError, match=message):
        change(problem, x, v, u)
        problem.spec()


def test_mistakes_are_told():
    def terminal(problem, x, v, u):
        problem.terminal_cost = mpcgen.running_cost(x**2)

    def discrete(problem, x, v, u):
        problem.dynamics = [x + v, v + u]
        problem.stage_cost = mpcgen.running_cost(x**2 + u**2)

    def twice(problem, x, v, u):
        problem.stage_cost = mpcgen.running_cost(mpcgen.running_cost(x**2) + u**2)

    def constrained(problem, x, v, u):
        problem.constraint("energy", mpcgen.running_cost(v**2), upper=1)

    def control(problem, x, v, u):
        problem.dynamics = mpcgen.rk4(problem, [v], dt=0.1, discrete={u: v})

    def everything(problem, x, v, u):
        problem.dynamics = mpcgen.rk4(problem, [], dt=0.1, discrete={x: v, v: u})

    def too_many(problem, x, v, u):
        problem.dynamics = mpcgen.rk4(problem, [v, u], dt=0.1, discrete={v: u})

    refused(
        r"the terminal cost contains running_cost\(x\*\*2\); a running cost is a term of the stage cost",
        terminal,
    )
    refused("and the dynamics are discrete: there is no time to integrate it over", discrete)
    refused("is the running cost of a running cost", twice)
    refused("the constraint 'energy' contains running_cost", constrained)
    refused(
        r"discrete= of rk4 has u; expected states of the problem, the symbols x, v: \{u_last: u\}", control
    )
    refused("has all states; assign the next state itself", everything)
    refused(r"has 2 rows for the 1 state that discrete= and residual= leave \(x\)", too_many)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda v, u: [v], r"discrete= of rk4 is \[v\] \(list\); expected a mapping, such as \{u_last: u\}"),
        (lambda v, u: v, r"discrete= of rk4 is v \(Symbol\); expected a mapping"),
        (lambda v, u: {"v": u}, "discrete= of rk4 has 'v'; expected states of the problem, the symbols"),
    ],
)
def test_discrete_rows_are_a_mapping_by_state(write, message):
    def change(problem, x, v, u):
        problem.dynamics = mpcgen.rk4(problem, [v], dt=0.1, discrete=write(v, u))

    refused(message, change)


def test_a_running_cost_stays_one_through_sympys_own_functions():
    x = sp.Symbol("x", real=True)
    cost = mpcgen.running_cost(sp.Derivative(x**3 / 3, x, evaluate=False) + 1)
    assert cost.doit() == mpcgen.running_cost(x**2 + 1)
    assert sp.simplify(mpcgen.running_cost(x**2 + 1)).has(type(cost))
    assert mpcgen.running_cost(sp.sqrt(2) * x).evalf().has(type(cost))


def test_a_state_stays_whose_row_is_a_zero_of_any_kind():
    for zero in (0, 0.0, sp.Float(0)):
        problem = mpcgen.Problem("timed", horizon=3)
        (y, duration), (u,) = problem.states("y duration"), problem.controls("u")
        problem.dynamics = mpcgen.rk4(problem, [u, zero], dt=duration)
        problem.stage_cost = u**2 + y**2
        assert problem.spec().states
