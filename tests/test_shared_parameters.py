"""Parameters that a whole batch shares: their gradient is summed in the kernel, to the same bits for any threads."""

import functools
import math

import pytest
import torch
from controllers import EPS, Example, compiled, example, leaves
from torch import Tensor

import mpcgen

BATCH, HORIZON, WIDTH = 1024, 500, 4


@functools.cache
def tracker() -> Example:
    """A double integrator that follows a reference of 4 numbers per stage, 2,004 in all, with a bounded push."""
    problem = mpcgen.Problem("tracker", horizon=HORIZON)
    position, speed = problem.states("position speed")
    (push,) = problem.controls("push", lower=-0.5, upper=0.5)
    target = problem.parameter("target", shape=WIDTH, default=[0.0, 0.0, 1.0, 1.0], per_stage=True)
    drag = problem.parameter("drag", default=0.1)
    problem.dynamics = [position + 0.1 * speed, speed + 0.1 * (push - drag * speed)]
    state_cost = (
        target[2] ** 2 * (position - target[0]) ** 2 / 2 + target[3] ** 2 * (speed - target[1]) ** 2 / 2
    )
    problem.stage_cost = state_cost + push**2 / 2
    problem.terminal_cost = state_cost

    def starts(count: int, seed: int = 0) -> Tensor:
        return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    spec = problem.spec()
    return Example(spec, compiled(spec), starts, lambda seed: {})


def reference() -> Tensor:
    """(N+1, 4) a reference that bends and weights that vary, so that every entry has a gradient of its own."""
    t = torch.linspace(0, 12, HORIZON + 1, dtype=torch.float64)
    return torch.stack([t.sin(), 0.5 * t.cos(), 1 + 0.2 * t.cos(), 0.7 + 0.1 * t.sin()], dim=1)


def random_cotangents(count: int, seed: int = 0) -> Tensor:
    """(count, N, 1) N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, HORIZON, 1, generator=generator, dtype=torch.float64)


def gradient_of_target(x0: Tensor, target: Tensor, cotangents: Tensor, **options) -> Tensor:
    """Gradient of Σ cotangents · u by ``target``, (N+1, 4) shared or (B, N+1, 4)."""
    leaf = target.clone().requires_grad_()
    solution = tracker().mpc(**options)(x0, target=leaf)
    return torch.autograd.grad(solution.u, leaf, cotangents)[0]


@pytest.fixture(scope="module")
def whole() -> tuple[Tensor, Tensor, Tensor]:
    """Starts, cotangents, and the gradient of the 2,004 shared numbers over all 1,024 problems on one thread."""
    x0, cotangents = tracker().starts(BATCH, 1), random_cotangents(BATCH)
    return x0, cotangents, gradient_of_target(x0, reference(), cotangents, threads=1)


def test_the_gradient_of_a_shared_vector_is_the_sum_of_those_of_the_problems(whole):
    x0, cotangents, shared = whole
    own = gradient_of_target(x0, reference().expand(BATCH, -1, -1), cotangents)
    # each term has the same bits: only the order of their sum differs
    bound = BATCH * EPS * own.abs().sum(0)
    assert ((shared - own.sum(0)).abs() <= bound).all()
    assert (shared != 0).double().mean() > 0.99


@pytest.mark.parametrize("threads", [2, 3])
def test_the_gradient_of_a_shared_vector_has_the_same_bits_on_any_threads(whole, threads):
    x0, cotangents, shared = whole
    assert torch.equal(gradient_of_target(x0, reference(), cotangents, threads=threads), shared)


def test_it_agrees_with_differences_of_solutions(whole):
    """Along a random direction of all 2,004 numbers at once."""
    x0, cotangents, _ = whole
    x0, cotangents = x0[:64], cotangents[:64]
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(HORIZON + 1, WIDTH, generator=generator, dtype=torch.float64)
    mpc = tracker().mpc(tol=1e-11)
    before, after = (mpc(x0, target=reference() + sign * 1e-6 * direction).u for sign in (-1, 1))
    # a control that reaches or leaves its bound in between puts a kink into that problem's difference
    smooth = ((before.abs() == 0.5) == (after.abs() == 0.5)).flatten(1).all(1)
    assert smooth.sum() >= 48
    mask = smooth[:, None, None]
    gradient = gradient_of_target(x0, reference(), cotangents * mask)
    terms = cotangents * mask * (after - before) / 2e-6
    # the solutions' residuals, at most 1e-11 each, over the step, add up like the steps of a random walk
    allowed = 1e-11 / 1e-6 * math.sqrt(terms.numel())
    assert abs(float((gradient * direction).sum() - terms.sum())) <= allowed
    assert float(terms.sum().abs()) > 1e3 * allowed


@pytest.mark.parametrize("bad", [[0], [17], [3, 4, 700, 1023]])
def test_members_that_start_nowhere_have_a_share_of_exactly_zero(whole, bad):
    """Their cotangents are NaN, as those of a loss in a NaN solution are."""
    x0, cotangents, _ = whole
    rows = torch.tensor(bad)
    spoiled = x0.index_fill(0, rows, float("nan"))
    poisoned = cotangents.index_fill(0, rows, float("nan"))
    found = gradient_of_target(spoiled, reference(), poisoned, on_unconverged="ignore")
    # the same batch, so that the same problems are summed in the same order
    expected = gradient_of_target(x0, reference(), cotangents.index_fill(0, rows, 0.0))
    assert torch.equal(found, expected)


def test_members_that_did_not_converge_have_a_share_of_exactly_zero():
    """The converged ones' share alone, in the same batch, to the bit."""
    case = example("cartpole")
    x0 = case.starts(200, 0)
    mpc = case.mpc(max_iterations=8, on_unconverged="ignore")
    late = mpc(x0).status != 0
    assert 20 <= late.sum() <= 180
    shared = {n: v.detach()[0].clone().requires_grad_() for n, v in leaves(case, 1, {}).items()}
    inputs = list(shared.values())
    u = mpc(x0, **shared).u
    everyone = torch.autograd.grad((u**2).sum(), inputs, retain_graph=True)
    converged = torch.autograd.grad((u[~late] ** 2).sum(), inputs)
    for a, b in zip(everyone, converged, strict=True):
        assert torch.equal(a, b)
        assert (a != 0).any()


@functools.cache
def quartic() -> Example:
    """The minimum of u⁴/4 - weight x0 u, at u = cbrt(weight x0): no derivative where x0 = 0."""
    problem = mpcgen.Problem("quartic", horizon=1)
    (x,) = problem.states("x")
    (u,) = problem.controls("u")
    weight = problem.parameter("weight", default=1.0)
    problem.dynamics = [x]
    problem.stage_cost = u**4 / 4 - weight * x * u
    problem.terminal_cost = 0 * x

    def starts(count: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return 1 + torch.rand(count, 1, generator=generator, dtype=torch.float64)

    spec = problem.spec()
    return Example(spec, compiled(spec), starts, lambda seed: {})


def test_members_without_a_derivative_have_a_share_of_exactly_zero():
    """Asked for as it is, the gradient of a degenerate solution is still never a division by a refused pivot."""
    x0 = quartic().starts(100, 0)
    degenerate = torch.arange(100) % 7 == 3
    x0[degenerate] = 0.0
    mpc = quartic().mpc(on_unconverged="ignore", unconverged_gradient="keep")
    weight = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    start = x0.clone().requires_grad_()
    solution = mpc(start, weight=weight)
    assert ((solution.status == mpcgen.Status.NOT_A_MINIMUM) == degenerate).all()
    everyone = torch.autograd.grad(solution.u.sum(), (weight, start), retain_graph=True)
    others = torch.autograd.grad(solution.u[~degenerate].sum(), (weight, start))
    assert torch.equal(everyone[0], others[0])
    assert torch.equal(everyone[1], others[1])
    # du/dweight = cbrt(x0 / weight²) / 3
    expected = (x0[~degenerate] ** (1 / 3)).sum() / 3
    torch.testing.assert_close(everyone[0], expected, rtol=1e-7, atol=0)
