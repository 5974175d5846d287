"""Simplification at construction: what becomes which node, and what stays as it is."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpcgen.derivative import gradient
from mpcgen.ir import OPERATIONS, Graph, evaluate, operation_count

EPS = 2.0**-52
INF = math.inf


SIMPLIFICATIONS = {
    "constants fold": (lambda g, x, y: g.sin(g.const(2.0)) * 3, lambda g, x, y: g.const(math.sin(2.0) * 3)),
    "x + 0": (lambda g, x, y: x + 0, lambda g, x, y: x),
    "x + x": (lambda g, x, y: x + x, lambda g, x, y: 2 * x),
    "x + (-y)": (lambda g, x, y: x + (-y), lambda g, x, y: x - y),
    "(-x) + y": (lambda g, x, y: (-x) + y, lambda g, x, y: y - x),
    "x + (-2*y)": (lambda g, x, y: x + (-2 * y), lambda g, x, y: x - 2 * y),
    "x + (-3)": (lambda g, x, y: x + (-3), lambda g, x, y: x - 3),
    "x - 0": (lambda g, x, y: x - 0, lambda g, x, y: x),
    "0 - x": (lambda g, x, y: 0 - x, lambda g, x, y: -x),
    "x - x": (lambda g, x, y: x - x, lambda g, x, y: g.const(0)),
    "x - (-y)": (lambda g, x, y: x - (-y), lambda g, x, y: x + y),
    "x - (-2*y)": (lambda g, x, y: x - (-2 * y), lambda g, x, y: x + 2 * y),
    "(-x) - y": (lambda g, x, y: (-x) - y, lambda g, x, y: -(x + y)),
    "--x": (lambda g, x, y: g.neg(g.neg(x)), lambda g, x, y: x),
    "-(x - y)": (lambda g, x, y: -(x - y), lambda g, x, y: y - x),
    "-(2*x)": (lambda g, x, y: -(2 * x), lambda g, x, y: -2 * x),
    "x * 1": (lambda g, x, y: x * 1, lambda g, x, y: x),
    "x * 0": (lambda g, x, y: x * 0, lambda g, x, y: g.const(0)),
    "x * -1": (lambda g, x, y: x * -1, lambda g, x, y: -x),
    "(-x) * y": (lambda g, x, y: (-x) * y, lambda g, x, y: -(x * y)),
    "x * (-y)": (lambda g, x, y: x * (-y), lambda g, x, y: -(x * y)),
    "(-x) * (-y)": (lambda g, x, y: (-x) * (-y), lambda g, x, y: x * y),
    "2 * (-x)": (lambda g, x, y: 2 * (-x), lambda g, x, y: -2 * x),
    "3 * (2 * x)": (lambda g, x, y: 3 * (2 * x), lambda g, x, y: 6 * x),
    "sqrt(x) * sqrt(x)": (lambda g, x, y: g.sqrt(x) * g.sqrt(x), lambda g, x, y: x),
    "x / 4": (lambda g, x, y: x / 4, lambda g, x, y: 0.25 * x),
    "x / y": (lambda g, x, y: x / y, lambda g, x, y: x * (1 / y)),
    "1 / (1 / x)": (lambda g, x, y: 1 / (1 / x), lambda g, x, y: x),
    "1 / (-x)": (lambda g, x, y: 1 / (-x), lambda g, x, y: -(1 / x)),
    "x ** 0": (lambda g, x, y: x**0, lambda g, x, y: g.const(1)),
    "x ** 1": (lambda g, x, y: x**1, lambda g, x, y: x),
    "x ** 3": (lambda g, x, y: x**3, lambda g, x, y: x * (x * x)),
    "x ** 8": (lambda g, x, y: x**8, lambda g, x, y: ((x * x) ** 2) ** 2),
    "x ** -2": (lambda g, x, y: x**-2, lambda g, x, y: 1 / (x * x)),
    "x ** 0.5": (lambda g, x, y: x**0.5, lambda g, x, y: g.sqrt(x)),
    "x ** -1.5": (lambda g, x, y: x**-1.5, lambda g, x, y: 1 / (x * g.sqrt(x))),
    "1 ** x": (lambda g, x, y: 1**x, lambda g, x, y: g.const(1)),
    "cos(-x)": (lambda g, x, y: g.cos(-x), lambda g, x, y: g.cos(x)),
    "cos(-2*x)": (lambda g, x, y: g.cos(-2 * x), lambda g, x, y: g.cos(2 * x)),
    "sin(-x)": (lambda g, x, y: g.sin(-x), lambda g, x, y: -g.sin(x)),
    "abs(-x)": (lambda g, x, y: g.abs(-x), lambda g, x, y: g.abs(x)),
    "abs(abs(x))": (lambda g, x, y: g.abs(g.abs(x)), lambda g, x, y: g.abs(x)),
    "abs(exp(x))": (lambda g, x, y: g.abs(g.exp(x)), lambda g, x, y: g.exp(x)),
    "min(x, x)": (lambda g, x, y: g.min(x, x), lambda g, x, y: x),
    "max(x, x)": (lambda g, x, y: g.max(x, x), lambda g, x, y: x),
    "x < x": (lambda g, x, y: g.lt(x, x), lambda g, x, y: g.const(0)),
    "not not c": (lambda g, x, y: g.logical_not(g.logical_not(g.lt(x, y))), lambda g, x, y: g.lt(x, y)),
    "c and c": (lambda g, x, y: g.logical_and(g.lt(x, y), g.lt(x, y)), lambda g, x, y: g.lt(x, y)),
    "c or c": (lambda g, x, y: g.logical_or(g.lt(x, y), g.lt(x, y)), lambda g, x, y: g.lt(x, y)),
    "c and true": (lambda g, x, y: g.logical_and(g.lt(x, y), g.lt(1, 2)), lambda g, x, y: g.lt(x, y)),
    "c and false": (lambda g, x, y: g.logical_and(g.lt(x, y), g.lt(2, 1)), lambda g, x, y: g.const(0)),
    "c or true": (lambda g, x, y: g.logical_or(g.lt(x, y), g.lt(1, 2)), lambda g, x, y: g.const(1)),
    "c or false": (lambda g, x, y: g.logical_or(g.lt(x, y), g.lt(2, 1)), lambda g, x, y: g.lt(x, y)),
    "select(true, x, y)": (lambda g, x, y: g.select(g.lt(1, 2), x, y), lambda g, x, y: x),
    "select(false, x, y)": (lambda g, x, y: g.select(g.lt(2, 1), x, y), lambda g, x, y: y),
    "select(c, x, x)": (lambda g, x, y: g.select(g.lt(x, y), x, x), lambda g, x, y: x),
    "select(not c, x, y)": (
        lambda g, x, y: g.select(g.logical_not(g.lt(x, y)), x, y),
        lambda g, x, y: g.select(g.lt(x, y), y, x),
    ),
    "select in the same select": (
        lambda g, x, y: g.select(g.lt(x, y), g.select(g.lt(x, y), x, 1), g.select(g.lt(x, y), 2, y)),
        lambda g, x, y: g.select(g.lt(x, y), x, y),
    ),
    "select(c, x, 0) * y": (
        lambda g, x, y: g.select(g.lt(x, y), x, 0) * y,
        lambda g, x, y: g.select(g.lt(x, y), x * y, 0),
    ),
    "y * select(c, 0, x)": (
        lambda g, x, y: y * g.select(g.lt(x, y), 0, x),
        lambda g, x, y: g.select(g.lt(x, y), 0, x * y),
    ),
    "select(c, 1, 0) * y": (
        lambda g, x, y: g.select(g.lt(x, y), 1, 0) * y,
        lambda g, x, y: g.select(g.lt(x, y), y, 0),
    ),
    "y * select(c, 0, 1)": (
        lambda g, x, y: y * g.select(g.lt(x, y), 0, 1),
        lambda g, x, y: g.select(g.lt(x, y), 0, y),
    ),
    "select(c, x, 0) + select(c, 0, y)": (
        lambda g, x, y: g.select(g.lt(x, y), x, 0) + g.select(g.lt(x, y), 0, y),
        lambda g, x, y: g.select(g.lt(x, y), x, y),
    ),
    "select(c, x, 0) - select(c, y, 0)": (
        lambda g, x, y: g.select(g.lt(x, y), x, 0) - g.select(g.lt(x, y), y, 0),
        lambda g, x, y: g.select(g.lt(x, y), x - y, 0),
    ),
} | {
    f"{name}(-x)": (
        lambda g, x, y, name=name: g.apply(name, -x),
        lambda g, x, y, name=name: -g.apply(name, x),
    )
    for name in ("tan", "asin", "atan", "sinh", "tanh", "asinh", "atanh", "erf", "sign")
}


@pytest.mark.parametrize("name", SIMPLIFICATIONS)
def test_simplified_to_the_same_node(name):
    g = Graph()
    x, y = g.symbol("x"), g.symbol("y")
    given, expected = SIMPLIFICATIONS[name]
    assert given(g, x, y) is expected(g, x, y)


def test_cosh_is_even():
    g = Graph()
    x = g.symbol("x")
    assert g.cosh(-x) is g.cosh(x)


@pytest.mark.parametrize(
    "build",
    [
        lambda g: g.log(-1.0),
        lambda g: g.log(0.0),
        lambda g: g.div(1.0, 0.0),
        lambda g: g.sqrt(-1.0),
        lambda g: g.exp(1000.0),
        lambda g: g.const(INF) - g.const(INF),
    ],
)
def test_a_constant_without_a_finite_value_is_not_folded(build):
    g = Graph()
    assert build(g).op != "const"


def test_constant_factors_that_would_underflow_stay_apart():
    g = Graph()
    x = g.symbol("x")
    tiny = 1e-200 * (1e-200 * x)
    assert evaluate([tiny], {x: 1e300}) == [pytest.approx(1e-100, rel=4 * EPS, abs=0.0)]


def test_a_quotient_by_a_subnormal_constant_stays_finite():
    g = Graph()
    x = g.symbol("x")
    assert g.div(1.0, 1e-310).op == "div"  # its reciprocal overflows
    assert math.isfinite(evaluate([g.select(g.lt(x, 0), x, 0.0) / 1e-300], {x: -1.0})[0])


def test_quotients_by_the_same_divisor_share_one_division():
    g = Graph()
    x, y, z = (g.symbol(name) for name in "xyz")
    assert operation_count([x / z, y / z, 3 / z, x / z**2])["div"] == 2


def test_x_over_x_keeps_its_hole():
    g = Graph()
    x = g.symbol("x")
    assert math.isnan(evaluate([x / x], {x: 0.0})[0])


@pytest.mark.parametrize("exponent", [*range(-16, 17), 0.5, -0.5, 3.5, -4.5, 17, 0.3, 5.5])
def test_powers_equal_the_library_pow(exponent):
    g = Graph()
    x = g.symbol("x")
    (value,) = evaluate([x**exponent], {x: 1.7})
    # each multiplication of the chain rounds once, and one ulp of the base counts |exponent| times
    assert value == pytest.approx(math.pow(1.7, exponent), rel=(abs(exponent) + 2) * EPS)


LINEAR = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "neg": lambda a, b: -a,
    "min": lambda a, b: a if a <= b else b,
    "max": lambda a, b: a if a >= b else b,
    "abs": lambda a, b: abs(a),
    "sign": lambda a, b: (a > 0) - (a < 0),
}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(LINEAR)), st.integers(0, 99), st.integers(0, 99)),
        min_size=1,
        max_size=25,
    ),
    st.integers(0, 2**32),
)
def test_simplified_integers_are_exact(steps, seed):
    """Integer arithmetic rounds nowhere, so that any difference is a wrong simplification."""
    g = Graph()
    rng = random.Random(seed)
    pairs = [(g.symbol(name), rng.randint(-3, 3)) for name in "abcd"]
    values = dict(pairs)
    pairs += [(g.const(k), k) for k in (-2, -1, 0, 1, 2)]
    for op, i, j in steps:
        (a, va), (b, vb) = pairs[i % len(pairs)], pairs[j % len(pairs)]
        result = LINEAR[op](va, vb)
        if abs(result) < 2**53:
            pairs.append((g.apply(op, *(a, b)[: OPERATIONS[op].arity]), result))
    nodes, expected = zip(*pairs, strict=True)
    assert evaluate(nodes, values) == list(expected)


def test_a_power_of_three_halves_has_a_derivative_at_zero():
    # x*sqrt(x) would give 0 times infinity
    g = Graph()
    x = g.symbol("x")
    (slope,) = gradient(x**1.5, [x])
    assert evaluate([x**1.5, slope], {x: 0.0}) == [0.0, 0.0]
