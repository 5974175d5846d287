"""The table of functions: every row has sympy's value in the graph, in CasADi and in the check for jumps."""

import casadi as ca
import numpy as np
import pytest
import sympy as sp
from sympy.codegen import cfunctions

from mpcgen.baseline.translate import OPERATIONS as IN_CASADI
from mpcgen.baseline.translate import Translator
from mpcgen.derivative import gradient, hessian, tangents
from mpcgen.ir import OPERATIONS, Graph, evaluate
from mpcgen.ir.recognise import recognise
from mpcgen.ir.walk import operation_count
from mpcgen.problem import continuity
from mpcgen.problem.functions import MEANINGS
from mpcgen.problem.imported import Call, Imported
from mpcgen.problem.linear_system import Solution
from mpcgen.problem.lowering import lower
from mpcgen.problem.network import NetOutput
from mpcgen.problem.nodes import Joined
from mpcgen.problem.running import RunningCost
from mpcgen.problem.solve import solve

EPS = 2.0**-52
a, b, c = sp.symbols("a b c", real=True)

ABOVE_ONE = (sp.acosh, sp.asec, sp.acsc, sp.acoth)
_x, _y = ca.SX.sym("x"), ca.SX.sym("y")
FOREIGN = ca.Function("foreign", [_x, _y], [ca.sin(_x) * _y])

EXAMPLES = {
    RunningCost: RunningCost(a * b),
    NetOutput: NetOutput(sp.tanh(a) * b, None, 0) + c,
    Joined: Joined(a < b, a * c, b * c),
    Solution: solve([[2 + a, b, c], [b, 3, a * b], [c, a * b, 4]], [a, b - c, 1])[1] ** 2,
    Imported: Imported(sp.sin(a) * b, Call(FOREIGN, ((a,), (b,))), 0, 0),
    sp.Add: a + b - 1,
    sp.Mul: 3 * a * b / c,
    sp.Pow: a**b + a**-3 + sp.sqrt(a) + 2**a,
    sp.UnevaluatedExpr: sp.UnevaluatedExpr(a + a) * b,
    sp.atan2: sp.atan2(a - b, -b),
    sp.Min: sp.Min(a, b, c),
    sp.Max: sp.Max(a, b, c),
    sp.Heaviside: sp.Heaviside(a - b + 0.01),
    sp.sign: sp.sign(a - b) + sp.sign(b - a),
    sp.Abs: sp.Abs(a - b),
    cfunctions.hypot: cfunctions.hypot(a, b),
    cfunctions.fma: cfunctions.fma(a, b, c),
    sp.Piecewise: sp.Piecewise((a, a < b), (b**2, b < a), (5, True)),
}
CONDITIONS = {
    sp.StrictLessThan: a < b,
    sp.LessThan: a <= b,
    sp.StrictGreaterThan: a > b,
    sp.GreaterThan: a >= b,
    sp.Equality: sp.Eq(a, b),
    sp.Unequality: sp.Ne(a, b),
    sp.And: sp.And(a < b, b < c),
    sp.Or: sp.Or(a < b, b < c),
    sp.Not: sp.Not(sp.Xor(a < b, b < c)),
    sp.Xor: sp.Xor(a < b, b < c, c < a),
    sp.Implies: sp.Implies(a < b, b < c),
    sp.Equivalent: sp.Equivalent(a < b + 0.01, b < c + 0.01, a < c + 0.01),  # sympy errs at the tie
    sp.ITE: sp.ITE(a < b, b < c, c < a),
}
POINTS = [(0.3, 0.7, 0.9), (0.7, 0.3, 0.2), (0.45, 0.45, 0.45), (0.9, 0.95, 0.1)]


def example(function):
    """An expression with the function outermost, or in it."""
    if function in CONDITIONS:
        return sp.Piecewise((1, CONDITIONS[function]), (0, True))
    if function in EXAMPLES:
        return EXAMPLES[function]
    return function(1 + a if function in ABOVE_ONE else a)


@pytest.mark.parametrize("function", MEANINGS, ids=lambda function: function.__name__)
def test_every_function_has_sympys_value_wherever_it_is_evaluated(function):
    expression = example(function)
    assert function in {type(node) for node in sp.preorder_traversal(expression)}
    graph = Graph()
    table = {symbol: graph.symbol(symbol.name) for symbol in (a, b, c)}
    (node,) = lower([expression], graph, table)
    symbols = [ca.SX.sym(symbol.name) for symbol in (a, b, c)]
    in_casadi = ca.Function(
        "f", symbols, [Translator(dict(zip((a, b, c), symbols, strict=True)))(expression)]
    )
    for point in POINTS:
        values = dict(zip((a, b, c), map(sp.Float, point), strict=True))
        plain = expression.replace(RunningCost, lambda cost: cost)  # whose integral the dynamics take
        exact = float(plain.expand(func=True).subs(values).doit().evalf(30))
        digits = continuity.value_at(
            expression, {s: continuity._MP.mpf(value) for s, value in values.items()}
        )
        (own,) = evaluate([node], {table[symbol]: float(value) for symbol, value in values.items()})
        close = pytest.approx(exact, rel=16 * EPS, abs=16 * EPS)  # a handful of roundings
        assert (own, float(in_casadi(*point)), float(digits)) == (close, close, close)


def test_all_readers_of_the_table_know_its_operations():
    known = set(OPERATIONS) - {"neg", "pinv", "sigmoid", "softplus"}  # which no meaning asks for
    assert set(IN_CASADI) == known
    assert set(continuity.OPERATIONS) == known


@pytest.mark.parametrize("function", [sp.Min, sp.Max])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_extreme_of_three_is_nan_wherever_one_is(function, place):
    graph = Graph()
    table = {symbol: graph.symbol(symbol.name) for symbol in (a, b, c)}
    (node,) = lower([function(a, b, c)], graph, table)
    values = [1.0, 2.0, 3.0]
    values[place] = float("nan")
    assert np.isnan(evaluate([node], dict(zip(table.values(), values, strict=True))))


# --- expressions that overflow or lose their slope as they are written


def recognised(expression):
    """The node, and the symbols a, b and c, of which c is a parameter."""
    graph = Graph()
    table = {symbol: graph.symbol(symbol.name) for symbol in (a, b, c)}
    (node,) = recognise(lower([expression], graph, table), [table[c]])
    return node, list(table.values())


@pytest.mark.parametrize(
    ("expression", "operation"),
    [
        (1 / (1 + sp.exp(-3 * a)), "sigmoid"),
        (b / (c * (1 + sp.exp(-a)) ** 2), "sigmoid"),
        (2 / (3 + 5 * sp.exp(a - 1)), "sigmoid"),
        (b * sp.exp(a) / (1 + sp.exp(a)), "sigmoid"),
        (sp.log(1 + sp.exp(2 * a)), "softplus"),
        (sp.log(2 + 7 * sp.exp(a)) / 4, "softplus"),
        (sp.sqrt(a**2 + b**2), "length"),
        (a * sp.sqrt((a - c) ** 2 + 3 * b**4), "length"),
        ((a**2 + b**2) ** sp.Rational(3, 2), "length"),
        (sp.sqrt(c * 2 + a**2), None),
        (sp.sqrt(c**2 + a**2), None),
        (sp.sqrt(a**2 + b**2) + b / sp.sqrt(a**2 + b**2), None),
        (sp.sqrt(a + b**2), None),
        (1 / (1 - sp.exp(a)), None),
        (sp.log(1 + 2 * a), None),
    ],
    ids=str,
)
def test_what_is_recognised_has_the_same_value(expression, operation):
    node, symbols = recognised(expression)
    assert set(operation_count([node])) & {"sigmoid", "softplus", "length"} == ({operation} - {None})
    for point in POINTS:
        values = dict(zip((a, b, c), map(sp.Float, point), strict=True))
        (own,) = evaluate([node], dict(zip(symbols, point, strict=True)))
        assert own == pytest.approx(float(expression.evalf(30, subs=values)), rel=16 * EPS)
    assert not operation or "exp" not in operation_count([node])


@pytest.mark.parametrize(
    "expression",
    [
        1 / (1 + sp.exp(-2 * a)),
        sp.exp(a) / (1 + sp.exp(a)),
        sp.log(1 + sp.exp(a)),
        b**2 / (1 + sp.exp(-a)) + sp.log(3 + sp.exp(-a * b)),
    ],
    ids=str,
)
@pytest.mark.parametrize("at", [-800.0, -40.0, -3.0, 0.5, 40.0, 800.0])
def test_first_and_second_derivatives_where_exp_overflows(expression, at):
    node, (first, second, _) = recognised(expression)
    point = {a: sp.Float(at), b: sp.Float(0.5)}
    own = evaluate([*gradient(node, [first]), *hessian(node, [first, second])[0]], {first: at, second: 0.5})
    exact = [sp.diff(expression, a), sp.diff(expression, a, a), sp.diff(expression, a, b)]
    # 1 - f cancels to one unit in the last place of 1; 800 multiplies it in the mixed derivative
    tolerance = 8 * EPS * max(1.0, abs(at))
    assert own == pytest.approx([float(e.evalf(30, subs=point)) for e in exact], rel=64 * EPS, abs=tolerance)


DRAG = sp.sqrt(a**2 + b**2) * a


@pytest.mark.parametrize("derive", [gradient, lambda node, symbols: [tangent(node, s) for s in symbols]])
def test_drag_has_its_derivatives_at_rest(derive):
    node, symbols = recognised(DRAG)
    rest = dict.fromkeys(symbols, 0.0)
    assert evaluate(derive(node, symbols[:2]), rest) == [0.0, 0.0]
    assert np.isfinite([evaluate(row, rest) for row in hessian(node, symbols[:2])]).all()
    at = dict(zip(symbols, (3.0, 4.0, 0.0), strict=True))
    assert evaluate(derive(node, symbols[:2]), at) == pytest.approx([5 + 9 / 5, 12 / 5], rel=8 * EPS)


def tangent(node, symbol):
    return tangents([node], {symbol: node.graph.const(1.0)})[0]


def test_second_derivatives_of_a_length_on_an_axis():
    """sqrt(x^2 + y^2 + z^2) at (0, 0, 2): the curvature across is 1/2, which nested lengths of two would lose."""
    node, symbols = recognised(cfunctions.hypot(cfunctions.hypot(a, b), c))
    at = dict(zip(symbols, (0.0, 0.0, 2.0), strict=True))
    rows = [evaluate(row, at) for row in hessian(node, symbols)]
    assert rows == [[0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("at", [0.0, 1e-9, 1e-3, 0.9, 1.1, 20.0])
def test_sinc_has_its_derivatives_at_and_near_0(at):
    node, symbols = recognised(sp.sinc(a))
    first, second = gradient(node, symbols[:1])[0], hessian(node, symbols[:1])[0][0]
    quotient = sp.sin(a) / a
    exact = (
        [0.0, -1 / 3]
        if at == 0.0
        else [float(sp.diff(quotient, a, k).evalf(60, subs={a: sp.Float(at, 60)})) for k in (1, 2)]
    )
    assert evaluate([first, second], {symbols[0]: at}) == pytest.approx(exact, rel=64 * EPS, abs=8 * EPS)


@pytest.mark.parametrize(
    ("expression", "at", "value", "slope"),
    [
        (sp.acot(a), 0.0, np.pi / 2, -1.0),
        (sp.acot(a), 1e300, 1e-300, 0.0),
        (sp.acot(a), -2.0, float(sp.acot(-2)), -0.2),
        (sp.acot(2 * sp.Heaviside(a) * sp.Max(0, a)), -1.0, np.pi / 2, 0.0),
        (a ** sp.Rational(3, 4) * sp.Heaviside(a), -1.4, 0.0, 0.0),
        (sp.log(a) * sp.Heaviside(a - 1), -1.4, 0.0, 0.0),
        (3 * sp.sqrt(a) * (2 * sp.Max(0, a) * sp.Heaviside(a)) / b, -4.0, 0.0, 0.0),
        (3 * sp.sqrt(a) * (2 * sp.Max(0, a) * sp.Heaviside(a)) / b, 4.0, 24.0, 9.0),
        (sp.sqrt(a) * sp.Piecewise((0, a < 0), (a, True)), -4.0, 0.0, 0.0),
    ],
)
def test_values_and_slopes_where_a_factor_has_none(expression, at, value, slope):
    """A branch of 0 masks what stands beside it, as in CasADi; acot is smooth where its argument is 0."""
    graph = Graph()
    inputs = {symbol: graph.symbol(symbol.name) for symbol in (a, b)}
    (result,) = lower([expression], graph, inputs)
    known = {inputs[a]: at, inputs[b]: 2.0}
    outputs = evaluate([result, *gradient(result, [inputs[a]])], known)
    assert outputs == pytest.approx([value, slope], rel=1e-14, abs=0)


@pytest.mark.parametrize("function", [lambda z: sp.atan2(z, 1), lambda z: sp.atan2(1, z), sp.acot])
def test_the_check_for_jumps_finds_no_value_where_there_is_no_real_one(function):
    assert continuity.value_at(function(sp.sqrt(a)), {a: continuity.number(-2.0)}) is None
    value = continuity.value_at(function(sp.sqrt(a)), {a: continuity.number(4.0)})
    assert float(value) == pytest.approx(float(function(sp.Integer(2))), rel=1e-15)
