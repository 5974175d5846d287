"""How problems end: each status, its gradient, and what is said about it."""

import functools
import math
import re
from types import ModuleType

import pytest
import sympy as sp
import torch
from controllers import KERNELS, Example, compiled, scalar_problem

import mpcgen
from mpcgen.calls.reporting import Deferred
from mpcgen.errors import UnconvergedError
from mpcgen.runtime.status import UnconvergedWarning

Status = mpcgen.Status


@pytest.fixture(scope="module")
def scalar() -> Example:
    return scalar_problem()


def start(*values: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """(len(values), 1) initial states of the scalar problem."""
    return torch.tensor(values, dtype=dtype)[:, None]


def test_too_few_passes_are_reported(cartpole):
    solution = cartpole.mpc(max_iterations=2, on_unconverged="ignore")(cartpole.starts(64, 0))
    late = solution.status == Status.MAX_ITERATIONS
    assert late.sum() >= 32
    assert (solution.residual[late] > 1e-8).all()
    assert (solution.iterations[late] == 2).all()
    assert solution.x.isfinite().all()


def test_a_tolerance_beyond_the_precision_ends_at_the_solution_with_the_residual_that_it_has(car):
    x0 = car.starts(32, 0)
    solution = car.mpc(tol=1e-300, on_unconverged="ignore")(x0)
    assert (solution.status == Status.CONVERGED).all()
    assert (solution.residual > 1e-300).all()
    assert (solution.residual < 1e-10).all()
    torch.testing.assert_close(solution.u, car.mpc(tol=1e-10)(x0).u, rtol=0, atol=1e-8)


def test_a_rollout_that_overflows_has_diverged(scalar):
    solution = scalar.mpc(on_unconverged="ignore")(start(0.1, 30.0, -30.0), growth=1.0)
    assert solution.status.tolist() == [Status.CONVERGED, Status.DIVERGED, Status.DIVERGED]
    for part in (solution.u, solution.cost, solution.residual):
        assert part[1:].isnan().all()


def test_a_rollout_that_overflows_leaves_the_states_before_and_names_the_first_that_is_not_finite(scalar):
    x, expected = 30.0, []
    while x < 1e308:
        expected.append(x)
        x = x + x * x * x
    with pytest.warns(
        UnconvergedWarning, match=f"of problem 1: state x is not finite at stage {len(expected)}"
    ):
        solution = scalar.module.MPC()(start(0.1, 30.0), growth=1.0)
    torch.testing.assert_close(solution.x[1, : len(expected), 0].tolist(), expected)
    assert solution.x[1, len(expected) :].isnan().all()
    report = str(mpcgen.diagnose(solution))
    assert f" iterations: state x is not finite at stage {len(expected)}" in report


@functools.cache
def tank() -> ModuleType:
    """An outflow of leak sqrt(level), which has no derivative where the tank is empty; the pump gives up to `power`."""
    problem = mpcgen.Problem("tank", horizon=8)
    (level,) = problem.states("level")
    power, leak = problem.parameters("power leak", default=[1.0, 0.5])
    (inflow,) = problem.controls("inflow", lower=0, upper=power)
    problem.dynamics = [level + sp.Rational(1, 10) * (inflow - leak * sp.sqrt(level))]
    problem.stage_cost = (level - 1) ** 2 + inflow**2 / 10
    problem.terminal_cost = (level - 1) ** 2
    return compiled(problem)


HALF = torch.full((8, 1), 0.5, dtype=torch.float64)


@pytest.mark.parametrize("hessian", ["exact", "gauss_newton"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_model_that_is_singular_at_x0_only_is_solved(batch, hessian):
    mpc = tank().MPC(hessian=hessian, on_unconverged="raise")
    empty, nearly = mpc(start(*[0.0] * batch), u_init=HALF), mpc(start(*[1e-16] * batch), u_init=HALF)
    torch.testing.assert_close(empty.u, nearly.u, rtol=0, atol=1e-7)  # ten times sqrt(1e-16)
    assert ((empty.u > 0.1) & (empty.u < 0.9)).any() and empty.x.isfinite().all()
    assert empty.costates[:, 1:].isfinite().all() and empty.gains[:, 1:].isfinite().all()
    assert empty.costates[:, 0].isinf().all()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_a_gradient_that_a_singular_x0_leaves_undefined_is_reported_and_spoils_no_other():
    leak = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    with pytest.warns(
        UnconvergedWarning, match="1 of 2 solutions are not differentiable.*is not finite there"
    ):
        tank().MPC()(start(0.0, 0.3), u_init=HALF, leak=leak).u.sum().backward()
    alone = leak.detach().clone().requires_grad_()
    tank().MPC(on_unconverged="raise")(start(0.3), u_init=HALF, leak=alone).u.sum().backward()
    torch.testing.assert_close(leak.grad, alone.grad, rtol=1e-6, atol=0)
    with pytest.warns(UnconvergedWarning, match="1 of 2"):
        mpc, value = tank().MPC(), leak.detach()
        _, u = torch.func.jvp(
            lambda k: mpc(start(0.0, 0.3), u_init=HALF, leak=k).u, (value,), (torch.ones_like(value),)
        )
    assert (u[0] == 0).all() and (u[1] != 0).any()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_singularity_behind_x0_names_stage_and_state_of_the_derivative(batch):
    message = "substeps.*derivative of the cost-to-go by state level is not finite at stage 7"
    with pytest.raises(UnconvergedError, match=message):  # it stays empty
        tank().MPC(on_unconverged="raise")(start(*[0.0] * batch), power=0.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_certified_solution_has_the_residual_that_met_tol(nonlinear, dtype):
    # The gradient by Gauss-Newton asks for no certificate; that sweep computes the residual with other roundings.
    x0 = nonlinear.starts(256, 1).to(dtype)
    certified = nonlinear.mpc(hessian="gauss_newton", on_unconverged="ignore")(x0)
    plain = nonlinear.mpc(hessian="gauss_newton", gradient="gauss_newton", on_unconverged="ignore")(x0)
    solved = certified.status == Status.CONVERGED
    assert solved.sum() > 128
    assert torch.equal(certified.residual[solved], plain.residual[solved])


@pytest.mark.parametrize("hessian", ["exact", "gauss_newton"])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_what_has_converged_has_a_residual_of_at_most_tol(nonlinear, hessian, dtype, tol):
    mpc = nonlinear.mpc(hessian=hessian, tol=tol, on_unconverged="ignore", history=True)
    solution = mpc(nonlinear.starts(64, 3).to(dtype))
    solved = solution.status == Status.CONVERGED
    assert solved.sum() > 16
    assert (solution.residual[solved] <= tol).all()
    last = solution.history.residual.gather(1, solution.iterations[:, None].long())[:, 0]
    assert torch.equal(last[solved], solution.residual[solved])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_saddle_is_not_a_minimum(scalar, dtype):
    # By symmetry x = u = v = 0 is stationary; the double well's curvature is negative there.
    given = {"well": 5.0, "pull": 0.0, "v_max": 3.0}
    x0 = start(0.0, dtype=dtype).requires_grad_()
    solution = scalar.mpc(on_unconverged="ignore")(x0, **given)
    assert solution.status == Status.NOT_A_MINIMUM
    assert solution.residual <= (1e-8 if dtype == torch.float64 else 1e-4)
    solution.u.sum().backward()
    assert (x0.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_saddle_among_constraints_is_not_a_minimum(dtype):
    """Of a double well from its middle; rounding of the rows' weights, which are large, hides no such curvature."""
    problem = mpcgen.Problem("ridge", horizon=3)
    x = problem.state("x", lower=-5, upper=5)
    u = problem.control("u", lower=-2, upper=2)
    problem.dynamics = [x + u]
    problem.stage_cost = u**4 - u**2
    problem.terminal_cost = x**2 / 100
    mpc = compiled(problem, (torch.float64, torch.float32)).MPC(on_unconverged="ignore")
    sol = mpc(torch.zeros(2, 1, dtype=dtype))
    assert (sol.status == Status.NOT_A_MINIMUM).all()
    assert (sol.u == 0).all()
    assert (
        mpc(torch.zeros(1, 1, dtype=dtype), u_init=torch.full((1, 3, 1), 0.1, dtype=dtype)).converged
    ).all()


def test_minima_whose_curvature_is_rounding_in_float32_are_no_saddles():
    """Convex problems; in float32 rounding of the weights that equations have is more than their curvature."""
    problem = mpcgen.Problem("flat", horizon=20)
    x, v, fuel = problem.states("x v fuel")
    u, w = problem.controls("u w", lower=-1, upper=1)
    problem.dynamics = [x + v / 2, v + (u + w) / 2, fuel + u**2 / 1000 + w]
    problem.stage_cost = (u**2 + w**2) / 1000
    problem.terminal_cost = 100 * (fuel + 10)
    problem.terminal_constraint("rest", [x, v], equals=[0, 0])
    place = 4 * torch.rand(512, 2, generator=torch.Generator().manual_seed(0)) - 2
    x0 = torch.cat([place * torch.tensor([3.0, 1.0]), torch.zeros(512, 1)], 1)
    sol = compiled(problem, torch.float32).MPC(on_unconverged="ignore")(x0)
    assert (sol.status == Status.CONVERGED).all()


@pytest.mark.parametrize("gradient", ["exact", "gauss_newton"])
@pytest.mark.parametrize("hessian", ["exact", "gauss_newton"])
@pytest.mark.parametrize("batch", [1, 9])
def test_a_saddle_of_a_linear_quadratic_problem_is_not_a_minimum(lqr, hessian, gradient, batch):
    """With linear dynamics both Hessians are one, and so are the statuses."""
    cost = torch.eye(6, dtype=torch.float64)
    cost[3, 3] = -1.0  # of the first control
    given = lqr.values(0) | {"C": cost, "c": [0.0] * 6, "f": [0.0] * 3}
    mpc = lqr.mpc(hessian=hessian, gradient=gradient, on_unconverged="ignore")
    solution = mpc(torch.zeros(batch, 3, dtype=torch.float64), **given)
    assert (solution.status == Status.NOT_A_MINIMUM).all()


@pytest.mark.parametrize("hessian", ["exact", "gauss_newton"])
def test_a_direction_of_zero_curvature_is_not_a_strict_minimum(scalar, hessian):
    # the cost sees u + v alone
    mpc = scalar.mpc(hessian=hessian, on_unconverged="ignore")
    solution = mpc(start(0.3, -0.3), weight=0.0, sum_weight=1.0)
    assert (solution.status == Status.NOT_A_MINIMUM).all()
    assert (solution.residual <= 1e-8).all()


def test_a_solution_without_a_gradient_says_so_in_the_backward_pass(scalar):
    # Neither half asks for the exact Hessian, so nothing certifies the solution; the backward sweep finds out.
    module = scalar.module.MPC(hessian="gauss_newton", gradient="gauss_newton")
    x0 = start(0.3, 0.2).requires_grad_()
    solution = module(x0, weight=0.0, sum_weight=1.0)
    assert (solution.status == Status.CONVERGED).all()
    with pytest.warns(UnconvergedWarning, match="2 of 2 solutions are not differentiable"):
        solution.u.sum().backward()
    assert (x0.grad == 0).all()


def test_controls_of_two_stages_that_undo_each_other_at_no_cost_have_no_gradient(lqr):
    """The end alone costs, so that rounding decides whether the first control seems to be determined."""
    count, options = 64, {"generator": torch.Generator().manual_seed(0), "dtype": torch.float64}
    steps = torch.zeros(count, 2, 3, 6, dtype=torch.float64)
    steps[..., 0, 0] = 1 + 0.3 * torch.randn(count, 2, **options)
    steps[..., 0, 3] = torch.randn(count, 2, **options)
    costs = torch.zeros(3, 6, 6, dtype=torch.float64)
    costs[2, 0, 0] = 1 / 3
    costs[:2, 4, 4] = costs[:2, 5, 5] = 1  # of controls that nothing else sees
    x0 = torch.randn(count, 3, **options).requires_grad_()
    given = {"C": costs, "c": [0.0] * 6, "F": steps, "f": [0.0] * 3}
    with pytest.warns(UnconvergedWarning, match="NOT_A_MINIMUM"):
        solution = lqr.module.MPC()(x0, horizon=2, **given)
    assert solution.converged.sum() > count / 8
    with pytest.warns(UnconvergedWarning, match="solutions are not differentiable"):
        solution.u.square().sum().backward()
    assert (x0.grad == 0).all()


def test_a_small_price_of_what_undoes_a_state_is_a_price_in_float32(lqr):
    """The end costs 1e6 times what controls do, which rounding leaves 8 units of: both controls go half of the way."""
    steps, costs = torch.zeros(2, 3, 6), torch.zeros(3, 6, 6)
    steps[:, 0, 0] = steps[:, 0, 3] = 1
    costs[2, 0, 0] = 1e3
    costs[:2, 3, 3], costs[:2, 4, 4], costs[:2, 5, 5] = 1e-3, 1, 1
    x0 = torch.tensor([[0.3, 0, 0], [-0.7, 0, 0]], requires_grad=True)
    solution = lqr.module.MPC()(x0, horizon=2, C=costs, c=[0.0] * 6, F=steps, f=[0.0] * 3)
    solution.u[:, 0, 0].sum().backward()
    torch.testing.assert_close(x0.grad[:, 0], torch.full((2,), -0.5), rtol=0.02, atol=0)


@pytest.mark.parametrize("plant", ["model", "generated", "function"])
@pytest.mark.parametrize("recorded", [False, True])
def test_so_does_a_closed_loop_whichever_way_it_is_run(scalar, plant, recorded):
    module = scalar.module.MPC(hessian="gauss_newton", gradient="gauss_newton")
    x0 = start(0.3, 0.2).requires_grad_()
    weight = torch.zeros(2, dtype=torch.float64)
    weight[1] = 1.0  # that problem has a strict minimum, and a gradient
    pull = torch.ones((), dtype=torch.float64).requires_grad_(recorded)
    plants = {"model": None, "generated": module, "function": lambda x, u: x + u.sum(-1, keepdim=True)}
    loop = module.closed_loop(x0, 2, plant=plants[plant], weight=weight, sum_weight=1.0, pull=pull)
    assert (loop.status == Status.CONVERGED).all()
    with pytest.warns(UnconvergedWarning, match=r"\d of \d solutions are not differentiable") as said:
        loop.u.sum().backward()
    counts = {str(warning.message).partition("solutions")[0] for warning in said}
    by_steps = plant == "function" or KERNELS != "cpu"
    assert counts == ({"scalar_problem: 1 of 2 "} if by_steps else {"scalar_problem: 2 of 4 "})
    ignoring = scalar.module.MPC(hessian="gauss_newton", gradient="gauss_newton", on_unconverged="ignore")
    again = ignoring.closed_loop(x0, 2, plant=plants[plant], weight=weight, sum_weight=1.0, pull=pull)
    again.u.sum().backward()  # where a warning would be an error


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["x0", "u_init", "pull", "target"])
def test_a_number_that_is_not_finite_is_invalid_input_of_its_problem_alone(scalar, name, value):
    given = {
        "x0": start(0.1, 0.2, 0.3),
        "u_init": torch.zeros(3, 12, 3, dtype=torch.float64),
        "pull": torch.ones(3, dtype=torch.float64),
        "target": torch.zeros(3, 13, dtype=torch.float64),
    }
    clean = scalar.mpc()(**given)
    given[name] = given[name].clone()
    given[name][1].view(-1)[-1] = value
    solution = scalar.mpc(on_unconverged="ignore")(**given)
    assert solution.status.tolist() == [Status.CONVERGED, Status.INVALID_INPUT, Status.CONVERGED]
    for part, reference in zip(vars(solution).values(), vars(clean).values(), strict=True):
        assert torch.equal(part[::2], reference[::2])
        assert not part.is_floating_point() or part[1].isnan().all()


@pytest.mark.parametrize(
    ("lower", "upper"),
    [(0.5, -0.5), (float("nan"), 1.0), (-1.0, float("nan")), (float("inf"),) * 2, (-float("inf"),) * 2],
)
def test_bounds_that_leave_no_control_are_invalid_input(lqr, lower, upper):
    given = lqr.values(0)
    solution = lqr.mpc(on_unconverged="ignore")(
        lqr.starts(2, 0), **given, lower=[lower] * 3, upper=[upper] * 3
    )
    assert (solution.status == Status.INVALID_INPUT).all()


@pytest.mark.parametrize(
    ("name", "place", "value", "said"),
    [
        ("x0", (1, 0), "nan", "the state x of x0 is nan"),
        ("u_init", (1, 7, 2), "inf", "u_init[7, 2] is inf"),
        ("pull", (1,), "nan", "the parameter pull is nan"),
        ("target", (1, 5), "-inf", "the parameter target at stage 5 is -inf"),
    ],
)
def test_what_is_invalid_is_named_with_its_problem(scalar, name, place, value, said):
    given = {
        "x0": start(0.1, 0.2, 0.3),
        "u_init": torch.zeros(3, 12, 3, dtype=torch.float64),
        "pull": torch.ones(3, dtype=torch.float64),
        "target": torch.zeros(3, 13, dtype=torch.float64),
    }
    given[name][place] = float(value)
    for options in ({}, {"restarts": 1})[: 1 if name == "u_init" else 2]:  # other starts do without u_init
        with pytest.raises(UnconvergedError) as found:
            scalar.mpc(**options)(**given)
        assert f"First to be invalid of problem 1: {said}." in str(found.value)
    outcome = mpcgen.diagnose(found.value.solution).worst[0]
    seen = "parameter" in said
    assert outcome.failure == (said if seen else "x0, or what the solver began with, is not finite")


def test_bounds_that_cross_are_named_with_their_stage(lqr):
    given = lqr.values(0)
    upper = torch.ones(2, 5, 3, dtype=torch.float64)
    upper[1, 4, 2] = -2
    with pytest.raises(UnconvergedError, match=r"of problem 1: the bounds of u_2 at stage 4 are -1 and -2\."):
        lqr.mpc()(lqr.starts(2, 0), **given, lower=[-1.0] * 3, upper=upper)


def test_nothing_but_bounds_may_be_infinite(lqr):
    given = lqr.values(0)
    free = lqr.mpc()(lqr.starts(2, 0), **given)
    infinite = lqr.mpc()(lqr.starts(2, 0), **given, lower=[-torch.inf] * 3, upper=[torch.inf] * 3)
    assert torch.equal(free.u, infinite.u)
    given["c"][2, 1] = torch.inf
    broken = lqr.mpc(on_unconverged="ignore")(lqr.starts(2, 0), **given)
    assert (broken.status == Status.INVALID_INPUT).all()


def test_a_single_problem_ends_as_it_does_in_a_batch(scalar):
    mpc = scalar.mpc(on_unconverged="ignore")
    for value, given in (
        (30.0, {"growth": 1.0}),
        (float("nan"), {}),
        (0.2, {"weight": 0.0, "sum_weight": 1.0}),
    ):
        assert mpc(start(value), **given).status[0] == mpc(start(value, value), **given).status[1] != 0


def test_the_warning_counts_explains_and_points_at_the_call(scalar):
    mpc = scalar.module.MPC()
    with pytest.warns(UnconvergedWarning, match=r"2 of 3 problems.*1 INVALID_INPUT.*1 DIVERGED") as record:
        mpc(start(float("nan"), 0.1, 30.0), growth=1.0)
    assert record[0].filename == __file__
    assert Status.DIVERGED.advice in str(record[0].message)


def test_unconverged_problems_raise_where_asked(scalar):
    with pytest.raises(UnconvergedError, match=r"1 of 1 problems.*DIVERGED"):
        scalar.module.MPC(on_unconverged="raise")(start(30.0), growth=1.0)


def test_the_error_carries_what_was_found(scalar):
    x0 = start(0.1, 30.0, -0.4).requires_grad_()
    growth = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    quiet = scalar.mpc(on_unconverged="ignore")(x0, growth=growth)
    for given in (x0, x0.detach(), x0[None], x0.detach()[:, None].expand(3, 2, 1)[:, 0]):
        with pytest.raises(UnconvergedError) as found:
            scalar.mpc()(given, growth=growth)
        solution = found.value.solution
        assert solution.status.shape == given.shape[:-1] and not solution.u.requires_grad
        assert torch.equal(solution.status.flatten(), quiet.status)
        assert torch.equal(solution.u.view_as(quiet.u)[::2], quiet.u[::2])
        assert torch.equal(solution.active.view_as(quiet.active), quiet.active)


def test_the_error_of_a_closed_loop_carries_its_steps(scalar):
    x0 = start(0.1, 30.0).requires_grad_()
    with pytest.raises(UnconvergedError) as found:
        scalar.mpc().closed_loop(x0, steps=2, growth=1.0)
    loop = found.value.solution
    assert loop.x.shape == (2, 3, 1) and not loop.x.requires_grad
    assert loop.status[0].tolist() == [Status.CONVERGED] * 2 and loop.status[1, 0] == Status.DIVERGED


def test_a_solution_is_shown_in_a_line(scalar):
    solution = scalar.mpc(on_unconverged="ignore")(start(0.1, math.nan))
    assert re.fullmatch(
        r"<Solution of scalar_problem: 2 problems, N = 12, float64; 1 CONVERGED, 1 INVALID_INPUT; at most \d+ "
        r"iterations, residual \d\.\de[+-]\d+>",
        repr(solution),
    )
    nothing = scalar.mpc(on_unconverged="ignore")(start(math.nan))
    assert repr(nothing).endswith(
        "1 problem, N = 12, float64; 1 INVALID_INPUT; at most 0 iterations, residual nan>"
    )
    assert repr(scalar.mpc()(start())).startswith("<Solution with x: (0, 13, 1), u: (0, 12, 3),")
    seen = []
    torch.func.vmap(lambda x: seen.append(repr(scalar.mpc()(x))) or x)(start(0.1, 0.2))
    assert seen[0].startswith("<Solution with x: (13, 1), u: (12, 3), cost: ()")


def test_every_status_has_a_meaning_and_an_advice():
    for status in Status:
        assert status.meaning
        assert status.advice
    assert Status(0) is Status.CONVERGED


def test_warnings_about_a_devices_problems_come_once_they_are_solved_and_none_is_lost():
    there, said = set(), []

    def copy(flags):
        return lambda: id(flags) in there, flags

    def report(name, flags, how):
        said.append(flags)
        if raising:
            raise UnconvergedWarning("as where warnings are errors")

    raising, deferred = False, Deferred("p", copy)
    first, second, third = (torch.ones(n) for n in (1, 2, 3))
    deferred.note(first, report)
    assert said == []
    there |= {id(first), id(second)}
    raising = True
    with pytest.raises(UnconvergedWarning):
        deferred.note(second, report)
    raising = False
    deferred.note(third, report)
    assert [len(flags) for flags in said] == [1, 2]
