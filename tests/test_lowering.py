"""Sympy to the graph: values against mpmath, shared work, refusals, whole models, determinism, time."""

import os
import random
import subprocess
import sys
import time

import mpmath
import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rounding import rounding

from mpcgen.derivative import gradient, hessian, jacobian, sparsity
from mpcgen.errors import SpecError, UnsupportedExpressionError
from mpcgen.ir import Graph, evaluate, flops, operation_count
from mpcgen.problem.lowering import lower, lower_spec
from mpcgen.problem.spec import ControlSpec, DynamicsSpec, ParameterSpec, Spec

EPS = 2.0**-52
a, b, c = SYMBOLS = sp.symbols("a b c", real=True)


def lowered(*expressions):
    """Return the nodes and the table of symbols."""
    graph = Graph()
    table = {symbol: graph.symbol(symbol.name) for symbol in SYMBOLS}
    return lower(expressions, graph, table), table


def value(expression, point=(0.3, -1.2, 1.7)):
    nodes, table = lowered(expression)
    return evaluate(nodes, dict(zip(table.values(), point, strict=True)))[0]


# --- values --------------------------------------------------------------------------------------

EXPRESSIONS = [
    a + b - 2 * c,
    -a * b / (2 * c**2),
    (a + b) ** 5,
    a**-3,
    c ** sp.Rational(3, 2),
    c ** sp.Rational(1, 3),
    c**a,
    sp.Rational(1, 3) * a + sp.Float("0.1") - sp.pi * b + sp.E + sp.GoldenRatio,
    sp.sqrt(2) * a / sp.sqrt(c),
    sp.exp(a) * sp.Pow(sp.E, b, evaluate=False),
    sp.log(c) + sp.log(c, 2),
    sp.sin(a) + sp.cos(a) + sp.tan(a),
    sp.asin(a) + sp.acos(a) + sp.atan(a) + sp.atan2(a, b),
    sp.sinh(a) + sp.cosh(a) + sp.tanh(a),
    sp.asinh(a) + sp.acosh(c) + sp.atanh(a) + sp.erf(a) + sp.erfc(a),
    sp.sec(a) + sp.csc(a) + sp.cot(a),
    sp.sech(a) + sp.csch(a) + sp.coth(a),
    sp.asec(c) + sp.acsc(c) + sp.acot(b),
    sp.asech(a) + sp.acsch(b) + sp.acoth(c),
    sp.Abs(b) + sp.Min(a, b, c) + sp.Max(a, b, c, 0),
    sp.Piecewise((a, a > b), (c, True)),
    sp.Piecewise((a, b > 0), (b, b > -1), (c, True)),
    sp.Piecewise((a, sp.And(a >= 0, sp.Not(sp.Eq(a, b)), a < c)), (b, True)),
    sp.Piecewise((a, sp.Or(sp.Ne(a, b), a <= c)), (b, True)),
    sp.Piecewise((a, sp.ITE(a > 0, b > 0, c > 0)), (b, True)),
    sp.UnevaluatedExpr(a * b) * c,
]


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=str)
def test_value_is_sympys(expression):
    exact = float(
        expression.subs({a: sp.Rational(0.3), b: sp.Rational(-1.2), c: sp.Rational(1.7)}).doit().evalf(30)
    )
    # at most ten operations of 4 ulp, on terms no larger than 8
    assert value(expression) == pytest.approx(exact, rel=40 * EPS, abs=8 * 40 * EPS)


UNARY = [sp.sin, sp.cos, sp.tanh, sp.atan, sp.Abs, lambda e: e**2, lambda e: 1 / (2 + sp.sin(e))]
UNARY += [lambda e: sp.sqrt(1 + e**2), lambda e: sp.exp(-(e**2)), lambda e: sp.log(1 + e**2), lambda e: -e]
BINARY = [
    lambda d, e: d + e,
    lambda d, e: d - e,
    lambda d, e: d * e,
    sp.Min,
    sp.Max,
    lambda d, e: d / (1 + e**2),
]
BINARY += [lambda d, e: sp.Piecewise((d, d < e), (e * 2, True))]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5),
    st.integers(0, 2**32),
)
def test_random_expressions_have_sympys_value(program, seed):
    rng = random.Random(seed)
    pool = [*SYMBOLS, sp.Rational(2, 3), sp.Integer(-2)]
    for op, i, j in program:
        first, second = pool[-1 - i % len(pool)], pool[-1 - j % len(pool)]
        pick = op % (len(UNARY) + len(BINARY))
        pool.append(UNARY[pick](first) if pick < len(UNARY) else BINARY[pick - len(UNARY)](first, second))
    point = [rng.uniform(-2.0, 2.0) for _ in SYMBOLS]
    nodes, table = lowered(pool[-1])
    values = dict(zip(table.values(), point, strict=True))
    assume(abs(evaluate(nodes, values)[0]) < 1e8)
    with mpmath.workdps(40):
        expected = sp.lambdify(SYMBOLS, pool[-1], "mpmath")(*map(mpmath.mpf, point))
    assert abs(evaluate(nodes, values)[0] - expected) <= rounding(nodes, values)[0]


# --- shared work ---------------------------------------------------------------------------------


def test_shared_subexpressions_stay_shared():
    s = sp.sin(a * b)
    nodes, _ = lowered(s + c, s * c)
    assert operation_count(nodes) == {"add": 1, "mul": 2, "sin": 1}


def test_quotients_share_the_reciprocal():
    nodes, _ = lowered(a / c, b / c, 3 / c, 2 * a / c)
    assert operation_count(nodes)["div"] == 1


def test_a_product_of_divisors_is_divided_by_once():
    nodes, _ = lowered(a / (b * c**2))
    assert operation_count(nodes)["div"] == 1


def test_negative_terms_are_subtracted():
    nodes, _ = lowered(a - b - 2 * c)
    assert operation_count(nodes) == {"sub": 2, "mul": 1}


def test_a_deeply_nested_expression_is_lowered():
    expression = a
    for _ in range(3000):
        expression = sp.Add(sp.Mul(expression, b, evaluate=False), c, evaluate=False)
    nodes, _ = lowered(expression)
    assert flops(nodes) == 6000


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (sp.gamma(a), "gamma\\(a\\) .* is not supported"),
        (sp.Function("spring")(a), "spring\\(a\\) .* undefined"),
        (sp.floor(a), "floor.*discontinuity"),
        (sp.Mod(a, 2), "Mod.*discontinuity"),
        (a * sp.I, "imaginary unit"),
        (a + sp.zoo, "zoo .*not a finite number"),
        (a + sp.nan, "nan is not a real number"),
        (a * sp.Integer(10) ** 400, "not a real number in double precision"),
        (a + sp.asin(2), "asin\\(2\\) has no finite real value"),
        (sp.Derivative(sp.sin(a), a), "Derivative.*doit"),
        (sp.MatrixSymbol("M", 2, 2)[0, 1] * a, "M\\[0, 1\\].*problem.parameter"),
    ],
)
def test_what_has_no_real_value_or_derivative_is_refused_by_name(expression, message):
    with pytest.raises(UnsupportedExpressionError, match=message):
        lowered(expression)


def test_an_unknown_symbol_is_named_with_the_near_one():
    graph = Graph()
    theta = sp.Symbol("theta")
    with pytest.raises(SpecError, match="unknown symbol 'thetta' \\(did you mean 'theta'\\?\\)"):
        lower([sp.Symbol("thetta")], graph, {theta: graph.symbol("theta")})


def test_a_symbol_with_other_assumptions_is_told_apart():
    with pytest.raises(SpecError, match="'a' is not the one that the problem declared"):
        lowered(sp.Symbol("a", positive=True))


def test_a_piecewise_needs_a_last_branch():
    with pytest.raises(SpecError, match="end it with a branch \\(value, True\\)"):
        lowered(sp.Piecewise((a, a > 0), (b, b > 0)))


def test_a_number_is_not_a_condition():
    with pytest.raises(SpecError, match=r"a is a number where .* needs a condition"):
        lowered(sp.Piecewise((c, sp.Symbol("a", real=True)), (b, True)))


# --- models --------------------------------------------------------------------------------------

x, v, u, mass, low = sp.symbols("x v u mass low")


def cart(**changes):
    """Return a mass on a line, pushed: the smallest specification with every kind of bound."""
    scalar = {"shape": (), "default": (1.0,), "per_stage": False, "in_terminal": False}
    fields = {
        "name": "cart",
        "horizon": 5,
        "states": (x, v),
        "controls": (ControlSpec(u, low, sp.oo),),
        "parameters": (
            ParameterSpec("mass", symbols=(mass,), only_bounds=False, **scalar),
            ParameterSpec("low", symbols=(low,), only_bounds=True, **scalar),
        ),
        "dynamics": DynamicsSpec((v, u / mass), "midpoint", sp.Rational(1, 10), 1),
        "stage_cost": x**2 + u**2,
        "terminal_cost": x**2,
    }
    return Spec(**(fields | changes))


def test_a_model_names_its_symbols_as_the_specification_does():
    model = lower_spec(cart())
    groups = (model.states, model.controls, model.parameters)
    assert [[symbol.value for symbol in group] for group in groups] == [["x", "v"], ["u"], ["mass", "low"]]


def test_a_model_integrates_its_dynamics():
    model = lower_spec(cart())
    point = dict(
        zip((*model.states, *model.controls, *model.parameters), (1.0, 2.0, 3.0, 1.5, 0.0), strict=True)
    )
    expected = [1.0 + 0.1 * (2.0 + 0.05 * 2.0), 2.0 + 0.1 * 2.0]
    assert evaluate(model.next_state, point) == pytest.approx(expected, rel=8 * EPS)


def test_dt_may_be_a_parameter():
    model = lower_spec(cart(dynamics=DynamicsSpec((v, u), "euler", mass, 2)))
    step = dict(
        zip((*model.states, *model.controls, *model.parameters), (1.0, 2.0, 3.0, 0.2, 0.0), strict=True)
    )
    assert evaluate(model.next_state, step) == pytest.approx([1.0 + 0.1 * 2 + 0.1 * 2.3, 2.6], rel=8 * EPS)


def test_a_discrete_map_is_taken_as_it_is():
    model = lower_spec(cart(dynamics=DynamicsSpec((x + v, v + u))))
    assert model.next_state == (model.states[0] + model.states[1], model.states[1] + model.controls[0])


def test_bounds_may_be_infinite_or_parameters():
    model = lower_spec(cart())
    assert model.lower == (model.parameters[1],)
    assert model.upper[0].value == float("inf")


def test_a_model_prints_itself():
    text = str(lower_spec(cart(dynamics=DynamicsSpec((x + v, v + u / mass)))))
    assert text == "\n".join(
        [
            "model cart: horizon 5",
            "  states     x, v",
            "  controls   u",
            "  parameters mass, low",
            "t0 = x*x",
            "x_next = v + x",
            "v_next = v + u*(1/mass)",
            "stage_cost = u*u + t0",
            "terminal_cost = t0",
            "u_lower = low",
            "u_upper = inf",
        ]
    )


def test_missing_rows_and_missing_dt_are_refused():
    with pytest.raises(SpecError, match="dynamics have 1 rows for 2 states"):
        lower_spec(cart(dynamics=DynamicsSpec((v,))))
    with pytest.raises(SpecError, match=r"dt of rk4 .* is None"):
        lower_spec(cart(dynamics=DynamicsSpec((v, u), "rk4")))


# --- determinism and size ------------------------------------------------------------------------

SCRIPT = """
import sympy as sp
from mpcgen.derivative import gradient, hessian, jacobian
from mpcgen.ir import Graph, listing
from mpcgen.problem.lowering import lower
names = "alpha beta gamma delta"
symbols = sp.symbols(names)
p, q, r, s = symbols
f = [
    sp.Piecewise((p * q, sp.And(p > q, r < s, q > 0)), (sp.Min(p, q, r, s), sp.Or(p > 1, q > 2)), (r, True)),
    sp.sin(p + q + r + s) * sp.exp(p * q * r) / (p * s) + sp.Max(p * q, r * s, p + s),
]
graph = Graph()
table = {symbol: graph.symbol(symbol.name) for symbol in symbols}
nodes, wrt = lower(f, graph, table), list(table.values())
rows = [*jacobian(nodes, wrt), *hessian(nodes[1], wrt), nodes]
print(listing({f"out_{i}_{j}": entry for i, row in enumerate(rows) for j, entry in enumerate(row)}))
"""


def test_the_graph_does_not_vary_with_the_hash_seed(tmp_path):
    outputs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2024")
    ]
    assert len(outputs[0].splitlines()) > 50
    assert outputs[0] == outputs[1] == outputs[2]


def quadrotor():
    """Return a 13-state rigid body with a quaternion and four thrusts, integrated by one rk4 step."""
    states = sp.symbols("px py pz vx vy vz qw qx qy qz wx wy wz")
    thrusts = sp.symbols("u0:4")
    constants = sp.symbols("mass Jx Jy Jz arm drag gravity")
    _px, _py, _pz, vx, vy, vz, qw, qx, qy, qz, wx, wy, wz = states
    m, jx, jy, jz, arm, drag, gravity = constants
    lift = sum(thrusts) / m
    rates = [
        *(vx, vy, vz),
        2 * (qx * qz + qw * qy) * lift,
        2 * (qy * qz - qw * qx) * lift,
        (qw**2 - qx**2 - qy**2 + qz**2) * lift - gravity,
        (-qx * wx - qy * wy - qz * wz) / 2,
        (qw * wx + qy * wz - qz * wy) / 2,
        (qw * wy - qx * wz + qz * wx) / 2,
        (qw * wz + qx * wy - qy * wx) / 2,
        (arm * (thrusts[1] - thrusts[3]) - (jz - jy) * wy * wz) / jx,
        (arm * (thrusts[2] - thrusts[0]) - (jx - jz) * wx * wz) / jy,
        (drag * (thrusts[0] - thrusts[1] + thrusts[2] - thrusts[3]) - (jy - jx) * wx * wy) / jz,
    ]
    cost = sum(state**2 for state in states)
    return Spec(
        name="quadrotor",
        horizon=40,
        states=states,
        controls=tuple(ControlSpec(thrust, sp.Integer(0), sp.Integer(4)) for thrust in thrusts),
        parameters=tuple(
            ParameterSpec(symbol.name, (), (symbol,), (1.0,), False, False, False) for symbol in constants
        ),
        dynamics=DynamicsSpec(tuple(rates), "rk4", sp.Rational(1, 20), 1),
        stage_cost=cost + sum(thrust**2 for thrust in thrusts),
        terminal_cost=cost,
    )


def test_a_quadrotor_needs_no_more_operations_than_designed(capsys):
    spec = quadrotor()
    start = time.perf_counter()
    model = lower_spec(spec)
    tau = (*model.states, *model.controls)
    rows = jacobian(model.next_state, tau)
    costates = [model.graph.symbol(f"costate_{i}") for i in range(13)]
    lagrangian = model.stage_cost
    for costate, row in zip(costates, model.next_state, strict=True):
        lagrangian = lagrangian + costate * row
    curvature = hessian(lagrangian, tau)
    seconds = time.perf_counter() - start
    sizes = {
        "map": flops(model.next_state),
        "jacobian": flops([entry for row in rows for entry in row]),
        "gradient": flops(gradient(lagrangian, tau)),
        "hessian": flops([entry for row in curvature for entry in row]),
    }
    with capsys.disabled():
        print(f"\nquadrotor with rk4, derived in {seconds:.3f} s: {sizes} operations")
    assert sum(map(sum, sparsity(rows))) == 140
    assert sizes["map"] <= 460
    assert sizes["jacobian"] <= 3_800
    assert sizes["hessian"] <= 6_100
