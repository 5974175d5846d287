"""The paper's package on our kernels: solutions against dense solves and rollouts, gradients by differences."""

import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mpcgen
from mpcgen.compat import lqr_step, mpc, pnqp, problems, util
from mpcgen.compat.dynamics import AffineDynamics, NNDynamics
from mpcgen.compat.env_dx.cartpole import CartpoleDx
from mpcgen.compat.env_dx.pendulum import PendulumDx
from mpcgen.compat.mpc import GradMethods, LinDx, QuadCost

N, M, T, B = 3, 2, 4, 2
EXAMPLES = Path(__file__).parent.parent / "examples"


def random_lq(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x_init, C, c, F, f of convex problems."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    root = draw(T, B, N + M, N + M)
    C = root @ root.mT + 0.5 * torch.eye(N + M, dtype=torch.float64)
    F = 0.5 * draw(T - 1, B, N, N + M)
    return draw(B, N), C, draw(T, B, N + M), F, draw(T - 1, B, N)


def condensed(x_init: Tensor, C: Tensor, c: Tensor, F: Tensor, f: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """H and g of the cost ½ u'Hu + g'u of problem b, over its stacked controls (T m,)."""
    slope, offset = torch.zeros(N, T * M, dtype=torch.float64), x_init[b]
    H, g = torch.zeros(T * M, T * M, dtype=torch.float64), torch.zeros(T * M, dtype=torch.float64)
    for t in range(T):
        control = torch.zeros(M, T * M, dtype=torch.float64)
        control[:, t * M : (t + 1) * M] = torch.eye(M, dtype=torch.float64)
        tau, rest = torch.cat((slope, control)), torch.cat((offset, offset.new_zeros(M)))
        H, g = H + tau.T @ C[t, b] @ tau, g + tau.T @ (C[t, b] @ rest + c[t, b])
        if t < T - 1:
            slope, offset = F[t, b] @ tau, F[t, b] @ rest + f[t, b]
    return H, g


def stacked(u: Tensor, b: int) -> Tensor:
    return u[:, b].reshape(-1)


def test_bounded_problems_are_solved():
    values = random_lq()
    lower = -0.3 * torch.rand(T, B, M, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x, u, costs = mpc.MPC(N, M, T, lower, 0.2)(values[0], QuadCost(*values[1:3]), LinDx(*values[3:]))
    assert 0 < ((u == lower) | (u == 0.2)).sum() < u.numel()
    for b in range(B):
        H, g = condensed(*values, b)
        found = stacked(u, b)
        expected, *_ = pnqp.pnqp(H[None], g[None], stacked(lower, b)[None], 0.2)
        torch.testing.assert_close(found, expected[0], rtol=0, atol=1e-8)
    torch.testing.assert_close(x, util.get_traj(T, u, values[0], LinDx(*values[3:])))
    torch.testing.assert_close(costs, util.get_cost(T, u, QuadCost(*values[1:3]), x=x))


@pytest.mark.parametrize(
    "penalty", [3.0, torch.tensor([0.0, 7.0])]
)  # one for each control, as many as problems
def test_changes_of_controls_cost(penalty):
    values = random_lq()
    before = torch.tensor([[0.5, -0.5]], dtype=torch.float64).expand(B, M)
    solver = mpc.MPC(N, M, T, slew_rate_penalty=penalty, prev_ctrl=before)
    _, u, costs = solver(values[0], QuadCost(*values[1:3]), LinDx(*values[3:]))
    change = torch.eye(T * M, dtype=torch.float64) - torch.diag(
        torch.ones((T - 1) * M, dtype=torch.float64), -M
    )
    weights = (torch.ones(M, dtype=torch.float64) * penalty).repeat(T)
    for b in range(B):
        H, g = condensed(*values, b)
        first = torch.cat((before[b], torch.zeros((T - 1) * M, dtype=torch.float64)))
        expected = torch.linalg.solve(
            H + change.T @ (weights[:, None] * change), change.T @ (weights * first) - g
        )
        torch.testing.assert_close(stacked(u, b), expected, rtol=0, atol=1e-9)
    x = util.get_traj(T, u, values[0], LinDx(*values[3:]))
    changes = (torch.diff(u, dim=0, prepend=before[None]).square() * weights[:M]).sum((0, 2))
    own = util.get_cost(T, u, QuadCost(*values[1:3]), x=x)
    torch.testing.assert_close(costs, own + changes / 2)


def test_gradients_are_those_of_the_solution():
    def solve(*values: Tensor) -> tuple[Tensor, ...]:
        x_init, C, c, F, f, lower, upper = values
        return mpc.MPC(N, M, T, lower, upper)(x_init, QuadCost(C, c), LinDx(F, f))

    values = (*random_lq(), torch.full((T, B, M), -0.3).double(), torch.full((T, B, M), 0.2).double())
    assert torch.autograd.gradcheck(
        solve, tuple(v.requires_grad_() for v in values), atol=1e-6, fast_mode=True
    )


def test_controls_are_held_at_zero_and_one_stage_is_enough():
    x_init, C, c, F, f = random_lq()
    held = torch.zeros(T, B, M, dtype=torch.bool)
    held[1, 0, 1] = held[2, 1, 0] = True
    _, u, _ = mpc.MPC(N, M, T, u_upper=1.0, u_zero_I=held)(x_init, QuadCost(C, c), LinDx(F, f))
    assert (u[held] == 0).all() and (u[~held] != 0).all()
    x, u, _ = mpc.MPC(N, M, 1, u_upper=1e3)(x_init, QuadCost(C[:1], c[:1]), LinDx(F[:0], f[:0]))
    slope = torch.einsum("bij,bj->bi", C[0], torch.cat((x[0], u[0]), 1)) + c[0]
    assert x.shape == (1, B, N) and slope[:, N:].abs().max() < 1e-8


def test_what_holds_at_all_stages_is_given_once():
    x_init, C, c, F, f = random_lq()
    C, c, A, f = C[0, 0], c[0, 0], F[0, 0], f[0, 0]
    once = mpc.MPC(N, M, T, -0.3, 0.2)(x_init, QuadCost(C, c), AffineDynamics(A[:, :N], A[:, N:], f))
    cost = QuadCost(C.expand(T, B, -1, -1), c.expand(T, B, -1))
    dynamics = LinDx(A.expand(T, B, -1, -1), f.expand(T - 1, B, -1))  # a stage more is left aside
    for one, other in zip(once, mpc.MPC(N, M, T, -0.3, 0.2)(x_init, cost, dynamics), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_last_control_that_costs_nothing_is_zero():
    x_init, C, c, F, f = random_lq()
    C[-1, 0, N:], C[-1, 0, :, N:], c[-1, 0, N:] = 0, 0, 0
    x, u, costs = mpc.MPC(N, M, T, 0.1, 0.2)(x_init, QuadCost(C, c), LinDx(F, f))
    assert (u[-1, 0] == 0.1).all()  # or what is nearest to it
    torch.testing.assert_close(costs, util.get_cost(T, u, QuadCost(C, c), x=x))


def test_the_limit_of_a_step_bounds_the_controls():
    values = random_lq()
    solver = mpc.MPC(N, M, T, -1.0, 1.0, lqr_iter=2, delta_u=0.01, exit_unconverged=False)
    values[0].requires_grad_()
    with pytest.warns(mpcgen.UnconvergedWarning, match="held back by delta_u"):
        _, u, _ = solver(values[0], QuadCost(*values[1:3]), LinDx(*values[3:]))
    assert u.abs().max() <= 0.02
    (gradient,) = torch.autograd.grad(u.sum(), values[0])
    assert (gradient == 0).all()
    solver = mpc.MPC(N, M, T, -1.0, 1.0, delta_u=5.0)
    far = solver(values[0], QuadCost(*values[1:3]), LinDx(*values[3:]))[1]
    free = mpc.MPC(N, M, T, -1.0, 1.0)(values[0], QuadCost(*values[1:3]), LinDx(*values[3:]))[1]
    torch.testing.assert_close(far, free)


def test_a_step_of_iterative_lqr_solves_linear_problems():
    x_init, C, c, F, f = random_lq()
    step = lqr_step.LQRStep(N, M, T, -0.3, 0.2)
    x, u, _, costs, norm, share = step(x_init, C, c, F, f)
    expected = mpc.MPC(N, M, T, -0.3, 0.2)(x_init, QuadCost(C, c), LinDx(F, f))
    for one, other in zip((x, u, costs), expected, strict=True):
        torch.testing.assert_close(one, other)
    assert share == 1 and torch.allclose(norm, u.square().sum((0, 2)).sqrt())


def pendulum_call(
    dx: nn.Module, x_init: Tensor, stages: int = 10, **options
) -> tuple[Tensor, Tensor, Tensor]:
    q, p = dx.get_true_obj()
    cost = QuadCost(torch.diag(q).double(), p.double())
    return mpc.MPC(3, 1, stages, -2.0, 2.0, lqr_iter=20, **options)(x_init, cost, dx)


ANGLES = torch.tensor([0.4, -1.0, 2.0], dtype=torch.float64)
STARTS = torch.stack((ANGLES.cos(), ANGLES.sin(), torch.zeros_like(ANGLES)), 1)


def test_a_module_is_solved_and_differentiated():
    params = torch.tensor([10.0, 1.0, 1.0], dtype=torch.float64, requires_grad=True)
    dx = PendulumDx(params)
    x, u, _ = pendulum_call(dx, STARTS)
    torch.testing.assert_close(x, util.get_traj(10, u, STARTS, dx))

    def cost_of(controls: Tensor) -> Tensor:
        q, p = (v.double() for v in dx.get_true_obj())
        state, total = STARTS, torch.zeros(())
        for control in controls:
            tau = torch.cat((state, control), 1)
            total = total + (0.5 * q * tau**2 + p * tau).sum()
            state = dx(state, control)
        return total

    slope = torch.func.grad(cost_of)(u.detach())
    assert (u - (u - slope).clamp(-2, 2)).abs().max() < 1e-7
    assert torch.autograd.gradcheck(lambda p: pendulum_call(PendulumDx(p), STARTS), (params,), atol=1e-5)


def test_new_weights_take_no_new_problem_and_other_constants_do():
    dx = PendulumDx(torch.tensor([9.0, 1.1, 0.9], dtype=torch.float64))
    _, u, _ = pendulum_call(dx, STARTS)
    count = len(problems._compiled)
    dx.params = torch.tensor([11.0, 0.9, 1.1], dtype=torch.float64)
    x, other, _ = pendulum_call(dx, STARTS)
    assert len(problems._compiled) == count and not torch.equal(u, other)
    torch.testing.assert_close(x, util.get_traj(10, other, STARTS, dx))
    dx.dt = 0.04
    assert problems.structure_of(dx).key != problems.structure_of(PendulumDx()).key


GAIN = 0.5
OFFSET = torch.zeros(2)


def scaled(x: Tensor, u: Tensor) -> Tensor:
    return GAIN * x + u + OFFSET


def test_what_a_function_reads_is_part_of_it(monkeypatch):
    found = problems.structure_of(scaled)
    assert len(found.tensors) == 1 and found.tensors[0] is OFFSET
    monkeypatch.setitem(globals(), "OFFSET", torch.ones(2))
    assert problems.structure_of(scaled).key == found.key
    monkeypatch.setitem(globals(), "GAIN", 0.6)
    assert problems.structure_of(scaled).key != found.key


def test_problems_without_a_solution_have_no_gradient():
    start = STARTS.clone()
    start[1, 2] = torch.nan
    start.requires_grad_()
    with pytest.raises(
        mpcgen.UnconvergedError, match=r"1 of 3 .*1 INVALID_INPUT.*first is problem 1"
    ) as error:
        pendulum_call(PendulumDx(), start)
    solution = error.value.solution
    assert solution.status.tolist() == [0, 3, 0] and not solution.u.requires_grad
    with pytest.warns(mpcgen.UnconvergedWarning, match="1 of 3"):
        x, _, _ = pendulum_call(PendulumDx(), start, exit_unconverged=False)
    (gradient,) = torch.autograd.grad(x.nansum(), start)
    assert (gradient[1] == 0).all() and (gradient[[0, 2]] != 0).any(-1).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pendulum_call(PendulumDx(), start, exit_unconverged=False, verbose=-1)
        assert not pendulum_call(PendulumDx(), STARTS, backprop=False)[1].requires_grad


class Valley(nn.Module):
    """A cost that is no parabola, with a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, tau: Tensor) -> Tensor:
        return self.weight * torch.log(torch.cosh(tau[:, 0] - 1)) + 0.1 * tau[:, 1] ** 2


def test_a_module_is_a_cost():
    cost, x_init = Valley(), torch.tensor([[0.0], [3.0]], dtype=torch.float64)
    dynamics = LinDx(torch.tensor([[1.0, 0.5]], dtype=torch.float64))
    x, u, costs = mpc.MPC(1, 1, 6)(x_init, cost, dynamics)
    torch.testing.assert_close(costs, util.get_cost(6, u, cost, x=x))
    (by_weight,) = torch.autograd.grad(costs.sum(), cost.weight)
    torch.testing.assert_close(by_weight, torch.log(torch.cosh(x.detach()[..., 0] - 1)).sum())
    C, c, value = mpc.MPC(1, 1, 6).approximate_cost(x.detach(), u.detach(), cost, diff=False)
    tau = torch.cat((x, u), -1).detach()
    expected = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(lambda point: cost(point[None])[0])))(
        tau.flatten(0, 1)
    )
    torch.testing.assert_close(C.flatten(0, 1), expected)
    torch.testing.assert_close(
        c + torch.einsum("tbij,tbj->tbi", C, tau), torch.func.grad(lambda v: cost(v.flatten(0, 1)).sum())(tau)
    )
    torch.testing.assert_close(value.sum(0), costs.detach())


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "elu"])
def test_networks_know_their_slopes(activation):
    torch.manual_seed(0)
    net = NNDynamics(N, M, [7, 5], activation).double()
    x, u = torch.randn(T, B, N, dtype=torch.float64), torch.randn(T, B, M, dtype=torch.float64)
    found = {
        method: mpc.MPC(N, M, T, grad_method=method).linearize_dynamics(x, u, net, diff=False)
        for method in (GradMethods.ANALYTIC, GradMethods.AUTO_DIFF, GradMethods.FINITE_DIFF)
    }
    exact = found[GradMethods.AUTO_DIFF]
    for one, other, rough in zip(
        found[GradMethods.ANALYTIC], exact, found[GradMethods.FINITE_DIFF], strict=True
    ):
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(rough, other, atol=1e-6, rtol=1e-6)


def test_the_cartpole_is_the_example():
    state = torch.tensor([[0.1, -0.2, 0.8, 0.6, 0.5]], dtype=torch.float64)
    force = torch.tensor([[7.0]], dtype=torch.float64)
    problem = mpcgen.load_problem(EXAMPLES / "cartpole.py")
    spec = problem.spec()
    values = dict(zip(spec.states, state[0].tolist(), strict=True))
    values[spec.controls[0].symbol] = force.item()
    for parameter in spec.parameters:
        values |= dict(zip(parameter.symbols, parameter.default, strict=True))
    expected = [float(row.subs(values)) for row in spec.dynamics.expressions]
    torch.testing.assert_close(
        CartpoleDx()(state, force)[0], torch.tensor(expected).double(), atol=1e-6, rtol=0
    )


class Cart(nn.Module):
    """Reads its step from the class, the gain by a method, and what cannot be seen by name."""

    dt = 0.1

    def gain(self) -> float:
        return 1.0

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        push = globals()["HIDDEN"] * self.gain() * u[:, 0]
        return torch.stack((x[:, 0] + self.dt * x[:, 1], x[:, 1] + self.dt * push), -1)


HIDDEN = 1.0
CART_START = torch.tensor([[1.0, 0.5], [0.0, -1.0]], dtype=torch.float64)
CART_COST = QuadCost(torch.diag(torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64)))


def test_class_attributes_and_methods_are_part_of_a_module(monkeypatch):
    first = mpc.MPC(2, 1, 5)(CART_START, CART_COST, Cart())
    monkeypatch.setattr(Cart, "dt", 0.3)
    x, u, _ = mpc.MPC(2, 1, 5)(CART_START, CART_COST, Cart())
    torch.testing.assert_close(x, util.get_traj(5, u, CART_START, Cart()))
    assert not torch.allclose(x, first[0])
    before = problems.structure_of(Cart()).key
    monkeypatch.setattr(Cart, "gain", lambda self: 5.0)
    assert problems.structure_of(Cart()).key != before


def test_a_module_that_is_another_one_unseen_is_refused(monkeypatch):
    mpc.MPC(2, 1, 5)(CART_START, CART_COST, Cart())
    monkeypatch.setitem(globals(), "HIDDEN", 1.01)
    with pytest.raises(mpcgen.ParameterError, match="dx now computes something else than what was compiled"):
        mpc.MPC(2, 1, 5)(CART_START, CART_COST, Cart())


class Namespace:
    DT = 0.1


class Slotted:
    __slots__ = ("DT",)

    def __init__(self) -> None:
        self.DT = 0.1


SETTINGS = types.ModuleType("settings")
SETTINGS.DT = 0.1
SLOTTED = Slotted()
EXPONENTIAL = np.exp
real = 3


class Reader:
    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        return x + OFFSET * u


def by_module(x: Tensor, u: Tensor) -> Tensor:
    return x + SETTINGS.DT * u


def by_class(x: Tensor, u: Tensor) -> Tensor:
    return x + Namespace.DT * u


def by_slot(x: Tensor, u: Tensor) -> Tensor:
    return x + SLOTTED.DT * u


def by_itself(x: Tensor, u: Tensor) -> Tensor:
    return x + by_itself.DT * u


by_itself.DT = 0.1


@pytest.mark.parametrize(
    ("function", "owner"),
    [(by_module, SETTINGS), (by_class, Namespace), (by_slot, SLOTTED), (by_itself, by_itself)],
)
def test_attributes_that_functions_read_are_part_of_them(function, owner, monkeypatch):
    before = problems.structure_of(function).key
    assert problems.structure_of(function).key == before
    monkeypatch.setattr(owner, "DT", 0.2)
    assert problems.structure_of(function).key != before


def test_names_are_told_from_attributes(monkeypatch):
    assert problems.structure_of(Reader()).tensors[0] is OFFSET

    def function(x: Tensor, u: Tensor) -> Tensor:
        return EXPONENTIAL(x.real) + late(u)

    before = problems.structure_of(function).key  # a ufunc, and a closure that is not filled yet
    monkeypatch.setitem(globals(), "real", 4)
    assert problems.structure_of(function).key == before
    late = torch.sin
    assert problems.structure_of(function).key != before


class Counting(Cart):
    calls = 0

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x, u)


def test_a_module_that_counts_its_calls_is_compiled_once():
    module = Counting()
    for _ in range(2):
        mpc.MPC(2, 1, 5)(CART_START, CART_COST, module)
        count = len(problems._compiled)
    assert module.calls == 0 and len(problems._compiled) == count


def test_a_last_control_that_nothing_reads_is_zero():
    x_init, C, c, F, f = random_lq()
    C[-1, :, N:], C[-1, :, :, N:], c[-1, :, N:] = 0, 0, 0
    free = mpc.MPC(N, M, T)(x_init, QuadCost(C, c), LinDx(F, f))
    for one, other in zip(
        free, mpc.MPC(N, M, T, slew_rate_penalty=0.0)(x_init, QuadCost(C, c), LinDx(F, f)), strict=True
    ):
        torch.testing.assert_close(one, other)
    dynamics = LinDx(torch.tensor([[1.0, 0.5]], dtype=torch.float64))
    x_init = torch.tensor([[0.3], [3.0]], dtype=torch.float64)
    x, u, costs = mpc.MPC(1, 1, 4, -1.0, 1.0)(x_init, lambda tau: tau[:, 0] ** 2, dynamics)
    assert (u[-1] == 0).all() and u[0, 1] == -1
    torch.testing.assert_close(costs, x.square().sum((0, 2)))


class Weighed(nn.Module):
    """A cost with weights of its own: of the state, and of both controls."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float64))

    def forward(self, tau: Tensor) -> Tensor:
        return tau.square() @ self.weights + (tau[:, 0] - 1) * (tau[:, 2] * self.weights[2])


def test_a_last_control_of_which_a_modules_weight_is_zero_is_zero():
    """As it is where the weight is next to zero, of which the problem has a minimum."""

    def dynamics(x: Tensor, u: Tensor) -> Tensor:
        return x + u[:, :1] - u[:, 1:] / 2

    x_init = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    found, near = (
        mpc.MPC(1, 2, 4, -1.0, 1.0)(x_init, Weighed(1.0, 0.1, weight), dynamics) for weight in (0.0, 1e-7)
    )
    assert (found[1][-1, :, 1] == 0).all() and (found[1][:-1, :, 1] != 0).any()
    for value, expected in zip(found[1:], near[1:], strict=True):
        torch.testing.assert_close(value[:-1], expected[:-1], rtol=0, atol=1e-5)
    cost = Weighed(1.0, 0.1, 0.0)
    mpc.MPC(1, 2, 4, -1.0, 1.0)(x_init, cost, dynamics)[2].sum().backward()
    assert cost.weights.grad[0] > 0


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"H": torch.eye(3)[None]}, mpcgen.ShapeError, r"H has shape \(1, 3, 3\), q \(1, 2\)"),
        ({"H": torch.eye(2)}, mpcgen.ShapeError, r"\(B, n, n\) and \(B, n\) are expected"),
        ({"q": torch.zeros(2)}, mpcgen.ShapeError, r"q \(2,\)"),
        ({"q": torch.zeros(1, 2).double()}, mpcgen.DtypeError, "q torch.float64"),
        ({"q": [0.0, 0.0]}, mpcgen.ParameterError, "q a list"),
        ({"lower": torch.zeros(3)}, mpcgen.ShapeError, r"lower has shape \(3,\)"),
        ({"x_init": torch.zeros(2, 2)}, mpcgen.ShapeError, r"x_init has shape \(2, 2\)"),
    ],
)
def test_a_box_qp_of_other_sizes_is_refused(change, error, words):
    given = {"H": torch.eye(2)[None], "q": torch.zeros(1, 2), "lower": -1.0, "upper": 1.0}
    with pytest.raises(error, match=words):
        pnqp.pnqp(**(given | change))


def test_what_more_iterations_do_not_help_has_its_own_words():
    values = random_lq()
    lower = torch.zeros(T, B, M, dtype=torch.float64)
    lower[1, 0] = 1.0  # above the upper bound of one problem
    with pytest.warns(mpcgen.UnconvergedWarning, match="1 INVALID_INPUT.*u_lower is above") as caught:
        solver = mpc.MPC(N, M, T, lower, 0.2, exit_unconverged=False)
        solver(values[0], QuadCost(*values[1:3]), LinDx(*values[3:]))
    assert "lqr_iter" not in str(caught[0].message)


@pytest.mark.parametrize(("q", "lower"), [(torch.nan, -1.0), (0.0, 2.0), (0.0, torch.nan)])
def test_a_box_without_room_is_refused(q, lower):
    with pytest.raises(mpcgen.ParameterError, match="finite H and q and lower <= upper"):
        pnqp.pnqp(torch.eye(2)[None], torch.full((1, 2), q), lower, 1.0)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x_init": torch.zeros(B, N + 1).double()}, mpcgen.ShapeError, r"x_init has shape \(2, 4\)"),
        ({"x_init": torch.zeros(N).double()}, mpcgen.ShapeError, r"\(batch, 3\) is expected"),
        ({"C": torch.zeros(T + 1, B, N + M, N + M).double()}, mpcgen.ShapeError, "QuadCost.C has shape"),
        ({"C": None}, mpcgen.ParameterError, "QuadCost.C is a NoneType"),
        ({"c": torch.zeros(N + M)}, mpcgen.DtypeError, "QuadCost.c is torch.float32"),
        ({"F": torch.zeros(T + 1, B, N, N + M).double()}, mpcgen.ShapeError, "LinDx.F has shape"),
        ({"u_lower": torch.zeros(T + 1, M).double()}, mpcgen.ShapeError, "u_lower has shape"),
        ({"u_init": [0.0]}, mpcgen.ParameterError, "u_init is a list"),
        ({"prev_ctrl": torch.zeros(5).double(), "slew_rate_penalty": 1.0}, mpcgen.ShapeError, "prev_ctrl"),
        (
            {"slew_rate_penalty": torch.ones(3).double()},
            mpcgen.ShapeError,
            r"slew_rate_penalty has shape \(3,\)",
        ),
        ({"slew_rate_penalty": "a"}, mpcgen.ParameterError, "slew_rate_penalty is a str"),
        ({"u_lower": 0.3, "u_upper": 0.2}, mpcgen.ParameterError, "u_lower has 0.3 where u_upper has 0.2"),
        ({"u_upper": torch.nan}, mpcgen.ParameterError, "u_upper has nan"),
        ({"n_batch": 7}, mpcgen.ShapeError, "n_batch=7"),
        ({"eps": 0.0}, mpcgen.ParameterError, "eps=0.0; a positive number"),
        ({"lqr_iter": 0}, mpcgen.ParameterError, "lqr_iter=0"),
        ({"grad_method": "exact"}, mpcgen.ParameterError, "grad_method='exact'"),
        ({"dx": 3}, mpcgen.ParameterError, "dx is a int"),
    ],
)
def test_bad_input_is_refused(change, error, words):
    values = dict(zip(("x_init", "C", "c", "F", "f"), random_lq(), strict=True))
    options = {name: value for name, value in change.items() if name not in (*values, "dx")}
    values |= {name: value for name, value in change.items() if name in values}
    dx = change.get("dx", LinDx(values["F"], values["f"]))
    with pytest.raises(error, match=words):
        mpc.MPC(N, M, T, **options)(values["x_init"], QuadCost(values["C"], values["c"]), dx)
