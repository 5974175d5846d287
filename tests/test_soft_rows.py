"""Rows that may be exceeded at a price: solutions against formulas and IPOPT, gradients against CasADi's KKT system."""

import functools
import io
import re

import numpy as np
import pytest
import sympy as sp
import torch
from controllers import compiled

import mpcgen
from mpcgen import Status
from mpcgen.baseline import Baseline, kkt_gradient

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
KINDS = {"linear": (0.4, 0.0), "quadratic": (0.0, 3.0), "both": (0.2, 1.5)}


def step():
    """One stage: u goes to `aim` and is the next state, which is to stay below `limit`."""
    problem = mpcgen.Problem("soft_step", horizon=1)
    aim, limit, linear, quadratic = problem.parameters("aim limit linear quadratic", default=[0, 0, 1, 0])
    x = problem.state("x")
    (u,) = problem.controls("u")
    problem.dynamics = [0 * x + u]
    problem.stage_cost = (u - aim) ** 2 / 2
    problem.terminal_cost = 0
    problem.constraint("below", x, upper=limit, soft=linear, soft_quadratic=quadratic)
    return problem


def mixed():
    """Soft and hard rows of every group; prices per stage, of two parameters, and a number."""
    problem = mpcgen.Problem("soft_mixed", horizon=12)
    price = problem.parameter("price", default=0.4, per_stage=True)
    curve, goal, limit = problem.parameters("curve goal limit", default=[0.0, 0.4, 0.5])
    x, v = problem.state("x"), problem.state("v", lower=-0.8, upper=0.8)
    (u,) = problem.controls("u", lower=-1, upper=1)
    problem.dynamics = mpcgen.rk4(problem, [v, u - sp.sin(x) / 2], dt=0.2)
    problem.stage_cost = (x - 1) ** 2 + u**2 / 20
    problem.terminal_cost = v**2
    problem.constraint("comfort", x, lower=-limit, upper=limit, soft=price, soft_quadratic=curve)
    problem.constraint("ring", [x**2 + v**2, x * v], upper=[limit, 0.2], soft=[curve + price, 0.3])
    problem.constraint("power", u * v, upper=0.3, soft=0, soft_quadratic=2 * price + 1)
    problem.terminal_constraint("end", x, lower=goal, upper=goal, soft=price, soft_quadratic=curve)
    return problem


module = functools.cache(lambda make, dtype="float64": compiled(make(), (dtype,)))
baseline = functools.cache(lambda make: Baseline(make().spec(), tol=1e-11))


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def prices(kind):
    linear, quadratic = KINDS[kind]
    along = linear * (1 + 0.1 * torch.arange(13, dtype=torch.float64))
    return {"price": along, "curve": number(quadratic)}


def starts(count):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, 2, generator=generator, dtype=torch.float64) - 0.5


# ---- solutions


@pytest.mark.parametrize("quadratic", [0.0, 0.5])
def test_a_row_is_inside_at_its_bound_or_beyond_it_as_formulas_say(quadratic):
    aim = torch.tensor([-1.0, -1e-3, 0.3, 0.7, 0.99, 1.2, 5.0], dtype=torch.float64)
    sol = module(step).MPC(tol=1e-9)(
        torch.zeros(7, 1, dtype=torch.float64), aim=aim, quadratic=number(quadratic)
    )
    excess = (aim - 1).clamp(min=0) / (1 + quadratic)
    u = torch.where(aim < 0, aim, excess)
    dual = torch.where(aim < 0, 0, torch.where(aim < 1, aim, 1 + quadratic * excess))
    torch.testing.assert_close(sol.u[:, 0, 0], u, rtol=0, atol=1e-8)
    torch.testing.assert_close(sol.duals["below"][:, 0, 0], dual, rtol=0, atol=1e-7)
    cost = (u - aim) ** 2 / 2 + excess + quadratic * excess**2 / 2
    torch.testing.assert_close(sol.cost, cost, rtol=1e-9, atol=1e-9)
    assert sol.violation.max() == 0  # soft rows do not count
    rows = sol.rows["below"]
    assert rows.active[:, 0, 0].tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert rows.exceeded[:, 0, 0].tolist() == [False] * 5 + [True] * 2
    corner = torch.stack([(u - 0).abs() + dual, (dual - 1).abs() + u.clamp(min=0)])[:, 2:5].amin(0)
    margin = torch.cat([-aim[:2], corner, excess[5:]])
    torch.testing.assert_close(sol.margin, margin, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_solutions_are_those_of_ipopt_with_excesses_of_their_own(kind):
    values, x0 = prices(kind), starts(3)
    sol = module(mixed).MPC(tol=1e-10)(x0, **values)
    for i in range(len(x0)):
        found = baseline(mixed).solve(x0[i].numpy(), {k: v.numpy() for k, v in values.items()})
        assert found.success
        assert float(sol.cost[i]) == pytest.approx(found.cost, abs=1e-7)
        np.testing.assert_allclose(sol.u[i].numpy(), found.u, atol=1e-6)
        for name in ("v", "comfort", "ring", "power", "end"):
            np.testing.assert_allclose(sol.duals[name][i].numpy(), found.duals[name], atol=1e-6, err_msg=name)
    assert any(bool(sol.rows[name].exceeded.any()) for name in ("comfort", "ring"))


def test_the_multiplier_of_a_soft_equality_is_at_most_its_price():
    x0 = starts(16)
    sol = module(mixed).MPC(tol=1e-9)(x0, price=number(0.05).expand(13), curve=number(0))
    dual, excess = sol.duals["end"][:, 0, 0], sol.x[:, -1, 0] - 0.4
    assert dual.abs().max() <= 0.05 + 1e-7
    beyond = excess.abs() > 1e-4
    assert beyond.any()
    torch.testing.assert_close(dual[beyond], 0.05 * excess[beyond].sign(), rtol=0, atol=1e-6)


@functools.cache
def soft_limit():
    """A mass whose way is limited at a price of 1 / softness a stage."""
    problem = mpcgen.Problem("soft_limit", horizon=10)
    softness = problem.parameter("softness", default=0.0)
    x, v = problem.states("x v")
    (u,) = problem.controls("u", lower=-1, upper=1)
    problem.dynamics = [x + v / 4, v + u / 4]
    problem.stage_cost = (x - 2) ** 2 + u**2 / 10
    problem.terminal_cost = (x - 2) ** 2 + v**2
    problem.constraint("limit", x, upper=0.5, soft=1 / softness)
    return compiled(problem)


def test_a_price_above_the_multiplier_makes_a_row_hard_and_so_does_an_infinite_one():
    sol = soft_limit().MPC(tol=1e-9)(
        torch.zeros(3, 2, dtype=torch.float64), softness=number([0.0, 1e-3, 1.0])
    )
    assert sol.violation[0] <= 1e-9 and sol.x[0, :, 0].max() <= 0.5 + 1e-9
    torch.testing.assert_close(sol.u[1], sol.u[0], rtol=0, atol=1e-7)
    torch.testing.assert_close(sol.duals["limit"][1], sol.duals["limit"][0], rtol=0, atol=1e-5)
    assert sol.x[2, :, 0].max() > 0.6
    assert sol.rows["limit"].soft[:, 0, 0].tolist() == [False, True, True]


@pytest.mark.parametrize("price", [1e4, 1e6])
def test_a_start_beyond_a_limit_takes_less_than_twice_the_passes_however_dear_that_is(price):
    """What the rows cost at first is part of the unit of the cost."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(64, 2, generator=generator, dtype=torch.float64) * number([1.0, 0.3]) + number(
        [2.0, 0.0]
    )
    mpc = soft_limit().MPC(on_unconverged="raise")
    cheap, dear = mpc(x0, softness=number(1.0)), mpc(x0, softness=number(1 / price))
    assert dear.iterations.double().mean() <= 2 * cheap.iterations.double().mean()


@functools.cache
def contradiction():
    """A pendulum that can neither stay where its rows want it nor obey both of them at once."""
    problem = mpcgen.Problem("soft_contradiction", horizon=20)
    angle, rate = problem.states("angle rate")
    (torque,) = problem.controls("torque", lower=-1, upper=1)
    problem.dynamics = mpcgen.rk4(problem, [rate, torque - 5 * sp.sin(angle)], dt=0.1)
    problem.stage_cost = torque**2 / 10
    problem.terminal_cost = rate**2
    problem.constraint("up", sp.cos(angle), upper=-0.5, soft=1.0)
    problem.constraint("down", sp.cos(angle), lower=0.9, soft=0.3, soft_quadratic=1)
    return compiled(problem)


def test_soft_rows_that_cannot_be_met_are_never_infeasible():
    generator = torch.Generator().manual_seed(1)
    x0 = 6 * torch.rand(64, 2, generator=generator, dtype=torch.float64) - 3
    u_init = 2 * torch.rand(64, 20, 1, generator=generator, dtype=torch.float64) - 1
    sol = contradiction().MPC(max_iterations=1000, on_unconverged="ignore")(x0, u_init=u_init)
    assert (sol.status == Status.CONVERGED).all(), sol.status.bincount()
    assert sol.violation.max() <= 1e-8
    excess = sol.rows["up"].violation + sol.rows["down"].violation
    assert excess.min() >= 1.4 - 1e-8  # cos <= -0.5 and cos >= 0.9 at once


def test_float32():
    values = {k: v.float() for k, v in prices("both").items()}
    sol = module(mixed, "float32").MPC()(starts(8).float(), **values)
    best = module(mixed).MPC()(starts(8), **prices("both"))
    torch.testing.assert_close(sol.u.double(), best.u, rtol=0, atol=2e-3)
    torch.testing.assert_close(sol.cost.double(), best.cost, rtol=1e-4, atol=0)


@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_large_weights_do_not_ask_float32_for_more_than_its_digits(scale):
    values = {"price": torch.full((13,), scale), "curve": torch.tensor(0.0)}
    sol = module(mixed, "float32").MPC(on_unconverged="ignore")(starts(128).float(), **values)
    assert (sol.status == Status.CONVERGED).double().mean() >= 0.95
    best = module(mixed).MPC()(starts(128), **{k: v.double() for k, v in values.items()})
    found = sol.converged
    torch.testing.assert_close(sol.cost.double()[found], best.cost[found], rtol=1e-3, atol=0)


@pytest.mark.parametrize("spoilt", [-1.0, -1e-300, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["price", "curve"])
def test_a_weight_that_is_negative_or_no_number_is_that_problems_invalid_input(name, spoilt):
    values = {"price": torch.full((24, 13), 0.4, dtype=torch.float64), "curve": torch.full((24,), 0.5)}
    values["curve"] = values["curve"].double()
    mpc = module(mixed).MPC(on_unconverged="ignore")
    good = mpc(starts(24), **values)
    assert (good.status == Status.CONVERGED).all()
    bad = {k: v.clone() for k, v in values.items()}
    bad[name][(5, 7) if name == "price" else 5] = spoilt
    sol = mpc(starts(24), **bad)
    others = torch.arange(24) != 5
    assert sol.status[5] == Status.INVALID_INPUT and sol.u[5].isnan().all()
    for field in ("u", "cost", "row_duals", "iterations"):
        assert torch.equal(getattr(sol, field)[others], getattr(good, field)[others]), field


def test_a_weight_of_zero_is_a_row_that_is_not_there():
    aim = number([-1.0, 2.0])
    sol = module(step).MPC(tol=1e-9)(torch.zeros(2, 1, dtype=torch.float64), aim=aim, linear=number(0))
    torch.testing.assert_close(sol.u[:, 0, 0], aim, rtol=0, atol=1e-8)
    assert sol.duals["below"].abs().max() == 0


def test_a_result_does_not_depend_on_its_place():
    x0, values = starts(24), prices("both")
    mpc = module(mixed).MPC(on_unconverged="ignore")
    together, reordered, alone = mpc(x0, **values), mpc(x0.flip(0), **values), mpc(x0[7], **values)
    for name in ("x", "u", "cost", "iterations", "residual", "row_duals"):
        assert torch.equal(getattr(together, name), getattr(reordered, name).flip(0)), name
        torch.testing.assert_close(getattr(together, name)[7], getattr(alone, name), rtol=0, atol=1e-8)


def test_diagnose_says_which_row_is_exceeded(capsys):
    sol = module(step).MPC()(torch.zeros(1, 1, dtype=torch.float64), aim=number(1.2))
    report = mpcgen.diagnose(sol)
    assert report.margins[0].exceeded and report.margins[0].value == pytest.approx(0.2, abs=1e-6)
    assert "below at stage 1, exceeds its upper bound" in capsys.readouterr().out
    aims = torch.tensor([[0.5, 1.2, 1.7], [1.1, 0.2, -0.3]], dtype=torch.float64)
    several = mpcgen.diagnose(module(step).MPC()(torch.zeros(2, 3, 1, dtype=torch.float64), aim=aims))
    (row,) = several.exceeded
    assert (row.row, row.problems, row.index, row.stage) == ("below", 3, (0, 2), 1)
    assert row.most == pytest.approx(0.7, abs=1e-6)
    assert re.search(r"below +3 +0\.7 at stage 1 of \[0, 2\]", str(several))
    inside = mpcgen.diagnose(module(step).MPC()(torch.zeros(1, dtype=torch.float64), aim=number(0.3)))
    assert inside.exceeded == () and "soft rows" not in str(inside)


# ---- gradients


def weights_of(width):
    """What a loss multiplies x (13, 2), x_0 aside, or u (12, 1) by."""
    rows = torch.arange(13 if width == 2 else 12, dtype=torch.float64)[:, None]
    return torch.sin(7 * rows + torch.arange(width)) * (rows > 0 if width == 2 else 1)


def loss_of(sol):
    return (weights_of(2) * sol.x).sum((-2, -1)) + (weights_of(1) * sol.u).sum((-2, -1)) + 0.7 * sol.cost


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", range(3))
def test_gradients_are_those_of_the_kkt_system(kind, start):
    spec = mixed().spec()
    x0 = starts(3)[start].requires_grad_()
    given = prices(kind) | {"goal": number(0.4), "limit": number(0.5)}
    leaves = {name: value.clone().requires_grad_() for name, value in given.items()}
    sol = module(mixed).MPC(tol=1e-11)(x0, **leaves)
    loss_of(sol).backward()
    values = {name: value.numpy() for name, value in given.items()}
    found = baseline(mixed).solve(x0.detach().numpy(), values)
    gradient = kkt_gradient(
        baseline(mixed).functions,
        found.x,
        found.u,
        values,
        duals=found.duals,
        grad_x=weights_of(2).numpy(),
        grad_u=weights_of(1).numpy(),
        grad_cost=0.7,
    )
    assert gradient.complementarity > 1e-4
    np.testing.assert_allclose(x0.grad.numpy(), gradient.x0, rtol=1e-6, atol=1e-6)
    for p in spec.parameters:
        own = leaves[p.name].grad.numpy()
        np.testing.assert_allclose(own, gradient.parameters[p.name], rtol=1e-6, atol=1e-6, err_msg=p.name)


@pytest.mark.parametrize("name", ["curve", "goal", "limit", "price"])
def test_gradients_are_those_of_central_differences(name):
    given = prices("both") | {"goal": number(0.4), "limit": number(0.5)}
    mpc, x0 = module(mixed).MPC(tol=1e-11), starts(3)[1]
    leaf = given[name].clone().requires_grad_()
    loss_of(mpc(x0, **given | {name: leaf})).backward()
    along = torch.ones_like(leaf) if name != "price" else torch.linspace(-1, 2, 13, dtype=torch.float64)
    step = 1e-5
    moved = torch.stack([given[name] + step * along, given[name] - step * along])
    above, below = loss_of(mpc(x0.expand(2, -1), **given | {name: moved}))
    assert float((leaf.grad * along).sum()) == pytest.approx(
        float((above - below) / (2 * step)), rel=1e-5, abs=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_forward_mode_agrees_with_reverse_mode(kind):
    mpc = module(mixed).MPC(tol=1e-10)
    given = prices(kind) | {"goal": number(0.4), "limit": number(0.5)}

    def loss(x0, values):
        return loss_of(mpc(x0, **values))

    at = (starts(3)[2], given)
    forward = torch.func.jacfwd(loss, argnums=(0, 1))(*at)
    reverse = torch.func.jacrev(loss, argnums=(0, 1))(*at)
    # as of hard rows: what two repetitions leave of the regularisation differs between the modes
    torch.testing.assert_close(forward, reverse, rtol=1e-7, atol=1e-8)


def test_the_gradient_of_the_cost_by_a_price_is_the_excess():
    aim, linear, quadratic = number(1.7), number(1.0).requires_grad_(), number(0.5).requires_grad_()
    limit = number(0.2).requires_grad_()
    sol = module(step).MPC(tol=1e-10)(
        torch.zeros(1, dtype=torch.float64), aim=aim, linear=linear, quadratic=quadratic, limit=limit
    )
    sol.cost.backward()
    excess = (1.7 - 0.2 - 1) / 1.5
    assert float(linear.grad) == pytest.approx(excess, abs=1e-8)
    assert float(quadratic.grad) == pytest.approx(excess**2 / 2, abs=1e-8)
    assert float(limit.grad) == pytest.approx(-(1 + 0.5 * excess), abs=1e-8)


def test_prices_that_are_zero_can_be_learned_where_the_row_is_exceeded():
    linear = number(0.0).requires_grad_()
    sol = module(step).MPC(tol=1e-10)(torch.zeros(1, dtype=torch.float64), aim=number(2.0), linear=linear)
    sol.u.sum().backward()
    assert float(linear.grad) == pytest.approx(-1, abs=1e-8)  # u = aim - linear


def test_a_price_that_the_batch_shares_has_the_sum_of_the_gradients():
    x0, values = starts(20), prices("both")
    mpc = module(mixed).MPC(tol=1e-10)
    shared = values["price"].clone().requires_grad_()
    own = values["price"].expand(20, -1).clone().requires_grad_()
    for price in (shared, own):
        mpc(x0, **values | {"price": price}).u.square().sum().backward()
    torch.testing.assert_close(shared.grad, own.grad.sum(0), rtol=1e-12, atol=1e-12)
    assert (own.grad.abs().amax(1) > 1e-4).sum() > 10


def test_smoothing_approaches_the_gradient():
    aim = number([0.5, 1.5])
    slopes = []
    for smoothing in (0.0, 1e-8):
        linear, limit = number(1.0).requires_grad_(), number(0.0).requires_grad_()
        mpc = module(step).MPC(tol=1e-10, smoothing=smoothing)
        sol = mpc(
            torch.zeros(2, 1, dtype=torch.float64), aim=aim, linear=linear, limit=limit, quadratic=number(0.5)
        )
        slopes.append(torch.stack(torch.autograd.grad(sol.u[0, 0, 0] + 2 * sol.u[1, 0, 0], (linear, limit))))
    torch.testing.assert_close(slopes[0], number([-2 / 1.5, 1 + 2 * 0.5 / 1.5]), rtol=0, atol=1e-7)
    torch.testing.assert_close(slopes[1], slopes[0], rtol=0, atol=1e-6)


def test_a_warm_start_takes_a_handful_of_iterations():
    x0, values = starts(16), prices("both")
    mpc = module(mixed).MPC()
    cold = mpc(x0, **values)
    moved = 1.01 * x0
    again, afresh = mpc(moved, warm_start=cold, shift=0, **values), mpc(moved, **values)
    torch.testing.assert_close(again.u, afresh.u, rtol=0, atol=1e-5)
    assert again.iterations.double().mean() <= 8 < afresh.iterations.double().mean()


def test_where_rows_are_soft_nobody_is_told_to_make_them_soft():
    x0 = torch.tensor([3.0, 6.0], dtype=torch.float64)
    with pytest.warns(mpcgen.UnconvergedWarning, match="from where the dynamics lead: rows are all soft"):
        found = contradiction().MPC(max_iterations=2)(x0)
    assert found.violation > 1e-6
    report = mpcgen.diagnose(found, file=io.StringIO())
    assert [lack.what for lack in report.lacking] == ["feasibility"]
    assert "make" not in report.lacking[0].advice
