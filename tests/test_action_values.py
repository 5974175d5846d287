"""Q-values, `mpc(x0, u0=u)`: beside V(x0), beside bounds that meet at the first control, beside differences."""

import pytest
import torch
from torch import Tensor

import mpcgen
from mpcgen import Status
from mpcgen.errors import DtypeError, ParameterError, ShapeError
from tests import constrained_problems as problems
from tests.controllers import compiled, example

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

F64 = torch.float64


def tight(name: str) -> torch.nn.Module:
    return example(name).module.MPC(tol=1e-10)


def held(values: dict[str, Tensor], u0: Tensor) -> dict[str, Tensor]:
    """Bounds of the lqr example that meet at u0 at the first stage, and are -0.6 and 0.6 at the others."""
    lower = torch.full((len(u0), 5, 3), -0.6, dtype=F64)
    lower[:, 0] = u0
    upper = lower.abs()
    upper[:, 0] = u0
    return {**values, "lower": lower, "upper": upper}


def test_at_the_optimal_control_it_is_the_value_and_elsewhere_more():
    mpc, x0 = tight("pendulum"), example("pendulum").starts(8, 0)
    best = mpc(x0)
    same = mpc(x0, u0=best.u[:, 0])
    for name in ("x", "u", "cost", "costates"):
        assert torch.allclose(getattr(same, name), getattr(best, name), rtol=1e-8, atol=1e-8)
    assert (same.status == Status.CONVERGED).all() and (same.gains[:, 0] == 0).all()
    assert torch.allclose(same.gains[:, 1:], best.gains[:, 1:], rtol=1e-5, atol=1e-5)
    other = mpc(x0, u0=best.u[:, 0] - 0.2 * torch.sign(best.u[:, 0]))
    assert (other.cost > best.cost).all()


@pytest.mark.parametrize("per_stage", [False, True])
def test_it_is_the_solution_with_bounds_that_meet_at_the_first_control(per_stage):
    case, mpc = example("lqr"), tight("lqr")
    x0, values = case.starts(4, 0), case.values(0)
    if per_stage:
        offsets = torch.linspace(-0.3, 0.3, 15, dtype=F64).reshape(5, 3)
        values = {**values, "f": offsets}
    u0 = 0.5 * torch.sin(torch.arange(12.0, dtype=F64)).reshape(4, 3)
    bounds = held(values, u0)
    reference = mpc(x0, **bounds)
    bounds["lower"], bounds["upper"] = (t.clone() for t in (bounds["lower"], bounds["upper"]))
    bounds["lower"][:, 0], bounds["upper"][:, 0] = -0.6, 0.6
    leaf, start = u0.clone().requires_grad_(), x0.clone().requires_grad_()
    found = mpc(start, u0=leaf, **bounds)
    for name in ("x", "u", "cost", "costates"):
        assert torch.allclose(getattr(found, name), getattr(reference, name), rtol=1e-9, atol=1e-9)
    slope, by_state = torch.autograd.grad(found.cost.sum(), (leaf, start))
    assert torch.allclose(slope, reference.multipliers[:, 0], rtol=1e-8, atol=1e-8)
    assert torch.allclose(by_state, reference.costates[:, 0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("horizon", [1, 2, 19])
def test_derivatives_in_both_modes_are_those_of_differences(horizon):
    mpc, x0 = tight("pendulum"), example("pendulum").starts(2, 0)
    u0 = (0.7 * mpc(x0, horizon=horizon).u[:, 0]).requires_grad_()
    mass = torch.tensor(1.1, dtype=F64, requires_grad=True)

    def q(x, u, mass):
        found = mpc(x, u0=u, mass=mass, horizon=horizon)
        return found.cost, found.x[:, -1]

    x0.requires_grad_()
    assert torch.autograd.gradcheck(q, (x0, u0, mass), check_forward_ad=True, atol=1e-5, rtol=1e-4)


def test_it_composes_with_transforms_and_the_compiler():
    mpc, x0 = tight("pendulum"), example("pendulum").starts(3, 0)
    actions = torch.linspace(-1, 1, 5, dtype=F64)[:, None]
    values = mpc(x0[:, None], u0=actions).cost
    assert values.shape == (3, 5)
    slopes = torch.func.vmap(
        torch.func.vmap(torch.func.grad(lambda u, x: mpc(x, u0=u).cost), in_dims=(0, None)), in_dims=(None, 0)
    )(actions, x0)
    leaf = actions.expand(3, 5, 1).clone().requires_grad_()
    mpc(x0[:, None], u0=leaf).cost.sum().backward()
    assert torch.allclose(slopes, leaf.grad, rtol=1e-9, atol=1e-10)
    step = torch.compile(lambda x, u: mpc(x, u0=u).cost.sum(), fullgraph=True, backend="aot_eager")
    assert torch.allclose(step(x0[:, None], actions), values.sum())


def test_a_control_outside_its_bounds_is_invalid_alone_and_a_shared_gradient_is_whole():
    mpc = example("pendulum").module.MPC(on_unconverged="ignore")
    x0, u0 = example("pendulum").starts(4, 0), torch.zeros(4, 1, dtype=F64)
    u0[1], u0[2] = 100.0, torch.nan
    mass = torch.tensor(1.1, dtype=F64, requires_grad=True)
    found = mpc(x0, u0=u0, mass=mass)
    assert found.status.tolist() == [0, Status.INVALID_INPUT, Status.INVALID_INPUT, 0]
    assert found.cost[1:3].isnan().all() and found.x[1:3].isnan().all()
    for wrong, said in ((1, "u0 is outside of its bounds"), (2, r"u0\[0, 0\] is nan")):
        with pytest.raises(mpcgen.UnconvergedError, match=f"First to be invalid: {said}") as error:
            example("pendulum").mpc()(x0[wrong], u0=u0[wrong])
        assert error.value.solution.status == Status.INVALID_INPUT
    found.where_converged().cost.sum().backward()
    good = torch.tensor([0, 3])
    alone = mass.detach().clone().requires_grad_()
    part = mpc(x0[good], u0=u0[good], mass=alone)
    assert torch.equal(part.cost, found.cost[good])
    part.cost.sum().backward()
    assert torch.allclose(alone.grad, mass.grad, rtol=1e-12)


def test_hard_constraints_are_obeyed_or_the_problem_is_infeasible():
    mpc = compiled(problems.double_integrator()).MPC(tol=1e-10, on_unconverged="ignore")
    x0 = torch.tensor([[1.0, 0.05], [1.0, 0.58]], dtype=F64)
    best = mpc(x0)
    same = mpc(x0, u0=best.u[:, 0])
    assert (same.status == Status.CONVERGED).all()
    assert torch.allclose(same.cost, best.cost, rtol=1e-7) and same.row_duals.shape == best.row_duals.shape
    # 0.58 + 0.1 u0 is above the limit of 0.6 from 0.2 on
    assert mpc(x0[1], u0=torch.tensor([0.3], dtype=F64)).status == Status.INFEASIBLE
    near = torch.tensor([0.15], dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(mpc(x0[1], u0=near).cost, near)
    ends = [mpc(x0[1], u0=torch.tensor([0.15 + d], dtype=F64)).cost for d in (-1e-4, 1e-4)]
    assert torch.allclose(slope, (ends[1] - ends[0]) / 2e-4, rtol=1e-5)


def test_mistakes_are_named():
    mpc, x0 = tight("pendulum"), example("pendulum").starts(2, 0)
    with pytest.raises(ShapeError, match=r"u0 has shape \(2, 3\); \(\.\.\., 1\)"):
        mpc(x0, u0=x0)
    with pytest.raises(DtypeError, match=r"u0 is torch\.float32"):
        mpc(x0, u0=torch.zeros(2, 1))
    with pytest.raises(ShapeError, match=r"x0 \(2,\), u0 \(3,\)"):
        mpc(x0, u0=torch.zeros(3, 1, dtype=F64))
    with pytest.raises(ParameterError, match="without restarts="):
        example("pendulum").module.MPC(restarts=1)(x0, u0=torch.zeros(2, 1, dtype=F64))
    with pytest.raises(mpcgen.MpcgenError):
        _ = mpc(x0, u0=torch.zeros(2, 1, dtype=F64)).active
