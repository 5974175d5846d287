"""The rewriting that saves operations: what it may change, and that it does not change what is computed."""

import random

import pytest
from baseline_problems import example

from mpcgen.derivative.kernels import derive
from mpcgen.errors import InternalError
from mpcgen.ir import Graph, evaluate, flops, operation_count
from mpcgen.ir.reciprocals import split_reciprocals
from mpcgen.passes.economy import economise
from mpcgen.passes.naming import naming_hints
from mpcgen.passes.rewriting import rewritten, verify
from mpcgen.problem.lowering import lower_spec

ANGLE = 15
"""Most operations that take the place of one arc tangent, which costs more."""
NAMES = ("pendulum", "cartpole", "car")


def _kernels(name):
    return derive(lower_spec(example(name)))


@pytest.mark.parametrize("name", NAMES)
def test_rewritten_functions_compute_what_the_derived_ones_do(name):
    """On a point of a trajectory, to rounding: every output of every function."""
    kernels = _kernels(name)
    economy = economise(kernels, naming_hints(kernels))
    numbers = random.Random(0)
    symbols = {s for f in (*kernels.functions, *economy.functions) for g in f.inputs for s in g.symbols}
    values = {s: numbers.uniform(0.5, 1.5) for s in sorted(symbols, key=lambda s: s.index)}
    model = kernels.model
    following = evaluate(list(model.next_state), values)
    values |= {model.graph.symbol(f"next.{x.value}"): v for x, v in zip(model.states, following, strict=True)}
    prepare, *rewritten = economy.functions
    fixed = evaluate(list(prepare.expressions()), values)
    values |= {model.graph.symbol(f"fixed.{i}"): v for i, v in enumerate(fixed)}
    for before, after in zip(kernels.functions, rewritten, strict=True):
        expected = evaluate(list(before.expressions()), values)
        assert evaluate(list(after.expressions()), values) == pytest.approx(expected, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_no_function_of_a_stage_gets_longer(name):
    kernels = _kernels(name)
    _, *rewritten = economise(kernels, {}).functions
    for before, after in zip(kernels.functions, rewritten, strict=True):
        arc_tangents = operation_count(before.expressions()).get("atan2", 0)
        spared = arc_tangents - operation_count(after.expressions()).get("atan2", 0)
        assert flops(after.expressions()) <= flops(before.expressions()) + ANGLE * spared


def test_the_next_state_spares_the_derivatives_every_sine():
    kernels = _kernels("cartpole")
    economy = economise(kernels, {})
    function = next(f for f in economy.functions if f.name == "stage_expand_exact")
    text = str(function)
    assert "next.sin_theta" in text
    assert "atan2(" not in text
    assert "cos(" not in text


def test_a_parameters_reciprocal_leaves_the_product():
    graph = Graph()
    x, p, q = (graph.symbol(name) for name in ("x", "p", "q"))
    (split,) = split_reciprocals([1.0 / ((p + q) * (x * p))], [p, q])
    assert split is (1.0 / ((p + q) * p)) * (1.0 / x)
    (whole,) = split_reciprocals([1.0 / (x * (x + p))], [p])
    assert whole is 1.0 / (x * (x + p))


def test_a_pass_that_leaves_a_function_reading_what_it_has_not_is_a_bug_that_says_so():
    function = _kernels("pendulum").functions[0]
    graph = function.outputs[0].expressions[0].graph
    broken = rewritten(function, [graph.symbol("stray")] * len(function.expressions()), {})
    assert verify(function, "nothing") is function
    with pytest.raises(InternalError, match=r"after a test, stage_dynamics reads stray"):
        verify(broken, "a test")
