"""The interior point in plain PyTorch, against the CasADi baseline: solutions, multipliers, gradients."""

import constrained_problems as problems
import numpy as np
import pytest
import sympy as sp
import torch

import mpcgen
from mpcgen import reference
from mpcgen.baseline import Baseline, kkt_gradient
from mpcgen.errors import ParameterError

# torch.func imports torch's own compiler, which uses what torch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
TOL = 1e-10


@pytest.fixture(autouse=True)
def one_thread():
    """Matrices here are too small to share."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def everything():
    """Every kind of row on a short horizon, each active or exceeded somewhere."""
    problem = mpcgen.Problem("everything", horizon=8)
    wall, most, goal, price = problem.parameters("wall most goal price", default=[0.9, 0.15, 0.2, 0.4])
    limit = problem.parameter("limit", per_stage=True, default=0.6)
    x, v = problem.states("x v", lower=[-sp.oo, -2], upper=[wall, 0.62])
    u, w = problem.controls("u w", lower=-1, upper=1)
    problem.dynamics = [x + v / 2, v + u / 2 + w / 4 - x**3 / 20]
    problem.stage_cost = (x - 2) ** 2 + u**2 / 10 + w**2 / 5
    problem.constraint("power", u * v, lower=-most, upper=most)
    problem.constraint("tie", u - 2 * w + w**2 / 5, equals=0)
    problem.constraint("comfort", v, upper=limit, soft=price, soft_quadratic=1)
    problem.terminal_constraint("end", v, equals=goal)
    return problem


def solve_both(problem, x0, **parameters):
    baseline = Baseline(problem.spec(), tol=1e-11)
    expected = baseline.solve(x0, parameters)
    assert expected.success
    mpc = reference.InteriorPoint(problem, tol=TOL, on_unconverged="raise")
    own = mpc(
        torch.tensor(x0, dtype=torch.float64),
        **{name: torch.tensor(value, dtype=torch.float64) for name, value in parameters.items()},
    )
    return baseline, expected, own


def test_rows_of_every_kind_give_the_baselines_solution_and_multipliers():
    _, expected, own = solve_both(everything(), [0.0, 0.0])
    np.testing.assert_allclose(own.x, expected.x, atol=1e-6)
    np.testing.assert_allclose(own.u, expected.u, atol=1e-6)
    assert float(own.cost) == pytest.approx(expected.cost, abs=1e-7)
    np.testing.assert_allclose(own.costates[1:], expected.costates[1:], atol=1e-5)
    for name, dual in expected.duals.items():
        np.testing.assert_allclose(own.duals[name], dual, atol=1e-5)
        assert np.abs(dual).max() > 1e-3, name  # every kind of row matters
    assert float(own.violation) < 1e-8


@pytest.mark.parametrize(
    "make", [problems.double_integrator, problems.pendulum_swing_up], ids=lambda m: m.__name__
)
def test_known_optima(make):
    mpc = reference.InteriorPoint(make(), on_unconverged="raise")
    with torch.no_grad():
        solution = mpc(torch.tensor(problems.STARTS[make], dtype=torch.float64))
    assert float(solution.cost) == pytest.approx(problems.OPTIMA[make], rel=1e-7)


def test_a_batch_is_its_problems_one_after_the_other():
    mpc = reference.InteriorPoint(everything(), on_unconverged="raise")
    starts = torch.tensor([[0.0, 0.0], [0.3, -0.2]], dtype=torch.float64)
    walls = torch.tensor([0.9, 0.8], dtype=torch.float64)
    with torch.no_grad():
        both = mpc(starts, wall=walls)
        alone = [mpc(x0, wall=wall) for x0, wall in zip(starts, walls, strict=True)]
    assert both.x.shape == (2, 9, 2) and both.duals["comfort"].shape == (2, 8, 1)
    for i, one in enumerate(alone):
        assert torch.equal(both.x[i], one.x) and torch.equal(both.duals["end"][i], one.duals["end"])


def test_an_infeasible_problem_is_reported():
    mpc = reference.InteriorPoint(problems.double_integrator(), on_unconverged="ignore")
    with torch.no_grad():
        solution = mpc(torch.tensor(problems.INFEASIBLE_START, dtype=torch.float64))
    assert int(solution.status) == 6
    assert float(solution.violation) > 0.5
    assert solution.x.isfinite().all()


def test_gradients_agree_with_the_baselines_kkt_system():
    problem = everything()
    baseline = Baseline(problem.spec(), tol=1e-11)
    x0 = torch.tensor([0.0, 0.1], dtype=torch.float64, requires_grad=True)
    values = {"wall": 0.9, "most": 0.15, "goal": 0.2, "price": 0.4, "limit": np.full(9, 0.6)}
    leaves = {name: torch.tensor(v, dtype=torch.float64, requires_grad=True) for name, v in values.items()}
    solution = reference.InteriorPoint(problem, tol=1e-11, on_unconverged="raise")(x0, **leaves)
    rng = np.random.default_rng(2)
    r_x, r_u = rng.normal(size=(9, 2)), rng.normal(size=(8, 2))
    loss = (
        (solution.x * torch.tensor(r_x)).sum() + (solution.u * torch.tensor(r_u)).sum() + 0.7 * solution.cost
    )
    loss.backward()
    expected = kkt_gradient(
        baseline.functions,
        solution.x.detach().numpy(),
        solution.u.detach().numpy(),
        values,
        grad_x=r_x,
        grad_u=r_u,
        grad_cost=0.7,
        duals={name: dual.detach().numpy() for name, dual in solution.duals.items()},
    )
    assert expected.complementarity > 1e-4 and expected.second_order
    np.testing.assert_allclose(x0.grad, expected.x0, rtol=1e-6, atol=1e-7)
    for name, leaf in leaves.items():
        np.testing.assert_allclose(leaf.grad, expected.parameters[name], rtol=1e-6, atol=1e-7, err_msg=name)


def test_the_first_states_may_be_given():
    mpc = reference.InteriorPoint(everything(), on_unconverged="raise")
    x0 = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        cold = mpc(x0)
        warm = mpc(x0, u_init=cold.u, x_init=cold.x)
    torch.testing.assert_close(warm.x, cold.x, atol=1e-6, rtol=0)


def test_options_are_checked():
    with pytest.raises(ParameterError, match="tol"):
        reference.InteriorPoint(everything(), tol=-1)
