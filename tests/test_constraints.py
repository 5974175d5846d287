"""Constraints in the specification: what it holds, at which stages, and what becomes of it on the graph."""

import pytest
import sympy as sp

import mpcgen
from mpcgen.compiler import inspect, render_spec
from mpcgen.problem.fingerprint import canonical_lines
from mpcgen.problem.lowering import lower_spec


@pytest.fixture
def rich(draft):
    """A draft with rows of every group, declared in a mixed order: (problem, constraints by name)."""
    problem = draft.problem
    limit = problem.parameter("limit", default=2.0, per_stage=True)
    price = problem.parameter("price", default=3.0)
    floor_level = problem.parameter("floor_level", default=-sp.oo, per_stage=True)
    problem.terminal_constraint("goal", [draft.x, draft.v], equals=[1, 0])
    problem.constraint("ring", draft.x**2 + draft.v**2, upper=limit, soft=price)
    problem.constraint("power", draft.u * draft.v, lower=floor_level, upper=5)
    third = problem.state("third", lower=-1, upper=draft.mass)
    problem.dynamics = [draft.x + draft.v, draft.v + draft.u / draft.mass, third / 2]
    spec = problem.spec()
    return spec, {constraint.name: constraint for constraint in spec.constraints}


def test_bounds_of_states_come_first_and_keep_the_states_name(rich):
    spec, by_name = rich
    assert [constraint.name for constraint in spec.constraints] == ["third", "goal", "ring", "power"]
    third = by_name["third"]
    assert third.rows == (spec.states[2],) and third.lower == (-1,)
    assert third.upper == (spec.parameters[0].symbols[0],)


def test_rows_are_grouped_by_the_stages_at_which_they_hold(rich):
    spec, _ = rich
    names = {g: [c.name for c in spec.group(g)] for g in ("mixed", "state", "terminal")}
    assert names == {"mixed": ["power"], "state": ["third", "ring"], "terminal": ["goal"]}


def test_rows_have_labels(rich):
    _, by_name = rich
    assert by_name["goal"].labels == ("goal[0]", "goal[1]")
    assert by_name["ring"].labels == ("ring",)


def test_hard_rows_have_an_infinite_weight(rich):
    _, by_name = rich
    assert by_name["goal"].soft == (sp.oo, sp.oo) and by_name["goal"].soft_quadratic == (0, 0)
    assert by_name["ring"].is_soft == (True,) and str(by_name["ring"].soft[0]) == "price"


def test_a_parameter_of_rows_at_the_last_stage_has_a_value_there(rich):
    spec, _ = rich
    in_terminal = {p.name: p.in_terminal for p in spec.parameters}
    assert in_terminal == {"mass": True, "limit": True, "price": True, "floor_level": False}


def test_a_parameter_that_only_bounds_of_rows_read_may_be_infinite(rich):
    spec, _ = rich
    only_bounds = {p.name: p.only_bounds for p in spec.parameters}
    assert only_bounds == {"mass": False, "limit": True, "price": False, "floor_level": True}


def test_an_infinite_default_of_a_parameter_that_a_row_reads_is_refused(draft):
    factor = draft.problem.parameter("factor", default=sp.oo)
    draft.problem.constraint("ring", factor * draft.x, upper=1)
    with pytest.raises(mpcgen.SpecError, match="factor"):
        draft.problem.spec()


def test_an_unbounded_state_has_no_rows(draft):
    draft.problem.states("w", lower=-sp.oo, upper=sp.oo)
    draft.problem.dynamics = [draft.x + draft.v, draft.v + draft.u, 0]
    assert draft.problem.spec().constraints == ()


def test_bounds_of_states_are_one_for_all_or_one_each():
    problem = mpcgen.Problem("p", horizon=1)
    problem.states("a b", lower=-1, upper=[2, sp.oo])
    with pytest.raises(mpcgen.SpecError, match="3 entries"):
        problem.states("c d", lower=[1, 2, 3])
    bounds = {c.name: (c.lower, c.upper) for c in problem._state_bounds}
    assert bounds == {"a": ((-1,), (2,)), "b": ((-1,), (sp.oo,))}


def test_a_change_of_constraints_makes_another_specification(draft):
    before = draft.problem.spec()
    draft.problem.constraint("speed", draft.v, upper=1)
    after = draft.problem.spec()
    assert before.constraints == () and len(after.constraints) == 1
    assert canonical_lines(before) != canonical_lines(after)


def test_the_model_has_the_rows_by_group_in_order(rich):
    spec, _ = rich
    model = lower_spec(spec)
    assert model.path_rows.labels == ("power", "third", "ring")
    assert model.end_rows.labels == ("third", "ring", "goal[0]", "goal[1]")
    assert model.constrained and model.path_rows.soft and not model.mixed.soft


def test_both_sides_of_an_equality_are_one_node(draft):
    draft.problem.terminal_constraint("goal", draft.x, equals=2 * draft.mass + 1)
    model = lower_spec(draft.problem.spec())
    assert model.terminal.lower[0] is model.terminal.upper[0]


def test_a_model_without_constraints_has_no_rows(draft):
    model = lower_spec(draft.problem.spec())
    assert not model.constrained and len(model.path_rows) == len(model.end_rows) == 0


def test_the_generated_package_lists_the_constraints(rich):
    spec, _ = rich
    rendered = render_spec(spec)
    package = dict(rendered.files)["__init__.py"]
    rows = [line.strip() for line in package.splitlines() if line.strip().startswith("Constraint(")]
    # name, group, first of a stage's multipliers (behind one control), rows, vector, soft
    assert rows == [
        "Constraint('power', 'mixed', 1, 1, False, False),",
        "Constraint('third', 'state', 2, 1, False, False),",
        "Constraint('ring', 'state', 3, 1, False, True),",
        "Constraint('goal', 'terminal', 4, 2, True, False),",
    ]


def test_the_text_says_how_many_rows_there_are(rich):
    spec, _ = rich
    source = render_spec(spec).source
    for line in ("#define NMIXED 1 ", "#define NSTATE 2 ", "#define NTERMINAL 2 ", "#define SOFT_ROWS 1 "):
        assert line in source


def test_the_text_without_constraints_does_not_mention_them(draft):
    rendered = render_spec(draft.problem.spec())
    for _, text in rendered.files:
        assert "NMIXED" not in text and "onstraint" not in text


def test_inspect_shows_rows_and_their_sparsity(rich):
    spec, _ = rich
    text = inspect(spec)
    assert "4 named, 5 rows" in text
    assert "power (stages 0..N-1): floor_level <= force*velocity <= 5" in text
    assert "ring (stages 1..N): velocity**2 + x**2 <= limit, soft price" in text
    assert "goal[1] (stage N): velocity = 0" in text
    assert "J = d rows/d(x, u)" in text and "J of the terminal rows" in text
    for stage in ("spec", "graph", "derived", "rendered"):
        assert "ring" in inspect(spec, stage)
    assert "rows[2] <- " in inspect(spec, "schedule")


def test_functions_of_a_constrained_problem_do_not_read_the_next_state(rich):
    """In multiple shooting the next state in memory is not f before the end."""
    spec, _ = rich
    assert "state[3]" not in render_spec(spec).source
