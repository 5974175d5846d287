"""Names that a specification may not declare or set: a typed error that says why."""

import inspect

import pytest
from drafts import refused

import mpcgen
from mpcgen.autograd import MPC

# ---- names


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lambda", "Python keyword"),
        ("None", "Python keyword"),
        ("2x", "not an identifier"),
        ("x-y", "not an identifier"),
        ("x y*/", "not an identifier"),
        ("\N{LATIN SMALL LIGATURE FI}x", "reads 'fix'"),
    ],
)
def test_names_that_python_would_not_take(draft, name, reason):
    for declare in (draft.problem.states, draft.problem.controls, draft.problem.parameters):
        with refused(repr(name), reason, "rename"):
            declare([name])
    with refused(repr(name), reason, "rename"):
        draft.problem.parameter(name)
    with refused(repr(name), reason):
        mpcgen.Problem(name, horizon=1)


@pytest.mark.parametrize("name", ["double", "floor", "NULL", "linux", "θ", "_x", "x__", "mpcgen_x", "real"])
def test_any_other_identifier_is_a_name(draft, name):
    mpcgen.Problem(name, horizon=1)
    for declare in (draft.problem.states, draft.problem.controls, draft.problem.parameters):
        declare([f"{name}{declare.__name__[0]}"])
    draft.problem.states([name])


CALL_ARGUMENTS = [
    name
    for name, parameter in inspect.signature(MPC.forward).parameters.items()
    if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
]


@pytest.mark.parametrize("name", CALL_ARGUMENTS)
def test_parameters_may_not_take_the_names_of_call_arguments(draft, name):
    with refused(repr(name), "reserved"):
        draft.problem.parameter(name)
    draft.problem.states(name)


@pytest.mark.parametrize("name", ["torch", "cffi", "numpy", "random", "mpcgen", "__init__"])
def test_problem_name_may_not_hide_a_module(name):
    with refused(repr(name)):
        mpcgen.Problem(name, horizon=1)


@pytest.mark.parametrize("declare", ["states", "controls", "parameters", "parameter"])
def test_a_name_may_be_used_once(draft, declare):
    with refused("'velocity'", "used twice", "already a state"):
        getattr(draft.problem, declare)("velocity")


def test_a_name_may_be_used_once_within_a_call(draft):
    with refused("'b'", "used twice"):
        draft.problem.states("a b b")


def test_entries_of_a_vector_count_as_names(draft):
    draft.problem.parameter("q_1")
    with refused("'q_1'", "an entry of parameter 'q'", "already a parameter"):
        draft.problem.parameter("q", shape=3)
    draft.problem.parameter("w", shape=(2, 2))
    with refused("'w_0_1'", "already an entry of parameter 'w'"):
        draft.problem.states("w_0_1")


def test_a_refused_declaration_leaves_nothing_behind(draft):
    before = draft.problem.spec()
    with refused("used twice"):
        draft.problem.states("fresh mass")
    draft.problem.parameter("fresh")
    assert draft.problem.spec().states == before.states


@pytest.mark.parametrize("names", ["", "  ", [], 3, [3]])
def test_names_must_be_a_string_or_strings(draft, names):
    with refused("name"):
        draft.problem.states(names)


# ---- attributes


@pytest.mark.parametrize(
    ("given", "near"), [("stagecost", "stage_cost"), ("dynamic", "dynamics"), ("final_cost", "terminal_cost")]
)
def test_a_misspelt_attribute_is_refused_with_the_nearest(draft, given, near):
    with refused("'draft'", repr(given), "cannot be set", f"did you mean {near!r}?"):
        setattr(draft.problem, given, 0)


def test_what_methods_declare_cannot_be_set(draft):
    with refused("'horizon' cannot be set", "dynamics, stage_cost, terminal_cost"):
        draft.problem.horizon = 7
