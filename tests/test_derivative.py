"""Differentiation on the graph, against CasADi's derivatives of the same expressions."""

import math
import random

import casadi as ca
import pytest
from casadi_backend import CASADI
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from rounding import rounding

from mpcgen.derivative import gradient, hessian, jacobian, sparsity, tangents, vjp
from mpcgen.derivative.rules import RULES
from mpcgen.errors import InternalError
from mpcgen.ir import OPERATIONS, Graph, evaluate, flops

EPS = 2.0**-52
POINTS = {
    1: [(-0.7,), (0.4,), (0.9,)],
    2: [(0.7, -1.3), (2.0, 0.5), (1.5, 2.5)],
}
POINTS_OF = {
    "acosh": [(1.2,), (4.0,)],
    "log": [(0.2,), (3.0,)],
    "sqrt": [(0.2,), (3.0,)],
    "length": [(0.2,), (3.0,)],
    "pow": [(0.7, 1.3), (2.5, -0.4)],
}


def flat(rows):
    return [entry for row in rows for entry in row]


def witness(nodes, symbols, point, derive):
    """Return CasADi's ``derive(outputs, inputs)`` at the point as nested lists."""
    inputs = ca.SX.sym("inputs", len(symbols))
    values = {symbol: inputs[i] for i, symbol in enumerate(symbols)}
    outputs = ca.vertcat(*evaluate(nodes, values, CASADI))
    return ca.Function("witness", [inputs], [derive(outputs, inputs)])(point).full().tolist()


def values_of(matrix, symbols, point):
    values = dict(zip(symbols, point, strict=True))
    return [evaluate(row, values) for row in matrix]


def casadi_hessian(output, inputs):
    return ca.hessian(output, inputs)[0]


# --- the rule table ------------------------------------------------------------------------------


def test_every_operation_has_one_rule_per_argument():
    assert {name: len(row) for name, row in RULES.items()} == {
        name: operation.arity for name, operation in OPERATIONS.items()
    }


SMOOTH = [row for row in OPERATIONS.values() if not row.boolean and row.name != "select"]


@pytest.mark.parametrize("operation", SMOOTH, ids=lambda row: row.name)
def test_rule_agrees_with_casadi(operation):
    g = Graph()
    symbols = [g.symbol(name) for name in "ab"[: operation.arity]]
    node = g.apply(operation.name, *symbols)
    for point in POINTS_OF.get(operation.name, POINTS[operation.arity]):
        expected = witness([node], symbols, point, ca.jacobian)
        forward = [tangents([node], {symbol: g.const(1.0)})[0] for symbol in symbols]
        # ten operations of 4 ulp each, at points whose condition number is below 10
        for slopes in values_of([gradient(node, symbols), forward], symbols, point):
            assert slopes == pytest.approx(expected[0], rel=400 * EPS)


@pytest.mark.parametrize("operation", SMOOTH, ids=lambda row: row.name)
def test_second_derivative_of_every_rule_agrees_with_casadi(operation):
    g = Graph()
    symbols = [g.symbol(name) for name in "ab"[: operation.arity]]
    node = g.apply(operation.name, *symbols)
    for point in POINTS_OF.get(operation.name, POINTS[operation.arity]):
        expected = witness([node], symbols, point, casadi_hessian)
        for row, expected_row in zip(
            values_of(hessian(node, symbols), symbols, point), expected, strict=True
        ):
            assert row == pytest.approx(expected_row, rel=4000 * EPS, abs=EPS)  # a rule of a rule


@pytest.mark.parametrize("value", [-0.3, 0.3])
def test_select_differentiates_the_branch_that_holds(value):
    g = Graph()
    x = g.symbol("x")
    node = g.select(g.lt(x, 0.0), g.sin(x), x * x)
    slope = math.cos(value) if value < 0 else 2 * value
    assert evaluate(gradient(node, [x]), {x: value}) == [pytest.approx(slope, rel=4 * EPS)]
    assert evaluate(tangents([node], {x: g.const(1.0)}), {x: value}) == [pytest.approx(slope, rel=4 * EPS)]


def test_conditions_and_signs_have_no_derivative():
    g = Graph()
    x = g.symbol("x")
    assert gradient(g.sign(x), [x]) == [g.const(0.0)]
    assert gradient(g.select(g.lt(x, 0.0), 1.0, 2.0), [x]) == [g.const(0.0)]


def test_the_slope_of_a_length_at_the_origin_is_zero():
    g = Graph()
    x, y = g.symbol("x"), g.symbol("y")
    node = g.length(x * x + y * y)
    origin = {x: 0.0, y: 0.0}
    assert evaluate(gradient(node, [x, y]), origin) == [0.0, 0.0]
    assert [evaluate(row, origin) for row in hessian(node, [x, y])] == [[0.0, 0.0], [0.0, 0.0]]


def test_the_slope_of_abs_at_zero_is_zero():
    g = Graph()
    x = g.symbol("x")
    assert evaluate(gradient(g.abs(x), [x]), {x: 0.0}) == [0.0]


@pytest.mark.parametrize("op", ["min", "max"])
def test_slopes_at_a_tie_add_up_to_one(op):
    g = Graph()
    x, y = g.symbol("x"), g.symbol("y")
    assert sum(evaluate(gradient(g.apply(op, x, y), [x, y]), {x: 2.0, y: 2.0})) == 1.0


@pytest.mark.parametrize(("exponent", "slope"), [(2.0, 0.0), (1.0, 1.0), (3.3, 0.0), (20.0, 0.0)])
def test_powers_have_a_slope_at_base_zero(exponent, slope):
    g = Graph()
    x = g.symbol("x")
    assert evaluate(gradient(x**exponent, [x]), {x: 0.0}) == [slope]


def test_a_power_of_zero_has_no_slope_by_its_exponent():
    g = Graph()
    x, p = g.symbol("x"), g.symbol("p")
    assert evaluate(gradient(x**p, [x, p]), {x: 0.0, p: 2.5}) == [0.0, 0.0]


# --- branches that are not taken -----------------------------------------------------------------


@pytest.mark.parametrize("singular", ["sqrt", "log"])
def test_an_infinite_slope_in_the_branch_not_taken_does_not_matter(singular):
    g = Graph()
    x = g.symbol("x")
    node = g.select(g.lt(0.0, x), x * g.apply(singular, x), 3.0 * x) ** 2
    assert evaluate(gradient(node, [x]), {x: 0.0}) == [0.0]
    assert evaluate(tangents([node], {x: g.const(1.0)}), {x: 0.0}) == [0.0]
    assert evaluate(hessian(node, [x])[0], {x: 0.0}) == [18.0]


def test_nested_branches_not_taken_do_not_matter_either():
    g = Graph()
    x, y = g.symbol("x"), g.symbol("y")
    inner = g.select(g.lt(0.0, y), g.sqrt(x) * g.sqrt(g.sqrt(y)), x)
    node = g.select(g.lt(0.0, x), inner, y)
    assert evaluate(gradient(node, [x, y]), {x: 0.0, y: 0.0}) == [0.0, 1.0]
    assert evaluate(gradient(node, [x, y]), {x: 1.0, y: 0.0}) == [1.0, 0.0]


# --- passes --------------------------------------------------------------------------------------


def test_vjp_is_the_weighted_sum_of_gradients():
    g = Graph()
    x, y, w = (g.symbol(name) for name in "xyw")
    outputs = [x * y, g.sin(x)]
    values = {x: 0.3, y: -1.2, w: 2.0}
    assert evaluate(vjp(outputs, [w, g.const(3.0)], [x, y]), values) == pytest.approx(
        [2.0 * -1.2 + 3.0 * math.cos(0.3), 2.0 * 0.3], rel=4 * EPS
    )


def test_vjp_wants_one_cotangent_per_output():
    g = Graph()
    with pytest.raises(InternalError, match="1 outputs but 0 cotangents"):
        vjp([g.symbol("x")], [], [g.symbol("x")])


def test_an_inner_node_may_be_the_independent_variable():
    g = Graph()
    x, y = g.symbol("x"), g.symbol("y")
    s = g.sin(x)
    assert gradient(s * y + x, [s]) == [y]
    assert jacobian([s * y + x], [s, x]) == ((y, g.const(1.0)),)


def test_an_output_that_is_the_variable_has_slope_one():
    g = Graph()
    x, y = g.symbol("x"), g.symbol("y")
    assert jacobian([x, y, g.const(2.0)], [x, y]) == (
        (g.const(1.0), g.const(0.0)),
        (g.const(0.0), g.const(1.0)),
        (g.const(0.0), g.const(0.0)),
    )


def test_repeated_outputs_add_their_cotangents():
    g = Graph()
    x = g.symbol("x")
    s = g.sin(x)
    assert vjp([s, s], [g.const(1.0), g.const(2.0)], [x]) == vjp([s], [g.const(3.0)], [x])


def test_structural_zeros_are_known():
    g = Graph()
    x, y, z = (g.symbol(name) for name in "xyz")
    assert sparsity(jacobian([x * y, g.exp(z)], [x, y, z])) == (
        (True, True, False),
        (False, False, True),
    )
    assert sparsity(hessian(x * y + z, [x, y, z])) == (
        (False, True, False),
        (True, False, False),
        (False, False, False),
    )


def test_empty_sides_give_empty_matrices():
    g = Graph()
    x = g.symbol("x")
    assert jacobian([], [x]) == ()
    assert jacobian([x, x], []) == ((), ())
    assert hessian(x, []) == ()


def test_jacobian_keeps_the_mode_with_fewer_operations():
    g = Graph()
    symbols = [g.symbol(f"x{i}") for i in range(6)]
    node = g.sin(symbols[0])
    for symbol in symbols[1:]:
        node = g.sin(node * symbol)
    for outputs, wrt in (([node], symbols), ([g.sin(node * s) for s in symbols], symbols[:1])):
        work = {mode: flops(flat(jacobian(outputs, wrt, mode))) for mode in ("forward", "reverse", "fewest")}
        assert work["forward"] != work["reverse"]
        assert work["fewest"] == min(work["forward"], work["reverse"])


def test_the_hessian_is_symmetric_node_by_node():
    g = Graph()
    symbols = [g.symbol(name) for name in "abc"]
    a, b, c = symbols
    matrix = hessian(g.sin(a * b) / (1.0 + c * c) + g.exp(a - c), symbols)
    assert all(matrix[i][j] is matrix[j][i] for i in range(3) for j in range(3))


def test_a_chain_deeper_than_the_recursion_limit_is_differentiated():
    g = Graph()
    x = node = g.symbol("x")
    for _ in range(5_000):
        node = 0.5 * g.sin(node) + x
    assert evaluate(gradient(node, [x]), {x: 0.0}) == evaluate(tangents([node], {x: g.const(1.0)}), {x: 0.0})


# --- random graphs -------------------------------------------------------------------------------


def _bounded(g, a):
    return 0.9 * g.sin(a)


SAFE = {
    "add": lambda g, a, b: a + b,
    "sub": lambda g, a, b: a - b,
    "mul": lambda g, a, b: a * b,
    "div": lambda g, a, b: a / (1.0 + b * b),
    "neg": lambda g, a, b: -a,
    "pow": lambda g, a, b: (1.0 + a * a) ** _bounded(g, b),
    "cube": lambda g, a, b: _bounded(g, a) ** 3,
    "root": lambda g, a, b: (1.5 + _bounded(g, a)) ** 1.5,
    "sqrt": lambda g, a, b: g.sqrt(1.0 + a * a),
    "exp": lambda g, a, b: g.exp(_bounded(g, a)),
    "log": lambda g, a, b: g.log(1.0 + a * a),
    "sin": lambda g, a, b: g.sin(a),
    "cos": lambda g, a, b: g.cos(a),
    "tan": lambda g, a, b: g.tan(_bounded(g, a)),
    "asin": lambda g, a, b: g.asin(_bounded(g, a)),
    "acos": lambda g, a, b: g.acos(_bounded(g, a)),
    "atan": lambda g, a, b: g.atan(a),
    "atan2": lambda g, a, b: g.atan2(a, 1.0 + b * b),
    "sinh": lambda g, a, b: g.sinh(_bounded(g, a)),
    "cosh": lambda g, a, b: g.cosh(_bounded(g, a)),
    "tanh": lambda g, a, b: g.tanh(a),
    "asinh": lambda g, a, b: g.asinh(a),
    "acosh": lambda g, a, b: g.acosh(1.5 + a * a),
    "atanh": lambda g, a, b: g.atanh(_bounded(g, a)),
    "erf": lambda g, a, b: g.erf(a),
    "abs": lambda g, a, b: g.abs(a),
    "min": lambda g, a, b: g.min(a, b),
    "max": lambda g, a, b: g.max(a, b),
    "select": lambda g, a, b: g.select(g.logical_or(g.lt(a, b), g.logical_not(g.le(a, 0.3))), a, g.sin(b)),
}
"""Every operation, its arguments kept inside its domain and away from its poles."""

PROGRAMS = st.lists(
    st.tuples(st.sampled_from(sorted(SAFE)), st.integers(0, 30), st.integers(0, 30)),
    min_size=1,
    max_size=12,
)


def random_graph(program, seed):
    """Return symbols, point, and the last two nodes that the program builds."""
    g = Graph()
    rng = random.Random(seed)
    symbols = [g.symbol(name) for name in "abc"]
    pool = [*symbols, g.const(0.7), g.const(-1.6)]
    for op, i, j in program:
        pool.append(SAFE[op](g, pool[-1 - i % len(pool)], pool[-1 - j % len(pool)]))
    return symbols, [rng.uniform(-2.0, 2.0) for _ in symbols], pool[-2:]


def assert_matches(nodes, expected, values):
    computed = evaluate(nodes, values)
    assume(all(abs(value) < 1e8 for value in computed))
    for value, other, tolerance in zip(computed, expected, rounding(nodes, values), strict=True):
        assert abs(value - other) <= tolerance, (value, other, tolerance)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(PROGRAMS, st.integers(0, 2**32))
@example([("sub", 0, 1), ("abs", 0, 0), ("mul", 0, 0)], 0)
def test_random_values_jacobians_and_hessians_agree_with_casadi(program, seed):
    symbols, point, outputs = random_graph(program, seed)
    values = dict(zip(symbols, point, strict=True))
    assert_matches(outputs, flat(witness(outputs, symbols, point, lambda f, x: f)), values)
    expected = flat(witness(outputs, symbols, point, ca.jacobian))
    for mode in ("forward", "reverse"):
        assert_matches(flat(jacobian(outputs, symbols, mode)), expected, values)
    expected = flat(witness(outputs[-1:], symbols, point, casadi_hessian))
    assert_matches(flat(hessian(outputs[-1], symbols)), expected, values)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(PROGRAMS, st.integers(0, 2**32))
def test_no_structural_zero_hides_a_dependence(program, seed):
    symbols, point, outputs = random_graph(program, seed)
    pattern = sparsity(jacobian(outputs, symbols))
    expected = witness(outputs, symbols, point, ca.jacobian)
    for row, numbers in zip(pattern, expected, strict=True):
        # where our entry is 0 by structure, CasADi's may only be the rounding of terms that cancel
        assert all(present or abs(number) < 1e-12 for present, number in zip(row, numbers, strict=True))
