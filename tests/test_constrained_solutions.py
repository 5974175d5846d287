"""Problems with constraints, solved and differentiated: known optima, multipliers, gradients against differences."""

import functools

import pytest
import sympy as sp
import torch

import mpcgen
from examples.bench import gallery_robots as robots
from mpcgen import Status
from mpcgen.baseline import Baseline
from tests import constrained_gradients
from tests import constrained_problems as problems
from tests.controllers import compiled

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
SOLVED = (
    problems.beam,
    problems.van_der_pol,
    problems.safe_cartpole,
    problems.double_integrator,
)
DIFFERENTIATED = (problems.van_der_pol, problems.safe_cartpole, problems.beam)


@functools.cache
def module(make, dtype="float64"):
    return compiled(make(), (dtype,))


def start(make):
    return torch.tensor(problems.STARTS[make], dtype=torch.float64)


def given(make):
    horizon = make().spec().horizon
    return {k: torch.tensor(v) for k, v in problems.parameters_of(make, horizon).items()}


@functools.cache
def solved(make):
    controller = module(make)
    horizon, m = controller.CONTROLLER.horizon, len(controller.CONTROLLER.controls)
    generator = torch.Generator().manual_seed(0)
    u_init = torch.rand(8, horizon, m, generator=generator, dtype=torch.float64) - 0.5
    u_init[0] = 0
    mpc = controller.MPC(max_iterations=500, on_unconverged="ignore")
    return mpc(start(make).expand(8, -1), u_init=u_init, **given(make))


@pytest.mark.parametrize("make", SOLVED, ids=lambda make: make.__name__)
def test_it_finds_the_known_optimum_from_any_start(make):
    sol = solved(make)
    assert (sol.status == Status.CONVERGED).all()
    best = torch.tensor(problems.OPTIMA[make], dtype=torch.float64).expand(8)
    torch.testing.assert_close(sol.cost, best, rtol=1e-7, atol=1e-9)
    assert sol.violation.max() <= 1e-8


@pytest.mark.parametrize("make", [problems.double_integrator, problems.beam], ids=lambda make: make.__name__)
def test_linear_quadratic_ones_take_no_more_iterations_than_ipopt(make):
    generator = torch.Generator().manual_seed(1)
    controller = module(make)
    u_init = torch.rand(4, controller.CONTROLLER.horizon, 1, generator=generator, dtype=torch.float64) - 0.5
    baseline = Baseline(make().spec(), tol=1e-8)
    theirs = [baseline.solve(problems.STARTS[make], given(make), u.numpy()).iterations for u in u_init]
    sol = controller.MPC(tol=1e-8)(start(make).expand(4, -1), u_init=u_init, **given(make))
    assert sol.converged.all()
    assert sol.iterations.double().mean() <= sum(theirs) / len(theirs)


def test_a_state_that_only_accumulates_cost_does_so_of_every_iterate():
    # whatever gaps the other states have: so the cost of an iterate is that of its states and controls
    make = problems.van_der_pol
    sol = module(make).MPC(on_unconverged="ignore", max_iterations=3)(start(make))
    gap = sol.x[1:] - module(make).MPC().step(sol.x[:-1], sol.u).x
    assert gap[:, :2].abs().max() > 1e-3
    assert gap[:, 2].abs().max() < 1e-13


def test_what_such_a_state_begins_with_changes_neither_controls_nor_their_gradients():
    make = problems.van_der_pol
    x0 = start(make).repeat(5, 1)
    x0[:, 2] = torch.tensor([0.0, 1e3, -1e4, 1e6, 1e9])
    floor = torch.full((5,), -0.4, dtype=torch.float64, requires_grad=True)
    sol = module(make).MPC(on_unconverged="raise")(x0, floor_x1=floor)
    (slope,) = torch.autograd.grad((sol.u * torch.linspace(1, 2, 50)[:, None]).sum(), floor)
    torch.testing.assert_close(sol.u, sol.u[:1].expand_as(sol.u), rtol=0, atol=1e-6)
    torch.testing.assert_close(slope, slope[:1].expand(5), rtol=1e-5, atol=0)
    assert sol.iterations.max() <= sol.iterations[0] + 3


def test_a_quadratic_cost_that_is_not_convex_has_its_minimum_on_the_rows():
    problem = mpcgen.Problem("hill", horizon=8)
    x = problem.state("x", lower=-1, upper=2)
    u = problem.control("u", lower=-0.5, upper=0.5)
    problem.dynamics = [x + u]
    problem.stage_cost = -(x**2) + u**2 / 10
    problem.terminal_cost = -(x**2)
    sol = compiled(problem).MPC(on_unconverged="ignore")(torch.tensor([[0.4], [-0.4]], dtype=torch.float64))
    assert (sol.status == Status.CONVERGED).all()
    torch.testing.assert_close(sol.x[:, -1, 0], torch.tensor([2.0, -1.0], dtype=torch.float64))


def test_linear_quadratic_ones_that_no_controls_make_feasible_are_all_reported():
    # where corrected steps lead astray, an attempt without them decides; of those that are solved, it takes none
    generator = torch.Generator().manual_seed(0)
    x0 = 4 * torch.randn(512, 8, generator=generator, dtype=torch.float64)
    sol = module(problems.linear_quadratic).MPC(on_unconverged="ignore")(x0)
    assert torch.equal(sol.status != Status.CONVERGED, sol.status == Status.INFEASIBLE)
    assert sol.violation[~sol.converged].min() > 1e-4
    assert sol.iterations[sol.converged].max() <= 20


def test_an_infeasible_problem_is_reported_with_its_violation():
    mpc = module(problems.double_integrator).MPC(on_unconverged="ignore")
    sol = mpc(torch.tensor(problems.INFEASIBLE_START, dtype=torch.float64).expand(3, -1))
    assert (sol.status == Status.INFEASIBLE).all()
    # the speed is -1.5, a stage takes at most 0.1 off, and -0.6 is allowed
    assert sol.violation.min() > 0.1


def test_multipliers_push_where_a_row_is_active_and_there_alone():
    sol = solved(problems.van_der_pol)
    duals, x1 = sol.duals["x1"], sol.x[:, 1:, 0]
    assert duals.shape == (8, 50, 1)
    active = x1 < -0.4 + 1e-5
    assert active.any()
    assert (duals[..., 0][active] < 0).double().mean() > 0.8
    assert duals[..., 0][~active].abs().max() < 1e-3
    with pytest.raises(KeyError, match="x1"):
        sol.duals["x7"]


def test_the_cost_of_a_bound_is_its_multiplier():
    floor = torch.tensor(-0.4, dtype=torch.float64, requires_grad=True)
    make = problems.van_der_pol
    sol = module(make).MPC(max_iterations=500)(start(make), floor_x1=floor)
    (slope,) = torch.autograd.grad(sol.cost, floor)
    torch.testing.assert_close(slope, -sol.duals["x1"].sum(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", DIFFERENTIATED, ids=lambda make: make.__name__)
def test_gradients_are_those_of_central_differences(make):
    spec = make().spec()
    mpc = module(make).MPC(max_iterations=500, tol=1e-9, on_unconverged="ignore")
    values = {p.name: torch.tensor(p.default, dtype=torch.float64).reshape(p.shape) for p in spec.parameters}
    generator = torch.Generator().manual_seed(1)

    def loss(x0, parameters):
        sol = mpc(x0, **parameters)
        weights = torch.randn(sol.u.shape[-2:], generator=generator.manual_seed(1), dtype=torch.float64)
        return (weights * sol.u).sum((-2, -1)) + sol.x[..., -1, :].sum(-1) + 0.3 * sol.cost

    for name, value in values.items():
        leaf = value.clone().requires_grad_(True)
        loss(start(make), {**values, name: leaf}).backward()
        h = 1e-5 * max(abs(float(value)), 0.1)
        steps = torch.stack([value + h, value - h])
        both = loss(start(make).expand(2, -1), {**values, name: steps})
        difference = (both[0] - both[1]) / (2 * h)
        torch.testing.assert_close(leaf.grad, difference, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    "make", [problems.double_integrator, problems.safe_cartpole], ids=lambda m: m.__name__
)
def test_float32_finds_the_optimum_of_float64(make):
    generator = torch.Generator().manual_seed(0)
    x0 = start(make) + 0.02 * torch.rand(24, len(start(make)), generator=generator, dtype=torch.float64)
    options = {"max_iterations": 500, "on_unconverged": "ignore"}
    exact = module(make).MPC(**options)(x0)
    rounded = module(make, "float32").MPC(**options)(x0.float())
    assert (rounded.status == Status.CONVERGED).all()
    # a tolerance of 1e-4 in units of a thousandth of the first trajectory's cost; rounding of constraints is some 1e-7
    torch.testing.assert_close(rounded.cost.double(), exact.cost, rtol=1e-3, atol=1e-3)
    assert rounded.violation.max() <= 1e-5


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_first_cost_next_to_nothing_is_no_unit_of_the_solution_s(dtype):
    # without a force the beam costs what x_0 has accumulated; rows' weights and restoration's were in units of that
    paid = torch.tensor([1e-5, 1e-3, 1.0], dtype=torch.float64)
    x0 = torch.stack([torch.zeros(3), torch.ones(3), paid], 1)
    sol = module(problems.beam, dtype).MPC()(x0.to(getattr(torch, dtype)))
    assert sol.converged.all()
    best = torch.tensor(problems.OPTIMA[problems.beam], dtype=torch.float64).expand(3)
    digits = 1e-7 if dtype == "float64" else 1e-5
    torch.testing.assert_close(sol.cost.double() - paid, best, rtol=digits, atol=0)
    assert sol.iterations.max() <= (20 if dtype == "float64" else 60)


def test_no_step_in_float32_leaves_so_little_of_a_multiplier_that_rounding_leaves_none():
    # a share beneath rounding left three of these with multipliers below zero, then NaN; CONVERGED, residual zero
    make = problems.double_integrator
    generator = torch.Generator().manual_seed(0)
    x0 = start(make) + 0.02 * torch.rand(20000, 2, generator=generator, dtype=torch.float64)
    sol = module(make, "float32").MPC()(x0.float())
    assert sol.converged.all()
    assert all(duals.isfinite().all() for duals in sol.duals.values())
    assert sol.violation.max() < 1e-6 and sol.residual.min() > 0


@pytest.mark.parametrize(("dtype", "far"), [("float32", 1e20), ("float64", 1e160)])
def test_a_bound_beyond_all_reach_is_none(dtype, far):
    mpc = module(problems.safe_cartpole, dtype).MPC(max_iterations=500, on_unconverged="raise")
    x0 = start(problems.safe_cartpole).to(getattr(torch, dtype))
    found, free = mpc(x0, wall=far), mpc(x0, wall=torch.inf)
    assert torch.equal(found.u, free.u) and torch.equal(found.iterations, free.iterations)
    assert (mpc(x0).u - free.u).abs().max() > 0.1  # the wall that there is does matter


def test_forward_mode_is_the_transpose_of_reverse_mode():
    make = problems.safe_cartpole
    mpc = module(make).MPC(max_iterations=500)
    wall = torch.tensor(0.8, dtype=torch.float64)

    def controls(value):
        return mpc(start(make), wall=value).u

    forward = torch.func.jacfwd(controls)(wall)
    reverse = torch.func.jacrev(controls)(wall)
    # rows weigh up to 1e10 in the sweep, which makes that much of rounding, 2e-16, beside the largest entry
    torch.testing.assert_close(forward, reverse, rtol=0, atol=1e-7 * float(reverse.abs().max()))


@pytest.mark.parametrize(
    ("make", "dtype", "spread"),
    [
        (problems.safe_cartpole, "float64", 0.2),
        (problems.safe_cartpole, "float32", 0.02),
        (
            problems.double_integrator,
            "float64",
            0.5,
        ),  # some have no feasible point, and leave corrected steps
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_lane_does_not_see_its_neighbours(make, dtype, spread):
    # in float32 rows are regularised less and less where steps shrink slowly for it, by passes of the lane's own
    mpc = module(make, dtype).MPC(max_iterations=500, on_unconverged="ignore")
    shape = (48, len(problems.STARTS[make]))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=getattr(torch, dtype))
    x0 = start(make).to(noise) + spread * noise
    together, reordered = mpc(x0), mpc(x0.flip(0))
    alone = [mpc(one.expand(2, -1)) for one in x0]
    for name in ("x", "u", "cost", "iterations", "residual", "row_duals", "row_violation"):
        value = getattr(together, name)
        assert torch.equal(value, getattr(reordered, name).flip(0)), name
        assert torch.equal(value, torch.stack([getattr(solution, name)[0] for solution in alone])), name


def test_nor_does_its_gradient():
    # which is refined once, or twice where that changed it by much
    make = problems.safe_cartpole
    mpc = module(make).MPC(max_iterations=500, on_unconverged="ignore")
    x0 = start(make) + 0.2 * torch.randn(
        24, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )

    def gradient(x0):
        x0 = x0.requires_grad_()
        u = mpc(x0).u
        return torch.autograd.grad((u * torch.cos(torch.arange(u.shape[1]))[:, None]).sum(), x0)[0]

    together, reordered = gradient(x0.clone()), gradient(x0.flip(0).clone())
    assert torch.equal(together, reordered.flip(0))


def test_box_ddp_is_refused_for_them():
    with pytest.raises(mpcgen.ParameterError, match="interior_point"):
        module(problems.double_integrator).MPC(method="ddp")


def test_equations_that_read_controls_are_solved_in_float32_and_have_gradients():
    """Beside the weight of such a row the controls' Hessian has to keep its digits."""
    problem = mpcgen.Problem("tied", horizon=20)
    x, v = problem.states("x v")
    a, b = problem.controls("a b", lower=-2, upper=2)
    problem.dynamics = mpcgen.rk4(problem, [v, a - b + sp.sin(x)], dt=0.1)
    problem.stage_cost = x**2 + v**2 / 10 + a**2 / 100 + b**2 / 50
    problem.terminal_cost = 10 * x**2 + v**2
    problem.constraint("tie", a + 2 * b - b**3 / 5 - v / 10, equals=0.3)
    mpc = compiled(problem, ("float64", "float32")).MPC()
    x0 = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2
    found = []
    for dtype in (torch.float64, torch.float32):
        start = x0.to(dtype).requires_grad_()
        solution = mpc(start)
        assert solution.converged.all() and solution.violation.max() < 1e-4  # the tolerance of float32
        (gradient,) = torch.autograd.grad(solution.u[..., 0].sum() + solution.x[:, 5].sum(), start)
        found.append((solution.u.detach().double(), gradient.double()))
    (u, gradient), (u32, gradient32) = found
    torch.testing.assert_close(u32, u, rtol=0, atol=1e-2)
    errors = (gradient32 - gradient).abs() / gradient.abs().amax(-1, keepdim=True)
    assert errors.median() < 1e-4 and (errors < 1e-3).double().mean() > 0.9


def test_redundant_controls_beside_an_active_limit_are_solved_in_float32_and_have_gradients():
    """Two tugs tow with one force; at the limit of speed rounding of its row's weight exceeds what tells them apart."""
    problem = mpcgen.Problem("tugs", horizon=10)
    x, v = problem.states("x v", upper=[sp.oo, 1.0])
    a, b = problem.controls("a b", lower=-20, upper=20)
    problem.dynamics = [x + 0.1 * v, v + 0.1 * (a + b)]
    problem.stage_cost = 50 * (x - 10) ** 2 + sp.Float("1e-3") * (a**2 + b**2)
    problem.terminal_cost = 50 * (x - 10) ** 2
    mpc = compiled(problem, ("float64", "float32")).MPC()
    x0 = torch.rand(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients = []
    for dtype in (torch.float64, torch.float32):
        start = x0.to(dtype).requires_grad_()
        solution = mpc(start)
        assert solution.converged.all() and solution.violation.max() < 1e-6
        (gradient,) = torch.autograd.grad(solution.u[:, 0].square().sum(), start)
        gradients.append(gradient.double())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-3)  # of up to 40


def test_a_tolerance_beyond_rounding_ends_where_rounding_does():
    """An estimator of a falling body: what closing gaps of rounding is worth exceeds the rounding of the cost."""
    horizon = 20
    problem = mpcgen.Problem("falling_body", horizon=horizon)
    height, speed, drag = problem.states("height speed drag", lower=[0, -sp.oo, -sp.oo])  # km, km/s
    noise = problem.controls("height_noise speed_noise drag_noise")
    measured = problem.parameter("measured", default=0.0, per_stage=True)  # km, from a radar 30 km away
    slowing = sp.exp(-height / 7) * speed**2 * drag / 2
    problem.dynamics = [height - speed + noise[0], speed - slowing + noise[1], drag + noise[2]]
    miss = 200 * (sp.sqrt(900 + (height - 30) ** 2) - measured) ** 2
    problem.stage_cost = miss + 5000 * sum(w**2 for w in noise)
    problem.terminal_cost = miss
    controller = compiled(problem)
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([1.0, 0.1, 0.1], dtype=torch.float64)
    prior = torch.tensor([90.0, 6.0, 1.0], dtype=torch.float64).expand(64, 3)
    path = [prior + spread * torch.randn(64, 3, generator=generator, dtype=torch.float64)]
    for _ in range(horizon):
        path.append(
            controller.MPC().dynamics(path[-1], torch.zeros(64, 3, dtype=torch.float64), measured=0.0)
        )
    ranges = torch.sqrt(900 + (torch.stack(path, 1)[..., 0] - 30) ** 2)
    seen = ranges + 0.05 * torch.randn(ranges.shape, generator=generator, dtype=torch.float64)
    loose, tight = (controller.MPC(tol=tol)(prior, measured=seen) for tol in (1e-8, 1e-12))
    assert tight.converged.all() and tight.iterations.max() < 40
    assert tight.residual.max() < 1e-10
    torch.testing.assert_close(tight.x, loose.x, rtol=1e-7, atol=1e-7)


def test_a_convex_problem_whose_controls_cost_little_is_no_saddle_in_float32():
    # the weights of friction cones and F'VF, up to 1e6 of the forces' weight, hide it in their rounding
    make = robots.trotting_legs
    parameters = robots.parameters_of(make, make().horizon).items()
    x0 = torch.tensor(robots.draw(make, 64, 0), dtype=torch.float32, requires_grad=True)
    mpc = compiled(make(), ("float32",)).MPC(max_iterations=500)
    sol = mpc(x0, **{name: torch.tensor(value, dtype=torch.float32) for name, value in parameters})
    assert sol.converged.all() and sol.violation.max() < 1e-3  # newtons
    (gradient,) = torch.autograd.grad(sol.x[:, -1].sum(), x0)
    assert (gradient != 0).any(1).all()  # those that are lost are zero


def test_gradients_in_float32_are_those_of_float64():
    # the barrier that the tolerance leaves would blur whether a bound holds that is nearly active
    make = constrained_gradients.problems.van_der_pol
    x0, values = constrained_gradients.instances(make, 64, 0)
    (sol, exact), (rounded, ours) = (
        constrained_gradients.gradients_of(make().spec(), dtype, x0, values, 0)
        for dtype in (torch.float64, torch.float32)
    )
    same = sol.converged & rounded.converged & (sol.margin > constrained_gradients.LEAST_MARGIN)
    assert same.sum() > 56
    for found, expected in zip(ours, exact, strict=True):
        errors = (found - expected).abs() / expected.abs().amax(1, keepdim=True)
        assert (errors[same] < constrained_gradients.FLOAT32).double().mean() > 0.98
