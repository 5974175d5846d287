"""A controller under torch.func: vmap, grad and Jacobians composed and nested; gradcheck; no second derivatives."""

import functools

import pytest
import torch
from controllers import EPS, NONLINEAR, Example, example, leaves, random_lq, with_bound_parameters
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from mpcgen.errors import SecondDerivativeError

# torch's own decompositions for forward mode are scripted at their first use
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def mass_name(case: Example) -> str:
    """A physical parameter of each example."""
    return {"pendulum": "mass", "cartpole": "mass_pole", "car": "wheelbase"}[case.spec.name]


def effort(mpc: torch.nn.Module, x0: Tensor, **parameters: Tensor) -> Tensor:
    """A loss in everything that is differentiable: Σu² + Σx + cost, of one problem."""
    solution = mpc(x0, **parameters)
    return (solution.u**2).sum() + solution.x.sum() + solution.cost.sum()


def assert_equal_up_to_rounding(a: Tensor, b: Tensor, terms: int = 1) -> None:
    """Equal but for the W = 1 kernel's last digits, and for the order of a sum of ``terms`` numbers."""
    # differential sweeps amplify rounding by their conditioning; a millionth of a digit in 1e-10 leaves room
    torch.testing.assert_close(a, b, rtol=1e-10 * terms**0.5, atol=1e-10 * terms**0.5 * float(b.abs().max()))


@pytest.mark.parametrize("name", NONLINEAR)
def test_vmap_solves_what_a_batch_solves_bit_for_bit(name):
    case = example(name)
    mpc, x0 = case.mpc(), case.starts(24, 1)
    mapped = vmap(lambda s: (lambda r: (r.x, r.u, r.cost, r.status, r.costates))(mpc(s)))(x0)
    whole = mpc(x0)
    for a, b in zip(mapped, (whole.x, whole.u, whole.cost, whole.status, whole.costates), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", NONLINEAR)
def test_vmap_of_grad_is_the_gradient_of_the_sum(name):
    case = example(name)
    mpc, x0 = case.mpc(), case.starts(13, 2)
    mass = leaves(case, 13, {})[mass_name(case)]
    key = mass_name(case)

    def loss(start: Tensor, value: Tensor) -> Tensor:
        return effort(mpc, start, **{key: value})

    mapped = vmap(grad(loss, argnums=(0, 1)))(x0, mass.detach())
    start = x0.clone().requires_grad_()
    expected = torch.autograd.grad(effort(mpc, start, **{key: mass}), (start, mass))
    for a, b in zip(mapped, expected, strict=True):
        assert torch.equal(a, b)


def test_the_jacobians_of_both_modes_and_their_compositions_agree(pendulum):
    mpc, x0 = pendulum.mpc(), pendulum.starts(3, 0)[0]
    mass = torch.tensor(1.1, dtype=torch.float64)

    def controls(start: Tensor, value: Tensor) -> Tensor:
        return mpc(start, mass=value).u

    forward = jacfwd(controls, argnums=(0, 1))(x0, mass)
    reverse = jacrev(controls, argnums=(0, 1))(x0, mass)
    chunked = jacrev(controls, argnums=(0, 1), chunk_size=5)(x0, mass)
    by_hand = torch.autograd.functional.jacobian(controls, (x0, mass))
    for others in (reverse, chunked, by_hand):
        for a, b in zip(forward, others, strict=True):
            assert_equal_up_to_rounding(a, b)
    _, pull = vjp(controls, x0, mass)
    cotangent = torch.randn(forward[0].shape[:2], generator=torch.Generator().manual_seed(0), dtype=x0.dtype)
    for a, b in zip(pull(cotangent), forward, strict=True):
        assert_equal_up_to_rounding(a, torch.tensordot(cotangent, b, 2))


def test_per_problem_jacobians_of_a_batch_are_those_of_its_members(cartpole):
    mpc, x0 = cartpole.mpc(), cartpole.starts(5, 4)
    for jacobian in (jacfwd, jacrev):
        mapped = vmap(jacobian(lambda s: mpc(s).u))(x0)
        for b in range(5):
            assert_equal_up_to_rounding(mapped[b], jacobian(lambda s: mpc(s).u)(x0[b]))


def test_nested_vmaps_over_starts_and_over_parameters(pendulum):
    mpc = pendulum.mpc()
    x0 = pendulum.starts(12, 5).reshape(4, 3, 3)
    mass = torch.linspace(0.8, 1.2, 2, dtype=torch.float64)

    def loss(value: Tensor, start: Tensor) -> Tensor:
        return effort(mpc, start, mass=value)

    over_starts = vmap(vmap(grad(loss, argnums=(0, 1)), in_dims=(None, 0)), in_dims=(None, 1))
    g_mass, g_x0 = vmap(over_starts, in_dims=(0, None))(mass, x0)
    assert g_mass.shape == (2, 3, 4)
    start = x0.expand(2, 4, 3, 3).clone().requires_grad_()
    each = mass[:, None, None].expand(2, 4, 3).clone().requires_grad_()
    whole = torch.autograd.grad(effort(mpc, start, mass=each), (each, start))
    assert torch.equal(g_mass.transpose(1, 2), whole[0])
    assert torch.equal(g_x0.transpose(1, 2), whole[1])


def test_vmap_over_a_parameter_that_each_inner_batch_shares(cartpole):
    """An ensemble: one mass per member, shared by the member's batch; q shared by all."""
    mpc, x0, members = cartpole.mpc(), cartpole.starts(9, 6), 4
    mass = torch.linspace(0.05, 0.2, members, dtype=torch.float64)
    q = torch.tensor(cartpole.module.CONTROLLER.parameters[4].default, dtype=torch.float64)
    assert cartpole.module.CONTROLLER.parameters[4].name == "q"

    def loss(value: Tensor, weights: Tensor) -> Tensor:
        return effort(mpc, x0, mass_pole=value, q=weights)

    g_mass, g_q = vmap(grad(loss, argnums=(0, 1)), in_dims=(0, None))(mass, q)
    assert g_q.shape == (members, 6)
    for i in range(members):
        value, weights = mass[i].clone().requires_grad_(), q.clone().requires_grad_()
        one = torch.autograd.grad(loss(value, weights), (value, weights))
        assert_equal_up_to_rounding(g_mass[i], one[0], terms=9)
        assert_equal_up_to_rounding(g_q[i], one[1], terms=9)


def test_vmap_over_tangents_of_shared_and_of_own_parameters(lqr):
    values = random_lq(3, 3, lqr.spec.horizon, 0)
    x0 = lqr.starts(4, 0)
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(6, *values["f"].shape, generator=generator, dtype=torch.float64)
    mpc = lqr.mpc()

    def controls(f: Tensor) -> Tensor:
        return mpc(x0, **(values | {"f": f})).u

    mapped = vmap(lambda d: jvp(controls, (values["f"],), (d,))[1])(directions)
    full = jacfwd(controls)(values["f"])
    for i in range(6):
        assert_equal_up_to_rounding(mapped[i], torch.tensordot(full, directions[i], 2))


def test_functional_call_and_no_grad_compose_with_the_transforms(pendulum):
    mpc, x0 = pendulum.mpc(), pendulum.starts(4, 7)
    with torch.no_grad():
        inside = grad(lambda s: effort(mpc, s))(x0)
    outside = grad(lambda s: functional_call(mpc, {}, (s,)).u.square().sum())(x0)
    start = x0.clone().requires_grad_()
    assert torch.equal(inside, torch.autograd.grad(effort(mpc, start), start)[0])
    assert torch.equal(outside, torch.autograd.grad(mpc(start).u.square().sum(), start)[0])


HORIZONS = {"pendulum": 4, "cartpole": 3, "car": 3, "lqr": 2}


@pytest.mark.parametrize(
    "name, bounds", [(name, False) for name in HORIZONS] + [(name, True) for name in NONLINEAR]
)
def test_gradcheck_in_both_modes_and_in_batches(name, bounds):
    case = with_bound_parameters(name) if bounds else example(name)
    horizon = HORIZONS[name]
    given = random_lq(3, 3, horizon, 2) if name == "lqr" else {}
    values = leaves(case, 2, given, horizon)
    if name == "lqr":
        # its bounds are infinite here: nothing to difference
        values = {k: v for k, v in values.items() if k not in ("lower", "upper")}
    x0 = case.starts(2, 2).requires_grad_()
    mpc = case.mpc(tol=1e-12, on_unconverged="ignore")
    warm = mpc(x0, horizon=horizon, **values).u.detach()

    def function(start: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        given = dict(zip(values, rest, strict=True))
        solution = mpc(start, u_init=warm, horizon=horizon, **given)
        return solution.x, solution.u, solution.cost

    primals = (x0, *values.values())
    assert torch.autograd.gradcheck(function, primals, check_forward_ad=True)
    check_batched(function, tuple(v.detach() for v in primals))


def check_batched(function, primals: tuple[Tensor, ...]) -> None:
    """Gradcheck's check_batched_grad and check_batched_forward_grad, by torch.func.

    gradcheck itself takes the vmap that preceded torch.func, which knows no autograd.Function's vmap rule.
    """
    generator = torch.Generator().manual_seed(0)

    def several(like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(torch.randn(3, *v.shape, generator=generator, dtype=torch.float64) for v in like)

    found, pull = vjp(function, *primals)
    cotangents, tangents = several(found), several(primals)
    batched = vmap(pull)(cotangents)
    pushed = vmap(lambda *d: jvp(function, primals, d)[1])(*tangents)
    for i in range(3):
        for part, one in zip(batched, pull(tuple(g[i] for g in cotangents)), strict=True):
            assert_equal_up_to_rounding(part[i], one)
        one_push = jvp(function, primals, tuple(d[i] for d in tangents))[1]
        for part, one in zip(pushed, one_push, strict=True):
            assert_equal_up_to_rounding(part[i], one)


def test_second_derivatives_are_refused_by_name_in_every_order(pendulum):
    mpc, x0 = pendulum.mpc(), pendulum.starts(3, 0)
    start = x0.clone().requires_grad_()
    first = torch.autograd.grad(effort(mpc, start), start, create_graph=True)[0]
    with pytest.raises(SecondDerivativeError, match="second derivative"):
        first.sum().backward()

    def loss(s: Tensor) -> Tensor:
        return effort(mpc, s)

    for second in (
        jacrev(grad(loss)),
        jacfwd(grad(loss)),
        jacrev(jacfwd(loss)),
        jacfwd(jacfwd(loss)),
        hessian(loss),
    ):
        with pytest.raises(SecondDerivativeError, match="second derivative"):
            second(x0[0])


def test_a_loss_linear_in_the_solution_has_a_first_derivative_after_create_graph(pendulum):
    """Training code that passes create_graph=True by habit still gets the gradient."""
    mpc, start = pendulum.mpc(), pendulum.starts(3, 1).requires_grad_()
    kept = torch.autograd.grad(effort(mpc, start), start, create_graph=True)[0]
    plain = torch.autograd.grad(effort(mpc, start), start)[0]
    assert torch.equal(kept, plain)


@pytest.mark.parametrize("name", ["pendulum", "car"])
def test_single_precision_jacobians_agree_with_double(name):
    case = example(name)
    x0 = case.starts(1, 3)[0]
    exact = jacfwd(functools.partial(_first_control, case.mpc()))(x0)
    mpc = case.mpc(on_unconverged="ignore")
    for jacobian in (jacfwd, jacrev):
        coarse = jacobian(functools.partial(_first_control, mpc))(x0.float())
        assert coarse.dtype == torch.float32
        assert torch.linalg.vector_norm(coarse - exact) <= 1e-3 * torch.linalg.vector_norm(exact)


def _first_control(mpc: torch.nn.Module, x0: Tensor) -> Tensor:
    return mpc(x0).u[0]


def test_where_a_bound_holds_the_control_moves_with_the_bound_only():
    case = with_bound_parameters("pendulum")
    mpc, x0 = case.mpc(), case.starts(8, 1)
    bound = torch.tensor([0.1], dtype=torch.float64)
    horizon = case.spec.horizon

    def controls(start: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return mpc(start, lower=lower, upper=upper).u[:, 0]

    upper = bound.repeat(horizon, 1)
    u = vmap(lambda s: controls(s, -bound, upper))(x0)
    by_x0, by_lower, by_upper = vmap(jacfwd(controls, argnums=(0, 1, 2)), in_dims=(0, None, None))(
        x0, -bound, upper
    )
    below, above = (u == -bound), (u == bound)
    held = below | above
    assert held.double().mean() > 0.5
    assert (by_x0[held] == 0).all()
    assert (by_lower[..., 0][below] == 1).all()
    own = torch.diagonal(by_upper[..., 0], dim1=1, dim2=2)
    assert (own[above] == 1).all()
    assert torch.equal(held, (u.abs() >= 0.1 * (1 - EPS)))
