"""What problems with constraints compute once: a stage's rollout for its exact model, and that model for the step."""

import random
from itertools import chain

import pytest
from baseline_problems import example

import mpcgen
from mpcgen.derivative.kernels import derive
from mpcgen.ir import evaluate
from mpcgen.problem.lowering import lower_spec
from mpcgen.stages.contract import EXPAND, REMEMBERED, REMEMBERING, STEP

SHARING = {REMEMBERED, REMEMBERING, STEP}


def functions_of(spec):
    return {function.name: function for function in derive(lower_spec(spec)).functions}


@pytest.fixture(scope="module")
def functions():
    return functions_of(example("safe_cartpole"))


def group(function, name):
    return next(read.symbols for read in function.inputs if read.name == name)


def outputs(function, values, *but):
    """What a function writes, by group, where its symbols have these values."""
    return {o.name: evaluate(list(o.expressions), values) for o in function.outputs if o.name not in but}


def numbers(*functions):
    """A value for each symbol that functions read."""
    generator = random.Random(0)
    symbols = {s for f in functions for read in f.inputs for s in read.symbols}
    return {s: generator.uniform(0.4, 1.6) for s in sorted(symbols, key=lambda s: s.index)}


def assert_equal(found, expected):
    assert list(found) == list(expected)
    flat = [list(chain(*values.values())) for values in (found, expected)]
    assert flat[0] == pytest.approx(flat[1], rel=1e-12, abs=1e-12)


def test_the_exact_model_is_that_of_the_point_without_what_a_rollout_has_left(functions):
    rollout, remembered, exact = functions[REMEMBERING], functions[REMEMBERED], functions[EXPAND["exact"]]
    values = numbers(rollout, exact)
    left = outputs(rollout, values)["point"]
    assert len(left) == 3  # sine, cosine and a quotient
    values |= dict(zip(group(remembered, "point"), left, strict=True))
    assert_equal(outputs(remembered, values), outputs(exact, values))


def test_such_a_rollout_is_a_rollout(functions):
    values = numbers(functions[REMEMBERING])
    assert_equal(
        outputs(functions[REMEMBERING], values, "point"), outputs(functions["stage_dynamics"], values)
    )


def test_the_step_along_what_a_model_has_kept_is_the_tangent(functions):
    step, tangent, exact = functions[STEP], functions["stage_tangent"], functions[EXPAND["exact"]]
    values = numbers(tangent, exact)
    kept = outputs(exact, values)["kept"]
    assert len(kept) == 6  # of the two accelerations, by angle, its rate and the force
    values |= dict(zip(group(step, "kept"), kept, strict=True))
    assert_equal(outputs(step, values), outputs(tangent, values))


def test_where_nothing_takes_long_nothing_is_kept():
    problem = mpcgen.Problem("drift", horizon=3)
    place, speed = problem.states("place speed")
    force = problem.control("force", lower=-1, upper=1)
    problem.dynamics = [place + speed / 10, speed + force / 10 - place * speed / 20]
    problem.stage_cost = place**2 + force**2
    problem.terminal_cost = place**2
    problem.constraint("limit", speed, upper=1)
    assert SHARING.isdisjoint(functions_of(problem.spec()))


def test_problems_without_constraints_have_no_such_functions():
    assert SHARING.isdisjoint(functions_of(example("pendulum")))
