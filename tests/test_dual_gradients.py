"""Gradients of multipliers of constraints, in both modes: against differences, each other, and torch's transforms."""

from dataclasses import replace

import pytest
import torch

import mpcgen
from mpcgen.autograd.solution import duals_by_name
from mpcgen.baseline import kkt_gradient
from mpcgen.baseline.functions import Functions
from tests import constrained_problems as problems
from tests.controllers import compiled

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

STARTS = {
    problems.van_der_pol: [0.0, 1.0, 0.0],
    problems.safe_cartpole: [0.0, 0.0, 0.0, 0.0],
    problems.double_integrator: [1.0, 0.05],  # at [1, 0] a row and a control's bound become active together
}
"""Where rows are active, and none is about to switch."""


def case(make, **options):
    """A controller, its start, and its parameters by name."""
    spec = make().spec()
    options = {"tol": 1e-10, "max_iterations": 500, **options}
    values = {p.name: torch.tensor(p.default, dtype=torch.float64).reshape(p.shape) for p in spec.parameters}
    return compiled(make()).MPC(**options), torch.tensor(STARTS[make], dtype=torch.float64), values


def weighted(solution):
    """A sum of all multipliers, those of controls too."""
    duals = solution.row_duals
    stages, rows = duals.shape[-2:]
    weights = torch.cos(torch.arange(stages * rows, dtype=duals.dtype)).reshape(stages, rows)
    return (weights * duals).sum((-2, -1))


def inputs(make, name):
    """A controller, the value of one of its inputs, a direction, and the loss as a function of the value alone."""
    mpc, x0, values = case(make)
    given = {"x0": x0, **values}
    value = given[name]
    direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(5), dtype=value.dtype)

    def loss(value):
        arguments = {**given, name: value}
        batch = () if value.ndim == given[name].ndim else value.shape[:1]
        return weighted(mpc(arguments.pop("x0").expand(*batch, -1), **arguments))

    return value, direction, loss


CASES = [
    (problems.van_der_pol, "x0"),
    (problems.van_der_pol, "floor_x1"),
    (problems.safe_cartpole, "x0"),
    (problems.safe_cartpole, "pole"),
    (problems.safe_cartpole, "wall"),
    (problems.double_integrator, "x0"),
    (problems.double_integrator, "limit"),
]


@pytest.mark.parametrize(("make", "name"), CASES, ids=lambda v: getattr(v, "__name__", v))
def test_both_modes_give_central_differences(make, name):
    value, direction, loss = inputs(make, name)
    leaf = value.clone().requires_grad_()
    (reverse,) = torch.autograd.grad(loss(leaf), leaf)
    _, forward = torch.func.jvp(loss, (value,), (direction,))
    h = 1e-5 * max(float(value.abs().max()), 0.1)
    ends = loss(torch.stack([value + h * direction, value - h * direction]))
    difference = (ends[0] - ends[1]) / (2 * h)
    slope = (reverse * direction).sum()
    assert slope.abs() > 1e-2
    torch.testing.assert_close(slope, difference, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(forward, slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [problems.van_der_pol, problems.safe_cartpole], ids=lambda m: m.__name__)
def test_they_are_those_of_the_whole_kkt_system(make):
    mpc, x0, values = case(make)
    spec, m = make().spec(), len(mpc.controller.controls)
    leaves = {name: value.clone().requires_grad_() for name, value in {"x0": x0, **values}.items()}
    solution = mpc(**leaves)
    found = torch.autograd.grad(weighted(solution), tuple(leaves.values()))
    rows = torch.zeros_like(solution.row_duals, requires_grad=True)
    (weights,) = torch.autograd.grad(weighted(replace(solution, row_duals=rows)), rows)
    split = duals_by_name(mpc.controller, weights)
    expected = kkt_gradient(
        Functions(spec),
        solution.x.detach(),
        solution.u.detach(),
        values,
        duals={c.name: solution.duals[c.name].detach() for c in spec.constraints},
        grad_duals={c.name: split[c.name] for c in spec.constraints},
        grad_bounds=weights[:-1, :m],
    )
    assert expected.complementarity > 1e-3
    for name, slope in zip(leaves, found, strict=True):
        other = torch.as_tensor(expected.x0 if name == "x0" else expected.parameters[name])
        error = (slope - other.reshape(slope.shape)).abs().max() / other.abs().max()
        assert error < 1e-7, f"{name}: {float(error):.1e}"


def test_weights_of_rows_magnify_no_rounding():
    # a wall that the control reaches through four integrators: without refinement 3e-11
    problem = problems.far_wall()
    mpc = compiled(problem.spec()).MPC(tol=1e-10, max_iterations=500)
    x0 = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    wall = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    solution = mpc(x0, wall=wall)
    generator = torch.Generator().manual_seed(0)
    of_x, of_u = (
        torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in (solution.x, solution.u)
    )
    found = torch.autograd.grad((of_x * solution.x).sum() + (of_u * solution.u).sum(), (x0, wall))
    duals = {name: dual.detach() for name, dual in solution.duals.items()}
    point = solution.x.detach(), solution.u.detach(), {"wall": 0.6}, of_x, of_u
    expected = kkt_gradient(Functions(problem.spec()), *point, duals=duals)
    assert sum(int((dual > 1e-6).sum()) for dual in duals.values()) > 1
    for slope, other in zip(found, (expected.x0, expected.parameters["wall"]), strict=True):
        other = torch.as_tensor(other).reshape(slope.shape)
        assert (slope - other).abs().max() < 5e-12 * other.abs().max()


def test_there_are_active_rows_and_held_controls():
    for make in STARTS:
        mpc, x0, values = case(make)
        solution = mpc(x0, **values)
        m = solution.u.shape[-1]
        assert (solution.row_duals[:, m:].abs() > 1e-2).any()
    assert (solution.row_duals[:, :m].abs() > 1e-2).any()


def test_the_multiplier_of_a_control_by_its_own_formula():
    """One step, one control at its bound: cost (x + u)² + u² has dL/du = 2 x + 4 u there."""
    problem = mpcgen.Problem("one_step_dual", horizon=1)
    (x,) = problem.states("x", upper=100)
    limit = problem.parameter("limit", default=1.0)
    (u,) = problem.controls("u", upper=limit, lower=-10)
    problem.dynamics = [x + u]
    problem.stage_cost = u**2
    problem.terminal_cost = x**2
    mpc = compiled(problem).MPC()
    x0 = torch.tensor([-5.0], dtype=torch.float64, requires_grad=True)
    bound = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    dual = mpc(x0, limit=bound).duals["u"]
    assert dual.shape == (1, 1)
    torch.testing.assert_close(dual, -(2 * x0 + 4 * bound).detach().reshape(1, 1), rtol=1e-6, atol=1e-6)
    slopes = torch.autograd.grad(dual.sum(), (x0, bound))
    torch.testing.assert_close(slopes[0], torch.tensor([-2.0], dtype=torch.float64), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(slopes[1], torch.tensor(-4.0, dtype=torch.float64), rtol=1e-7, atol=1e-7)
    _, forward = torch.func.jvp(
        lambda x0, bound: mpc(x0, limit=bound).duals["u"].sum(),
        (x0.detach(), bound.detach()),
        (torch.ones_like(x0), 2 * torch.ones_like(bound)),
    )
    torch.testing.assert_close(forward, torch.tensor(-10.0, dtype=torch.float64), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("linear, quadratic", [(0.4, 0.0), (0.0, 3.0), (0.2, 1.5)])
def test_the_multiplier_of_a_soft_row_by_its_own_formula(linear, quadratic):
    """A control that goes to ``aim`` exceeds a bound by e: its multiplier is linear + quadratic e."""
    problem = mpcgen.Problem("soft_step_dual", horizon=1)
    aim, limit, w1, w2 = problem.parameters("aim limit linear quadratic", default=[1, 0, 1, 0])
    x = problem.state("x")
    (u,) = problem.controls("u")
    problem.dynamics = [0 * x + u]
    problem.stage_cost = (u - aim) ** 2 / 2
    problem.terminal_cost = 0
    problem.constraint("below", x, upper=limit, soft=w1, soft_quadratic=w2)
    mpc, x0 = compiled(problem).MPC(), torch.zeros(1, dtype=torch.float64)
    given = [torch.tensor(value, dtype=torch.float64) for value in (1.0, 0.0, linear, quadratic)]

    def dual(aim, limit, w1, w2):
        return mpc(x0, aim=aim, limit=limit, linear=w1, quadratic=w2).duals["below"].sum()

    def formula(aim, limit, w1, w2):
        excess = (aim - limit - w1) / (1 + w2)
        return w1 + w2 * excess

    torch.testing.assert_close(dual(*given), formula(*given), rtol=1e-6, atol=1e-6)
    everything = (0, 1, 2, 3)
    expected = torch.func.grad(formula, argnums=everything)(*given)
    for mode in (torch.func.grad, torch.func.jacfwd):
        found = mode(dual, argnums=everything)(*given)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_parameter_that_the_batch_shares_has_the_sum():
    mpc, x0, values = case(problems.safe_cartpole)
    starts = x0 + 0.01 * torch.arange(3, dtype=torch.float64)[:, None]
    wall = values["wall"].requires_grad_()
    (shared,) = torch.autograd.grad(weighted(mpc(starts, wall=wall)).sum(), wall)
    own = wall.detach().expand(3).clone().requires_grad_()
    (each,) = torch.autograd.grad(weighted(mpc(starts, wall=own)).sum(), own)
    torch.testing.assert_close(shared, each.sum(), rtol=1e-9, atol=0)


def test_transforms_and_compilers():
    mpc, x0, values = case(problems.safe_cartpole)
    walls = values["wall"] + 0.01 * torch.arange(3, dtype=torch.float64)

    def loss(wall):
        return weighted(mpc(x0, wall=wall))

    leaf = walls.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    reverse = torch.func.vmap(torch.func.grad(loss))(walls)
    forward = torch.func.vmap(torch.func.jacfwd(loss))(walls)
    torch.testing.assert_close(reverse, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(forward, expected, rtol=1e-5, atol=1e-5)
    leaf = walls.clone().requires_grad_()
    torch.compile(loss, fullgraph=True)(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-8, atol=1e-8)


def test_problems_without_a_solution_have_none():
    mpc, x0, values = case(problems.double_integrator, on_unconverged="ignore")
    bad = torch.tensor(problems.INFEASIBLE_START, dtype=torch.float64)
    starts = torch.stack([x0, bad]).requires_grad_()
    (both,) = torch.autograd.grad(weighted(mpc(starts, **values)).sum(), starts)
    alone = x0[None].clone().requires_grad_()
    (one,) = torch.autograd.grad(weighted(mpc(alone.expand(2, -1), **values))[0], alone)
    assert torch.equal(both[1], torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(both[0], one[0], rtol=1e-9, atol=1e-9)


def test_smoothed_multipliers_have_smooth_gradients():
    mpc, x0, values = case(problems.safe_cartpole, smoothing=1e-3)
    wall = values["wall"]
    leaf = wall.clone().requires_grad_()
    (reverse,) = torch.autograd.grad(weighted(mpc(x0, wall=leaf)), leaf)
    forward = torch.func.jacfwd(lambda wall: weighted(mpc(x0, wall=wall)))(wall)
    torch.testing.assert_close(forward, reverse, rtol=1e-6, atol=1e-6)
    (sharp,) = torch.autograd.grad(weighted(case(problems.safe_cartpole)[0](x0, wall=leaf)), leaf)
    assert not torch.isclose(reverse, sharp, rtol=1e-3)
