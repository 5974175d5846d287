"""The baseline's KKT gradients against central differences, the envelope theorem and known points."""

import numpy as np
import pytest
import sympy as sp
from baseline_problems import bounded_pendulum, example, random_lqr

import mpcgen
from mpcgen.baseline import (
    Baseline,
    Functions,
    finite_difference_gradient,
    kkt_gradient,
    pack_parameters,
    unpack_gradient,
)
from mpcgen.errors import ParameterError
from mpcgen.problem.spec import Spec


def swing(limit: float, rate: float):
    """Return the baseline, start and solution of a pendulum falling at ``rate``."""
    baseline = Baseline(bounded_pendulum(limit), tol=1e-12)
    x0 = np.array([np.cos(1.1), np.sin(1.1), rate])
    return baseline, x0, baseline.solve(x0)


def assert_close_to_differences(baseline, x0, parameters, solution, names=None):
    rng = np.random.default_rng(5)
    cotangents = {
        "grad_x": rng.normal(size=solution.x.shape),
        "grad_u": rng.normal(size=solution.u.shape),
        "grad_cost": 0.7,
    }
    gradient = kkt_gradient(baseline.functions, solution.x, solution.u, parameters, **cotangents)
    assert gradient.second_order and gradient.complementarity > 1e-3
    for name in names or ("x0", *gradient.parameters):
        exact = np.ravel(gradient.x0 if name == "x0" else gradient.parameters[name])
        differences = finite_difference_gradient(
            baseline, x0, parameters, name, u_init=solution.u, **cotangents
        )
        # truncation as the differences tell it, and solutions good to 1e-11 over steps of 1e-4 or less
        bound = differences.error + 1e-6 * np.maximum(1.0, np.abs(exact))
        assert (np.abs(exact - differences.value) <= bound).all(), name
        assert np.linalg.norm(exact - differences.value) <= 1e-4 * max(1.0, np.linalg.norm(exact)), name


@pytest.mark.parametrize(
    ("limit", "rate", "signs"), [(50.0, -0.4, {0}), (0.9, -0.4, {0, 1}), (0.9, -3.0, {-1, 0, 1})]
)
def test_gradients_with_and_without_active_bounds_agree_with_central_differences(limit, rate, signs):
    baseline, x0, solution = swing(limit, rate)
    active = kkt_gradient(baseline.functions, solution.x, solution.u).active
    assert set(active.ravel().tolist()) == signs
    assert_close_to_differences(baseline, x0, {}, solution)


def test_gradients_of_per_stage_parameters_and_bounds_agree_with_central_differences():
    spec, x0, parameters = random_lqr(7, n=2, m=2, horizon=3)
    parameters |= {"lower": np.full((3, 2), -0.4), "upper": np.full((3, 2), 0.3)}
    baseline = Baseline(spec, tol=1e-12)
    solution = baseline.solve(x0, parameters)
    active = kkt_gradient(baseline.functions, solution.x, solution.u, parameters).active
    assert set(active.ravel().tolist()) == {-1, 0, 1}
    assert_close_to_differences(baseline, x0, parameters, solution)


def test_the_gradient_of_the_cost_is_its_envelope():
    baseline, _, solution = swing(0.9, -3.0)
    functions, theta = baseline.functions, pack_parameters(baseline.spec, {}, 12)
    stages = np.zeros_like(theta)
    for t in range(12):
        point = solution.x[t], solution.u[t], theta[:, t]
        stages[:, t] = functions.stage_cost_D_theta(*point).full().ravel()
        stages[:, t] += functions.f_D_theta(*point).full().T @ solution.costates[t + 1]
    stages[:, 12] = functions.terminal_cost_D_theta(solution.x[12], theta[:, 12]).full().ravel()
    envelope = unpack_gradient(baseline.spec, stages)
    gradient = kkt_gradient(functions, solution.x, solution.u, grad_cost=1.0)
    # the solver's costates are good to its tolerance over the distance to the nearest inactive bound
    np.testing.assert_allclose(gradient.x0, solution.costates[0], rtol=1e-7, atol=1e-8)
    for name in ("mass", "length", "weight"):
        np.testing.assert_allclose(gradient.parameters[name], envelope[name], rtol=1e-7, atol=1e-8)


def test_the_gradient_of_the_cost_by_a_bound_is_the_sum_of_its_multipliers():
    baseline, _, solution = swing(0.9, -3.0)
    functions, theta = baseline.functions, pack_parameters(baseline.spec, {}, 12)
    gradient = kkt_gradient(functions, solution.x, solution.u, grad_cost=1.0)
    multipliers = np.zeros(12)
    for t in range(12):
        point = solution.x[t], solution.u[t], theta[:, t]
        by_tau = functions.stage_cost_D_tau(*point) + functions.f_D_tau(*point).T @ solution.costates[t + 1]
        multipliers[t] = float(by_tau[3])
    upper = multipliers[gradient.active[:, 0] == 1].sum()
    assert gradient.parameters["low"] == pytest.approx(
        multipliers[gradient.active[:, 0] == -1].sum(), rel=1e-7
    )
    # the upper bound is high[0] + 2 high[1]
    np.testing.assert_allclose(gradient.parameters["high"], [upper, 2 * upper], rtol=1e-7)


def hill() -> Spec:
    """Return one state, two stages, and a cost that is stationary at zero but largest there in u."""
    problem = mpcgen.Problem("hill", horizon=2)
    (x,) = problem.states("x")
    limit = problem.parameter("limit", default=2.0)
    (u,) = problem.controls("u", lower=-limit, upper=limit)
    problem.dynamics = [x]
    problem.stage_cost = u**4 - u**2 + x**2
    return problem.spec()


def test_a_stationary_point_that_is_no_minimum_is_told_apart():
    zero = np.zeros((3, 1)), np.zeros((2, 1))
    assert not kkt_gradient(Functions(hill()), *zero).second_order
    minimum = np.zeros((3, 1)), np.full((2, 1), np.sqrt(0.5))
    assert kkt_gradient(Functions(hill()), *minimum).second_order


def test_a_control_whose_bounds_coincide_is_active_without_a_multiplier():
    gradient = kkt_gradient(Functions(hill()), np.zeros((3, 1)), np.zeros((2, 1)), {"limit": 0.0})
    assert (gradient.active == -1).all()


def test_complementarity_is_the_distance_to_a_weakly_active_bound():
    edge = np.sqrt(0.5)
    gradient = kkt_gradient(
        Functions(hill()), np.zeros((3, 1)), np.full((2, 1), edge), {"limit": edge + 1e-5}
    )
    assert gradient.complementarity == pytest.approx(1e-5, rel=1e-9)


def test_differences_of_unconverged_solutions_are_refused():
    baseline = Baseline(example("pendulum"), max_iterations=1)
    with pytest.raises(ParameterError, match="Maximum_Iterations_Exceeded"):
        finite_difference_gradient(baseline, [0.0, 1.0, 0.0], {}, "mass", grad_cost=1.0)


def test_a_trajectory_without_derivatives_is_refused_by_its_stage():
    problem = mpcgen.Problem("rooted", 3)
    (x,) = problem.states("x")
    (u,) = problem.controls("u")
    problem.dynamics = [x + u]
    problem.stage_cost = u**2 + sp.sqrt(x)
    functions = Functions(problem.spec())
    with pytest.raises(ParameterError, match=r"rooted .* not finite at stage 1 .* x = \[0.0\]"):
        kkt_gradient(functions, [[1.0], [0.0], [1.0], [2.0]], [[-1.0], [1.0], [1.0]])
