"""What torch can do with a call besides running it: tracers, dispatch modes, transforms, old vectorisation, compilers.

Each gives the numbers of the plain call, at inputs other than those it was recorded with, or says what does.
"""

import warnings

import pytest
import torch
from controllers import Example
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.func import functionalize, grad, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from mpcgen.errors import DtypeError, ParameterError, SecondDerivativeError, TracingError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning"),
    # of shapes that are compared, and of linearize's own constants: both torch's way of tracing
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning"),
]
HERE = torch.tensor([0.98, 0.1, 0.2], dtype=torch.float64)
ELSEWHERE = torch.tensor([0.9, -0.3, 0.2], dtype=torch.float64)
ALONG = torch.tensor([0.3, -0.7, 0.2], dtype=torch.float64)
STARTS = torch.stack([HERE, ELSEWHERE, HERE + 0.1, ELSEWHERE + 0.2])
WEIGHTS = torch.tensor([1.0, 1.0, 0.1, 0.001], dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> bool:
    """Equal but for the order of sums, and the rounding of a single problem beside a batch."""
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert expected.abs().max() > 1e-2
    return True


@pytest.fixture
def first(pendulum: Example):
    """The first control as a function of the state."""
    mpc = pendulum.mpc()
    return lambda x0: mpc(x0).u[..., 5, 0]


def differentiated(x0: Tensor, function) -> Tensor:
    leaf = x0.detach().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf)[0]


# ---- recorded and replayed -------------------------------------------------------------------------------------------


def test_linearize_gives_the_jacobian_times_a_vector(pendulum, first):
    value, push = linearize(first, HERE)
    assert close(value, first(HERE))
    assert close(push(ALONG), grad(first)(HERE) @ ALONG)
    mpc = pendulum.mpc()
    _, push = linearize(lambda x0, q: mpc(x0, q=q).cost, HERE, WEIGHTS)
    _, expected = jvp(lambda x0, q: mpc(x0, q=q).cost, (HERE, WEIGHTS), (ALONG, 2 * WEIGHTS))
    assert close(push(ALONG, 2 * WEIGHTS), expected)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx_records_the_solver_and_not_what_it_found(first, mode):
    traced = make_fx(first, tracing_mode=mode)(STARTS)
    assert close(traced(STARTS.flip(0)), first(STARTS.flip(0)))
    assert mode != "symbolic" or close(traced(STARTS[:3]), first(STARTS[:3]))


def test_make_fx_records_derivatives_of_every_kind(pendulum, first):
    kinds = {
        "grad": grad(first),
        "jvp": lambda x0: jvp(first, (x0,), (ALONG,))[1],
        "vjp": lambda x0: vjp(first, x0)[1](torch.tensor(2.0, dtype=torch.float64))[0],
        "autograd": lambda x0: differentiated(x0, first),
    }
    for name, kind in kinds.items():
        assert close(make_fx(kind)(HERE)(ELSEWHERE), kind(ELSEWHERE)), name
    for kind in (vmap(first), vmap(grad(first)), vmap(jacfwd(first))):
        assert close(make_fx(kind)(STARTS)(STARTS.flip(0)), kind(STARTS.flip(0)))
    mpc = pendulum.mpc()

    def by_weights(x0: Tensor, q: Tensor) -> Tensor:
        return grad(lambda value: mpc(x0, q=value).u[3, 0])(q)

    assert close(
        make_fx(by_weights)(HERE, WEIGHTS)(ELSEWHERE, 2 * WEIGHTS), by_weights(ELSEWHERE, 2 * WEIGHTS)
    )


def test_make_fx_records_examinations(pendulum):
    mpc = pendulum.mpc()
    start = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    assert close(make_fx(lambda x0: mpc(x0).multipliers)(HERE)(start), mpc(start).multipliers)


def test_torch_jit_trace_records_the_solver(first):
    assert close(torch.jit.trace(first, (HERE,))(ELSEWHERE), first(ELSEWHERE))


def test_torch_jit_trace_of_a_gradient_names_what_records_one(first):
    with pytest.raises(TracingError, match=r"torch\.jit\.trace cannot record the gradient.*make_fx"):
        torch.jit.trace(lambda x0: differentiated(x0, first), (HERE,))


def test_symbolic_tracing_names_what_follows_a_controller(pendulum):
    class Policy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mpc = pendulum.mpc()

        def forward(self, x0):
            return self.mpc(x0).u

    with pytest.raises(DtypeError, match=r"x0 is a Proxy; torch\.fx\.symbolic_trace cannot.*torch\.export"):
        torch.fx.symbolic_trace(Policy())


def test_functionalize_sees_the_operator(first):
    assert close(functionalize(first)(HERE), first(HERE))
    assert close(make_fx(functionalize(first))(HERE)(ELSEWHERE), first(ELSEWHERE))
    assert close(functionalize(grad(first))(HERE), grad(first)(HERE))


def test_unrolled_gradients_say_that_no_tracer_can_follow_them(pendulum):
    mpc = pendulum.mpc(gradient="unrolled", unroll=1, problem=pendulum.spec)
    with pytest.raises(ParameterError, match="no tracer can follow it"):
        make_fx(lambda x0: mpc(x0).u)(HERE)


def test_a_call_inside_a_mode_leaves_nothing_of_it_behind(first):
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    with FakeTensorMode() as mode:
        fake = first(mode.from_tensor(STARTS))
    assert isinstance(fake, FakeTensor)
    assert (fake.shape, fake.dtype) == ((4,), torch.float64)
    assert isinstance(first(mode.from_tensor(STARTS)), FakeTensor), "outside of its mode, too"
    assert type(first(STARTS)) is Tensor


# ---- vectorised by torch.autograd itself ----------------------------------------------------------------------------


def test_batched_cotangents_give_the_jacobian(pendulum):
    mpc, leaf = pendulum.mpc(), HERE.clone().requires_grad_()
    u = mpc(leaf).u[:, 0]
    found = torch.autograd.grad(u, leaf, torch.eye(19, dtype=torch.float64), is_grads_batched=True)[0]
    assert close(found, jacrev(lambda x0: mpc(x0).u[:, 0])(HERE))


@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_vectorised_jacobians_are_jacobians(pendulum, strategy):
    mpc = pendulum.mpc()

    def controls(x0: Tensor, q: Tensor) -> Tensor:
        return mpc(x0, q=q).u

    found = jacobian(controls, (HERE, WEIGHTS), vectorize=True, strategy=strategy)
    for one, other in zip(found, jacrev(controls, argnums=(0, 1))(HERE, WEIGHTS), strict=True):
        assert close(one, other)


def test_gradcheck_in_batches(pendulum):
    mpc = pendulum.mpc(tol=1e-12, on_unconverged="ignore")
    inputs = (STARTS[:2].clone().requires_grad_(), WEIGHTS.clone().requires_grad_())
    assert torch.autograd.gradcheck(
        lambda x0, q: mpc(x0, q=q, horizon=3).u,
        inputs,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


@pytest.mark.parametrize("transform", [lambda f: f, grad, jacfwd, jacrev])
def test_a_mapped_dimension_of_none_gives_none(first, transform):
    expected = vmap(transform(first))(STARTS)
    found = vmap(transform(first))(STARTS[:0])
    assert (found.shape, found.dtype) == ((0, *expected.shape[1:]), expected.dtype)


# ---- compiled -------------------------------------------------------------------------------------------------------


def compiled(function):
    return torch.compile(function, backend="aot_eager", fullgraph=True)


@pytest.mark.parametrize("transform", [grad, jacfwd, jacrev])
def test_transforms_inside_a_compiled_function(first, transform):
    assert close(compiled(transform(first))(HERE), transform(first)(HERE))
    assert close(compiled(vmap(transform(first)))(STARTS), vmap(transform(first))(STARTS))


def test_vmap_inside_a_compiled_function(first):
    assert close(compiled(vmap(first))(STARTS), first(STARTS))


@pytest.mark.parametrize("transform", [vmap, grad])
def test_transforms_of_a_compiled_function(first, transform):
    inside = torch.compile(first, backend="aot_eager")  # torch itself refuses this with fullgraph=True
    start = STARTS if transform is vmap else HERE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it runs the function as it is
        assert close(transform(inside)(start), transform(first)(start))


# ---- no second derivatives ------------------------------------------------------------------------------------------


SECOND = {
    "reverse over forward": lambda f: lambda x: differentiated(x, lambda y: jvp(f, (y,), (ALONG,))[1]),
    "linearize over reverse": lambda f: lambda x: linearize(grad(f), x)[1](ALONG),
    "forward over reverse": lambda f: lambda x: jvp(grad(f), (x,), (ALONG,)),
    "reverse over reverse": lambda f: grad(lambda x: grad(f)(x).sum()),
    "vectorised hessian": lambda f: lambda x: torch.autograd.functional.hessian(f, x, vectorize=True),
}


@pytest.mark.parametrize("kind", SECOND)
def test_second_derivatives_are_refused_and_never_zero(first, kind):
    with pytest.raises(SecondDerivativeError, match="second derivative"):
        SECOND[kind](first)(HERE)
