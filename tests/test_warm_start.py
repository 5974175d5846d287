"""Solves that start near a solution, or at states: how few iterations are left, and what becomes of a bad start."""

import functools
import importlib

import pytest
import torch

import mpcgen
from mpcgen import Status
from mpcgen.runtime.loading import DTYPES
from mpcgen.runtime.outputs import OUTPUTS
from tests import constrained_problems as problems
from tests.controllers import compiled, example

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
BATCH = 16


@functools.cache
def module(make):
    return compiled(make(), DTYPES if make is problems.linear_quadratic else ("float64",))


@functools.cache
def controller(make):
    return module(make).MPC(on_unconverged="ignore")


def start(make):
    return torch.tensor(problems.STARTS[make], dtype=torch.float64)


def disturbed(x0, count=BATCH, seed=0):
    """(count, n) initial states beside ``x0`` by 1 % of it, or of one where all of it is zero."""
    noise = torch.randn(count, x0.shape[-1], generator=torch.Generator().manual_seed(seed), dtype=x0.dtype)
    return x0 + 0.01 * noise * (x0.abs() if x0.any() else torch.ones_like(x0))


def same_bits(solution, other, without=("iterations",)):
    names = [row.name for row in OUTPUTS if row.name not in without]
    for name in names:
        torch.testing.assert_close(
            getattr(solution, name), getattr(other, name), rtol=0, atol=0, equal_nan=True, msg=name
        )


@pytest.mark.parametrize("make", [problems.safe_cartpole, problems.linear_quadratic])
def test_a_disturbed_problem_takes_a_handful_of_passes(make):
    mpc, x0 = controller(make), start(make)
    before, near = mpc(x0), disturbed(x0)
    cold, warm = mpc(near), mpc(near, warm_start=before, shift=0)
    assert (warm.status == Status.CONVERGED).all()
    assert warm.iterations.double().mean() <= 8
    assert cold.iterations.min() > warm.iterations.max()
    torch.testing.assert_close(warm.cost, cold.cost, rtol=1e-9, atol=0)
    torch.testing.assert_close(warm.u, cold.u, rtol=0, atol=1e-4)


def test_the_solution_of_a_distant_problem_costs_hardly_more_than_none():
    # corrected steps that slacks of another solution keep short are given up for a start without it
    mpc, generator = controller(problems.linear_quadratic), torch.Generator().manual_seed(0)
    before, x0 = (2 * torch.randn(64, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    cold, warm = mpc(x0), mpc(x0, warm_start=mpc(before), shift=0)
    solved = cold.converged
    assert solved.sum() > 50
    torch.testing.assert_close(warm.status, cold.status)
    assert warm.iterations[solved].double().mean() <= cold.iterations[solved].double().mean() + 3
    torch.testing.assert_close(warm.cost[solved], cold.cost[solved], rtol=1e-7, atol=0)


@pytest.mark.parametrize("make", [problems.safe_cartpole, problems.linear_quadratic])
def test_so_does_the_next_stage_of_a_control_loop(make):
    mpc = controller(make)
    before = mpc(start(make))
    after = mpc(disturbed(before.x[1]), warm_start=before)
    assert (after.status == Status.CONVERGED).all()
    assert after.iterations.double().mean() <= 8


@pytest.mark.parametrize(("make", "size"), [(problems.safe_cartpole, 0.0), (problems.linear_quadratic, 0.01)])
def test_a_control_loop_of_shifted_solutions(make, size):
    # without disturbances where they would throw the cart against a wall that it is about to touch
    mpc, x0 = controller(make), disturbed(start(make), 3)
    solution, noise = mpc(x0), torch.Generator().manual_seed(1)
    for _ in range(30):
        factor = 1 + size * torch.randn(x0.shape, generator=noise, dtype=x0.dtype)
        solution = mpc(solution.x[:, 1] * factor, warm_start=solution)
        assert (solution.status == Status.CONVERGED).all()
        assert solution.iterations.max() <= 8
        assert solution.violation.max() <= 1e-8


def next_start(solution, by):
    if by == "warm_start":
        return {"warm_start": solution}
    path = {"u_init": solution.u, "x_init": solution.x}[by]
    return {by: torch.cat([path[:, 1:], path[:, -1:]], 1)}


@pytest.mark.parametrize("by", ["warm_start", "u_init", "x_init"])
@pytest.mark.parametrize("name", ["safe_cartpole", "obstacle"])
@pytest.mark.parametrize("passes", [1, 2, 3, 5])
def test_few_passes_for_each_step_of_a_loop_never_lack_more_than_what_they_began_with(passes, name, by):
    controller = compiled(importlib.import_module(f"examples.{name}").problem)
    x0 = disturbed(torch.zeros(4, dtype=torch.float64), 4)
    solution = controller.MPC(max_iterations=1000)(x0)
    mpc, without = (controller.MPC(on_unconverged="ignore", max_iterations=k) for k in (passes, 0))
    noise = torch.Generator().manual_seed(1)
    converged, lacks = [], []
    for _ in range(50):
        x = solution.x[:, 1] + 0.003 * torch.randn(x0.shape, generator=noise, dtype=x0.dtype)
        given = next_start(solution, by)
        first, solution = without(x, **given), mpc(x, **given)
        solved = solution.converged
        assert (solved | (solution.status == Status.MAX_ITERATIONS)).all()
        assert (solution.residual[solved] <= 1e-8).all() and (solution.violation[solved] <= 1e-8).all()
        assert (solution.violation <= first.violation.clamp(min=1e-6)).all()
        lower, upper = solution.lower, solution.upper
        assert ((solution.u >= lower) & (solution.u <= upper)).all()
        converged.append(solved)
        lacks.append(solution.violation)
    if by == "warm_start" and name == "safe_cartpole" and passes > 1:
        assert torch.cat(lacks).median() < 1e-8  # 1e-6 with one pass
        assert torch.cat(converged).double().mean() >= (0, 0, 0, 0.6, 0, 0.9)[passes]


def test_problems_without_a_solution_begin_as_without_and_spoil_nothing():
    mpc = controller(problems.double_integrator)
    good, bad = start(problems.double_integrator), torch.tensor(problems.INFEASIBLE_START).double()
    nan = torch.full_like(good, torch.nan)
    before = mpc(torch.stack([good, bad, nan, good]))
    assert before.status.tolist() == [0, Status.INFEASIBLE, Status.INVALID_INPUT, 0]
    near = disturbed(good, 4)
    warm, cold = mpc(near, warm_start=before, shift=0), mpc(near)
    alone = mpc(near[[0, 3]], warm_start=mpc(torch.stack([good, good])), shift=0)
    assert (warm.status == Status.CONVERGED).all()
    for row in OUTPUTS:
        found = getattr(warm, row.name)
        assert torch.equal(found[1:3], getattr(cold, row.name)[1:3]), row.name
        assert torch.equal(found[[0, 3]], getattr(alone, row.name)), row.name


@pytest.mark.parametrize("size", [1e3, 1e200])
def test_a_start_that_leads_nowhere_is_given_up(size):
    make = problems.safe_cartpole
    mpc, near = controller(make), disturbed(start(make), 4)
    before = mpc(near)
    noise = torch.Generator().manual_seed(2)
    spoilt = {
        name: size * torch.randn(getattr(before, name).shape, generator=noise, dtype=near.dtype)
        for name in ("x", "u", "costates", "row_duals")
    }
    nonsense = mpcgen.autograd.Solution(**{**vars(before), **spoilt})
    warm, cold = mpc(near, warm_start=nonsense), mpc(near)
    assert (warm.status == Status.CONVERGED).all()
    given_up = warm.iterations > cold.iterations
    for name in ("x", "u", "cost", "row_duals"):
        assert torch.equal(getattr(warm, name)[given_up], getattr(cold, name)[given_up]), name
    assert warm.iterations.max() <= cold.iterations.max() + 40 or given_up.all()


@pytest.mark.parametrize("passes", [1, 2, 5])
def test_what_has_no_numbers_is_no_result_of_few_passes(passes):
    """A step from states so far away overflows; its violation, of NaN, is not less than the start's."""
    make = problems.double_integrator
    near = disturbed(start(make), 4)
    before = controller(make)(near)
    far = mpcgen.autograd.Solution(**{**vars(before), "x": 1e100 * before.x})
    few = module(make).MPC(on_unconverged="ignore", max_iterations=passes)(near, warm_start=far)
    assert (few.status == Status.MAX_ITERATIONS).all()
    for name in ("x", "u", "cost", "residual", "violation"):
        assert getattr(few, name).isfinite().all(), name


@pytest.mark.parametrize("passes", [1, 2, 200])
def test_a_lane_does_not_see_its_neighbours(passes):
    """On one thread, so that lanes which end take problems up beside others: with few passes as with many."""
    make, count = problems.linear_quadratic, 2 * BATCH
    near, later = disturbed(start(make), count), disturbed(start(make), count, seed=3)
    mpc = module(make).MPC(on_unconverged="ignore", threads=1)
    few = module(make).MPC(on_unconverged="ignore", threads=1, max_iterations=passes)
    together, reordered = (
        few(later, warm_start=mpc(near), shift=0),
        few(later.flip(0), warm_start=mpc(near.flip(0)), shift=0),
    )
    for row in OUTPUTS:
        assert torch.equal(getattr(together, row.name), getattr(reordered, row.name).flip(0)), row.name


def test_one_solution_starts_a_batch_as_its_copies_do():
    make = problems.linear_quadratic
    mpc, near = controller(make), disturbed(start(make))
    one = mpc(near, warm_start=mpc(start(make)))
    each = mpc(near, warm_start=mpc(start(make).expand(BATCH, -1)))
    assert one.u.shape == each.u.shape
    torch.testing.assert_close(one.u, each.u, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["pendulum", "cartpole"])
def test_control_boxes_alone(name):
    e = example(name)
    mpc, x0 = e.mpc(method="interior_point"), e.starts(BATCH, 0)
    before = mpc(x0)
    near = before.x[:, 1] * 1.01
    warm, cold = mpc(near, warm_start=before), mpc(near)
    assert warm.iterations.double().mean() < 0.6 * cold.iterations.double().mean()
    same = (warm.cost - cold.cost).abs() <= 1e-7 * (1 + cold.cost.abs())
    assert same.double().mean() > 0.9


def test_box_ddp_takes_the_shifted_controls(pendulum):
    mpc, x0 = pendulum.mpc(), pendulum.starts(BATCH, 0)
    before = mpc(x0)
    shifted = torch.cat([before.u[:, 2:], before.u[:, -1:], before.u[:, -1:]], 1)
    same_bits(mpc(before.x[:, 2], warm_start=before, shift=2), mpc(before.x[:, 2], u_init=shifted), ())
    x0[3] = torch.nan
    before = pendulum.mpc(on_unconverged="ignore")(x0)
    again = mpc(pendulum.starts(BATCH, 0), warm_start=before)
    assert torch.equal(again.u[3], mpc(pendulum.starts(BATCH, 0), u_init=torch.zeros_like(before.u)).u[3])


def test_states_to_start_from():
    make = problems.van_der_pol
    mpc, x0 = controller(make), start(make)
    solution = mpc(x0)
    x_init = solution.x.clone()
    x_init[0] = torch.nan  # x0 stands there
    again = mpc(x0, x_init=x_init, u_init=solution.u)
    assert again.status == Status.CONVERGED
    torch.testing.assert_close(again.cost, solution.cost, rtol=1e-9, atol=0)
    assert mpc(x0, x_init=x_init).u.shape == solution.u.shape  # the horizon is theirs
    straight = torch.linspace(0, 1, 51, dtype=torch.float64)[:, None] * x0
    bad = straight.clone()
    bad[4, 1] = torch.inf
    both = mpc(x0, x_init=torch.stack([straight, bad, straight]))
    assert both.status.tolist() == [0, Status.INVALID_INPUT, 0]
    assert torch.equal(both.u[0], both.u[2])


def test_states_to_start_from_where_controls_alone_have_bounds():
    pendulum = example("pendulum")
    x0 = pendulum.starts(BATCH, 0)
    mpc, cold = pendulum.mpc(), pendulum.mpc()(x0)
    upright = torch.zeros(3, dtype=torch.float64)
    upright[0] = 1
    straight = torch.linspace(0, 1, cold.x.shape[-2], dtype=torch.float64)[:, None, None]
    guessed = mpc(x0, x_init=((1 - straight) * x0 + straight * upright).movedim(0, 1))
    assert (guessed.status == Status.CONVERGED).all()
    same = (guessed.cost - cold.cost).abs() <= 1e-9 * cold.cost.abs()
    assert same.double().mean() > 0.8
    near = mpc(x0, x_init=cold.x, u_init=cold.u)
    torch.testing.assert_close(near.u, cold.u, rtol=0, atol=1e-6)
    assert not torch.equal(near.iterations, cold.iterations)


def test_no_gradient_flows_through_a_start():
    make = problems.linear_quadratic
    mpc = controller(make)
    box = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    before = mpc(start(make), box=box)
    after = mpc(disturbed(start(make)), warm_start=before)
    assert not after.u.requires_grad
    x0 = disturbed(start(make)).requires_grad_(True)
    (warm,) = torch.autograd.grad(mpc(x0, warm_start=before, shift=0).u.square().sum(), x0)
    (cold,) = torch.autograd.grad(mpc(x0).u.square().sum(), x0)
    torch.testing.assert_close(warm, cold, rtol=1e-5, atol=1e-5)


def test_it_works_under_transforms_and_compilers():
    make = problems.linear_quadratic
    mpc, near = controller(make), disturbed(start(make), 4)
    before = torch.func.vmap(mpc)(near)
    later = disturbed(start(make), 4, seed=3)
    expected = mpc(later, warm_start=before)

    def step(x0, solution):
        return mpc(x0, warm_start=solution).u

    mapped = torch.func.vmap(step)(later, before)
    torch.testing.assert_close(mapped, expected.u, rtol=0, atol=1e-9)

    def slope(x0, solution):
        return torch.func.jacrev(lambda x: step(x, solution)[0])(x0)

    jacobian = torch.func.vmap(slope)(later, before)
    plain = torch.func.vmap(torch.func.jacrev(lambda x0: mpc(x0).u[0]))(later)
    torch.testing.assert_close(jacobian, plain, rtol=1e-5, atol=1e-5)
    compiled_step = torch.compile(step, fullgraph=True)
    assert torch.equal(compiled_step(later, before), expected.u)


def test_float32():
    make = problems.linear_quadratic
    mpc, x0 = controller(make), start(make).float()
    before, near = mpc(x0), disturbed(x0)
    warm, cold = mpc(near, warm_start=before, shift=0), mpc(near)
    assert (warm.status == Status.CONVERGED).all()
    assert warm.iterations.double().mean() <= 8
    torch.testing.assert_close(warm.cost, cold.cost, rtol=1e-3, atol=0)


def test_the_history_is_that_of_the_warm_solve():
    make = problems.linear_quadratic
    mpc = module(make).MPC(history=True)
    before = mpc(start(make))
    after = mpc(disturbed(start(make)), warm_start=before, shift=0)
    passes = (~after.history.residual.isnan()).sum(-1)
    assert (passes <= after.iterations + 1).all() and passes.max() < 20


WRONG = {
    "controls beside a solution": (
        mpcgen.ParameterError,
        {"u_init": torch.zeros(40, 4)},
        "u_init beside warm_start",
    ),
    "states beside a solution": (
        mpcgen.ParameterError,
        {"x_init": torch.zeros(41, 8)},
        "x_init beside warm_start",
    ),
    "a negative shift": (mpcgen.ParameterError, {"shift": -1}, "shift=-1"),
    "a shift beyond the end": (mpcgen.ParameterError, {"shift": 41}, "from 0 to 40"),
    "half a shift": (mpcgen.ParameterError, {"shift": 0.5}, "shift=0.5"),
    "another horizon": (mpcgen.ShapeError, {"horizon": 39}, r"warm_start.u has shape \(40, 4\)"),
    "another precision": (mpcgen.DtypeError, {"x0": torch.zeros(8)}, "warm_start.u is torch.float64"),
    "a tensor": (mpcgen.DtypeError, {"warm_start": torch.zeros(3)}, "warm_start is a Tensor"),
    "a batch that does not fit": (mpcgen.ShapeError, {"x0": torch.zeros(5, 8).double()}, "do not broadcast"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_get_a_sentence(case):
    kind, given, words = WRONG[case]
    make = problems.linear_quadratic
    mpc = controller(make)
    before = mpc(disturbed(start(make), 3)) if "batch" in case else mpc(start(make))
    given = {"x0": start(make), "warm_start": before, **given}
    with pytest.raises(kind, match=words):
        mpc(given.pop("x0"), **given)


def test_wrong_states_get_a_sentence():
    make = problems.linear_quadratic
    mpc, x0 = controller(make), start(make)
    with pytest.raises(mpcgen.ShapeError, match=r"x_init has shape \(40, 8\); \(\.\.\., 41, 8\)"):
        mpc(x0, x_init=torch.zeros(40, 8).double(), horizon=40)
    with pytest.raises(mpcgen.DtypeError, match=r"x_init is torch\.float32"):
        mpc(x0, x_init=torch.zeros(41, 8))
    with pytest.raises(mpcgen.ParameterError, match="shift=1 without warm_start"):
        mpc(x0, shift=1)
    with pytest.raises(mpcgen.ShapeError, match="no multipliers of rows"):
        mpc(x0, warm_start=example("pendulum").mpc()(example("pendulum").starts(1, 0)))


def test_box_ddp_refuses_states(pendulum):
    with pytest.raises(
        mpcgen.ParameterError, match="x_init is for the interior point; box-DDP, which method='ddp'"
    ):
        pendulum.mpc(method="ddp")(pendulum.starts(1, 0), x_init=torch.zeros(1, 20, 3).double())
