"""A cost that is posed as a state, which accumulates it, is solved like one that is posed by stages."""

import functools

import pytest
import torch

import mpcgen
from mpcgen import Status

DT = 0.1


@functools.cache
def oscillator(form, **options):
    """Van der Pol's by Euler's method, where both forms have the same cost: "sum", or "state"."""
    problem = mpcgen.Problem(f"oscillator_{form}", horizon=30)
    x1, x2 = problem.states("x1 x2")
    (u,) = problem.controls("u", lower=-0.3, upper=1)
    weight = problem.parameter("weight", default=1.0)
    cost = DT * (x1**2 + x2**2 + u**2)
    dynamics = [x1 + DT * ((1 - x2**2) * x1 - x2 + u), x2 + DT * x1]
    if form == "sum":
        problem.dynamics, problem.stage_cost, problem.terminal_cost = dynamics, weight * cost, 0
    else:
        spent = problem.state("spent")
        problem.dynamics, problem.stage_cost = [*dynamics, spent + cost], 0
        problem.terminal_cost = weight * spent
    return mpcgen.compile(problem, progress=False, **options)


def solved(form, **options):
    x0 = torch.tensor([[0.0, 1.0], [-1.0, 0.5], [1.5, 1.0]], dtype=torch.float64)
    spent = torch.zeros(3, 1, dtype=torch.float64) if form == "state" else x0[:, :0]
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    sol = oscillator(form).MPC(**options)(torch.cat([x0, spent], dim=1), weight=weight)
    assert (sol.status == Status.CONVERGED).all()
    return sol, weight


@pytest.mark.parametrize("hessian", ["exact", "gauss_newton"])
def test_both_forms_take_the_same_passes_to_the_same_controls(hessian):
    (by_stages, _), (by_state, _) = solved("sum", hessian=hessian), solved("state", hessian=hessian)
    assert by_state.iterations.tolist() == by_stages.iterations.tolist()
    torch.testing.assert_close(by_state.u, by_stages.u, rtol=0, atol=1e-8)
    torch.testing.assert_close(by_state.cost, by_stages.cost, rtol=1e-12, atol=0)


def test_the_state_keeps_its_value_and_its_costate():
    sol, _ = solved("state")
    torch.testing.assert_close(2 * sol.x[:, -1, 2], sol.cost, rtol=1e-12, atol=0)
    torch.testing.assert_close(sol.costates[:, :, 2], torch.full_like(sol.costates[:, :, 2], 2.0))


def test_gradients_are_those_of_the_other_form():
    grads = []
    for form in ("sum", "state"):
        sol, weight = solved(form)
        grads.append(
            torch.autograd.grad(sol.u.square().sum() + sol.x[:, -1, 0].sum() + sol.cost.sum(), weight)[0]
        )
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-7, atol=0)


@pytest.mark.parametrize("method", ["ddp", "interior_point"])
@pytest.mark.parametrize("weight", [1e-6, 1.0, 1e6])
def test_what_was_spent_before_changes_neither_controls_nor_passes_by_much(method, weight):
    """It is a constant of the cost, and no size of what that varies by; nor is rounding of it a gap to be closed."""
    x0 = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).repeat(5, 1)
    x0[:, 2] = torch.tensor([0.0, 1e3, -1e4, 1e6, 1e9])
    mpc = oscillator("state").MPC(method=method, on_unconverged="raise")
    sol = mpc(x0, weight=torch.tensor(weight, dtype=torch.float64))
    expected = solved("sum")[0].u[0]
    torch.testing.assert_close(sol.u, expected.expand_as(sol.u), rtol=0, atol=2e-5)
    assert sol.iterations.max() <= sol.iterations[0] + 2


@pytest.mark.parametrize("hessian", ["exact", "gauss_newton"])
def test_a_warp_takes_the_same_passes_and_finds_the_same_gradients(hessian):
    x0 = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.5, 0.0], [1.5, 1.0, 0.0]], dtype=torch.float64)
    warp = oscillator("state", targets=("cuda-host",), cuda_kernel="warp", dtypes="float64")
    passes, gradients = [], []
    for module in (oscillator("state"), warp):
        weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        start = x0.clone().requires_grad_()
        sol = module.MPC(hessian=hessian, gradient=hessian, on_unconverged="raise")(start, weight=weight)
        passes.append(sol.iterations.tolist())
        gradients.append(
            torch.autograd.grad(sol.u.square().sum() + sol.x.sum() + sol.cost.sum(), (start, weight))
        )
    assert passes[1] == passes[0]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-10)
