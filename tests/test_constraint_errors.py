"""Each mistake in a constraint: a typed error that names the constraint, the mistake and the remedy."""

import math

import numpy as np
import pytest
import sympy as sp
from drafts import refused

import mpcgen


def spoil(draft, *args, **kwargs):
    draft.problem.constraint(*args, **kwargs)
    draft.problem.spec()


# ---- what is given when it is declared


def test_a_constraint_needs_a_bound(draft):
    with refused("'speed'", "no bounds", "lower=", "upper=", "equals="):
        draft.problem.constraint("speed", draft.v)


@pytest.mark.parametrize("side", ["lower", "upper"])
def test_equals_together_with_a_side_is_refused(draft, side):
    with refused("'speed'", "equals=", f"{side}=", "one or the other"):
        draft.problem.constraint("speed", draft.v, equals=0, **{side: 1})


@pytest.mark.parametrize("weight", [{"soft": 1}, {"soft_quadratic": 1}, {"soft": 0, "soft_quadratic": 2}])
def test_a_soft_equality_has_to_be_said(draft, weight):
    with refused("'speed'", "penalty", "say so with lower= and upper="):
        draft.problem.constraint("speed", draft.v, equals=0, **weight)
    draft.problem.constraint("speed", draft.v, lower=0, upper=0, **weight)
    (constraint,) = draft.problem.spec().constraints
    assert constraint.is_soft == (True,) and constraint.is_equality == (True,)


@pytest.mark.parametrize("comparison", [sp.Symbol("x", real=True) <= 1, sp.Eq(sp.Symbol("x", real=True), 1)])
def test_a_comparison_is_split_into_expression_and_bound(draft, comparison):
    with refused("'speed'", "comparison", "x - 1", "upper=0"):
        draft.problem.constraint("speed", comparison)


def test_a_name_is_used_once(draft):
    draft.problem.constraint("speed", draft.v, upper=1)
    with refused("'speed'", "used twice", "a constraint"):
        draft.problem.constraint("speed", draft.v, upper=2)
    with refused("'speed'", "used twice", "a constraint"):
        draft.problem.terminal_constraint("speed", draft.v, upper=2)
    for taken, owner in (("x", "a state"), ("force", "a control"), ("mass", "a parameter")):
        with refused(repr(taken), "used twice", owner):
            draft.problem.constraint(taken, draft.v, upper=1)
    with refused("'speed'", "used twice", "a constraint"):
        draft.problem.parameters("speed")


@pytest.mark.parametrize("name", ["2fast", "a b", "", None, 3, "for"])
def test_a_name_is_an_identifier(draft, name):
    with refused("constraint name", repr(name)):
        draft.problem.constraint(name, draft.v, upper=1)


@pytest.mark.parametrize("rows", [[], "x", None, [["x"]], {"x": 1}, sp.eye(2)])
def test_rows_are_expressions(draft, rows):
    with refused("'speed'"):
        draft.problem.constraint("speed", rows, upper=1)


@pytest.mark.parametrize("side", ["lower", "upper", "equals", "soft", "soft_quadratic"])
def test_bounds_and_weights_are_one_for_all_rows_or_one_each(draft, side):
    bounds = {} if side in ("lower", "upper", "equals") else {"upper": 1}
    with refused(side, "'box'", "3 entries", "2", "box[0], box[1]"):
        draft.problem.constraint("box", [draft.x, draft.v], **bounds, **{side: [1, 2, 3]})


def test_a_refused_constraint_leaves_its_name_free(draft):
    with refused("no bounds"):
        draft.problem.constraint("speed", draft.v)
    draft.problem.constraint("speed", draft.v, upper=1)
    assert draft.problem.spec().constraints[0].name == "speed"


# ---- what the specification makes of it


@pytest.mark.parametrize("row", [sp.Symbol("mass", real=True), sp.Integer(3)])
def test_a_constraint_that_reads_nothing(draft, row):
    with refused("'fixed'", "reads no state and no control"):
        spoil(draft, "fixed", row, upper=1)


def test_a_row_of_a_vector_that_reads_nothing(draft):
    with refused("'fixed[1]'", "reads no state and no control"):
        spoil(draft, "fixed", [draft.x, draft.mass], upper=1)


def test_bounds_that_contradict_each_other_whatever_the_parameters(draft):
    with refused("'speed'", "contradicts itself", "mass**2 + 1", "-mass**2", "lower <= upper"):
        spoil(draft, "speed", draft.v, lower=draft.mass**2 + 1, upper=-(draft.mass**2))


def test_bounds_that_are_numbers_and_cross(draft):
    with refused("'speed'", "contradicts itself", "2", "1"):
        spoil(draft, "speed", draft.v, lower=2, upper=1)


def test_bounds_that_cross_at_the_defaults(draft):
    with refused("'speed'", "3.0 > upper bound 2.0", "defaults"):
        spoil(draft, "speed", draft.v, lower=3, upper=draft.mass)


def test_bounds_of_a_state_that_cross(draft):
    draft.problem.states("late", lower=1, upper=0)
    draft.problem.dynamics = [draft.x, draft.v + draft.u, 0]
    with refused("'late'", "contradicts itself"):
        draft.problem.spec()


@pytest.mark.parametrize(
    "bounds", [{"lower": -sp.oo}, {"upper": math.inf}, {"lower": -np.inf, "upper": sp.oo}]
)
def test_bounds_that_bound_nothing(draft, bounds):
    with refused("'speed'", "bounded by nothing"):
        spoil(draft, "speed", draft.v, **bounds)


@pytest.mark.parametrize("bound", [math.nan, sp.nan, np.float64("nan")])
@pytest.mark.parametrize("side", ["lower", "upper", "equals"])
def test_bounds_are_not_nan(draft, side, bound):
    with refused("bound of 'speed'", "nan"):
        spoil(draft, "speed", draft.v, **{side: bound})


@pytest.mark.parametrize(("side", "bound"), [("lower", sp.oo), ("upper", -sp.oo), ("equals", sp.oo)])
def test_bounds_are_not_infinite_on_the_wrong_side(draft, side, bound):
    with refused("bound of 'speed'", str(bound)):
        spoil(draft, "speed", draft.v, **{side: bound})


def test_bounds_depend_on_parameters_alone(draft):
    with refused("upper bound of 'speed'", "state 'x'", "parameters only"):
        spoil(draft, "speed", draft.v, upper=draft.x)


def test_a_control_at_the_end(draft):
    draft.problem.terminal_constraint("power", draft.u * draft.v, upper=1)
    with refused("terminal constraint 'power'", "control 'force'", "states and parameters only"):
        draft.problem.spec()


def test_rows_that_hold_at_different_stages_need_two_names(draft):
    with refused("'both'", "read a control (both[1])", "do not (both[0])", "two names"):
        spoil(draft, "both", [draft.v, draft.u], upper=1)


@pytest.mark.parametrize("weight", [-1, math.nan, -sp.oo])
@pytest.mark.parametrize("kind", ["soft", "soft_quadratic"])
def test_weights_are_not_negative(draft, kind, weight):
    with refused(kind, "'speed'", "weight >= 0"):
        spoil(draft, "speed", draft.v, upper=1, **{kind: weight})


def test_a_soft_row_without_a_price_does_nothing(draft):
    with refused("'speed'", "weight 0"):
        spoil(draft, "speed", draft.v, upper=1, soft=0)


def test_an_undefined_symbol(draft):
    with refused("constraint 'speed'", "undefined symbol 'w'"):
        spoil(draft, "speed", sp.Symbol("w", real=True), upper=1)


def test_a_jump_in_a_constraint(draft):
    step = sp.Piecewise((0, draft.x < 0), (1, True))
    with refused("constraint 'step'", "discontinuity", kind=mpcgen.UnsupportedExpressionError):
        spoil(draft, "step", step, upper=1)


# ---- equalities that leave no freedom


def test_as_many_equalities_as_controls_leave_no_freedom(draft):
    with refused("'law'", "all 1 controls", "nothing is left to optimise"):
        spoil(draft, "law", draft.u + draft.v, equals=0)


def test_an_equality_of_states_that_a_control_decides_within_a_stage(draft):
    with refused("'law'", "all 1 controls"):
        spoil(draft, "law", draft.v + draft.x, equals=1)


def test_an_equality_of_a_state_that_a_control_reaches_through_an_integrator(draft):
    """Within a stage of the classical Runge-Kutta method a force moves the position by dt²/2."""
    problem = draft.problem
    problem.dynamics = mpcgen.rk4(problem, [draft.v, draft.u / draft.mass], dt=0.01)
    with refused("'law'", "all 1 controls"):
        spoil(draft, "law", draft.x, equals=1)


def two_controls():
    problem = mpcgen.Problem("two", horizon=3)
    x, v = problem.states("x v")
    a, b = problem.controls("a b")
    problem.dynamics = [x + v, v + a + b]
    problem.stage_cost = x**2 + a**2 + b**2
    return problem, x, a, b


def test_equalities_that_repeat_each_other_leave_the_freedom_that_one_leaves():
    problem, _, a, b = two_controls()
    problem.constraint("tie", [a - 2 * b + b**3, 2 * a - 4 * b + 2 * b**3], equals=0)
    assert problem.spec().constraints[0].is_equality == (True, True)


def test_an_equality_that_no_control_of_the_stage_reaches_leaves_freedom():
    problem, x, _, _ = two_controls()
    problem.constraint("rail", [x, 2 * x], equals=0)
    problem.spec()


def test_two_different_equalities_of_two_controls_leave_none():
    problem, x, a, b = two_controls()
    problem.constraint("one", a + x * b, equals=0)
    problem.constraint("other", a - b, equals=1)
    with refused("'one', 'other'", "all 2 controls"):
        problem.spec()


def test_soft_equalities_leave_freedom(draft):
    spoil(draft, "law", draft.u + draft.v, lower=0, upper=0, soft=1)


# ---- nothing is solved as if it had no constraints


def test_witnesses_that_know_no_constraints_refuse_them(draft):
    draft.problem.constraint("speed", draft.v, upper=1)
    with refused("'draft'", "'speed'", "box-iLQR", "InteriorPoint"):
        mpcgen.reference.MPC(draft.problem)
