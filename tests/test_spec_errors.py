"""Each mistake in sizes, symbols and bounds of a specification: a typed error that names it and the remedy."""

import re

import numpy as np
import pytest
import sympy as sp
from drafts import refused

import mpcgen

# ---- sizes


@pytest.mark.parametrize("horizon", [0, -1, 2.5, "3", True, None])
def test_horizon_is_an_integer_of_at_least_one(horizon):
    with refused("horizon", repr(horizon), ">= 1"):
        mpcgen.Problem("p", horizon=horizon)


@pytest.mark.parametrize("count", [1, 3])
def test_dynamics_need_one_row_per_state(draft, count):
    with refused(f"{count} row", "2 states", "x, velocity"):
        draft.problem.dynamics = [draft.x] * count
    with refused("rk4", f"{count} row", "2 states"):
        mpcgen.rk4(draft.problem, [draft.x] * count, dt=0.1)


def test_dynamics_of_another_problem_need_its_number_of_states(draft):
    other = mpcgen.Problem("other", horizon=1)
    other.states("x")
    with refused("2 rows", "1 state"):
        other.dynamics = mpcgen.rk4(draft.problem, [draft.v, draft.u], dt=0.1)


def test_steps_of_a_scheme_cannot_be_taken_apart(draft):
    steps = mpcgen.rk4(draft.problem, [draft.v, draft.u], dt=0.1)
    with refused("'rk4'", "problem.dynamics", "w / dt", "discrete="):
        draft.problem.dynamics = [row + draft.u for row in steps]
    with refused("'rk4'", "problem.dynamics"):
        steps[0]


def test_states_declared_after_the_dynamics_are_missed(draft):
    draft.problem.states("late")
    with refused("2 rows", "3 states", "late"):
        draft.problem.spec()


@pytest.mark.parametrize("rows", [3, "x", None, [[1, 2], [3, 4]], sp.eye(2), ["x", 1], [None, 1]])
def test_dynamics_must_be_a_column_of_expressions(draft, rows):
    with refused("dynamics"):
        draft.problem.dynamics = rows


@pytest.mark.parametrize("cost", [sp.eye(2), [1], "x**2", None, True])
def test_costs_must_be_scalar_expressions(draft, cost):
    with refused("stage cost"):
        draft.problem.stage_cost = cost
    with refused("terminal cost"):
        draft.problem.terminal_cost = cost


def test_a_comparison_is_not_a_number(draft):
    with refused("comparison", "x < 1", "Piecewise"):
        draft.problem.stage_cost = draft.x < 1


@pytest.mark.parametrize("bound", ["lower", "upper"])
def test_bounds_are_one_for_all_or_one_each(draft, bound):
    with refused(bound, "3 entries", "2", "a, b"):
        draft.problem.controls("a b", **{bound: [1, 2, 3]})


def test_scalar_defaults_are_one_for_all_or_one_each(draft):
    with refused("default", "2 entries", "3", "a, b, c"):
        draft.problem.parameters("a b c", default=[1, 2])


def test_whether_parameters_are_per_stage_is_true_or_false(draft):
    with refused("per_stage", "'a'", "2", "True or False"):
        draft.problem.parameters("a b", per_stage=2)


@pytest.mark.parametrize(
    ("shape", "default", "given"),
    [
        (3, [1, 2], "(2,)"),
        (3, [[1, 2, 3], [4, 5, 6]], "nested"),
        ((2, 2), [1, 2, 3, 4], "(4,)"),
        ((2, 2), [[1, 2], [3]], "ragged"),
        ((), [1], "(1,)"),
        ((2, 3), np.zeros((3, 2)), "(3, 2)"),
    ],
)
def test_defaults_have_the_shape_of_the_parameter(draft, shape, default, given):
    with refused("'weights'", given, "expected"):
        draft.problem.parameter("weights", shape=shape, default=default)


@pytest.mark.parametrize("shape", [0, -1, (2, 0), 1.5, "3", (1, 2, 3), True])
def test_shapes_have_at_most_two_positive_sizes(draft, shape):
    with refused("'weights'", "expected"):
        draft.problem.parameter("weights", shape=shape)


@pytest.mark.parametrize("default", [float("nan"), sp.I, "1", sp.Symbol("y"), 1j, sp.zoo])
def test_defaults_are_real_numbers(draft, default):
    with refused("default", "'weight'"):
        draft.problem.parameter("weight", default=default)


def test_infinite_defaults_are_for_bounds_only(draft):
    limit = draft.problem.parameter("limit", default=sp.oo)
    draft.problem.stage_cost = draft.u**2 * limit
    with refused("'limit'", "infinite", "bounds"):
        draft.problem.spec()


# ---- missing parts


def test_missing_parts_are_named():
    problem = mpcgen.Problem("p", horizon=1)
    with refused("state"):
        problem.dynamics = [1]
    (x,) = problem.states("x")
    with refused("no dynamics"):
        problem.spec()
    problem.dynamics = [x]
    with refused("no cost"):
        problem.spec()
    problem.stage_cost = x**2
    with refused("no controls"):
        problem.spec()


def test_a_cost_without_any_control_is_refused(draft):
    draft.problem.dynamics, draft.problem.stage_cost = [draft.x, draft.v], draft.x**2
    with refused("no cost or constraint depends on any control", "force", "stage_cost"):
        draft.problem.spec()


def test_a_control_that_reaches_no_costed_state_is_refused(draft):
    draft.problem.dynamics = [draft.x / 2, draft.u]
    draft.problem.stage_cost = draft.x**2
    with refused("no cost or constraint depends on any control", "force"):
        draft.problem.spec()


def test_the_idle_one_of_several_controls_is_named(draft):
    draft.problem.controls("idle")
    with refused("no cost or constraint depends on control 'idle'"):
        draft.problem.spec()


def test_a_control_may_reach_the_cost_through_the_dynamics_alone(draft):
    draft.problem.stage_cost = draft.x**2
    assert draft.problem.spec().stage_cost == draft.x**2


# ---- symbols


def test_undefined_symbols_are_named_with_the_near_one(draft):
    draft.problem.dynamics = [draft.x, draft.v + draft.u / sp.Symbol("masss", real=True)]
    with refused("row 1", "velocity", "'masss'", "did you mean 'mass'"):
        draft.problem.spec()


@pytest.mark.parametrize("place", ["stage_cost", "terminal_cost"])
def test_undefined_symbols_in_costs(draft, place):
    setattr(draft.problem, place, draft.x**2 + sp.Symbol("nowhere", real=True))
    with refused(place.replace("_", " "), "undefined symbol 'nowhere'"):
        draft.problem.spec()


def test_undefined_symbols_in_bounds(draft):
    draft.problem.controls("b", upper=sp.Symbol("limit", real=True))
    with refused("upper bound of 'b'", "undefined symbol 'limit'"):
        draft.problem.spec()


def test_a_symbol_with_other_assumptions_is_explained(draft):
    draft.problem.stage_cost = draft.u**2 + sp.Symbol("x") ** 2
    with refused("'x'", "assumptions", "real=True"):
        draft.problem.spec()


def test_symbols_of_the_same_name_made_elsewhere_are_the_same(draft):
    draft.problem.stage_cost = draft.u**2 + sp.Symbol("x", real=True) ** 2
    assert draft.problem.spec().stage_cost == draft.u**2 + draft.x**2


def test_the_terminal_cost_has_no_controls(draft):
    draft.problem.terminal_cost = draft.u**2
    with refused("terminal cost", "control 'force'", "states and parameters"):
        draft.problem.spec()


def test_bounds_depend_on_parameters_only(draft):
    draft.problem.controls("b", upper=draft.x)
    with refused("upper bound of 'b'", "state 'x'", "parameters only"):
        draft.problem.spec()


# ---- bounds and time steps


@pytest.mark.parametrize(
    ("lower", "upper", "words"),
    [
        (2, 1, ("lower bound 2.0 > upper bound 1.0",)),
        (float("nan"), 1, ("lower bound", "nan")),
        (0, float("nan"), ("upper bound", "nan")),
        (sp.oo, sp.oo, ("lower bound", "oo")),
        (-sp.oo, -sp.oo, ("upper bound", "-oo")),
        (sp.I, 1, ("lower bound", "imaginary")),
        ("1", 2, ("lower bound", "'1'")),
    ],
)
def test_bounds_that_cannot_hold(draft, lower, upper, words):
    with refused("bound", "b") as caught:
        b = draft.problem.controls("b", lower=lower, upper=upper)[0]
        draft.problem.stage_cost = draft.u**2 + b**2
        draft.problem.spec()
    assert re.search(".*".join(map(re.escape, words)), str(caught.value))


def test_bounds_that_cross_at_the_defaults(draft):
    (b,) = draft.problem.controls("b", lower=draft.mass, upper=1)
    draft.problem.stage_cost = draft.u**2 + b**2
    with refused("'b'", "2.0 > upper bound 1.0", "default"):
        draft.problem.spec()


@pytest.mark.parametrize("dt", [0, -0.1, float("nan"), float("inf"), sp.I, "0.1", None])
def test_dt_is_positive(draft, dt):
    with refused("dt"):
        mpcgen.rk4(draft.problem, [draft.v, draft.u], dt=dt)


def test_dt_is_positive_at_the_defaults(draft):
    draft.problem.dynamics = mpcgen.rk4(draft.problem, [draft.v, draft.u], dt=1 - draft.mass)
    with refused("dt", "1 - mass", "-1.0", "positive"):
        draft.problem.spec()


def test_dt_depends_on_no_state_that_changes(draft):
    draft.problem.dynamics = mpcgen.rk4(draft.problem, [draft.v, draft.u], dt=draft.x)
    with refused("dt", "state 'x', which changes", "parameters and states whose dynamics keep them"):
        draft.problem.spec()


@pytest.mark.parametrize("substeps", [0, -1, 1.5, "2", True])
def test_substeps_are_at_least_one(draft, substeps):
    with refused("substeps", ">= 1"):
        mpcgen.euler(draft.problem, [draft.v, draft.u], dt=0.1, substeps=substeps)
