"""MPC(restarts=k): of several starts the best solution is kept, whatever the batch, and differentiated as any."""

import functools

import pytest
import sympy as sp
import torch

import mpcgen
from mpcgen import Status
from tests.controllers import compiled


@functools.cache
def wells():
    """A point between two wells: uphill is a worse minimum near it, the better one lies beyond."""
    problem = mpcgen.Problem("two_wells", horizon=6)
    (position,) = problem.states("position")
    reach, tilt = problem.parameters("reach tilt", default=[1.0, 0.3])
    first, second = problem.controls("first second", lower=[-reach, -sp.oo], upper=[reach, sp.oo])
    problem.dynamics = [position + first / 2 + second / 5]
    problem.stage_cost = first**2 / 1000 + second**2 / 10
    problem.terminal_cost = 5 * (position**2 - 1) ** 2 + tilt * position
    return compiled(problem)


def batch(count=6):
    return torch.linspace(0.3, 0.9, count, dtype=torch.float64)[:, None]


def test_the_better_minimum_is_kept_and_counted():
    x0 = batch()
    one, best = wells().MPC()(x0), wells().MPC(restarts=12)(x0)
    assert (one.x[:, -1] > 0).all()
    assert (best.x[:, -1] < 0).all()
    assert (best.cost < one.cost).all()
    assert (best.status == Status.CONVERGED).all()
    assert best.iterations.max() <= 1
    found = best.restarts
    assert found.tried == 13
    assert (found.winner > 0).all()
    assert (found.minima == 2).all()
    assert (found.solved >= 2).all() and (found.solved <= 13).all()
    assert (found.iterations > 0).all()
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


@pytest.mark.parametrize("bad", [-1, 1.5, True, "4", None])
def test_a_number_of_restarts_that_is_none_is_refused(bad):
    with pytest.raises(mpcgen.ParameterError, match=r"restarts=.*a whole number of at least 0 is expected"):
        wells().MPC(restarts=bad)
