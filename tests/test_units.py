"""The units of a cost and of a control change neither how a problem ends nor its solution."""

import functools
import math

import pytest
import sympy as sp
import torch

import mpcgen
from examples.bench import hard_starts
from examples.bench.units import in_units
from mpcgen import Status
from tests.controllers import compiled

KINDS = {
    "reach": (1.0, 0.1, 0.0, 0.0),
    "rest": (0.0, 0.1, 1e-5, 0.0),
    "cheap": (1.0, 1e-6, 0.0, 0.0),
    "hold": (1.0, 0.1, 1.0000001, math.sin(1) / 25),
}
"""Goal, weight of the control, first position, and the control that costs nothing.

A 25th of the goal's sine holds it there, so that nothing is left of the cost but rounding of controls and states.
"""


@functools.cache
def arm():
    """A control of unit ``a`` and a cost of unit ``s``, both parameters, so that all units are one batch."""
    problem = mpcgen.Problem("units", horizon=10)
    position, speed = problem.states("position speed")
    a, s, goal, weight = problem.parameters("a s goal weight", default=[1.0, 1.0, 1.0, 0.1])
    offset, trim = problem.parameters("offset trim", default=[0.0, 0.0])
    (u,) = problem.controls("u", lower=-a, upper=a)
    problem.dynamics = [position + speed / 2, speed + u / a / 2 - sp.sin(position) / 50]
    running = (position - goal) ** 2 + speed**2 / 10 + weight * (u / a - trim) ** 2
    problem.stage_cost = s * running + offset
    problem.terminal_cost = s * (10 * (position - goal) ** 2 + speed**2)
    return compiled(problem, ("float64", "float32"))


@functools.cache
def car():
    """A car of 1,500 kg, its force in newtons over ``a``, that is to drive at 15 m/s."""
    problem = mpcgen.Problem("heavy_car", horizon=20)
    place, speed = problem.states("place speed")
    a, s = problem.parameters("a s", default=[1.0, 1.0])
    (u,) = problem.controls("u", lower=-8000 * a, upper=4000 * a)
    force = u / a
    problem.dynamics = [place + speed / 10, speed + (force / 1500 - 3 * speed**2 / 10000) / 10]
    problem.stage_cost = s * ((speed - 15) ** 2 / 10 + force**2 / 10_000_000)
    problem.terminal_cost = s * (speed - 15) ** 2
    return compiled(problem, ("float64", "float32"))


def grid(dtype):
    """Units of the control and of the cost, (cells,) each; the first cell is (1, 1)."""
    reach = 9 if dtype == torch.float64 else 6
    exponents = torch.arange(-reach, reach + 1, 3, dtype=torch.float64)
    cells = torch.cartesian_prod(exponents, exponents)
    cells = torch.cat([torch.zeros(1, 2, dtype=torch.float64), cells])
    return [(10**column).to(dtype) for column in cells.T]


def judge(sol, a, dtype, error):
    assert (sol.status == Status.CONVERGED).all(), sol.status
    u = sol.u.detach().double()[..., 0] / a.double()[:, None]
    assert (u - u[0]).abs().max() <= error * u[0].abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_every_unit_gives_the_same_solution(kind, dtype):
    a, s = grid(dtype)
    goal, weight, start, trim = KINDS[kind]
    x0 = torch.tensor([start, 0.0], dtype=dtype)
    goal, weight, trim = (torch.tensor(value, dtype=dtype) for value in (goal, weight, trim))
    sol = arm().MPC(on_unconverged="ignore", method="ddp")(
        x0.expand(len(a), 2), a=a, s=s, goal=goal, weight=weight, trim=trim
    )
    judge(sol, a, dtype, 1e-5 if dtype == torch.float64 else 1e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("speed", [10.0, 14.9, 14.999])
def test_a_car_in_newtons_is_driven(speed, dtype):
    a, s = grid(dtype)
    x0 = torch.tensor([0.0, speed], dtype=dtype)
    sol = car().MPC(on_unconverged="ignore")(x0.expand(len(a), 2), a=a, s=s)
    judge(sol, a, dtype, 1e-5 if dtype == torch.float64 else 1e-2)
    if speed == 14.9:
        assert abs(float(sol.u[0, 0, 0]) - 160.801) < 1e-4 * 160


COST_WEIGHTS = {"cartpole": ("q", "p"), "car": ("stage_weight", "terminal_weight", "control_weight")}


@pytest.mark.parametrize("name", COST_WEIGHTS)
def test_hard_problems_of_box_ddp_end_alike_in_every_unit_of_the_cost(name, request):
    units = 10.0 ** torch.arange(-9, 10, 3, dtype=torch.float64)
    made = request.getfixturevalue(name)
    x0 = torch.cat([made.starts(200, 5), torch.from_numpy(hard_starts.PROBLEMS[name].draw()(200, 5))])
    weights = {
        p.name: torch.tensor(p.default, dtype=torch.float64)
        for p in made.spec.parameters
        if p.name in COST_WEIGHTS[name]
    }
    mpc = made.mpc(method="ddp", tol=1e-4, max_iterations=500, on_unconverged="ignore")
    for unit in units:
        sol = mpc(x0, **{key: value * unit for key, value in weights.items()})
        assert (sol.status == Status.CONVERGED).all(), (unit, sol.status)
        nearby = mpc(x0, u_init=sol.u.detach(), **weights)
        torch.testing.assert_close(sol.cost / unit, nearby.cost, rtol=1e-4, atol=1e-5)


def test_box_ddp_takes_the_same_steps_in_units_so_small_that_no_residual_counts(cartpole):
    """To the bit, as powers of two only change exponents: also where Quu is not positive definite."""
    x0 = torch.from_numpy(hard_starts.PROBLEMS["cartpole"].draw()(200, 5)).float()
    weights = [p for p in cartpole.spec.parameters if p.name in COST_WEIGHTS["cartpole"]]
    found = [
        cartpole.mpc(method="ddp", max_iterations=400)(
            x0, **{p.name: torch.tensor(p.default) * unit for p in weights}
        )
        for unit in (2.0**-20, 2.0**-10)
    ]
    assert torch.equal(found[0].u, found[1].u)
    assert torch.equal(found[0].iterations, found[1].iterations)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-5), (torch.float32, 2e-2)])
@pytest.mark.parametrize("kind", ["reach", "rest", "cheap"])  # where it holds, those of the cost are rounding
def test_every_unit_gives_the_same_gradients(kind, dtype, error):
    a, s = grid(dtype)
    goal, weight, start, trim = KINDS[kind]
    weight, trim = torch.tensor(weight, dtype=dtype), torch.tensor(trim, dtype=dtype)
    x0 = torch.tensor([start, 0.0], dtype=dtype).repeat(len(a), 1).requires_grad_()
    goals = torch.full_like(a, goal).requires_grad_()
    sol = arm().MPC(on_unconverged="ignore")(x0, a=a, s=s, goal=goals, weight=weight, trim=trim)
    share = sol.u[..., 0] / a[:, None]
    (share * torch.linspace(1, 2, 10, dtype=dtype)).sum().backward(retain_graph=True)
    of_controls = torch.cat([x0.grad, goals.grad[:, None]], 1).double()
    x0.grad = goals.grad = None
    (sol.cost / s).sum().backward()
    of_cost = torch.cat([x0.grad, goals.grad[:, None]], 1).double()
    for found in (of_controls, of_cost):
        assert (found - found[0]).abs().max() <= error * found[0].abs().max(), (
            (found - found[0]).abs().amax(1)
        )
    held = (sol.u.detach().abs()[..., 0] == a[:, None]).sum(1)
    assert (held == held[0]).all()
    assert torch.equal(sol.active, sol.active[:1].expand_as(sol.active))


@pytest.mark.parametrize("offset", [1e6, 1e9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_in_the_cost_changes_what_rounding_forces_alone(kind, offset):
    goal, weight, start, trim = (torch.tensor(value, dtype=torch.float64) for value in KINDS[kind])
    x0 = torch.stack([start, torch.zeros_like(start)])
    offsets = torch.tensor([0.0, offset], dtype=torch.float64)
    given = {"goal": goal, "weight": weight, "trim": trim, "offset": offsets}
    sol = arm().MPC(on_unconverged="ignore")(x0.expand(2, 2), **given)
    assert (sol.status == Status.CONVERGED).all(), sol.status
    torch.testing.assert_close(sol.u[1], sol.u[0], rtol=0, atol=1e-6)
    assert sol.residual[1] <= 1e-8


@pytest.mark.parametrize(
    ("dtype", "unit", "offset", "error"),
    [
        (torch.float64, 1e-6, 1e4, 1e-5),
        (torch.float64, 1e-6, 1e6, 1e-5),
        (torch.float64, 1e-9, 1.0, 1e-5),
        (torch.float32, 1.0, 1e4, 1e-2),
        (torch.float32, 1e-6, 1.0, 1e-2),
        (torch.float32, 1e-6, 1e4, 1e-2),
    ],
)
@pytest.mark.parametrize("kind", ["reach", "cheap"])
def test_a_constant_that_is_most_of_a_cost_ends_no_solve_of_box_ddp_too_soon(
    kind, dtype, unit, offset, error
):
    """Where the cost itself is no more than rounding of the constant, slopes and curvature lead all the same."""
    goal, weight, start, trim = KINDS[kind]
    x0 = torch.tensor([start, 0.0], dtype=torch.float64)
    mpc = arm().MPC(on_unconverged="raise", method="ddp")
    given = {"goal": goal, "weight": weight, "trim": trim}

    def solved(dtype, **units):
        values = {name: torch.tensor(value, dtype=dtype) for name, value in {**given, **units}.items()}
        return mpc(x0.to(dtype), **values).u.double()

    expected = solved(torch.float64)
    found = solved(dtype, s=unit, offset=offset)
    torch.testing.assert_close(found, expected, rtol=0, atol=error * float(expected.abs().max()))


@functools.cache
def lander():
    """A rocket that is to land softly, which its first trajectory costs thousands of times the last, in any units.

    Some starts are too low to be saved: all their thrust is at its bound, and their cost is a hundredth of the first.
    """
    problem = mpcgen.Problem("lander", horizon=30)
    height, speed, mass = problem.states("height speed mass")  # m, m/s, kg
    throttle = problem.control("throttle", lower=0.3, upper=1)
    force, g = 25_000 * throttle, sp.Float("9.81")
    problem.dynamics = mpcgen.rk4(problem, [speed, force / mass - g, -force / (280 * g)], dt=0.5)
    problem.stage_cost = throttle**2 / 1000
    problem.terminal_cost = height**2 / 10 + speed**2 - mass / 100
    draws = torch.rand(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x0 = torch.tensor([600.0, -80.0]) + torch.tensor([300.0, 20.0]) * draws
    module = compiled(in_units(problem.spec()), ("float64", "float32"))
    return module, torch.cat([x0, torch.full((16, 1), 1500.0, dtype=torch.float64)], 1)


@pytest.mark.parametrize("method", ["auto", "interior_point"])
def test_what_the_interior_point_solves_lies_on_its_bounds_in_every_unit(method):
    module, x0 = lander()
    a, s = (unit[:, None] for unit in grid(torch.float64))
    sol = module.MPC(method=method, on_unconverged="raise")(
        x0.expand(len(a), *x0.shape), cost_unit=s, control_unit=a
    )
    held = ((sol.u == sol.lower) | (sol.u == sol.upper)).sum((2, 3))
    assert torch.equal(held, held[:1].expand_as(held))
    assert held[0].unique().tolist()[0] == 0
    assert held[0].max() == 29
    u = sol.u[..., 0] / a[..., None]
    torch.testing.assert_close(u, u[:1].expand_as(u), rtol=0, atol=1e-5)


def test_a_solution_that_costs_little_beside_the_first_trajectory_is_one_in_float32_too():
    """Rounding of the first cost is a share of the last, which the tolerance, in units of the first, did not see."""
    module, x0 = lander()
    sol = module.MPC(on_unconverged="raise")(x0.float())
    better = module.MPC(on_unconverged="raise")(x0, u_init=sol.u.double())
    torch.testing.assert_close(sol.cost.double(), better.cost, rtol=1e-3, atol=0)


@pytest.mark.parametrize("method", ["auto", "ddp"])
def test_nothing_is_called_a_solution_where_rounding_of_constants_hides_that_it_is_none(method):
    """Beside a constant of 1e9 nothing is left of the landers' cost in float32, and no step can be judged by it.

    Box-DDP says so, and the interior point, which scales the cost by what it varies by, solves them.
    """
    module, x0 = lander()
    generator = torch.Generator().manual_seed(5)
    more = 1 + 0.3 * torch.rand(128, 3, generator=generator, dtype=x0.dtype)
    x0 = torch.cat([x0, x0.repeat(8, 1) * more])
    offset = torch.tensor([0.0, 1e5, 1e7, 1e9])[:, None]
    starts = x0.expand(4, -1, -1)
    options = {"method": method, "max_iterations": 500, "on_unconverged": "ignore"}
    sol = module.MPC(**options)(starts.float(), cost_offset=offset)
    found = {"u_init": sol.u.double()}
    cost = module.MPC(max_iterations=0, on_unconverged="ignore")(starts, **found).cost
    least = module.MPC(on_unconverged="ignore")(starts, **found).cost
    assert ((cost - least) / least.abs())[sol.converged].max() < 0.01
    assert sol.converged[0].all()
    if method == "auto":
        assert sol.converged.all()
    else:
        assert (sol.status[3] == Status.STALLED).sum() > 72


@functools.cache
def limited_arm():
    """The arm's like with a limit of speed, from starts of which some meet it and some the bounds of the control.

    It is to stay on this side of a place, if that does not cost too much.
    """
    problem = mpcgen.Problem("limited_arm", horizon=10)
    position, speed = problem.states("position speed", lower=[-sp.oo, -0.6], upper=[sp.oo, 0.6])
    a, s, offset = problem.parameters("a s offset", default=[1.0, 1.0, 0.0])
    (u,) = problem.controls("u", lower=-a, upper=a)
    problem.dynamics = [position + speed / 5, speed + (sp.sin(position) / 2 + u / a) / 5]
    problem.stage_cost = s * (position**2 + speed**2 / 10 + (u / a) ** 2 / 20) + offset
    problem.terminal_cost = s * (5 * position**2 + speed**2)
    problem.constraint("near", position, lower=-1, soft=s)
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(40, 2, generator=generator, dtype=torch.float64)
    return compiled(problem, ("float64", "float32")), (2 * draws - 1) * torch.tensor([1.5, 0.5])


def test_gradients_and_active_sets_beside_other_constraints_depend_on_no_unit():
    module, starts = limited_arm()
    gradients, at_bounds, actives = [], [], []
    for a, s in [(1.0, 1.0), (1e6, 1.0), (1e-6, 1.0), (1.0, 1e6), (1.0, 1e-6), (1e4, 1e-4)]:
        x0 = starts.clone().requires_grad_()
        sol = module.MPC(on_unconverged="raise")(x0, a=a, s=s)
        (gradient,) = torch.autograd.grad((sol.u / a).sum(), x0)
        gradients.append(gradient)
        at_bounds.append((sol.u.abs() / a > 1 - 1e-6).any(dim=(1, 2)))
        actives.append(torch.cat([sol.active, sol.rows["speed"].active], 2))
    for active in actives[1:]:
        assert torch.equal(active, actives[0])
    assert actives[0].unique().tolist() == [-1, 0, 1]
    assert 4 < at_bounds[0].sum() < 36
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "units", "error"),
    [
        (torch.float64, [(1.0, 0.0), (1.0, 1e2), (1.0, 1e4), (1.0, 1e8), (1e-6, 1.0), (1e-6, 1e6)], 1e-6),
        (torch.float32, [(1.0, 0.0), (1.0, 1e2), (1.0, 1e4), (1e-6, 1.0), (1e-6, 1e4)], 2e-3),
    ],
)
def test_constants_of_the_cost_change_neither_solutions_nor_gradients_beside_constraints(dtype, units, error):
    """Each in units of its own; the first is without, in float64: what the others are to find."""
    module, starts = limited_arm()
    s, offset = torch.tensor(units, dtype=dtype).T[..., None]
    x0 = starts.to(dtype).expand(len(units), -1, -1).clone().requires_grad_()
    sol = module.MPC(on_unconverged="raise")(x0, s=s, offset=offset)
    (gradient,) = torch.autograd.grad((sol.u * torch.linspace(1, 2, 10, dtype=dtype)[:, None]).sum(), x0)
    begin = starts.clone().requires_grad_()
    first = module.MPC(on_unconverged="raise")(begin)
    plain = first.margin > 1e-3
    (expected,) = torch.autograd.grad((first.u * torch.linspace(1, 2, 10)[:, None]).sum(), begin)
    assert plain.sum() > 20
    torch.testing.assert_close(sol.u.double(), first.u.expand_as(sol.u).detach(), rtol=0, atol=error)
    found, right = gradient.double()[:, plain], expected[plain].expand(len(units), -1, -1)
    torch.testing.assert_close(found, right, rtol=error, atol=error * float(expected.abs().max()))
