"""The gradient of the optimal cost: by the envelope theorem it needs no factorisation, and is exact without one."""

import functools
import math

import pytest
import sympy as sp
import torch
from controllers import compiled, scalar_problem
from torch import Tensor
from torch.func import jvp

import mpcgen
from mpcgen.runtime.status import UnconvergedWarning

Status = mpcgen.Status


@functools.cache
def double_integrator():
    """A mass pushed as far as it goes, with dt = 0.1, N = 12: the stage cost -k x sees neither of the last two pushes.

    Beside it a weight on the pushes, 0 by default, that makes all of them seen.
    """
    problem = mpcgen.Problem("double_integrator_far", horizon=12)
    position, velocity = problem.states("position velocity")
    k, weight, most = problem.parameters("k weight most", default=[1.0, 0.0, 1.0])
    (push,) = problem.controls("push", lower=-most, upper=most)
    problem.dynamics = [position + velocity / 10, velocity + push / 10]
    problem.stage_cost = -k * position + weight * push**2
    problem.terminal_cost = sp.Integer(0)
    return compiled(problem)


def value(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float64)


# dcost/dx0 = -k (12, Σ t dt); x_t = p + t dt v + dt² t (t-1)/2 most, and the last two pushes move no x_t of t < 12
INPUTS = {"k": value(1.0), "most": value(1.0)}
BY_X0 = torch.tensor([-12.0, -0.1 * math.comb(12, 2)], dtype=torch.float64)
BY = {
    "k": -(12 * 0.2 + 0.1 * math.comb(12, 2) * 0.1 + 0.01 * math.comb(12, 3)),
    "most": -0.01 * math.comb(12, 3),
}


@pytest.mark.parametrize("mode", ["zero", "keep"])
@pytest.mark.parametrize("batch", [(), (9,)])
@pytest.mark.parametrize("asked", ["cost", "cost and controls"])
def test_controls_that_nothing_sees_leave_the_gradient_of_the_cost(mode, batch, asked):
    mpc = double_integrator().MPC(unconverged_gradient=mode, on_unconverged="ignore")
    x0 = torch.tensor([0.2, 0.1], dtype=torch.float64).expand(*batch, 2).clone().requires_grad_()
    given = {name: v.clone().requires_grad_() for name, v in INPUTS.items()}
    solution = mpc(x0, **given)
    assert (solution.status == Status.NOT_A_MINIMUM).all()
    loss = solution.cost.sum() + (solution.u.sum() if asked != "cost" else 0)
    by_x0, *by = torch.autograd.grad(loss, (x0, *given.values()))
    torch.testing.assert_close(by_x0, BY_X0.expand_as(x0), rtol=1e-13, atol=0)
    count = x0.shape[:-1].numel()
    for name, found in zip(given, by, strict=True):
        torch.testing.assert_close(found, value(count * BY[name]), rtol=1e-13, atol=0)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("mode", ["zero", "keep"])
def test_forward_mode_has_the_same_gradient_of_the_cost(mode):
    mpc = double_integrator().MPC(unconverged_gradient=mode, on_unconverged="ignore")
    x0 = torch.tensor([[0.2, 0.1]] * 5, dtype=torch.float64)
    along = torch.tensor([[0.3, -2.0]] * 5, dtype=torch.float64)

    def solve(start: Tensor, k: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
        solution = mpc(start, k=k, most=most)
        return solution.cost, solution.u

    _, (d_cost, d_u) = jvp(solve, (x0, *INPUTS.values()), (along, value(0.5), value(-0.7)))
    expected = along[0] @ BY_X0 + 0.5 * BY["k"] - 0.7 * BY["most"]
    torch.testing.assert_close(d_cost, expected.expand(5), rtol=1e-13, atol=0)
    assert (d_u == 0).all()


def test_asked_for_nan_it_is_nan():
    mpc = double_integrator().MPC(unconverged_gradient="nan", on_unconverged="ignore")
    x0 = torch.tensor([0.2, 0.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(mpc(x0).cost, x0)[0].isnan().all()


def test_singular_neighbours_change_no_bit_of_a_gradient():
    mpc = double_integrator().MPC(unconverged_gradient="keep", on_unconverged="ignore")
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(24, 2, generator=generator, dtype=torch.float64)
    seen = torch.arange(24) % 3 == 0

    def gradients(start: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        start, weight = start.clone().requires_grad_(), weight.clone().requires_grad_()
        solution = mpc(start, weight=weight)
        assert torch.equal(solution.status == 0, weight > 0)
        return torch.autograd.grad(solution.cost.sum() + solution.x.sin().sum(), (start, weight))

    among = gradients(x0, torch.where(seen, value(0.3), value(0.0)))
    alone = gradients(x0[seen], torch.full((8,), 0.3, dtype=torch.float64))
    for one, other in zip(among, alone, strict=True):
        assert torch.equal(one[seen], other) and one.isfinite().all()


def test_only_what_was_lost_is_warned_about():
    """Of a solution that nothing has certified: neither half asks for the exact Hessian."""
    module = scalar_problem().module.MPC(hessian="gauss_newton", gradient="gauss_newton", tol=1e-12)
    x0 = torch.tensor([[0.3], [0.2]], dtype=torch.float64, requires_grad=True)
    solution = module(x0, weight=0.0, sum_weight=1.0)
    assert (solution.status == Status.CONVERGED).all()
    (found,) = torch.autograd.grad(solution.cost.sum(), x0, retain_graph=True)  # a warning would be an error
    ends = [module((x0 + step).detach(), weight=0.0, sum_weight=1.0).cost for step in (1e-5, -1e-5)]
    # the cost is quadratic: the difference errs by rounding alone, of costs near 1, over 2e-5
    torch.testing.assert_close(found[:, 0], (ends[0] - ends[1]) / 2e-5, rtol=0, atol=1e-9)
    with pytest.warns(
        UnconvergedWarning, match="2 of 2 solutions are not differentiable.*but for that of the cost"
    ):
        solution.u.sum().backward()
    assert (x0.grad == 0).all()
