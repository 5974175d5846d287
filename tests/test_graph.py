"""The expression graph: interning, simplification, values, walks, printing."""

import math

import pytest

from mpcgen.errors import InternalError, SpecError
from mpcgen.ir import (
    Graph,
    degree,
    evaluate,
    flops,
    listing,
    operation_count,
    substitute,
    symbols_of,
    topological,
)
from mpcgen.problem.schemes import one_step, repeated

EPS = 2.0**-52
INF = math.inf


# --- interning -----------------------------------------------------------------------------------


def test_equal_expressions_are_one_node():
    g = Graph()
    x, y = g.symbol("x"), g.symbol("y")
    assert g.sin(x * y) + 1 is 1 + g.sin(y * x)


def test_a_sum_reads_as_it_was_written_first():
    g = Graph()
    x, y = g.symbol("x"), g.symbol("y")
    assert (y + x).args == (y, x)
    assert (x + y).args == (y, x)


def test_a_symbol_is_unique_by_name():
    g = Graph()
    assert g.symbol("x") is g.symbol("x")
    assert g.symbol("x") is not g.symbol("y")


def test_arguments_are_older_than_the_nodes_that_read_them():
    g = Graph()
    x, y = g.symbol("x"), g.symbol("y")
    for node in topological([g.exp(x / y) ** 3 - g.select(g.lt(x, y), x, y)]):
        assert all(arg.index < node.index for arg in node.args)


def test_minus_zero_is_zero():
    g = Graph()
    assert g.const(-0.0) is g.const(0.0)
    assert math.copysign(1.0, g.const(-0.0).value) == 1.0


def test_constants_may_be_infinite_but_not_nan():
    g = Graph()
    assert g.const(INF).value == INF
    with pytest.raises(InternalError, match="NaN"):
        g.const(math.nan)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda g, x: g.apply("gamma", x), "unknown operation 'gamma'"),
        (lambda g, x: g.apply("sin", x, x), "sin takes 1 arguments, 2 given"),
        (lambda g, x: x + Graph().symbol("y"), "another graph"),
        (lambda g, x: g.lt(x, 1.0) + x, "must be a number"),
        (lambda g, x: g.select(x, x, 1.0), "must be a truth value"),
    ],
)
def test_malformed_nodes_are_refused(build, message):
    g = Graph()
    with pytest.raises(InternalError, match=message):
        build(g, g.symbol("x"))


# --- walks ---------------------------------------------------------------------------------------


def test_a_chain_deeper_than_the_recursion_limit_is_walked():
    g = Graph()
    x = node = g.symbol("x")
    for _ in range(20_000):
        node = g.sin(node) + x
    assert flops([node]) == 40_000
    (value,) = evaluate(substitute([node], {x: g.const(0.0)}), {})
    assert value == 0.0


def test_topological_lists_each_node_once_arguments_first():
    g = Graph()
    x, y = g.symbol("x"), g.symbol("y")
    order = topological([g.sin(x) * y, g.sin(x)])
    assert order == [x, g.sin(x), y, g.sin(x) * y]


def test_substitution_replaces_all_at_once():
    g = Graph()
    x, y = g.symbol("x"), g.symbol("y")
    assert substitute([x - 2 * y, g.sin(x)], {x: y, y: x}) == [y - 2 * x, g.sin(y)]


def test_substitution_simplifies_again():
    g = Graph()
    x, y = g.symbol("x"), g.symbol("y")
    assert substitute([x * g.exp(y)], {x: g.const(0.0)}) == [g.const(0.0)]


def test_symbols_come_by_creation():
    g = Graph()
    x, y, z = (g.symbol(name) for name in "xyz")
    assert symbols_of([z * x]) == [x, z]
    assert symbols_of([g.const(1.0)]) == []
    assert y not in symbols_of([z, x])


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda g, x, p: 3.0 * x / p + g.sin(p), 1),
        (lambda g, x, p: x * (x - p) + x, 2),
        (lambda g, x, p: (p * x + 1) ** 3.0, 3),
        (lambda g, x, p: g.exp(p), 0),
        (lambda g, x, p: p / x, INF),
        (lambda g, x, p: x**0.5, INF),
        (lambda g, x, p: g.abs(x), INF),  # whose second derivative is 0
        (lambda g, x, p: g.max(x, p), INF),
    ],
)
def test_a_degree_is_that_of_a_polynomial_in_the_variables_alone(build, expected):
    g = Graph()
    x, p = g.symbol("x"), g.symbol("p")
    assert degree([p, build(g, x, p)], [x]) == expected


def test_operations_are_counted_once_per_node():
    g = Graph()
    x, y = g.symbol("x"), g.symbol("y")
    s = g.sin(x)
    assert operation_count([s * s + y, s * y]) == {"add": 1, "mul": 2, "sin": 1}
    assert flops([s * s + y, s * y]) == 4


# --- printing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda g, x, y: x - (y - 1), "x - (y - 1)"),
        (lambda g, x, y: (x + y) * x, "(x + y)*x"),
        (lambda g, x, y: x * g.cos(y), "x*cos(y)"),
        (lambda g, x, y: -(x * y), "-x*y"),
        (lambda g, x, y: x * (1 / (x * y)), "x*(1/(x*y))"),
        (lambda g, x, y: g.pow(x + 1, y), "(1 + x)**y"),
        (lambda g, x, y: g.pow(-1.5, y), "(-1.5)**y"),
        (lambda g, x, y: -2 * x, "-2*x"),
        (lambda g, x, y: (-2 * x) * y, "(-2*x)*y"),
        (lambda g, x, y: g.select(g.lt(x, y), x, 0), "select(x < y, x, 0)"),
        (
            lambda g, x, y: g.select(g.logical_or(g.le(x, y), g.logical_not(g.eq(x, 0))), x, 0),
            "select(x <= y or not (0 == x), x, 0)",
        ),
    ],
)
def test_text_has_the_parentheses_that_precedence_asks_for(build, text):
    g = Graph()
    assert listing({"f": build(g, g.symbol("x"), g.symbol("y"))}) == f"f = {text}"


def test_shared_subexpressions_are_numbered():
    g = Graph()
    x, y = g.symbol("x"), g.symbol("y")
    s = g.sin(x)
    assert listing({"a": s * y, "b": s + y}) == "t0 = sin(x)\na = t0*y\nb = t0 + y"


# --- integrators ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_integrator_matches_the_exponential_series_to_its_order(scheme, order):
    g = Graph()
    x, rate, dt = (g.symbol(name) for name in ("x", "rate", "dt"))
    (step,) = one_step(scheme, [rate * x], [x], dt)
    z = 0.3
    series = sum(z**k / math.factorial(k) for k in range(order + 1))
    assert evaluate([step], {x: 1.0, rate: 3.0, dt: 0.1}) == [pytest.approx(series, rel=8 * EPS)]


def test_substeps_are_repeated_steps():
    g = Graph()
    x = g.symbol("x")
    (two,) = repeated(one_step("rk4", [g.sin(x)], [x], g.const(0.2), substeps=2), [x], 2)
    (one,) = one_step("rk4", [g.sin(x)], [x], g.const(0.1))
    (half,) = evaluate([one], {x: 0.7})
    assert evaluate([two], {x: 0.7}) == evaluate([one], {x: half})


def test_rk4_shares_what_does_not_depend_on_the_state():
    g = Graph()
    x, force, mass = (g.symbol(name) for name in ("x", "force", "mass"))
    step = one_step("rk4", [g.sin(x) * (g.exp(force) / mass)], [x], g.const(0.1))
    assert operation_count(step)["exp"] == 1
    assert operation_count(step)["sin"] == 4


def test_an_unknown_integrator_is_named():
    g = Graph()
    x = g.symbol("x")
    with pytest.raises(SpecError, match="'rk5'; use one of euler, midpoint, rk4"):
        one_step("rk5", [x], [x], g.const(0.1))
    with pytest.raises(SpecError, match="0 substeps"):
        one_step("rk4", [x], [x], g.const(0.1), substeps=0)
