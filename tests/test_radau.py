"""Implicit integrators: accuracy, steps without a solution, gradients, mistakes.

Values and derivatives of single stages are compared with CasADi's in `test_rows_in_c.py`.
"""

import re
from pathlib import Path

import casadi as ca
import numpy as np
import pytest
import torch
from controllers import compiled

import mpcgen
from examples import cstr
from mpcgen.baseline import Baseline
from mpcgen.baseline.functions import Functions
from mpcgen.baseline.translate import discretise
from mpcgen.build.extension import HEADER_FOLDER
from mpcgen.compiler import Compilation, inspect

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
Status = mpcgen.Status


def tank(name="tank"):
    """A tank that runs out by q = sqrt(level), with a quick sensor of q: below level 0 there is no q."""
    problem = mpcgen.Problem(name, horizon=6)
    quick, price = problem.parameters("quick price", default=[200.0, 0.5])
    level, seen, q = problem.states("level seen q")
    (inflow,) = problem.controls("inflow", lower=-1, upper=1)
    problem.dynamics = mpcgen.radau(
        problem, [inflow - q, quick * (q - seen)], dt=0.2, order=3, residual={q: q**2 - level}
    )
    problem.stage_cost = mpcgen.running_cost((seen - 0.5) ** 2) + price * inflow**2 / 10
    problem.terminal_cost = (level - 0.5) ** 2
    return problem


@pytest.fixture(scope="module")
def controller():
    return compiled(tank())


def starts(*levels):
    return torch.tensor([[level, 0.6, 0.7] for level in levels], dtype=torch.float64)


def test_solutions_obey_the_dynamics_and_the_algebraic_equation(controller):
    solution = controller.MPC(tol=1e-9, on_unconverged="raise")(starts(0.3, 0.8, 1.4))
    functions, theta = Functions(tank().spec()), [200.0, 0.5]
    for x, u, cost in zip(solution.x.numpy(), solution.u.numpy(), solution.cost.numpy(), strict=True):
        total = float(functions.terminal_cost(x[-1], theta))
        for t in range(6):
            expected = np.asarray(functions.f(x[t], u[t], theta)).ravel()
            np.testing.assert_allclose(x[t + 1], expected, rtol=1e-12, atol=1e-14)
            total += float(functions.stage_cost(x[t], u[t], theta))
        assert cost == pytest.approx(total, rel=1e-12)
        np.testing.assert_allclose(x[1:, 2] ** 2, x[1:, 0], rtol=1e-13)


def test_gradients_through_two_steps_with_a_running_cost_conserve_mass():
    """Fast and slow reactions between three species: what is added to one is found in all of them together."""
    problem = mpcgen.Problem("species", horizon=1)
    a, b, c = problem.states("a b c")
    (u,) = problem.controls("u", lower=1, upper=1)
    fast, slow = 1e3 * u * a - 5e2 * b, b * u
    problem.dynamics = mpcgen.radau(problem, [-fast, fast - slow, slow], dt=0.05, substeps=2)
    problem.stage_cost = u**2 + mpcgen.running_cost(b + u)
    problem.terminal_cost = a**2 + b**2 + c**2
    x0 = torch.tensor([[0.8, 0.1, 0.0]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(mpcgen.compile(problem, dtypes=torch.float64).MPC()(x0).x[:, -1].sum(), x0)
    torch.testing.assert_close(slope, torch.ones_like(slope), rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", ["ddp", "interior_point", "auto"])
def test_a_step_without_a_solution_ends_its_problem_and_no_other(controller, method):
    mpc = controller.MPC(method=method, on_unconverged="ignore")
    alone = mpc(starts(0.3, 0.8, 1.4))
    among = mpc(starts(0.3, -0.4, 0.8, -3.0, 1.4))
    assert among.status.tolist() == [0, Status.MODEL, 0, Status.MODEL, 0]
    assert torch.equal(among.u[::2], alone.u) and torch.equal(among.x[::2], alone.x)
    assert among.u[1::2].isnan().all() and among.cost[1::2].isnan().all()
    assert among.residual[1::2].isnan().all()
    report = mpcgen.diagnose(among)
    assert [row.failure for row in report.worst if row.status == Status.MODEL] == [
        "the step from stage 0 has no solution"
    ] * 2


def test_the_stage_is_named_where_controls_empty_the_tank(controller):
    empty = torch.full((6, 1), -1.0, dtype=torch.float64)
    with pytest.raises(
        mpcgen.UnconvergedError, match=r"1 MODEL: an implicit step.*the step from stage 2 has no"
    ):
        controller.MPC(method="ddp", on_unconverged="raise")(starts(0.6)[0], u_init=empty)


def test_a_trial_step_without_a_solution_is_refused(controller):
    """A small price of the inflow and an empty goal: full steps go below the ground."""
    solution = controller.MPC(on_unconverged="raise")(starts(0.05), price=1e-3, quick=20.0)
    assert (solution.x[..., 0] > 0).all()


def test_a_problem_without_a_value_has_no_gradient(controller):
    x0 = starts(0.8, -0.4).requires_grad_()
    solution = controller.MPC(on_unconverged="ignore", unconverged_gradient="keep")(x0)
    solution.where_converged().u.sum().backward()
    assert x0.grad.isfinite().all() and (x0.grad[1] == 0).all() and (x0.grad[0] != 0).any()


def test_gradients_are_differences_of_solutions(controller):
    mpc = controller.MPC(tol=1e-11, on_unconverged="raise")
    values = {"quick": 20.0, "price": 0.5}
    leaves = [starts(0.3, 0.9), *(torch.full((2,), value, dtype=torch.float64) for value in values.values())]

    def outputs(x0, *parameters):
        solution = mpc(x0, **dict(zip(values, parameters, strict=True)))
        return solution.x.square().sum() + (solution.u * solution.x[:, 1:, :1]).sum() + solution.cost.sum()

    followed = [leaf.clone().requires_grad_() for leaf in leaves]
    outputs(*followed).backward()
    _, along = torch.func.jvp(outputs, tuple(leaves), tuple(map(torch.ones_like, leaves)))
    step = 1e-5
    with torch.no_grad():
        up, down = (outputs(*(leaf + sign * step for leaf in leaves)).item() for sign in (1, -1))
    assert sum(leaf.grad.sum().item() for leaf in followed) == pytest.approx(
        (up - down) / (2 * step), rel=1e-7
    )
    assert along.item() == pytest.approx((up - down) / (2 * step), rel=1e-7)


# ---- stiff models ----


def robertson(x, u):
    fast, slow = 1e4 * x[1] * x[2], 3e7 * x[1] ** 2
    supply = 0.04 * (1 + u)
    return [-supply * x[0] + fast, supply * x[0] - fast - slow, slow]


def van_der_pol(x, u):
    return [x[1], 100 * (1 - x[0] ** 2) * x[1] - x[0] + u]


STIFF = {"robertson": (robertson, "a b c"), "van_der_pol": (van_der_pol, "x v")}


def stiff(name, scheme=mpcgen.radau, **options):
    rates, names = STIFF[name]
    problem = mpcgen.Problem(f"{name}_{scheme.__name__}", horizon=10)
    states = problem.states(names)
    (u,) = problem.controls("u", lower=0, upper=2)
    problem.dynamics = scheme(problem, rates(states, u), dt=0.1, **options)
    problem.stage_cost = 1e3 * (states[0] - 0.9) ** 2 + u**2
    problem.terminal_cost = 1e3 * (states[0] - 0.9) ** 2
    return problem


def exact(name, x0, u):
    """(11, n) states by steps of Radau's fifth order that are small, and smaller at the start, written in CasADi."""
    rates, _ = STIFF[name]
    x, held, theta, h = ca.SX.sym("x", len(x0)), ca.SX.sym("u"), ca.SX.sym("theta", 0), ca.SX.sym("h")
    rate = ca.Function("rate", [x, held, theta], [ca.vertcat(*rates(ca.vertsplit(x), held))])
    step = ca.Function("step", [x, held, h], [discretise(rate, "radau5", x, held, theta, h, 1)])
    states, small = [np.asarray(x0)], 0.1 / 64
    for t in range(10):
        value = states[-1]
        sizes = [small / 2**20, *(small / 2**k for k in range(20, 0, -1))] if t == 0 else [small]
        for size in (*sizes, *[small] * 63):
            value = np.asarray(step(value, u, size)).ravel()
        states.append(value)
    return np.array(states)


@pytest.fixture(scope="module")
def kinetics():
    return compiled(stiff("robertson"))


def test_robertsons_kinetics_is_integrated_to_nine_digits_from_the_slow_manifold(kinetics):
    u = torch.full((10, 1), 0.3, dtype=torch.float64)
    mpc = kinetics.MPC(method="ddp", max_iterations=0, on_unconverged="ignore")
    fresh = exact("robertson", [1.0, 0.0, 0.0], 0.3)
    for x0, expected, digits in (
        ([1.0, 0.0, 0.0], fresh, 1e-6),
        (fresh[3].tolist(), exact("robertson", fresh[3], 0.3), 1e-9),
    ):
        found = mpc(torch.tensor(x0, dtype=torch.float64), u_init=u).x.numpy()
        assert np.abs(found[-1] / expected[-1] - 1).max() < digits


def test_van_der_pols_oscillator_is_integrated_to_nine_digits_from_the_slow_manifold():
    mpc = compiled(stiff("van_der_pol")).MPC(method="ddp", max_iterations=0, on_unconverged="ignore")
    u = torch.full((10, 1), 0.3, dtype=torch.float64)
    slow = exact("van_der_pol", [2.0, -0.5], 0.3)[3]
    found = mpc(torch.from_numpy(slow), u_init=u).x.numpy()
    assert np.abs(found[-1] / exact("van_der_pol", slow, 0.3)[-1] - 1).max() < 1e-9


def uniform(*sides):
    """(1024, n) points of a box, by its sides."""
    lower, upper = torch.tensor(sides, dtype=torch.float64).T
    numbers = torch.Generator().manual_seed(0)
    return lower + (upper - lower) * torch.rand(1024, len(sides), generator=numbers, dtype=torch.float64)


def test_controllers_of_kinetics_converge_from_everywhere(kinetics):
    x0 = uniform((0.8, 1.0), (0.0, 4e-5), (0.0, 0.2))
    assert kinetics.MPC(on_unconverged="ignore")(x0).converged.double().mean() >= 0.99


def test_controllers_of_an_oscillator_converge_from_everywhere():
    """With steps that are not long for its unstable mode, on the repelling branch."""
    mpc = compiled(stiff("van_der_pol", substeps=8)).MPC(on_unconverged="ignore")
    assert mpc(uniform((-3, 3), (-3, 3))).converged.double().mean() >= 0.99


def test_reactors_that_ignite_within_a_step_are_solved_as_by_ipopt():
    """From there, Newton's method does not solve the equations of the first step.

    They may have several solutions, and IPOPT come to another; these starts are of those from where both find the same.
    """
    spec = cstr.problem.spec()
    x0 = torch.tensor([[0.49324, 375.9444], [0.62021345, 379.50965052]], dtype=torch.float64)
    u = torch.full((20, 1), 280.0, dtype=torch.float64)
    sol = compiled(spec).MPC(on_unconverged="raise")(x0, u_init=u)
    peer = Baseline(spec).solve_batch(x0.numpy(), u_init=u.numpy())
    assert peer.success.all()
    np.testing.assert_allclose(sol.cost, peer.cost, rtol=1e-8)
    np.testing.assert_allclose(sol.x, peer.x, rtol=1e-6, atol=1e-6)
    for x_init in (sol.x.detach(), x0[:, None].expand(2, 21, 2)):
        begun = compiled(spec).MPC(on_unconverged="raise")(x0, x_init=x_init, u_init=u)
        torch.testing.assert_close(begun.u, sol.u, rtol=1e-6, atol=1e-6)


def test_of_several_solutions_of_a_step_that_near_the_exact_trajectory_is_found():
    """By parts too long for the ignition, Newton's method came to 430 K."""
    x0 = torch.tensor([[0.44037715, 375.45904937], [0.62021345, 379.50965052]], dtype=torch.float64)
    u = torch.full((20, 1), 280.0, dtype=torch.float64)
    after = compiled(cstr.problem).MPC(max_iterations=0, on_unconverged="ignore")(x0, u_init=u).x[:, 1, 1]
    exact_ones = torch.tensor([448.628, 476.972], dtype=torch.float64)  # by 20,000 steps of rk4
    assert (after - exact_ones).abs().max() < 10  # of a rise by 73 and 97 K


def test_attempts_from_scattered_controls_do_not_depend_on_neighbours():
    """The bounds exclude zero controls: beside neighbours that stepped they were moved inside, alone they were not."""
    numbers = torch.rand(9267, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x0 = (numbers * torch.tensor([1.0, 100.0]) + torch.tensor([0.0, 280.0]))[-64:]  # the last ends as MODEL
    mpc = compiled(cstr.problem).MPC(on_unconverged="ignore", max_iterations=170, history=True, threads=1)
    alone, among = mpc(x0[-1].expand(2, 2)).history, mpc(x0).history
    for name in ("cost", "residual"):
        assert torch.equal(getattr(among, name)[-1].nan_to_num(), getattr(alone, name)[0].nan_to_num())
    assert among.cost[-1].isfinite().sum() > 150


def test_steps_of_a_closed_loop_refuse_the_trials_that_a_call_refuses():
    """Those in which Newton's method does not solve a step of the reactor's, although the first rollout is solved."""
    x0 = torch.tensor([[0.84497, 340.77898], [0.66353, 346.1796], [0.79286, 343.94857]], dtype=torch.float64)
    mpc = compiled(cstr.problem).MPC(method="ddp", on_unconverged="raise")
    assert torch.equal(mpc.closed_loop(x0, steps=1).u[:, 0], mpc(x0).u[:, 0])


def test_the_text_has_no_function_of_the_right_hand_side_that_nothing_calls():
    texts = [Compilation(model.spec()).rendered.source for model in (stiff("van_der_pol"), tank())]
    names = ("implicit", "stage_equations", "substeps")
    callers = [(HEADER_FOLDER / f"mpcgen_{name}.h").read_text() for name in names]
    for text, has_costs in zip(texts, (False, True), strict=True):
        defined = set(re.findall(r"^\w+ void (rate_\w+)\(", text, re.MULTILINE))
        assert {"rate_newton", "rate_slopes", "rate_curvature"} <= defined
        assert ("rate_values" in defined) == has_costs  # SUBSTEP_COSTS, which alone reads it
        assert all(any(f"{name}(" in caller for caller in callers) for name in defined)


def test_an_explicit_integrator_of_a_stiff_model_diverges_and_radau_is_named():
    mpc = mpcgen.reference.MPC(stiff("van_der_pol", mpcgen.rk4), on_unconverged="ignore")
    solution = mpc(torch.tensor([2.0, -5.0], dtype=torch.float64))
    assert Status(int(solution.status)) == Status.DIVERGED
    assert "stiff model an implicit one (radau)" in Status.DIVERGED.advice


def test_a_stage_of_a_reactor_takes_few_operations():
    """f, F and the second derivatives of lambda'f with three Newton steps; `test_golden` keeps the committed text."""
    text = (Path(__file__).parent.parent / "generated" / "cstr" / "cstr.c").read_text(encoding="utf-8")
    counts = {name: int(count) for name, count in re.findall(r"^ \*   (\w+) +(\d+)$", text, re.MULTILINE)}
    states, points, width = (
        2,
        3,
        3,
    )  # of the step: its states, its slopes, and those states beside the control
    unknowns = states * points
    factors = sum(k + 2 * k * k for k in range(unknowns)) + unknowns
    solution = 2 * unknowns**2
    equations = 2 * unknowns * (points + unknowns)  # residuals, and the matrix
    newton = points * counts["rate_newton"] + equations + factors + solution
    first = points * counts["rate_slopes"] + equations + factors + width * solution
    products = states * width * (2 * width + 2 * states) + width * width
    second = points * (counts["rate_curvature"] + products) + solution
    assert 3 * newton + first + second <= 2_500


# ---- what is said, and mistakes ----


def test_inspect_says_which_integrator():
    text = inspect(tank().spec())
    assert "1 step of radau3 over dt = 0.2" in text


def test_rates_that_read_no_control_and_linear_ones_are_possible():
    problem = mpcgen.Problem("autonomous", horizon=3)
    x, last = problem.states("x last")
    (u,) = problem.controls("u")
    problem.dynamics = mpcgen.implicit_midpoint(problem, [-50 * x], dt=0.1, discrete={last: u})
    problem.stage_cost = (x - last) ** 2 + u**2
    assert Compilation(problem.spec()).rendered.source


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"order": 4}, "order of radau is 4; expected one of 3, 5"),
        ({"order": True}, "order of radau is True"),
        ({"newton": 0}, "newton of radau5 is 0"),
        ({"substeps": 0}, "substeps of radau5"),
        ({"dt": -1}, "dt of radau5 is -1"),
        ({"residual": {"q": 1}}, "residual= of radau5 has 'q'; expected states"),
        ({"rhs": [1]}, "1 row for the 2 states"),
        ({"every": True}, "leaves no state that has a rate"),
        ({"both": True}, "state q has a row in discrete= and one in residual="),
    ],
)
def test_mistakes_are_named(options, said):
    problem = mpcgen.Problem("mistaken", horizon=3)
    x, q = problem.states("x q")
    problem.controls("u")
    given = {"rhs": [q, x], "dt": 0.1} | options
    if given.pop("every", False):
        given |= {"rhs": [], "residual": {x: x - q, q: x + q}}
    if given.pop("both", False):
        given |= {"rhs": [q], "residual": {q: x + q}, "discrete": {q: x}}
    with pytest.raises(mpcgen.SpecError) as error:
        mpcgen.radau(problem, **given)
    assert said in str(error.value)


def test_what_cannot_follow_an_implicit_step_says_so():
    problem = tank("followed")
    with pytest.raises(
        mpcgen.SpecError, match="integrated by radau3, and box-iLQR in PyTorch knows explicit"
    ):
        mpcgen.reference.MPC(problem)


def test_a_cost_that_is_not_linear_in_its_running_costs_is_refused():
    problem = tank("squared")
    problem.stage_cost = problem.stage_cost + mpcgen.running_cost(problem.state_symbols[0]) ** 2
    with pytest.raises(mpcgen.SpecError, match="not linear in its running costs"):
        _ = Compilation(problem.spec()).derived
