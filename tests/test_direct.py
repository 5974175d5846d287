"""The short way of calls without gradient: the same numbers, checks and warnings as any other call."""

import contextlib
import copy
import gc
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from controllers import compiled

import mpcgen
from mpcgen.autograd import Solution
from mpcgen.calls.direct import MOST_SIGNATURES
from mpcgen.calls.gradient import Gradient
from mpcgen.errors import DtypeError, ParameterError, ShapeError

FIELDS = ("x", "u", "cost", "status", "iterations", "residual", "costates", "gains", "multipliers")
HORIZON = 19


def starts(*leading: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    angle = torch.linspace(-2, 2.5, torch.Size(leading).numel(), dtype=torch.float64)
    return torch.stack([angle.cos(), angle.sin(), 0.1 * angle], dim=-1).reshape(*leading, 3).to(dtype)


def positive(*shape: int) -> torch.Tensor:
    return torch.linspace(0.5, 1.5, torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)


def assert_same(one: Solution, other: Solution) -> None:
    for name in FIELDS:
        a, b = getattr(one, name), getattr(other, name).detach()
        assert a.dtype == b.dtype
        assert torch.equal(a, b), name


CALLS = {
    "x0": ((), {}),
    "x0, u_init": ((), {"u_init": positive(HORIZON, 1)}),
    "x0, u_init, q": ((), {"u_init": positive(HORIZON, 1), "q": positive(4)}),
    "batch": ((5,), {"q": positive(5, 4), "mass": positive(5)}),
    "batch, shared u_init and q": ((5,), {"u_init": positive(HORIZON, 1), "q": positive(4)}),
    "batch, its own u_init": ((2, 3), {"u_init": positive(2, 3, HORIZON, 1), "q": positive(1, 1, 4)}),
    "broadcast x0": ((), {"mass": positive(5)}),
    "broadcast parameters": ((2, 3), {"mass": positive(3), "q": positive(2, 1, 4)}),
    "horizon": ((2,), {"horizon": 7}),
    "batch of one": ((1, 1), {"q": positive(4)}),
    "batch of none": ((0,), {}),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("leading", "arguments"), CALLS.values(), ids=CALLS.keys())
def test_results_are_bit_for_bit_those_of_a_call_that_autograd_watches(pendulum, leading, arguments, dtype):
    mpc = pendulum.mpc()
    values = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    x0 = starts(*leading, dtype=dtype)
    watched = mpc(x0.clone().requires_grad_(), **values)
    for _ in range(2):  # once with the checks, once without
        assert_same(mpc(x0, **values), watched)


def test_a_known_signature_takes_the_values_of_this_call(pendulum):
    mpc = pendulum.mpc()
    for mass, angle in ((1.0, 0.1), (1.5, 0.2), (2.0, 0.3)):
        x0 = torch.tensor([angle, 1 - angle, angle], dtype=torch.float64)
        value = torch.tensor(mass, dtype=torch.float64)
        assert_same(mpc(x0, mass=value), pendulum.mpc()(x0, mass=value))


def test_per_stage_parameters(lqr):
    spec, mpc = lqr.spec, lqr.mpc()
    x0 = lqr.starts(3, 0)
    values = lqr.values(0)
    watched = mpc(x0.clone().requires_grad_(), **values)
    assert any(p.per_stage for p in spec.parameters)
    for _ in range(2):
        assert_same(mpc(x0, **values), watched)


@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 3), (0,), (2, 0)], ids=str)
@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_are_bit_for_bit_those_of_the_long_way(pendulum, leading, create_graph):
    """Which a call that keeps its history takes."""
    long_way, mpc = pendulum.mpc(history=True), pendulum.mpc()
    leaves = [starts(*leading), positive(4), positive(*leading)]
    leaves = [leaf.requires_grad_() for leaf in leaves]

    def gradients(module):
        x0, q, mass = leaves
        sol = module(x0, q=q, mass=mass)
        loss = (sol.x**2).sum() + (sol.u * sol.u.detach().cos()).sum() + sol.cost.sum()
        return torch.autograd.grad(loss, leaves, create_graph=create_graph)

    expected = gradients(long_way)
    for _ in range(3):
        for one, other in zip(gradients(mpc), expected, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("leading", [(), (2, 3)], ids=str)
@pytest.mark.parametrize("unconverged_gradient", ["zero", "nan"])
def test_parameters_of_which_some_get_gradients(pendulum, leading, unconverged_gradient):
    """Shared and not, given and not: those that get one have it in their shape, bit for bit that of the long way."""
    options = {"max_iterations": 2, "on_unconverged": "ignore", "unconverged_gradient": unconverged_gradient}
    long_way, mpc = pendulum.mpc(history=True, **options), pendulum.mpc(**options)
    x0, values = starts(*leading), {"q": positive(4), "mass": positive(*leading), "length": positive()}
    for names in (["q"], ["mass"], ["length", "q"], ["mass", "length"]):
        asked = [values[name].clone().requires_grad_() for name in names]
        given = values | dict(zip(names, asked, strict=True))
        expected = torch.autograd.grad(long_way(x0, **given).cost.sum(), asked)
        found = torch.autograd.grad(mpc(x0, **given).cost.sum(), asked)
        for value, one, other in zip(asked, found, expected, strict=True):
            assert one.shape == value.shape
            assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))
        assert any(one.isnan().any() for one in found) == (unconverged_gradient == "nan")


def test_a_gradient_is_what_it_is_when_another_thread_begins_one_at_its_end(pendulum, monkeypatch):
    """What is left to later calls is written by them at once; which problems have no gradient has been read by then."""

    class WrittenAtOnce(list):
        def append(self, arguments):
            arguments.singular.fill_(1)
            super().append(arguments)

    made = Gradient.__init__

    def make(gradient, *given):
        made(gradient, *given)
        gradient._spare = WrittenAtOnce()

    monkeypatch.setattr(Gradient, "__init__", make)
    x0 = starts(6).requires_grad_()
    solution = pendulum.mpc(unconverged_gradient="nan")(x0)
    assert solution.converged.all()
    for _ in range(2):
        (found,) = torch.autograd.grad(solution.cost.sum(), x0, retain_graph=True)
        assert found.isfinite().all()


@pytest.mark.parametrize("changed", ["q", "mass", "u", "status"])
def test_what_is_changed_in_place_before_the_gradient_is_refused(pendulum, changed):
    mass, q = positive(2).requires_grad_(), positive(4)
    solution = pendulum.mpc()(starts(2), mass=mass, q=q)
    tensors = {"q": q, "mass": mass.detach(), "u": solution.u.detach(), "status": solution.status}
    tensors[changed].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        solution.cost.sum().backward()


def test_what_a_gradient_needs_is_let_go_with_the_solution(pendulum):
    """Without the garbage collector: nothing that is kept for the gradient refers to itself."""
    mpc, mass = pendulum.mpc(), positive(2).requires_grad_()
    gc.collect()
    gc.disable()
    try:
        solution = mpc(starts(2), mass=mass)
        kept = [weakref.ref(solution.x), weakref.ref(solution.u), weakref.ref(solution.gains)]
        del solution
        assert [each() for each in kept] == [None, None, None]
    finally:
        gc.enable()


def test_gradients_of_several_losses_at_once_are_those_of_each(pendulum):
    mpc, x0 = pendulum.mpc(), starts(2, 3).requires_grad_()
    for _ in range(2):
        u = mpc(x0).u[..., 0, 0]
        directions = torch.eye(6, dtype=torch.float64).reshape(6, 2, 3)
        (together,) = torch.autograd.grad(u, x0, directions, retain_graph=True, is_grads_batched=True)
        for direction, one in zip(directions, together, strict=True):
            assert torch.equal(torch.autograd.grad(u, x0, direction, retain_graph=True)[0], one)


def test_a_graph_that_is_kept_has_its_gradient_twice_also_from_tensors_that_hooks_kept(pendulum):
    mpc, x0 = pendulum.mpc(), starts(3).requires_grad_()
    (expected,) = torch.autograd.grad(mpc(x0).cost.sum(), x0)
    # what the second kind gets back does not lie in memory as it did
    hooks = torch.autograd.graph.saved_tensors_hooks(_pack, lambda t: t.transpose(0, -1) if t.ndim else t)
    for context in (contextlib.nullcontext(), hooks):
        with context:
            kept = mpc(x0).cost.sum()
        for _ in range(2):
            assert torch.equal(torch.autograd.grad(kept, x0, retain_graph=True)[0], expected)


def _pack(tensor):
    return tensor.transpose(0, -1).contiguous() if tensor.ndim else tensor.clone()


def test_what_is_wrong_is_refused_after_calls_that_were_right(pendulum):
    mpc, x0 = pendulum.mpc(), starts(2)
    for horizon in (None, 1):
        mpc(x0, horizon=horizon, q=positive(4))
    with pytest.raises(ShapeError, match="x0 has shape"):
        mpc(starts(2)[:, :2], q=positive(4))
    with pytest.raises(ShapeError, match="q has shape") as refused:
        mpc(x0, q=positive(3))
    assert refused.value.__context__ is None  # nobody has to read past the inside of a cache
    with pytest.raises(ParameterError, match="no parameter 'Q'"):
        mpc(x0, Q=positive(4))
    with pytest.raises(DtypeError, match=r"q is torch\.float32"):
        mpc(x0, q=positive(4).float())
    with pytest.raises(DtypeError, match="x0 is a list"):
        mpc([[1.0, 0.0, 0.0]])
    for wrong in (True, 1.0, 0, [1]):
        with pytest.raises(ParameterError, match="horizon"):
            mpc(x0, horizon=wrong, q=positive(4))


def test_every_call_that_does_not_converge_warns(pendulum):
    mpc = pendulum.mpc(max_iterations=1, on_unconverged="warn")
    for leading in ((), (3,)):
        for _ in range(2):
            with pytest.warns(mpcgen.UnconvergedWarning, match="MAX_ITERATIONS"):
                mpc(starts(*leading) if leading else starts(1)[0])


def test_threads_that_share_a_signature_do_not_share_memory(pendulum):
    mpc, x0 = pendulum.mpc(), starts(400)
    alone = [mpc(start) for start in x0]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(mpc, x0))
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda mpc: pickle.loads(pickle.dumps(mpc))])
def test_copies_of_a_controller_that_was_called_solve_alike(pendulum, copied):
    mpc, x0 = pendulum.mpc(learn={"mass": "positive"}), starts(3)
    with torch.no_grad():
        assert_same(copied(mpc)(x0), mpc(x0))


def test_learned_parameters_are_read_anew_in_each_call(pendulum):
    mpc, x0 = pendulum.mpc(learn={"mass": "positive", "q": None}), starts(3)
    with torch.no_grad():
        for mass in (1.0, 1.25):
            mpc.mass = torch.tensor(mass, dtype=torch.float64)
            mpc.q.mul_(1.5)
            expected = pendulum.mpc()(x0, mass=mpc.mass.clone(), q=mpc.q.clone())
            assert_same(mpc(x0), expected)


def test_a_default_device_does_not_move_the_results(pendulum):
    mpc, x0 = pendulum.mpc(), starts(2)
    expected = mpc(x0)
    with torch.device("meta"):
        assert_same(pendulum.module.MPC()(x0, horizon=HORIZON), expected)
        watched = mpc(x0.requires_grad_())
    assert torch.equal(watched.u, expected.u)


def test_a_view_that_stands_for_negated_numbers_is_read_as_them():
    problem = mpcgen.Problem("scalar", horizon=1)
    (position,) = problem.states("position")
    (push,) = problem.controls("push")
    problem.dynamics = [position + push]
    problem.stage_cost = push**2
    problem.terminal_cost = (position - 1) ** 2
    mpc = compiled(problem).MPC()
    negated = torch.tensor([1 + 2j], dtype=torch.complex128).conj().imag
    assert negated.is_neg()
    assert negated.is_contiguous()
    assert mpc(negated).x[0].item() == -2
    assert mpc(negated.requires_grad_()).x[0].item() == -2


def test_more_signatures_than_are_kept(pendulum):
    mpc, x0 = pendulum.mpc(), starts(MOST_SIGNATURES + 10)
    expected = mpc(x0).u
    for size in range(1, MOST_SIGNATURES + 10):
        assert torch.allclose(mpc(x0[:size]).u, expected[:size], rtol=0, atol=1e-7)
    assert len(mpc.direct._known) <= MOST_SIGNATURES


def test_arguments_and_solutions_are_not_kept(pendulum):
    mpc = pendulum.mpc()
    x0, u_init, q = starts(2), positive(2, HORIZON, 1), positive(4)
    kept = [weakref.ref(t) for t in (x0, u_init, q, mpc(x0, u_init=u_init, q=q).u)]
    del x0, u_init, q
    gc.collect()
    assert [ref() for ref in kept] == [None] * 4
