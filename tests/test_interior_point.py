"""The interior point of problems with control boxes alone: the same optima as box-DDP's, from any start."""

import pytest
import torch

import mpcgen
from tests.controllers import NONLINEAR, example

BATCH = 48


def both(name, dtype=torch.float64, **options):
    e = example(name)
    x0 = e.starts(BATCH, 0).to(dtype)
    return tuple(e.mpc(method=method, **options)(x0) for method in ("ddp", "interior_point"))


@pytest.mark.parametrize("name", NONLINEAR)
def test_it_finds_the_optimum_that_box_ddp_finds(name):
    ddp, ipm = both(name)
    # most problems have one minimum; box-DDP takes the last steps to it, whose tolerance is 1e-8
    same = (ipm.cost - ddp.cost).abs() <= 1e-10 * (1 + ddp.cost.abs())
    assert same.double().mean() >= 0.95
    torch.testing.assert_close(ipm.u[same], ddp.u[same], rtol=0, atol=1e-6)
    torch.testing.assert_close(ipm.costates[same], ddp.costates[same], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NONLINEAR)
def test_what_it_returns_obeys_the_dynamics_and_the_bounds(name):
    e = example(name)
    x0 = e.starts(BATCH, 0)
    ipm = e.mpc(method="interior_point")(x0)
    assert (ipm.u >= ipm.lower).all() and (ipm.u <= ipm.upper).all()
    rolled = e.mpc(max_iterations=0, on_unconverged="ignore")(x0, u_init=ipm.u)
    torch.testing.assert_close(ipm.x, rolled.x, rtol=0, atol=1e-9)
    torch.testing.assert_close(ipm.cost, rolled.cost, rtol=1e-12, atol=1e-12)


def test_a_lane_does_not_see_its_neighbours():
    e = example("cartpole")
    x0 = e.starts(BATCH, 3)
    mpc = e.mpc(method="interior_point")
    together, reordered = mpc(x0), mpc(x0.flip(0))
    for name in ("x", "u", "cost", "iterations", "residual", "gains", "costates"):
        assert torch.equal(getattr(together, name), getattr(reordered, name).flip(0)), name
    few = mpc(x0[5:8])
    assert torch.equal(few.u, together.u[5:8])


def test_float32_reaches_what_float32_can():
    for name in NONLINEAR:
        ddp, ipm = both(name, torch.float32)
        same = (ipm.cost - ddp.cost).abs() <= 1e-5 * (1 + ddp.cost.abs())
        assert same.double().mean() >= 0.95


@pytest.mark.parametrize("option", [{"hessian": "gauss_newton"}, {"smoothing": 1e-3, "smooth": "solve"}])
def test_options_of_the_other_method_are_refused(option):
    with pytest.raises(mpcgen.ParameterError, match="method='interior_point'"):
        example("pendulum").module.MPC(method="interior_point", **option)
