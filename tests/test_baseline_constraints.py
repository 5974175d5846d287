"""The baseline on constrained problems: known optima, multipliers, soft rows, and gradients against differences."""

import constrained_problems as problems
import numpy as np
import pytest
import sympy as sp

import mpcgen
from mpcgen.baseline import Baseline, finite_difference_gradient, kkt_gradient, kkt_residual
from mpcgen.errors import ParameterError, ShapeError

FROM_ZERO = [
    make for make in problems.OPTIMA if make not in (problems.car_among_discs, problems.coupled_cartpole)
]
"""Problems whose optimum is found from zero controls; the others have several minima."""


def solved(make, solver="ipopt", u_init=None, tol=1e-10, **changes):
    baseline = Baseline(make().spec(), solver=solver, tol=tol)
    parameters = problems.parameters_of(make, baseline.horizon) | changes
    return baseline, parameters, baseline.solve(problems.STARTS[make], parameters, u_init)


@pytest.mark.parametrize("make", FROM_ZERO, ids=lambda make: make.__name__)
def test_ipopt_finds_the_known_optimum(make):
    """To 1e-7 and the rounding of the published digits."""
    _, _, solution = solved(make, tol=1e-9)
    assert solution.success
    assert solution.cost == pytest.approx(problems.OPTIMA[make], rel=1e-7)


# fatrop does not end on the rocket, whose tilt is a constraint of high order, at this tolerance
@pytest.mark.parametrize("make", [m for m in FROM_ZERO if m is not problems.rocket], ids=lambda m: m.__name__)
def test_fatrop_finds_the_known_optimum(make):
    _, _, solution = solved(make, solver="fatrop", tol=1e-9)
    assert solution.success
    assert solution.cost == pytest.approx(problems.OPTIMA[make], rel=1e-7)


@pytest.mark.parametrize(
    ("make", "scale"), [(problems.car_among_discs, [0.5, 0.2]), (problems.coupled_cartpole, [0.3, 0.3])]
)
def test_the_best_minimum_of_several_is_found_from_some_start(make, scale):
    baseline = Baseline(make().spec(), tol=1e-9)
    costs = []
    for seed in range(12):
        u_init = np.random.default_rng(seed).normal(size=(baseline.horizon, 2)) * scale
        solution = baseline.solve(problems.STARTS[make], u_init=u_init)
        if solution.success:
            costs.append(solution.cost)
            if min(costs) < problems.OPTIMA[make] * (1 + 1e-7):
                break
    assert min(costs) == pytest.approx(problems.OPTIMA[make], rel=1e-7)


def test_an_infeasible_problem_is_not_solved():
    baseline = Baseline(problems.double_integrator().spec())
    solution = baseline.solve(problems.INFEASIBLE_START)
    assert not solution.success
    assert solution.status == "Infeasible_Problem_Detected"


@pytest.mark.parametrize("solver", ["ipopt", "fatrop"])
def test_costates_and_duals_satisfy_the_optimality_conditions(solver):
    baseline, parameters, solution = solved(problems.safe_cartpole, solver)
    wall = solution.duals["position"]
    assert wall.shape == (35, 1)
    active = np.abs(wall[:, 0]) > 1e-4
    assert active.any()
    at_wall = np.sign(wall[active, 0]) * solution.x[1:][active, 0]
    np.testing.assert_allclose(at_wall, 0.8, atol=1e-7)  # positive at the upper wall, negative at the lower
    functions = baseline.functions
    # an interior point leaves active rows a barrier parameter over their multipliers inside
    assert kkt_residual(functions, solution.x, solution.u, parameters, solution.duals) < 1e-6


def soft_problem(weight, quadratic=0.0):
    """A mass that is pulled beyond a soft limit, whose other side never matters."""
    problem = mpcgen.Problem("soft_limit", horizon=6)
    limit, price, curve = problem.parameters("limit price curve", default=[0.5, weight, quadratic])
    x, v = problem.states("x v")
    (u,) = problem.controls("u", lower=-1, upper=1)
    problem.dynamics = [x + v / 2, v + u / 2]
    problem.stage_cost = (x - 2) ** 2 + u**2 / 10
    problem.terminal_cost = (x - 2) ** 2 + v**2
    problem.constraint("comfort", x, lower=-5, upper=limit, soft=price, soft_quadratic=curve)
    return problem.spec()


@pytest.mark.parametrize("solver", ["ipopt", "fatrop"])
@pytest.mark.parametrize(("weight", "quadratic"), [(0.3, 0.0), (0.3, 2.0), (0.0, 3.0)])
def test_the_multiplier_of_an_exceeded_soft_row_is_its_price(solver, weight, quadratic):
    solution = Baseline(soft_problem(weight, quadratic), solver=solver, tol=1e-9).solve([0.0, 0.0])
    assert solution.success
    excess = solution.x[1:, 0] - 0.5
    beyond = excess > 1e-3
    assert beyond.any()
    expected = weight + quadratic * excess[beyond]
    np.testing.assert_allclose(solution.duals["comfort"][beyond, 0], expected, atol=1e-6)


def test_the_cost_includes_the_price_of_the_excess():
    solution = Baseline(soft_problem(0.3, 2.0), tol=1e-10).solve([0.0, 0.0])
    x, u = solution.x[:, 0], solution.u[:, 0]
    excess = np.maximum(x[1:] - 0.5, 0)
    own = np.sum((x - 2) ** 2) + solution.x[-1, 1] ** 2 + np.sum(u**2) / 10
    assert solution.cost == pytest.approx(own + 0.3 * excess.sum() + excess @ excess, abs=1e-7)


def test_a_large_price_makes_a_soft_row_a_hard_one():
    """The penalty is exact: above the largest multiplier of the hard row nothing is exceeded."""
    soft = Baseline(soft_problem(1000.0), tol=1e-10).solve([0.0, 0.0])
    assert soft.x[1:, 0].max() <= 0.5 + 1e-8
    assert 0 < soft.duals["comfort"].max() < 1000


# ---- gradients


def check_against_differences(baseline, x0, parameters, solution, names=None, entries=None, step=1e-5):
    rng = np.random.default_rng(5)
    cotangents = {
        "grad_x": rng.normal(size=solution.x.shape),
        "grad_u": rng.normal(size=solution.u.shape),
        "grad_cost": 0.7,
    }
    cotangents["grad_x"][0] = 0
    gradient = kkt_gradient(
        baseline.functions, solution.x, solution.u, parameters, duals=solution.duals, **cotangents
    )
    assert gradient.second_order and gradient.complementarity > 1e-5
    for name in names or ("x0", *gradient.parameters):
        exact = np.ravel(gradient.x0 if name == "x0" else gradient.parameters[name])
        exact = exact if entries is None else exact[entries]
        differences = finite_difference_gradient(
            baseline,
            x0,
            parameters,
            name,
            u_init=solution.u,
            entries=entries,
            step=step,
            **cotangents,
        )
        scale = max(1.0, float(np.linalg.norm(exact)))
        # solutions good to 1e-10 over steps of 1e-5, and truncation as the differences tell it
        bound = 1e-4 * scale + np.linalg.norm(differences.error)
        assert np.linalg.norm(exact - differences.value) <= bound, (name, exact, differences)
        assert np.linalg.norm(differences.error) <= 1e-2 * scale, name


@pytest.mark.parametrize(
    "make",
    [
        problems.safe_cartpole,
        problems.pendulum_swing_up,
        problems.car_among_discs,
    ],
    ids=lambda make: make.__name__,
)
def test_gradients_with_active_rows_agree_with_central_differences(make):
    baseline, parameters, solution = solved(make, tol=1e-11)
    active = sum(int((np.abs(dual) > 1e-4).sum()) for dual in solution.duals.values())
    assert active > 0
    check_against_differences(baseline, problems.STARTS[make], parameters, solution)


def test_gradients_where_bounds_of_control_and_state_are_active_by_turns():
    baseline = Baseline(problems.double_integrator().spec(), tol=1e-11)
    x0, parameters = [0.95, 0.13], {"wall": -0.2}
    solution = baseline.solve(x0, parameters)
    assert (np.abs(solution.duals["velocity"]) > 1e-3).any()
    check_against_differences(baseline, x0, parameters, solution)


def test_a_solution_that_more_bounds_meet_than_there_are_directions_has_no_gradient():
    """From rest at 1, six controls at their bound reach the speed limit exactly: it holds twice."""
    baseline, _, solution = solved(problems.double_integrator, tol=1e-11)
    gradient = kkt_gradient(baseline.functions, solution.x, solution.u, duals=solution.duals)
    assert gradient.complementarity == 0


def test_gradients_by_a_bound_that_differs_at_every_stage():
    baseline, parameters, solution = solved(problems.jacobson_lele, tol=1e-11)
    active = np.flatnonzero(solution.duals["parabola"][:, 0] > 1e-4) + 1
    entries = [*active[[0, len(active) // 2, -1]].tolist(), 1, 50]
    names = ["limit"]
    start = problems.STARTS[problems.jacobson_lele]
    check_against_differences(baseline, start, parameters, solution, names, entries, step=1e-6)


@pytest.mark.parametrize(("weight", "quadratic"), [(0.3, 0.0), (0.3, 2.0), (2.0, 0.5)])
def test_gradients_of_soft_rows_their_prices_and_bounds(weight, quadratic):
    baseline = Baseline(soft_problem(weight, quadratic), tol=1e-11)
    solution = baseline.solve([0.0, 0.0])
    names = ["x0", "limit", "price", *(["curve"] if quadratic else [])]
    check_against_differences(baseline, [0.0, 0.0], {}, solution, names)


def test_rows_that_repeat_each_other_do_not_make_the_system_singular():
    baseline, parameters, solution = solved(problems.coupled_cartpole, tol=1e-11)
    check_against_differences(baseline, problems.STARTS[problems.coupled_cartpole], parameters, solution)


def test_a_gradient_needs_the_multipliers_in_their_shape():
    baseline, parameters, solution = solved(problems.safe_cartpole)
    with pytest.raises(ParameterError, match="multipliers of constraint 'position'"):
        kkt_gradient(baseline.functions, solution.x, solution.u, parameters)
    with pytest.raises(ShapeError, match=r"'position' have shape \(35,\), expected \(35, 1\)"):
        kkt_gradient(baseline.functions, solution.x, solution.u, parameters, duals={"position": np.zeros(35)})


def test_compiled_functions_give_the_same_solution():
    problem = mpcgen.Problem("compiled", horizon=3)
    x = problem.state("x", upper=0.2)
    (u,) = problem.controls("u", lower=-1, upper=1)
    problem.dynamics = [x + u / 2 + sp.sin(x) / 10]
    problem.stage_cost = (x - 1) ** 2 + u**2
    first = Baseline(problem.spec(), tol=1e-10).solve([0.0])
    second = Baseline(problem.spec(), tol=1e-10, compiled=True).solve([0.0])
    assert second.success
    np.testing.assert_allclose(second.u, first.u, atol=1e-8)
