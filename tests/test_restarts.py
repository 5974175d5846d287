"""MPC(restarts=k): of several starts the best solution is kept, whatever the batch, and differentiated as any."""

import functools

import pytest
import sympy as sp
import torch

import mpcgen
from mpcgen import Status
from mpcgen.autograd import library
from mpcgen.autograd.restarts import _shares
from tests.controllers import compiled
from tests.test_unstable import falling, fast_pendulum

# what torch itself does when it is first asked for forward mode
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


@functools.cache
def wells_problem():
    """A point between two wells: uphill is a worse minimum near it, the better one lies beyond."""
    problem = mpcgen.Problem("two_wells", horizon=6)
    (position,) = problem.states("position")
    reach, tilt = problem.parameters("reach tilt", default=[1.0, 0.3])
    first, second = problem.controls("first second", lower=[-reach, -sp.oo], upper=[reach, sp.oo])
    problem.dynamics = [position + first / 2 + second / 5]
    problem.stage_cost = first**2 / 1000 + second**2 / 10
    problem.terminal_cost = 5 * (position**2 - 1) ** 2 + tilt * position
    return problem


@functools.cache
def wells():
    return compiled(wells_problem())


def batch(count=6):
    return torch.linspace(0.3, 0.9, count, dtype=torch.float64)[:, None]


def test_the_better_minimum_is_kept_and_counted():
    x0 = batch()
    one, best = wells().MPC()(x0), wells().MPC(restarts=12)(x0)
    assert (one.x[:, -1] > 0).all()
    assert (best.x[:, -1] < 0).all()
    assert (best.cost < one.cost).all()
    assert (best.status == Status.CONVERGED).all()
    found = best.restarts
    assert found.tried == 13
    assert (found.winner > 0).all()
    assert (found.minima == 2).all()
    assert (found.solved >= 2).all() and (found.solved <= 13).all()
    assert (found.iterations > best.iterations).all()
    assert one.restarts is None


def test_the_given_start_is_kept_where_no_other_is_better():
    x0 = batch()
    best = wells().MPC(restarts=12)(x0).detach()
    again = wells().MPC(restarts=3)(x0, u_init=best.u)
    assert (again.restarts.winner == 0).all()
    torch.testing.assert_close(again.u, best.u, rtol=0, atol=1e-9)


def test_neither_the_place_in_the_batch_nor_the_neighbours_matter_and_the_seed_does():
    x0 = batch()
    mpc = wells().MPC(restarts=2)
    whole, few = mpc(x0), mpc(x0[[4, 1]])
    assert torch.equal(few.u, whole.u[[4, 1]])
    assert torch.equal(few.restarts.winner, whole.restarts.winner[[4, 1]])
    others = [wells().MPC(restarts=2, seed=seed)(x0).restarts.iterations for seed in range(5)]
    assert any(not torch.equal(other, others[0]) for other in others)


def test_gradients_are_those_of_the_winner():
    x0 = batch().requires_grad_()
    tilt = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    best = wells().MPC(restarts=12)(x0, tilt=tilt)
    found = torch.autograd.grad(best.u.sum(), (x0, tilt))
    plain = wells().MPC()(x0, tilt=tilt, u_init=best.u.detach())
    expected = torch.autograd.grad(plain.u.sum(), (x0, tilt))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
        assert one.abs().sum() > 0


def test_transforms_and_torch_compile_follow():
    x0 = batch()
    mpc = wells().MPC(restarts=5)
    expected = mpc(x0)
    mapped = torch.func.vmap(lambda x: mpc(x).u)(x0)
    torch.testing.assert_close(mapped, expected.u, rtol=0, atol=1e-12)
    slope = torch.func.vmap(torch.func.jacrev(lambda x: mpc(x).u[0]))(x0)
    assert slope.isfinite().all() and slope.shape == (6, 2, 1)
    compiled_mpc = torch.compile(lambda x: mpc(x).u, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled_mpc(x0), expected.u, rtol=0, atol=1e-12)


def test_a_bad_problem_spoils_no_other():
    x0 = batch().clone()
    x0[2] = torch.nan
    sol = wells().MPC(restarts=4, on_unconverged="ignore")(x0)
    assert sol.status.tolist() == [0, 0, Status.INVALID_INPUT, 0, 0, 0]
    assert sol.restarts.solved[2] == 0 and sol.restarts.minima[2] == 0
    clean = wells().MPC(restarts=4)(batch())
    assert torch.equal(sol.u[3:], clean.u[3:])


@pytest.mark.parametrize("method", ["auto", "interior_point"])
def test_no_problem_ends_worse_than_without_though_its_dynamics_are_unstable(method):
    options = {"method": method, "on_unconverged": "ignore"}
    x0 = falling().requires_grad_()
    one, best = (fast_pendulum().MPC(restarts=count, **options)(x0) for count in (0, 3))
    assert (best.converged | ~one.converged).all()
    assert (best.cost <= one.cost)[one.converged].all()
    solved = best.converged
    assert solved.sum() >= 3
    assert (best.restarts.solved > 0).equal(solved)
    given = (best.restarts.winner == 0) & one.converged
    assert given.sum() >= 3
    slopes = [torch.autograd.grad((sol.u[:, -1, 0] + sol.cost)[given].sum(), x0)[0] for sol in (one, best)]
    assert torch.equal(*slopes)
    assert (slopes[0][given] != 0).any(-1).all()


def test_gradients_are_the_differences_of_the_solutions():
    x0, step = batch().requires_grad_(), 1e-5
    mpc = wells().MPC(restarts=12)
    (slope,) = torch.autograd.grad(mpc(x0).u.sum(), x0)
    with torch.no_grad():
        above, below = (mpc(x0 + change).u.sum((-2, -1)) for change in (step, -step))
    torch.testing.assert_close(slope[:, 0], (above - below) / (2 * step), rtol=1e-6, atol=1e-8)
    forward = torch.func.jvp(lambda x: mpc(x).u, (x0.detach(),), (torch.ones_like(x0),))[1]
    torch.testing.assert_close(forward.sum(), slope.sum(), rtol=1e-9, atol=1e-9)


def test_the_history_and_the_unrolled_passes_are_the_winners():
    x0 = batch().requires_grad_()
    sol = wells().MPC(restarts=12, history=True)(x0)
    last = sol.iterations[:, None].long()
    assert torch.equal(sol.history.cost.gather(1, last)[:, 0], sol.cost)
    assert (sol.restarts.winner > 0).all()
    unrolled = wells().MPC(restarts=12, gradient="unrolled", unroll=2, problem=wells_problem())(x0)
    assert torch.equal(unrolled.u, sol.u)
    assert torch.equal(unrolled.iterations, sol.iterations)
    slopes = [torch.autograd.grad(each.u.sum(), x0)[0] for each in (unrolled, sol)]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-5)


@functools.cache
def without_values():
    """X' = 1000 x³ + u overflows from far off."""
    problem = mpcgen.Problem("overflows", horizon=8)
    (x,) = problem.states("x")
    (u,) = problem.controls("u", lower=-1, upper=1)
    problem.dynamics = [1000 * x**3 + u]
    problem.stage_cost = x**2 + u**2
    problem.terminal_cost = x**2
    return compiled(problem)


def test_a_problem_without_a_trajectory_keeps_its_status():
    x0 = torch.tensor([[1e3], [0.0], [torch.nan]], dtype=torch.float64)
    plain, best = (without_values().MPC(restarts=count, on_unconverged="ignore")(x0) for count in (0, 3))
    assert plain.status.tolist() == [Status.DIVERGED, Status.CONVERGED, Status.INVALID_INPUT]
    assert torch.equal(best.status, plain.status)
    with pytest.warns(
        mpcgen.UnconvergedWarning, match="1 DIVERGED.*1 INVALID_INPUT|1 INVALID_INPUT.*1 DIVERGED"
    ):
        without_values().MPC(restarts=3)(x0)
    with pytest.raises(mpcgen.UnconvergedError, match="DIVERGED"):
        without_values().MPC(restarts=3, on_unconverged="raise")(x0)


@pytest.mark.parametrize("method", ["auto", "interior_point"])
def test_a_minimum_whose_cost_is_zero_is_one(method):
    best = wells().MPC(restarts=12, method=method)(torch.ones(2, 1, dtype=torch.float64), tilt=0.0)
    assert best.restarts.solved.min() >= 4
    assert best.restarts.minima.tolist() == [2, 2]  # the other is beyond the hill
    assert best.cost.abs().max() < 1e-8
    assert (best.restarts.winner == 0).all()


def test_seeds_share_no_controls():
    like = torch.zeros((), dtype=torch.float64)
    one, other = (_shares(64, 200, 2, seed, like)[1::2].flatten() for seed in (0, 1))
    assert one.numel() > 7919
    assert torch.isin(one, other).sum() <= 4  # of 1.6e8 pairs of numbers of 32 bits
    assert one.min() >= 0 and other.max() < 1 and abs(one.mean() - 0.5) < 0.02


def test_the_operator_follows_the_rules_of_operators():
    mpc, x0 = wells().MPC(), batch().requires_grad_()
    call = [p.detach().requires_grad_() for p in mpc(x0).origin.parameters]
    outputs = [value.detach() for value in vars(mpc(x0)).values()]
    torch.library.opcheck(library.attach, (mpc.key, mpc.options_text, outputs, x0, call))


def test_no_problems_are_solved_as_well():
    sol = wells().MPC(restarts=2, history=True)(batch(0))
    assert sol.restarts.minima.shape == (0,)
    assert sol.history.cost.shape == (0, 201)


@pytest.mark.parametrize("bad", [-1, 1.5, True, "4", None])
def test_a_number_of_restarts_that_is_none_is_refused(bad):
    with pytest.raises(mpcgen.ParameterError, match=r"restarts=.*a whole number of at least 0 is expected"):
        wells().MPC(restarts=bad)
