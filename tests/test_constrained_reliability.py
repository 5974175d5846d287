"""Problems with constraints from many starts: all are solved, and INFEASIBLE is said of what is infeasible alone."""

import functools

import numpy as np
import pytest
import sympy as sp
import torch

import mpcgen
from examples.bench import gallery_end_time as end_time
from examples.bench import gallery_plants as plants
from examples.bench import gallery_robots as robots
from examples.bench.gallery import Entry
from mpcgen import Status
from tests import constrained_problems as problems
from tests import constrained_reliability
from tests.controllers import compiled

STARTS = 24


@functools.cache
def controller(make):
    return compiled(make())


def solved(make, x0=None, largest=1.0, **options):
    """The solution from zero controls and from random ones within a share of their bounds."""
    module = controller(make)
    spec = make().spec()
    size = torch.tensor([float(control.upper) for control in spec.controls], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    shape = (STARTS, spec.horizon, len(size))
    u_init = (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) * size * largest
    u_init[0] = 0
    start = torch.tensor(problems.STARTS[make] if x0 is None else x0, dtype=torch.float64)
    mpc = module.MPC(on_unconverged="ignore", **{"max_iterations": 800, **options})
    return mpc(start.expand(STARTS, -1), u_init=u_init)


def of_free_duration(make, x0, count=STARTS, max_iterations=800):
    """The solution of a problem whose duration is free, from zero controls and from random ones."""
    problem = make()
    parameters = end_time.parameters_of(make, problem.horizon)
    start, u_init = Entry(problem.name, problem.spec, x0, parameters=parameters).starts(
        problem.spec(), count, seed=0
    )
    mpc = compiled(problem).MPC(on_unconverged="ignore", max_iterations=max_iterations)
    given = {name: torch.tensor(value) for name, value in parameters.items()}
    return mpc(torch.tensor(start), u_init=torch.tensor(u_init), **given)


def test_a_car_finds_its_pose_from_every_start():
    # the linearisation at rest cannot reach the pose: restoration has to find the way
    sol = solved(problems.car_among_discs)
    assert (sol.status == Status.CONVERGED).all()
    assert sol.violation.max() < 1e-7
    best = problems.OPTIMA[problems.car_among_discs]
    assert sol.cost.min() > best - 1e-7
    assert ((sol.cost - best).abs() < 1e-6).double().mean() > 0.5


@pytest.mark.parametrize("make", [problems.coupled_cartpole, problems.safe_cartpole])
def test_cart_poles_take_no_more_iterations_than_ipopt_does(make):
    # coupled, 128 starts took 88 where shifts on states took no account of their sizes, IPOPT 73; alone, these took 75
    # where shifts grew by eight from 1e-4, whatever had done before
    count = 16
    u = constrained_reliability.random_controls(make, count, np.random.default_rng(0))
    sol = constrained_reliability.solve(make, problems.STARTS[make], u)
    theirs = constrained_reliability.ipopt(make, problems.STARTS[make], u)
    assert (sol.status == Status.CONVERGED).all()
    assert all(one.success for one in theirs)
    assert sol.iterations.double().mean() <= np.mean([one.iterations for one in theirs])


def test_a_goal_inside_a_disc_is_called_infeasible_when_the_iterations_run_out_too():
    # three attempts had found no point, but the fourth had no passes left: it was MAX_ITERATIONS
    mpc = controller(problems.car_among_discs).MPC(on_unconverged="ignore")
    start = torch.tensor(problems.STARTS[problems.car_among_discs], dtype=torch.float64)
    discs = torch.tensor([[0.1, 0.0, 0.45], [2.0, 1.7, 0.5]], dtype=torch.float64)
    u_init = torch.tensor(
        constrained_reliability.random_controls(problems.car_among_discs, 64, np.random.default_rng(0))
    )
    sol = mpc(start.expand(64, -1), u_init=u_init, discs=discs)
    assert (sol.status == Status.INFEASIBLE).sum() >= 45
    assert set(sol.status.tolist()) <= {Status.INFEASIBLE, Status.MAX_ITERATIONS}


def test_when_a_problem_is_called_infeasible_does_not_depend_on_its_neighbours():
    # restorations that fail are counted in the lane's own passes, not in those that others make while it sweeps again
    mpc = controller(problems.car_among_discs).MPC(on_unconverged="ignore", max_iterations=300)
    start = torch.tensor(problems.STARTS[problems.car_among_discs], dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    x0 = start + 1e6 * torch.randn(64, len(start), generator=generator, dtype=torch.float64)[40:48]
    together, alone = mpc(x0), [mpc(one.expand(2, -1)) for one in x0]
    for name in ("status", "iterations", "x", "u"):
        assert torch.equal(getattr(together, name), torch.stack([getattr(one, name)[0] for one in alone])), (
            name
        )


def test_copies_of_a_problem_have_one_status():
    # attempts that miss are counted by the lane, not with its neighbours'
    mpc = controller(problems.car_among_discs).MPC(on_unconverged="ignore", max_iterations=800)
    start = torch.tensor(problems.STARTS[problems.car_among_discs], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    far = start + 20 * torch.randn(12, len(start), generator=generator, dtype=torch.float64)
    copies = mpc(far.repeat_interleave(8, 0)).status.reshape(12, 8)
    assert (copies == mpc(far).status[:, None]).all()
    assert {Status.STALLED, Status.INFEASIBLE} <= {Status(int(status)) for status in copies[:, 0]}


def push():
    """A mass whose push may have no lower bound, and so a unit that its first sweep has to find."""
    problem = mpcgen.Problem("push", horizon=6)
    position, speed = problem.states("position speed")
    force = problem.control("force", lower=problem.parameter("floor"), upper=1)
    problem.dynamics = [position + speed / 5, speed + force / 5]
    problem.stage_cost = position**2 + speed**2 / 10 + force**2 / 20
    problem.terminal_cost = position**2
    problem.constraint("mixed", speed + force / 2, upper=2)
    return problem


@pytest.mark.parametrize("given", ["controls", "states", "solution"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_waits_for_its_units_does_not_depend_on_its_neighbours(dtype, given):
    module = compiled(push(), ("float64", "float32"))
    generator = torch.Generator().manual_seed(0)
    x0, path, u = (torch.randn(21, *shape, generator=generator).to(dtype) for shape in [(2,), (7, 2), (6, 1)])
    x0[::4] *= 1e5
    floor = torch.tensor([-float("inf"), -1.0, -2.0], dtype=dtype).repeat(7)
    for passes in (0, 1, 2):
        mpc = module.MPC(on_unconverged="ignore", max_iterations=passes)

        def solve(which, mpc=mpc):
            if given == "solution":
                solved = module.MPC(on_unconverged="ignore")(x0[which], floor=floor[which])
                return mpc(x0[which] * 1.05, warm_start=solved, floor=floor[which])
            states = path[which] if given == "states" else None
            return mpc(x0[which], u_init=u[which], x_init=states, floor=floor[which])

        together, alone = solve(range(21)), [solve([i, i]) for i in range(21)]
        for name in ("status", "iterations", "x", "u", "cost", "residual", "violation"):
            own = torch.stack([getattr(one, name)[0] for one in alone])
            assert torch.equal(getattr(together, name), own), (passes, name)


def test_controls_that_are_held_have_the_same_sign_of_zero_beside_any_neighbours():
    # a correction is held between -0 and 0, and a problem may begin beside others that step
    problem = end_time.tumour()
    free = torch.tensor(end_time.parameters_of(end_time.tumour, problem.horizon)["free"])
    mpc = compiled(problem).MPC(on_unconverged="ignore", max_iterations=8, threads=1)
    generator = torch.Generator().manual_seed(0)
    near = 0.8 + 0.4 * torch.rand(14, 4, generator=generator, dtype=torch.float64)
    x0 = torch.tensor(end_time.STARTS[end_time.tumour], dtype=torch.float64) * near
    x0[::3, :2] *= 1e-3
    end = torch.tensor([7000, 7000, 15, 1.2], dtype=torch.float64)
    along = torch.linspace(0, 1, problem.horizon + 1, dtype=torch.float64)[:, None]
    x_init = x0[:, None] + (end - x0)[:, None] * along
    together = mpc(x0, x_init=x_init, free=free)
    alone = [mpc(x0[[i, i]], x_init=x_init[[i, i]], free=free).u[0] for i in range(14)]
    assert torch.equal(together.u, torch.stack(alone))
    assert torch.equal(together.u.signbit(), torch.stack(alone).signbit())


def test_ends_that_only_the_slack_of_bounds_is_left_for_are_met():
    # a switch of bang-bang controls comes between two stages: fewer are free of bounds than the end has equations
    sol = of_free_duration(functools.partial(end_time.telescopic_arm, with_tilt=False), [4.5, 0, 0, 0, 8])
    assert (sol.status == Status.CONVERGED).all()
    assert sol.iterations.max() <= 120
    assert (sol.cost - 12.749496).abs().max() < 1e-6
    assert sol.violation.max() < 1e-8


def test_restoration_that_finds_no_step_across_gaps_says_nothing_of_feasibility():
    # no rollout has numbers there: of 128 such gliders 16 to 34 were called INFEASIBLE
    sol = of_free_duration(end_time.hang_glider, end_time.STARTS[end_time.hang_glider], 128, 1500)
    assert not (sol.status == Status.INFEASIBLE).any()
    assert (sol.status == Status.CONVERGED).sum() >= 85


def test_what_stalls_from_a_start_that_leaves_the_model_is_tried_from_others():
    # without thrust the rocket falls until the air's density overflows
    sol = of_free_duration(end_time.goddard, end_time.STARTS[end_time.goddard])
    assert (sol.status == Status.CONVERGED).all()
    assert (sol.cost - end_time.OPTIMA[end_time.goddard]).abs().max() < 1e-7


def test_equations_do_not_wait_for_the_cost_where_steps_are_tiny():
    # a cone forbids all but tiny first steps; equations that gave way then took up to 234 passes to be met
    x0 = torch.tensor(robots.draw(robots.rendezvous, STARTS, seed=0))
    sol = compiled(robots.rendezvous()).MPC(on_unconverged="ignore", max_iterations=800)(x0)
    assert (sol.status == Status.CONVERGED).all()
    assert sol.iterations.max() <= 90
    assert sol.violation.max() < 1e-8


def test_float32_does_not_take_a_dear_plan_for_the_solution_where_rows_are_small():
    # hospitals hold 0.004 of the population: of 64 starts 55 were CONVERGED at up to four times the least cost
    controller = compiled(plants.epidemic(), ("float32", "float64"))
    x0 = torch.tensor(plants.STARTS[plants.epidemic](STARTS, seed=0))
    exact, sol = (
        controller.MPC(on_unconverged="ignore", max_iterations=400)(x0.to(dtype))
        for dtype in (torch.float64, torch.float32)
    )
    assert (exact.status == Status.CONVERGED).all() and (sol.status == Status.CONVERGED).all()
    torch.testing.assert_close(sol.cost.double(), exact.cost, rtol=1e-4, atol=0)
    assert sol.violation.max() < 1e-5


def test_a_slack_far_too_small_does_not_stall_the_last_steps():
    # its share of the step was 4e7: no length brought the barrier function down by 1e-4 of what that promised
    problem = mpcgen.Problem("levels", horizon=60)
    h = problem.states("h1 h2 h3 h4", lower=0.1, upper=20)
    v = problem.controls("v1 v2", lower=0, upper=10)
    aims = problem.parameters("aim1 aim2", default=[12.0, 13.0], per_stage=True)
    out = [0.07 * sp.sqrt(2 * 981 * level) / 28 for level in h]
    rates = [
        -out[0] + out[2] + 0.43 * 3.33 * v[0] / 28,
        -out[1] + out[3] + 0.34 * 3.35 * v[1] / 32,
        -out[2] + (1 - 0.34) * 3.35 * v[1] / 28,
        -out[3] + (1 - 0.43) * 3.33 * v[0] / 32,
    ]
    problem.dynamics = mpcgen.rk4(problem, rates, dt=5.0, substeps=2)
    off = (h[0] - aims[0]) ** 2 + (h[1] - aims[1]) ** 2
    problem.stage_cost = off + 0.01 * (v[0] ** 2 + v[1] ** 2)
    problem.terminal_cost = 10 * off
    x0 = [
        float.fromhex(f"0x1.{digits}")
        for digits in ("3493eeb23dde5p+3", "a1346267d0ae2p+2", "4525fdb5f1f6dp+2", "ba83388de7549p+1")
    ]
    sol = compiled(problem).MPC(on_unconverged="ignore", max_iterations=800)(
        torch.tensor(x0, dtype=torch.float64),
        aim1=torch.tensor([12.0] * 30 + [15.0] * 31, dtype=torch.float64),
    )
    assert sol.status == Status.CONVERGED
    assert abs(sol.cost - 623.6704639593555) < 1e-6


def test_a_guess_of_states_is_kept_to_where_costs_bend_nowhere():
    # without second derivatives these leave a linear programme, whose steps went far from it: up to 79 passes
    mpc = compiled(end_time.orbit_raising()).MPC(on_unconverged="ignore", max_iterations=800)
    start = torch.tensor(end_time.STARTS[end_time.orbit_raising], dtype=torch.float64)
    along = (
        torch.linspace(0, 1, 61, dtype=torch.float64)[:, None] * torch.linspace(0.8, 1.2, 9)[:, None, None]
    )
    end = torch.tensor([1.5, 0, 0.8, 0.75], dtype=torch.float64)
    sol = mpc(start.expand(9, -1), x_init=start + (end - start) * along)
    assert (sol.status == Status.CONVERGED).all()
    assert sol.iterations.max() <= 30
    assert (sol.cost - end_time.OPTIMA[end_time.orbit_raising]).abs().max() < 1e-7


def test_rows_that_depend_on_one_another_are_never_called_infeasible():
    sol = solved(problems.coupled_cartpole)
    assert (sol.status != Status.INFEASIBLE).all()
    assert (sol.status == Status.CONVERGED).sum() >= STARTS - 1


def test_a_convex_infeasible_problem_is_reported_soon():
    sol = solved(problems.double_integrator, problems.INFEASIBLE_START)
    assert (sol.status == Status.INFEASIBLE).all()
    assert sol.iterations.max() <= 40
    # with all its force it stops at 0.3 - 1.5²/2, and 0 is allowed
    torch.testing.assert_close(sol.violation, torch.full_like(sol.violation, 0.825), rtol=0, atol=1e-3)


def test_each_row_is_compared_with_what_it_lacked_itself():
    """Braking takes 0.5 m: 0.3 m are too few, however little of the pressure, in pascals, is left of what there was."""
    problem = mpcgen.Problem("brake", horizon=15)
    x, v, pressure = problem.states("x v pressure", upper=[0, sp.oo, 1e5])
    brake, valve = problem.controls("brake valve", lower=-1, upper=1)
    problem.dynamics = [x + v / 10, v + (brake - v**3 / 10) / 10, pressure + 2e5 * valve]
    problem.stage_cost = x**2 + v**2 + brake**2 + valve**2
    problem.terminal_cost = x**2
    mpc = compiled(problem).MPC(on_unconverged="ignore")
    sol = mpc(torch.tensor([[-0.3, 1.0, 3e5], [-0.9, 1.0, 3e5]], dtype=torch.float64))
    assert sol.status.tolist() == [Status.INFEASIBLE, Status.CONVERGED]


@pytest.mark.parametrize(
    ("linear", "dtype"),
    [(True, torch.float64), (False, torch.float64), (True, torch.float32)],
    ids=["linear", "car", "linear, float32"],
)
def test_what_a_random_rollout_obeys_is_never_called_infeasible(linear, dtype):
    assert constrained_reliability.judge_feasible(linear, 10_000, dtype=dtype) == 0


def test_a_wall_that_only_the_fourth_derivative_of_a_place_is_steered_by_is_not_infeasible():
    # at rest before it no row is violated; a scattered start rolls far beyond it, and its multipliers are of any size
    problem = problems.far_wall(horizon=40, effort=1e-6)
    sol = compiled(problem).MPC(on_unconverged="ignore", max_iterations=500)(
        torch.zeros(4, dtype=torch.float64)
    )
    assert sol.status != Status.INFEASIBLE
    assert sol.violation < 1e-9


def test_bounds_of_rows_that_cross_are_that_problems_invalid_input():
    make = functools.partial(problems.corridor, linear=True)
    mpc = compiled(make()).MPC(on_unconverged="ignore")
    x0, wide = torch.zeros(6, 2, dtype=torch.float64), torch.ones(6, 21, 2, dtype=torch.float64)
    good = mpc(x0 + 0.1, low=-wide, high=wide)
    assert (good.status == Status.CONVERGED).all()
    low, high = -wide, wide.clone()
    low[1, 4, 0], high[3, 20, 1] = 1.5, -1.5
    low[4, 7, 1] = high[4, 7, 1] = 0.05  # bounds may meet
    sol = mpc(x0 + 0.1, low=low, high=high)
    assert sol.status.tolist() == [0, Status.INVALID_INPUT, 0, Status.INVALID_INPUT, 0, 0]
    assert sol.u[1].isnan().all()
    torch.testing.assert_close(sol.x[4, 7, 1], low[4, 7, 1], rtol=0, atol=1e-7)
    for i in (0, 2, 5):
        assert torch.equal(sol.u[i], good.u[i])
