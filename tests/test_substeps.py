"""Substeps that are a loop in the C text: its length, and controllers whose solutions and gradients are exact.

Values and derivatives of single stages are compared with CasADi's in `test_rows_in_c.py`.
"""

import numpy as np
import pytest
import sympy as sp
import torch
from controllers import compiled

import mpcgen
from mpcgen.baseline.functions import Functions
from mpcgen.compiler import Compilation, inspect

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def pendulum(substeps, carried=False):
    """A driven pendulum with its last torque as a state, and a cost that is integrated, as it is or as a state."""
    problem = mpcgen.Problem("carried" if carried else "stepped", horizon=8)
    damping, weight = problem.parameters("damping weight", default=[0.3, 0.5])
    angle, last, rate = problem.states("angle last rate")
    (torque,) = problem.controls("torque", lower=-1.5, upper=1.5)
    rhs = [rate, sp.sin(angle) - damping * rate * sp.sqrt(rate**2 + 0.1) + torque * sp.exp(-angle / 4)]
    effort = weight * (angle**2 + rate**2)
    problem.stage_cost = 0.1 * (torque - last) ** 2
    problem.terminal_cost = 3 * angle**2 + rate**2
    if carried:
        rhs.append(effort)
        problem.terminal_cost += problem.state("spent")
    else:
        problem.stage_cost += mpcgen.running_cost(effort)
    problem.dynamics = mpcgen.rk4(problem, rhs, dt=0.3, substeps=substeps, discrete={last: torque})
    return problem


def fermentation(substeps):
    """Substrate, biomass and product in a vessel that is fed, heated and inhibited."""
    problem = mpcgen.Problem("fermentation", horizon=20)
    X, S, P, V, T = problem.states("X S P V T")
    feed, heat = problem.controls("feed heat", lower=[0, -1], upper=[1, 1])
    fastest, half, yield_, inhibition = problem.parameters("fastest half yield_ inhibition", default=0.4)
    growth = fastest * sp.exp(-((T - 1) ** 2)) * S / (half + S + S**2 / inhibition)
    rhs = [
        growth * X - feed * X / V,
        -growth * X / yield_ + feed * (20 - S) / V,
        (growth / 5 + 0.05) * X - feed * P / V,
        feed,
        growth * X / 10 - 0.3 * (T - 1) + heat,
    ]
    problem.dynamics = mpcgen.rk4(problem, rhs, dt=1.0, substeps=substeps)
    problem.stage_cost = feed**2 + heat**2 + (T - 1) ** 2
    problem.terminal_cost = -P * V
    return problem


@pytest.fixture(scope="module")
def stepped():
    return compiled(pendulum(12))


def starts(count):
    numbers = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, generator=numbers, dtype=torch.float64) * 2 - 1


def test_the_text_does_not_grow_with_the_number_of_substeps():
    texts = [Compilation(fermentation(count).spec()).rendered for count in (20, 40)]
    assert all(
        dict(text.sizes)["substeps in a loop"] == count for text, count in zip(texts, (20, 40), strict=True)
    )
    lengths = [len(text.source.encode()) for text in texts]
    assert abs(lengths[1] - lengths[0]) < 100 and lengths[0] < 60_000


@pytest.mark.parametrize("change", ["few", "linear", "squared", "autonomous"])
def test_what_is_short_or_no_loop_is_written_out(change):
    problem = mpcgen.Problem("written", horizon=3)
    x, v = problem.states("x v")
    (u,) = problem.controls("u")
    rates = [v, -(x**3) + sp.sin(v) * (0 if change == "autonomous" else u)]
    problem.stage_cost = x**2 + u**2
    if change == "linear":
        rates = [v, u - 0.3 * x]
    if change == "squared":
        problem.stage_cost = problem.stage_cost + mpcgen.running_cost(x**2) ** 2
    discrete = {}
    if change == "autonomous":
        (last,) = problem.states("last")
        discrete = {last: u}
    problem.dynamics = mpcgen.rk4(
        problem, rates, dt=0.1, substeps=2 if change == "few" else 40, discrete=discrete
    )
    assert Compilation(problem.spec()).derived.loop is None


@pytest.mark.parametrize("substeps", [1, 12])
def test_a_state_that_only_accumulates_cost_is_named_as_such(substeps):
    said = "spent: accumulated by the dynamics, solved like terms of the stage cost"
    assert said in inspect(pendulum(substeps, carried=True).spec())
    assert "accumulated by the dynamics" not in inspect(pendulum(substeps).spec())


def test_a_stage_of_too_many_substeps_is_refused():
    with pytest.raises(
        mpcgen.SpecError, match="have 5000 substeps of 3 numbers in a stage; at most 2730 are"
    ):
        _ = Compilation(pendulum(5000).spec()).graph


@pytest.mark.parametrize("hessian", ["exact", "gauss_newton"])
def test_solutions_obey_the_dynamics_and_are_stationary(stepped, hessian):
    solution = stepped.MPC(hessian=hessian, tol=1e-9, on_unconverged="raise")(starts(9))
    functions = Functions(pendulum(12).spec())
    theta = [0.3, 0.5]
    for x, u, cost in zip(solution.x.numpy(), solution.u.numpy(), solution.cost.numpy(), strict=True):
        total = float(functions.terminal_cost(x[-1], theta))
        for t in range(8):
            following = np.asarray(functions.f(x[t], u[t], theta)).ravel()
            assert x[t + 1] == pytest.approx(following, rel=1e-12, abs=1e-13)
            total += float(functions.stage_cost(x[t], u[t], theta))
        assert cost == pytest.approx(total, rel=1e-12)


def test_both_hessians_reach_the_same_solution(stepped):
    exact, newton = (stepped.MPC(hessian=h, tol=1e-10)(starts(9)) for h in ("exact", "gauss_newton"))
    assert torch.allclose(exact.u, newton.u, rtol=0, atol=1e-8)


@pytest.mark.parametrize("hessian", ["exact", "gauss_newton"])
def test_a_cost_that_a_state_carries_is_solved_like_one_that_is_integrated(stepped, hessian):
    carrying = compiled(pendulum(12, carried=True))
    x0 = starts(9)
    options = {"hessian": hessian, "tol": 1e-9, "method": "ddp"}
    expected = stepped.MPC(**options)(x0)
    solution = carrying.MPC(**options)(torch.cat([x0, torch.zeros(9, 1, dtype=torch.float64)], dim=1))
    assert torch.allclose(solution.u, expected.u, rtol=0, atol=1e-8)
    assert (solution.iterations - expected.iterations).abs().max() <= 2


def test_gradients_are_differences_of_solutions(stepped):
    mpc = stepped.MPC(tol=1e-11, on_unconverged="raise")
    x0, step = starts(5), 1e-5
    values = {
        name: torch.full((5,), value, dtype=torch.float64)
        for name, value in (("damping", 0.3), ("weight", 0.5))
    }

    def outputs(x0, values):
        solution = mpc(x0, **values)
        return solution.x.square().sum() + (solution.u * solution.x[:, 1:, :1]).sum() + solution.cost.sum()

    leaves = [x0.clone().requires_grad_(), *(value.clone().requires_grad_() for value in values.values())]
    outputs(leaves[0], dict(zip(values, leaves[1:], strict=True))).backward()
    directions = [torch.ones_like(leaf) for leaf in leaves]
    _, along = torch.func.jvp(
        lambda x0, *rest: outputs(x0, dict(zip(values, rest, strict=True))),
        (x0, *values.values()),
        tuple(directions),
    )
    with torch.no_grad():
        up, down = (
            outputs(x0 + sign * step, {name: value + sign * step for name, value in values.items()})
            for sign in (1, -1)
        )
    difference = ((up - down) / (2 * step)).item()
    assert sum(leaf.grad.sum().item() for leaf in leaves) == pytest.approx(difference, rel=1e-7)
    assert along.item() == pytest.approx(difference, rel=1e-7)
