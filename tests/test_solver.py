"""The generated solvers: convergence, optimality, starts, horizons, parameters, bounds and precision."""

import dataclasses

import numpy as np
import pytest
import torch
from controllers import (
    EPS,
    NONLINEAR,
    Example,
    compiled,
    example,
    leaves,
    random_lq,
    scalar_problem,
    with_bound_parameters,
)

import mpcgen
from mpcgen.baseline import Baseline, kkt_residual, pack_parameters
from mpcgen.baseline.compare import BASIN

SIZES = {"pendulum": 24, "cartpole": 24, "car": 12, "quadrotor": 3}
MEAN_PASSES = {"pendulum": 3.9, "cartpole": 9.1, "car": 10.3}  # as docs/figures.md has them


@pytest.fixture(scope="module")
def scalar() -> Example:
    return scalar_problem()


def test_a_thousand_random_starts_converge_within_a_hundred_passes(nonlinear):
    solution = nonlinear.mpc(max_iterations=100, on_unconverged="ignore")(nonlinear.starts(1024, 0))
    assert (solution.status == mpcgen.Status.CONVERGED).all()
    assert solution.iterations.double().mean() < MEAN_PASSES[nonlinear.spec.name] + 0.05


@pytest.mark.parametrize("name", ["lqr", "quadrotor"])
def test_random_starts_of_larger_problems_converge(name):
    case = example(name)
    solution = case.mpc(max_iterations=100, on_unconverged="ignore")(case.starts(256, 11), **case.values(0))
    assert (solution.status == mpcgen.Status.CONVERGED).all()


@pytest.mark.parametrize("name", [*NONLINEAR, "lqr", "quadrotor"])
def test_a_converged_problem_satisfies_the_kkt_conditions_as_casadi_computes_them(name):
    case, tol = example(name), 1e-8
    count = 8 if name == "quadrotor" else 48
    given = case.values(1)
    solution = case.mpc(tol=tol)(case.starts(count, 1), **given)
    parameters = {n: value.numpy() for n, value in given.items()}
    values = {n: v[0].detach().numpy() for n, v in leaves(case, 1, given).items()}
    for b in range(count):
        x, u = solution.x[b].numpy(), solution.u[b].numpy()
        # a gradient of N stages of some thousand operations, each an ulp of what the costates carry
        slack = 1e4 * EPS * max(1.0, float(solution.costates[b].abs().max()))
        assert kkt_residual(case.functions, x, u, parameters) <= tol + slack
        assert follows_the_dynamics(case, x, u, values) <= 1e4 * EPS * max(1.0, float(np.abs(x).max()))


def follows_the_dynamics(case: Example, x: np.ndarray, u: np.ndarray, values: dict[str, np.ndarray]) -> float:
    """Largest defect |x_(t+1) - f(x_t, u_t)| by CasADi."""
    theta = pack_parameters(case.spec, values, len(u))
    steps = [np.array(case.functions.f(x[t], u[t], theta[:, t])).ravel() - x[t + 1] for t in range(len(u))]
    return float(np.abs(steps).max())


@pytest.mark.parametrize("name", SIZES)
def test_optima_are_ipopts_from_the_same_start(name):
    case, count, tol = example(name), SIZES[name], 1e-10
    x0 = case.starts(count, 11)
    own = case.mpc(tol=tol)(x0)
    ipopt = Baseline(case.spec, tol=tol).solve_batch(x0.numpy())
    assert ipopt.success.all()
    difference = np.zeros(count)
    for mine, other in ((own.x.numpy(), ipopt.x), (own.u.numpy(), ipopt.u)):
        scale = np.maximum(1.0, np.abs(other).max((1, 2)))
        difference = np.maximum(difference, np.abs(mine - other).max((1, 2)) / scale)
    same = difference <= BASIN
    assert same.mean() >= 0.75
    # an interior point keeps sqrt(tol) from a bound whose multiplier vanishes
    assert difference[same].max() <= tol**0.5
    relative = (own.cost.numpy() - ipopt.cost) / np.maximum(1.0, np.abs(ipopt.cost))
    assert relative[same].max() <= 1e-7
    assert relative.mean() <= 1e-7
    # costates are multipliers: a curvature of up to 1e4 times the trajectory's difference
    scale = np.maximum(1.0, np.abs(ipopt.costates).max((1, 2)))
    costates = np.abs(own.costates.numpy() - ipopt.costates).max((1, 2)) / scale
    assert costates[same].max() <= 1e4 * tol**0.5


def test_a_solution_as_start_needs_no_further_pass_and_a_near_one_few(nonlinear):
    mpc, x0 = nonlinear.mpc(), nonlinear.starts(64, 2)
    cold = mpc(x0)
    again = mpc(x0, u_init=cold.u)
    assert (again.iterations == 0).all()
    assert torch.equal(again.u, cold.u)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    near = mpc(x0 + 1e-3 * noise, u_init=cold.u)
    assert near.iterations.double().mean() <= 0.5 * cold.iterations.double().mean()


def test_initial_controls_are_clipped_to_the_bounds(car):
    x0, horizon = car.starts(16, 2), car.spec.horizon
    outside = torch.tensor([3.0, -0.7], dtype=torch.float64).expand(horizon, 2)
    inside = torch.tensor([2.0, -0.5]).double().expand(16, horizon, 2)
    mpc = car.mpc()
    assert torch.equal(mpc(x0, u_init=outside).u, mpc(x0, u_init=inside).u)
    mpc = car.mpc(max_iterations=0, on_unconverged="ignore")
    assert torch.equal(mpc(x0, u_init=outside).u, inside)


def test_a_horizon_given_at_the_call_is_as_good_as_a_declared_one(pendulum):
    declared = dataclasses.replace(pendulum.spec, name="pendulum_short", horizon=7)
    short = compiled(declared).MPC(on_unconverged="raise")
    x0 = pendulum.starts(9, 3)
    for own, other in zip(
        vars(pendulum.mpc()(x0, horizon=7)).values(), vars(short(x0)).values(), strict=True
    ):
        assert torch.equal(own, other)
    assert pendulum.mpc()(x0, u_init=torch.zeros(7, 1).double()).u.shape == (9, 7, 1)


def test_a_parameter_per_stage_has_its_own_value_at_every_stage(scalar):
    target = torch.sin(torch.arange(13.0).double())
    x0 = scalar.starts(5, 0)
    own = scalar.mpc(tol=1e-10)(x0, target=target)
    assert own.u.shape == (5, 12, 3)
    ipopt = Baseline(scalar.spec, tol=1e-10).solve_batch(x0.numpy(), {"target": target.numpy()})
    # the cost is quadratic with curvature at least 0.1, so that a residual of 1e-10 is an error of 1e-9
    np.testing.assert_allclose(own.u.numpy()[..., :2], ipopt.u[..., :2], atol=1e-8)
    constant = scalar.mpc()(x0, target=0.7)
    spelt_out = scalar.mpc()(x0, target=torch.full((13,), 0.7, dtype=torch.float64))
    assert torch.equal(constant.u, spelt_out.u)
    longer = scalar.mpc()(x0, target=torch.zeros(21).double(), horizon=20)
    assert longer.u.shape == (5, 20, 3)


def test_every_kind_of_bound_holds_exactly_and_is_reached(scalar):
    x0 = torch.tensor([[8.0], [-8.0]]).double()
    solution = scalar.mpc()(x0, v_max=0.5)
    u, v, w = solution.u.unbind(-1)
    assert (w == 0.25).all()
    assert (u >= -1).all()
    assert (u[0] == -1).any()
    assert (u[1] > 1).any()
    assert (v <= 0.5).all()
    assert (v[1] == 0.5).any()
    assert (v[0] < -1).any()
    free = scalar.mpc()(x0).u[..., 1]
    assert (free[1] > 0.5).any()


def test_solutions_with_every_kind_of_bound_are_ipopts(scalar):
    x0 = torch.linspace(-8, 8, 9).double()[:, None]
    own = scalar.mpc(tol=1e-10)(x0, v_max=0.5)
    ipopt = Baseline(scalar.spec, tol=1e-12).solve_batch(x0.numpy(), {"v_max": 0.5})
    assert ipopt.success.all()
    # a weakly active bound leaves IPOPT sqrt(tol) off it
    np.testing.assert_allclose(own.u.numpy(), ipopt.u, atol=1e-5)
    np.testing.assert_allclose(own.cost.numpy(), ipopt.cost, rtol=1e-9)


@pytest.mark.parametrize("name", ["pendulum", "car"])
def test_bounds_as_parameters_act_like_the_same_numbers(name):
    numbers, parameters = example(name), with_bound_parameters(name)
    x0 = numbers.starts(32, 5)
    assert torch.equal(numbers.mpc()(x0).u, parameters.mpc()(x0).u)
    one = torch.tensor(0.3, dtype=torch.float64)
    m = len(numbers.spec.controls)
    tight = parameters.mpc()(x0, lower=-one.expand(m), upper=one.expand(m)).u
    assert tight.abs().max() == 0.3
    equal = parameters.mpc()(x0, lower=one.expand(m), upper=one.expand(m))
    assert (equal.u == 0.3).all()
    unbounded = parameters.mpc()(x0, lower=[-torch.inf] * m, upper=[torch.inf] * m)
    assert unbounded.u.abs().max() > 2


@pytest.mark.parametrize("name", NONLINEAR)
def test_gauss_newton_passes_reach_the_same_optima(name):
    """Plain iLQR converges linearly, and on some starts not within 200 passes."""
    case = example(name)
    x0 = case.starts(256, 4)
    slow = case.mpc(hessian="gauss_newton", on_unconverged="ignore")(x0)
    fast = case.mpc()(x0)
    solved = slow.status == 0
    assert solved.double().mean() >= 0.9
    assert slow.iterations.double().mean() > fast.iterations.double().mean()
    scale = fast.u.abs().amax((1, 2)).clamp(min=1)
    difference = (slow.u - fast.u).abs().amax((1, 2)) / scale
    same = solved & (difference <= BASIN)
    assert same.sum() >= 0.75 * solved.sum()
    # both are within their residual of 1e-8 times the inverse curvature, at most 1e3 (the controls' weights), of
    # the optimum; the cost is flat there
    assert difference[same].max() <= 1e-4
    torch.testing.assert_close(slow.cost[same], fast.cost[same], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [*NONLINEAR, "quadrotor"])
def test_float32_converges_to_its_own_tolerance(name):
    case = example(name)
    x0 = case.starts(64, 11).float()
    single = case.mpc()(x0)
    assert single.x.dtype == single.cost.dtype == single.gains.dtype == torch.float32
    assert (single.residual <= 1e-4).all()
    double = case.mpc()(x0.double())
    for b in range(0, 64, 8):
        x, u = single.x[b].double().numpy(), single.u[b].double().numpy()
        eps = float(np.finfo(np.float32).eps)
        slack = 16 * eps * max(1.0, float(single.costates[b].abs().max()))
        assert kkt_residual(case.functions, x, u) <= 1e-4 + slack
    # second order in the residual, so rounding of the sum over the stages is what remains
    error = (single.cost.double() - double.cost).abs() / double.cost.abs().clamp(min=1)
    assert error.median() <= 1e-6


def test_the_first_costate_is_the_derivative_of_the_cost(nonlinear):
    x0 = nonlinear.starts(32, 6).requires_grad_()
    solution = nonlinear.mpc(tol=1e-12)(x0)
    (slope,) = torch.autograd.grad(solution.cost.sum(), x0)
    # the gradient adds dL/du du/dx0 of the free controls: at most the residual times gains of up to 1e3
    torch.testing.assert_close(slope, solution.costates[:, 0], rtol=1e-9, atol=1e-9)
    h = 1e-5
    for i in range(x0.shape[1]):
        step = h * torch.eye(x0.shape[1]).double()[i]
        ends = [nonlinear.mpc(tol=1e-10)(x0.detach() + s * step, u_init=solution.u.detach()) for s in (-1, 1)]
        difference = (ends[1].cost - ends[0].cost) / (2 * h)
        # truncation h² times a third derivative; rounding 1e-14 of the cost over h
        bound = 1e-6 * slope.abs().amax(1).clamp(min=1)
        assert ((difference - slope[:, i]).abs() <= bound).all()


def test_the_first_gain_is_the_derivative_of_the_first_control(nonlinear):
    x0 = nonlinear.starts(64, 6).requires_grad_()
    # the costates of the solver and those under a policy are one at the solution only
    solution = nonlinear.mpc(tol=1e-11)(x0)
    m = solution.u.shape[-1]
    rows = [torch.autograd.grad(solution.u[:, 0, i].sum(), x0, retain_graph=True)[0] for i in range(m)]
    slope = torch.stack(rows, dim=1)
    error = (slope - solution.gains[:, 0].detach()).norm(dim=(1, 2))
    assert (error <= 1e-9 * slope.norm(dim=(1, 2)).clamp(min=1)).all()
    assert (slope != 0).flatten(1).any(1).any()


def test_gains_are_zero_where_a_bound_holds(car):
    solution = car.mpc()(car.starts(64, 6))
    for i, control in enumerate(car.spec.controls):
        held = (solution.u[..., i] == float(control.lower)) | (solution.u[..., i] == float(control.upper))
        assert held.any()
        assert (solution.gains[..., i, :][held] == 0).all()


def test_nothing_but_trajectories_cost_and_multipliers_is_differentiable(pendulum):
    solution = pendulum.mpc()(pendulum.starts(3, 0).requires_grad_())
    fields = vars(solution)
    assert {name for name, value in fields.items() if value.requires_grad} == {"x", "u", "cost", "row_duals"}
    assert fields["row_duals"].numel() == 0  # it has no rows, and those of controls are found when asked for
    with torch.no_grad():
        assert not any(v.requires_grad for v in vars(pendulum.mpc()(pendulum.starts(3, 0))).values())


def test_a_linear_quadratic_problem_takes_one_pass_without_bounds_and_few_with(lqr):
    x0 = lqr.starts(32, 0)
    given = random_lq(3, 3, 5, 1, batch=(32,))
    assert (lqr.mpc()(x0, **given).iterations <= 1).all()
    box = lqr.mpc()(x0, **given, lower=[-0.2] * 3, upper=[0.2] * 3)
    assert (box.iterations <= 10).all()
    assert (box.u.abs() == 0.2).any()
