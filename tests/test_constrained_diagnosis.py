"""What a solution with constraints says of its rows, and how `mpcgen.diagnose` and `mpcgen.plot` show it."""

import io

import constrained_problems as problems
import pytest
import torch

import mpcgen


@pytest.fixture(scope="module")
def module():
    """A mass with a speed limit and a wall."""
    return mpcgen.compile(problems.double_integrator(), dtypes=("float64",))


@pytest.fixture(scope="module")
def solution(module):
    starts = torch.tensor([[0.95, 0.13], [0.4, 0.1]], dtype=torch.float64)
    return module.MPC(on_unconverged="raise")(starts)


def test_where_converged_keeps_multipliers_by_name(module):
    mpc = module.MPC(on_unconverged="ignore")
    solution = mpc(torch.tensor([[0.1, 0.0], [float("nan"), 0.0]], dtype=torch.float64))
    masked = solution.where_converged()
    assert masked.duals.keys() == solution.duals.keys()
    for name, value in masked.duals.items():
        assert torch.equal(value[0], solution.duals[name][0]) and (value[1] == 0).all()


def test_rows_have_the_values_and_bounds_of_their_stages(solution):
    velocity = solution.rows["velocity"]
    assert velocity.values.shape == (2, 40, 1)
    torch.testing.assert_close(velocity.values[..., 0], solution.x[:, 1:, 1])
    assert (velocity.lower == -0.6).all() and (velocity.upper == 0.6).all()
    assert (solution.rows["position"].upper == torch.inf).all()
    torch.testing.assert_close(velocity.dual, solution.duals["velocity"])


def test_a_row_is_active_where_its_bound_pushes(solution):
    velocity = solution.rows["velocity"]
    held = velocity.dual[0] < -1e-4
    assert held.any()
    assert (velocity.active[0][held] == -1).all()
    assert (velocity.values[0][held] < -0.6 + 1e-6).all()
    assert (velocity.active[1] == 0).all()  # slow enough all the way


def test_margins_are_multipliers_of_held_rows_and_distances_of_free_ones(solution):
    velocity = solution.rows["velocity"]
    held = velocity.active != 0
    torch.testing.assert_close(velocity.margins[held], velocity.dual[held].abs())
    free = velocity.values[~held]
    torch.testing.assert_close(velocity.margins[~held], torch.minimum(free + 0.6, 0.6 - free))
    of_rows = torch.stack([rows.margins.amin((-2, -1)) for rows in solution.rows.values()])
    torch.testing.assert_close(
        solution.margin, torch.minimum(of_rows.amin(0), solution.margins.amin((-2, -1)))
    )


def test_equalities_have_no_margin():
    problem = mpcgen.Problem("ends", horizon=5)
    x = problem.states("x")[0]
    (u,) = problem.controls("u", lower=-1, upper=1)
    problem.dynamics = [x + u]
    problem.stage_cost = u**2
    problem.terminal_constraint("end", x, equals=1)
    ended = mpcgen.compile(problem, dtypes=("float64",)).MPC()(torch.zeros(1, dtype=torch.float64))
    assert ended.rows["end"].values.shape == (1, 1)
    assert float(ended.rows["end"].values) == pytest.approx(1, abs=1e-7)
    assert float(ended.rows["end"].margins) == torch.inf
    report = mpcgen.diagnose(ended, file=io.StringIO())
    assert [entry.control for entry in report.activity] == ["u"]


def test_diagnose_names_rows_at_their_bounds_and_those_nearest_to_switching(solution):
    report = mpcgen.diagnose(solution, file=io.StringIO())
    at_lower = {entry.control: entry.at_lower for entry in report.activity}
    assert set(at_lower) == {"force", "position", "velocity"}
    share = float((solution.rows["velocity"].active == -1).double().mean())
    assert at_lower["velocity"] == pytest.approx(share) and share > 0
    assert [margin.value for margin in report.margins] == sorted(solution.margin.tolist())


def test_diagnose_names_the_row_and_stage_that_is_violated(module):
    infeasible = module.MPC(on_unconverged="ignore")(
        torch.tensor(problems.INFEASIBLE_START, dtype=torch.float64)
    )
    assert mpcgen.Status(int(infeasible.status)) == mpcgen.Status.INFEASIBLE
    (worst,) = mpcgen.diagnose(infeasible, file=io.StringIO()).worst
    rows = infeasible.rows
    name = max(rows, key=lambda name: float(rows[name].violation.max()))
    stage = int(rows[name].violation[:, 0].argmax()) + 1
    assert worst.failure.startswith(f"{name} at stage {stage} is outside of its bounds by ")


def test_a_warning_says_by_how_much_a_problem_that_is_not_solved_violates_its_constraints(module):
    x0 = torch.tensor([[0.95, 0.13], problems.INFEASIBLE_START], dtype=torch.float64)
    with pytest.warns(mpcgen.UnconvergedWarning) as said:
        found = module.MPC(max_iterations=6)(x0[1:])
    assert mpcgen.Status(int(found.status)) == mpcgen.Status.MAX_ITERATIONS
    expected = f"First to run out of passes: it violates constraints by {float(found.violation):.2g}, and may have no"
    assert expected in str(said[0].message)
    passes = int(module.MPC()(x0[:1]).iterations)
    with pytest.warns(mpcgen.UnconvergedWarning) as said:
        found = module.MPC(max_iterations=passes - 1)(x0[:1])
    assert found.violation < 1e-6 and "violates" not in str(said[0].message)


def test_plot_draws_limits_and_shades_what_is_active(solution):
    figure = mpcgen.plot(solution, 0)
    by_title = {axes.get_title(loc="left").split()[0]: axes for axes in figure.axes}
    limits = [line for line in by_title["velocity"].lines if line.get_linestyle() == "--"]
    assert sorted({float(line.get_ydata()[0]) for line in limits}) == [-0.6, 0.6]
    assert by_title["velocity"].patches  # shaded spans
    assert len([line for line in by_title["position"].lines if line.get_linestyle() == "--"]) == 1


def test_plot_gives_constrained_expressions_panels_of_their_own():
    solution = mpcgen.compile(problems.coupled_cartpole(), dtypes=("float64",)).MPC(on_unconverged="ignore")(
        torch.tensor(problems.STARTS[problems.coupled_cartpole], dtype=torch.float64)
    )
    titles = [axes.get_title(loc="left") for axes in mpcgen.plot(solution).axes]
    assert "tie[0]" in titles and "tie[1]" in titles
