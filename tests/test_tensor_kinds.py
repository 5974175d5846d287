"""Tensors that are not dense numbers in memory: the right result, or a typed error that names tensor and remedy."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree

from mpcgen.errors import LayoutError, MpcgenError

HERE = torch.tensor([0.98, 0.1, 0.2], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, 1.0, 0.1, 0.001], dtype=torch.float64)


class Wrapper(Tensor):
    """A tensor without storage that stands for another and passes every operator on to it."""

    @staticmethod
    def __new__(cls, inner: Tensor):
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner: Tensor) -> None:
        self.held = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args, kwargs = _pytree.tree_map_only(cls, lambda t: t.held, (args, kwargs or {}))
        return _pytree.tree_map_only(Tensor, cls, func(*args, **kwargs))


class Stubborn(Wrapper):
    """The same, but for operators that are not torch's own; so are DTensor and MaskedTensor."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func.namespace != "aten":
            raise NotImplementedError(f"no rule for {func}")
        return super().__torch_dispatch__(func, types, args, kwargs)


class Named(Tensor):
    """A subclass with memory."""


def escaped(transform: Callable, tensor: Tensor) -> Tensor:
    """What a function that is transformed sees, after the transform."""
    kept = []
    transform(lambda t: (kept.append(t), t.sum())[1])(tensor)
    return kept[0]


def freed(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


REFUSED = {
    "sparse": (Tensor.to_sparse, r"has the layout torch\.sparse_coo; pass its to_dense\(\)"),
    "compressed": (lambda t: t[None].to_sparse_csr(), r"has the layout torch\.sparse_csr"),
    "mkldnn": (lambda t: t.float().to_mkldnn(), r"has the layout torch\._mkldnn"),
    "nested": (lambda t: torch.nested.nested_tensor([t]), "is a nested tensor; pad it"),
    "jagged": (lambda t: torch.nested.nested_tensor([t], layout=torch.jagged), "is a nested tensor"),
    "masked": (
        lambda t: torch.masked.masked_tensor(t, t > 0),
        r"is a MaskedTensor, which cannot be solved.*get_data\(\)",
    ),
    "stubborn": (Stubborn, "is a Stubborn, which cannot be solved.*no rule for mpcgen.solve"),
    "fake": (lambda t: FakeTensorMode().from_tensor(t), "is a FakeTensor.*convert all Tensors"),
    "freed": (freed, "has no memory"),
    "not initialized": (
        lambda t: torch.nn.parameter.UninitializedParameter(dtype=torch.float64),
        "is not initialized",
    ),
    "left by vmap": (lambda t: escaped(torch.func.vmap, t[None]), "is left over from a torch.func transform"),
}


@pytest.mark.filterwarnings(
    "ignore:.*(PyTorch API of nested|Sparse CSR|MaskedTensors is in prototype):UserWarning"
)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("known", [False, True], ids=["first call", "known signature"])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_solver_cannot_read_is_refused_by_name(pendulum, kind, known, grad):
    make, message = REFUSED[kind]
    mpc = pendulum.mpc()
    x0 = HERE.clone().requires_grad_(grad)
    if known:
        mpc(x0, q=WEIGHTS)
    if kind != "mkldnn":  # which is in single precision only, and so refused earlier
        with pytest.raises(LayoutError, match=f"pendulum: q {message}"):
            mpc(x0, q=make(WEIGHTS))
    with pytest.raises(LayoutError, match=f"pendulum: x0 {message}") as caught:
        mpc(make(HERE), q=WEIGHTS.clone().requires_grad_(grad))
    assert isinstance(caught.value, MpcgenError)


READ = {
    "a wrapper without storage": Wrapper,
    "a subclass": lambda t: t.as_subclass(Named),
    "a buffer": torch.nn.Buffer,
    "left by grad": lambda t: escaped(torch.func.grad, t),
    "of a batch": lambda t: t.expand(2, *t.shape)[0],
    "in shared memory": lambda t: t.clone().share_memory_(),
}


@pytest.mark.parametrize("kind", READ)
def test_what_stands_for_numbers_gives_their_result(pendulum, kind):
    mpc, make = pendulum.mpc(), READ[kind]
    expected = mpc(HERE, q=WEIGHTS)
    for found in (mpc(make(HERE), q=WEIGHTS), mpc(HERE, q=make(WEIGHTS)), mpc(make(HERE), q=make(WEIGHTS))):
        assert torch.equal(getattr(found.u, "held", found.u), expected.u)


# torch's own decompositions for forward mode are scripted at their first use
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_zeros_that_torch_keeps_no_numbers_for_are_zeros(pendulum):
    mpc, none = pendulum.mpc(), torch._efficientzerotensor((4,), dtype=torch.float64)
    expected = mpc(HERE, p=torch.zeros(4, dtype=torch.float64))
    for start in (HERE, HERE.clone().requires_grad_()):
        for _ in range(2):
            assert torch.equal(mpc(start, p=none).u, expected.u)
    tangent = torch.func.jvp(lambda p: mpc(HERE, p=p).u, (WEIGHTS,), (none,))[1]
    assert torch.equal(tangent, torch.zeros_like(expected.u))


def test_fake_tensors_among_their_like_give_fake_results(pendulum):
    mode, mpc = FakeTensorMode(), pendulum.mpc()
    x0 = mode.from_tensor(HERE.expand(5, 3).clone()).requires_grad_()
    solution = mpc(x0, q=mode.from_tensor(WEIGHTS), mass=1.5)
    assert solution.x.shape == (5, 20, 3)
    assert solution.status.dtype == torch.int32
    solution.u.sum().backward()
    assert x0.grad.shape == (5, 3)
    assert torch.equal(mpc(HERE).u, pendulum.mpc()(HERE).u), "no default of it is kept"
