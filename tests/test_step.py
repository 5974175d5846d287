"""A stage by itself, `mpc.step` and its kin: values are a rollout's, derivatives in both modes those of differences."""

import pytest
import torch
from controllers import Example, example
from torch.func import jacfwd, jacrev, jvp, vmap

from mpcgen.errors import DtypeError, ParameterError, ShapeError

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

F64 = torch.float64


@pytest.fixture(params=["pendulum", "cartpole"])
def case(request) -> Example:
    return example(request.param)


def point(case: Example, count: int = 11, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """States, and controls of which many are outside their bounds."""
    generator = torch.Generator().manual_seed(seed)
    u = 20 * torch.randn(count, len(case.spec.controls), generator=generator, dtype=F64)
    return case.starts(count, seed), u


def test_a_rollout_step_by_step_is_the_solution_and_its_cost(case):
    mpc = case.mpc()
    sol = mpc(case.starts(11, 0))
    cost = mpc.terminal_cost(sol.x[:, -1])
    for t in range(sol.u.shape[1]):
        step = mpc.step(sol.x[:, t], sol.u[:, t])
        assert torch.allclose(step.x, sol.x[:, t + 1], rtol=1e-13, atol=1e-13)
        cost = cost + step.cost
    assert torch.allclose(cost, sol.cost, rtol=1e-12)


def test_controls_are_not_clipped_and_dynamics_and_cost_are_the_steps(case):
    mpc, (x, u) = case.mpc(), point(case)
    step = mpc.step(x, u)
    assert torch.equal(mpc.dynamics(x, u), step.x) and torch.equal(mpc.stage_cost(x, u), step.cost)
    assert (mpc.dynamics(x, 2 * u) != step.x).any(1).all()


def test_derivatives_in_both_modes_are_those_of_differences(case):
    mpc, (x, u) = case.mpc(), point(case, 3)
    names = [p.name for p in case.module.CONTROLLER.parameters if not p.only_bounds and p.default is not None]
    values = [
        torch.tensor(p.default, dtype=F64).reshape(p.shape).requires_grad_()
        for p in case.module.CONTROLLER.parameters
        if p.name in names
    ]
    u = u / 20

    def step(x, u, *values):
        return tuple(mpc.step(x, u, **dict(zip(names, values, strict=True))))

    def last(x, *values):
        return mpc.terminal_cost(x, **dict(zip(names, values, strict=True)))

    x, u = x.requires_grad_(), u.requires_grad_()
    assert torch.autograd.gradcheck(step, (x, u, *values), check_forward_ad=True, atol=1e-5, rtol=1e-5)
    assert torch.autograd.gradcheck(last, (x, *values), check_forward_ad=True, atol=1e-5, rtol=1e-5)


def test_it_composes_with_transforms_and_the_compiler(case):
    mpc, (x, u) = case.mpc(), point(case)
    forward, reverse = (
        vmap(mode(lambda x, u: mpc.dynamics(x, u), argnums=(0, 1)))(x, u) for mode in (jacfwd, jacrev)
    )
    for a, b in zip(forward, reverse, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
    _, change = jvp(lambda x: mpc.step(x, u).x, (x,), (torch.ones_like(x),))
    assert torch.allclose(change, forward[0].sum(-1), rtol=1e-12, atol=1e-12)
    compiled = torch.compile(lambda x, u: mpc.step(x, u).x.sum(), fullgraph=True, backend="aot_eager")
    leaf = x.clone().requires_grad_()
    compiled(leaf, u).backward()
    assert torch.allclose(leaf.grad, reverse[0].sum(1), rtol=1e-12, atol=1e-12)


def test_a_problem_gets_the_same_bits_anywhere_in_a_batch_and_a_bad_one_spoils_no_sum(pendulum):
    mpc, (x, u) = pendulum.mpc(), point(pendulum, 300)
    x[5] = torch.nan
    mass = torch.tensor(1.2, dtype=F64, requires_grad=True)
    leaf = x.clone().requires_grad_()
    step = mpc.step(leaf, u, mass=mass)
    assert step.x[5].isnan().all() and step.x[[4, 6]].isfinite().all()
    step.x[torch.arange(300) != 5].sum().backward()
    assert leaf.grad.isfinite().all() and mass.grad.isfinite()
    some = torch.tensor([7, 3, 200])
    assert torch.equal(mpc.step(x[some], u[some], mass=mass).x, step.x[some])
    each = mass.detach().expand(300).clone().requires_grad_()
    mpc.step(x, u, mass=each).x[torch.arange(300) != 5].sum().backward()
    assert torch.allclose(each.grad.sum(), mass.grad, rtol=1e-12)


def test_learned_per_stage_values_are_taken_at_a_stage(lqr):
    controller = lqr.module.CONTROLLER
    offsets = torch.arange(5.0, dtype=F64)[:, None].expand(5, 3).clone()
    given = {k: v for k, v in lqr.values(0).items() if k != "f"}
    mpc = lqr.module.MPC(learn=["f"], initial={"f": offsets})
    one = {
        p.name: given[p.name][0] if p.per_stage and given[p.name].ndim > len(p.shape) else given[p.name]
        for p in controller.parameters
        if p.name in given
    }
    x, u = lqr.starts(2, 0), torch.zeros(2, 3, dtype=F64)
    at = [mpc.dynamics(x, u, stage=t, **one) for t in (1, 4)]
    assert torch.allclose(at[1] - at[0], torch.full((2, 3), 3.0, dtype=F64))
    with pytest.raises(ParameterError, match="stage=5"):
        mpc.dynamics(x, u, stage=5, **one)


def test_mistakes_are_named(pendulum):
    mpc, (x, u) = pendulum.mpc(), point(pendulum)
    with pytest.raises(ShapeError, match=r"u has shape \(11, 0\)"):
        mpc.step(x, u[:, :0])
    with pytest.raises(DtypeError, match=r"u is torch\.float32, but x is torch\.float64"):
        mpc.step(x, u.float())
    with pytest.raises(ParameterError, match="no parameter 'mas'"):
        mpc.step(x, u, mas=1.0)
    with pytest.raises(ParameterError, match="u is None"):
        mpc.step(x, None)
