"""CasADi functions as models: every operation is mapped and equal, or refused by name; shapes, names, sparsity."""

import math
import pickle
import random
import sys

import casadi as ca
import numpy as np
import pytest
import sympy as sp
from casadi_models import arm

import mpcgen
from mpcgen.baseline.functions import Functions
from mpcgen.derivative import hessian, jacobian
from mpcgen.ir import Graph, evaluate, flops
from mpcgen.problem.casadi_import import COMPARISONS, CONNECTIVES, NUMBERS, REFUSED, expressions_of
from mpcgen.problem.lowering import lower, lower_spec

x, y = ca.SX.sym("x"), ca.SX.sym("y")
less = x < y

EXAMPLES = {
    "OP_ASSIGN": x,
    "OP_ADD": x + y,
    "OP_SUB": x - y,
    "OP_MUL": x * y,
    "OP_DIV": x / y,
    "OP_NEG": -x,
    "OP_INV": 1 / y,
    "OP_SQ": y * y,
    "OP_TWICE": x + x,
    "OP_POW": y**x,
    "OP_CONSTPOW": y**2.5 + y**-3 + x**3,
    "OP_SQRT": ca.sqrt(y),
    "OP_FABS": ca.fabs(x),
    "OP_FMIN": ca.fmin(x, y),
    "OP_FMAX": ca.fmax(x, y),
    "OP_LOG1P": ca.log1p(y),
    "OP_EXPM1": ca.expm1(x),
    "OP_HYPOT": ca.hypot(x, y),
    "OP_EXP": ca.exp(x),
    "OP_LOG": ca.log(y),
    "OP_SIN": ca.sin(x),
    "OP_COS": ca.cos(x),
    "OP_TAN": ca.tan(x),
    "OP_ASIN": ca.asin(x / 2),
    "OP_ACOS": ca.acos(x / 2),
    "OP_ATAN": ca.atan(x),
    "OP_ATAN2": ca.atan2(x, y),
    "OP_SINH": ca.sinh(x),
    "OP_COSH": ca.cosh(x),
    "OP_TANH": ca.tanh(x),
    "OP_ASINH": ca.asinh(x),
    "OP_ACOSH": ca.acosh(y + 1),
    "OP_ATANH": ca.atanh(x / 2),
    "OP_ERF": ca.erf(x),
    "OP_SIGN": ca.sign(x),
    "OP_LIFT": ca.SX.binary(ca.OP_LIFT, x * y, y),
    "OP_LT": (less) * ca.sin(x),
    "OP_LE": (x <= y) + (y <= 1),
    "OP_NOT": ca.if_else(less, x * x, ca.sin(y)),
    "OP_AND": ca.if_else(ca.logic_and(less, y < 1), x, y),
    "OP_OR": ca.if_else(ca.logic_or(less, y < 1), x, y),
    "OP_IF_ELSE_ZERO": ca.if_else(less, x * y, 0),
    "OP_CONST": x * 0.1 + 3,
    "OP_FLOOR": ca.floor(x),
    "OP_CEIL": ca.ceil(x),
    "OP_FMOD": ca.fmod(x, y),
    "OP_REMAINDER": ca.remainder(x, y),
    "OP_COPYSIGN": ca.copysign(x, y),
    "OP_EQ": ca.if_else(x == y, x, 0),
    "OP_NE": ca.if_else(x != y, x, 0),
    "OP_ERFINV": ca.erfinv(x / 2),
    "OP_PRINTME": x.printme(3),
}
ELSEWHERE = {"OP_INPUT", "OP_OUTPUT", "OP_PARAMETER", "OP_CALL"}
"""In every function, or tested below."""
OF_MATRICES = """
    ADDNONZEROS ADDNONZEROS_PARAM ASSERTION BILIN BSPLINE CONVEXIFY DETERMINANT DIAGCAT DIAGSPLIT
    DOT DUMP EINSTEIN FIND GETNONZEROS GETNONZEROS_PARAM HORZCAT HORZREPMAT HORZREPSUM HORZSPLIT
    INVERSE KRON KRON_CONTRACT LOGSUMEXP LOW MAP MMAX MMIN MONITOR MTIMES NORM1 NORM2 NORMF NORMINF
    PROJECT RANK1 RESHAPE SETNONZEROS SETNONZEROS_PARAM SOLVE SPARSITY_CAST SUBASSIGN SUBREF
    TRANSPOSE VERTCAT VERTSPLIT
"""
MAPPED = {*NUMBERS, *COMPARISONS, *CONNECTIVES, "OP_IF_ELSE_ZERO", "OP_CONST"}


def codes(function):
    names = {getattr(ca, name): name for name in dir(ca) if name.startswith("OP_")}
    return {names[function.instruction_id(k)] for k in range(function.n_instructions())}


def on_graph(function, *arguments):
    """The graph's nodes of the first output, and the symbols."""
    symbols = [sp.Symbol(name, real=True) for name in "xyzuvw"][: sum(map(len, arguments))]
    graph = Graph()
    table = {symbol: graph.symbol(symbol.name) for symbol in symbols}
    entries = iter(symbols)
    given = [[next(entries) for _ in argument] for argument in arguments]
    return lower(expressions_of(function, given)[0], graph, table), list(table.values())


def test_every_operation_of_casadi_is_known():
    every = {name for name in dir(ca) if name.startswith("OP_")}
    assert every == MAPPED | set(REFUSED) | {"OP_INPUT", "OP_OUTPUT"} | {
        f"OP_{name}" for name in OF_MATRICES.split()
    }
    assert set(EXAMPLES) | ELSEWHERE == MAPPED | set(REFUSED) | {"OP_INPUT", "OP_OUTPUT"}


@pytest.mark.parametrize("code", sorted(MAPPED))
def test_mapped_operations_have_casadis_value_and_derivatives(code):
    expression = EXAMPLES[code]
    function = ca.Function("f", [x, y], [expression])
    assert code in codes(function) or code in ("OP_ASSIGN", "OP_LIFT")  # which CasADi takes out itself
    tau = ca.vertcat(x, y)
    witness = ca.Function(
        "w", [x, y], [expression, ca.jacobian(expression, tau), ca.hessian(expression, tau)[0]]
    )
    (node,), symbols = on_graph(function, [x], [y])
    slopes, curvature = jacobian([node], symbols)[0], hessian(node, symbols)
    outputs = [node, *slopes, *(entry for row in curvature for entry in row)]
    numbers = random.Random(code)
    for _ in range(20):
        point = numbers.uniform(-1.5, 1.5), numbers.uniform(0.2, 1.6)
        exact = np.concatenate([np.asarray(part).ravel() for part in witness(*point)])
        own = np.array(evaluate(outputs, dict(zip(symbols, point, strict=True))))
        assert own == pytest.approx(exact, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("code", sorted(set(REFUSED) - ELSEWHERE))
def test_operations_without_a_counterpart_are_refused_by_name(code):
    function = ca.Function("model", [x, y], [EXAMPLES[code]])
    assert code in codes(function)
    with pytest.raises(mpcgen.UnsupportedExpressionError, match=rf"'model' uses {code}: "):
        on_graph(function, [x], [y])


def test_ties_of_fmin_take_the_first_argument_where_casadi_takes_half_of_each():
    function = ca.Function("f", [x, y], [ca.fmin(x, y)])
    (node,), symbols = on_graph(function, [x], [y])
    assert evaluate(jacobian([node], symbols)[0], dict.fromkeys(symbols, 0.5)) == [1.0, 0.0]


def test_truth_values_count_as_numbers():
    function = ca.Function("f", [x, y], [(less) * 2 + ca.logic_not(less) * x - (y < x) * (x <= y)])
    (node,), symbols = on_graph(function, [x], [y])
    for point in ((0.2, 0.5), (0.5, 0.2), (0.5, 0.5)):
        assert evaluate([node], dict(zip(symbols, point, strict=True)))[0] == float(function(*point))


@pytest.mark.parametrize("expression", [ca.if_else(x, y, 2 * y), ca.logic_not(x) * y, ca.logic_and(x, y)])
def test_numbers_are_no_conditions(expression):
    with pytest.raises(mpcgen.UnsupportedExpressionError, match=r"compare it, as in flag > 0\.5"):
        on_graph(ca.Function("f", [x, y], [expression]), [x], [y])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_constants_that_are_not_finite_are_refused(value):
    with pytest.raises(mpcgen.SpecError, match=r"'f' contains the constant (nan|inf)"):
        on_graph(ca.Function("f", [x], [x * value]), [x])


def test_free_symbols_are_refused_by_name():
    function = ca.Function("f", [x], [x + y], {"allow_free": True})
    with pytest.raises(mpcgen.UnsupportedExpressionError, match="'f' has free symbols, y"):
        on_graph(function, [x])


# --- functions of matrices --------------------------------------------------------------------------


def test_matrix_functions_expand():
    z = ca.MX.sym("z", 3)
    A = ca.mtimes(z, z.T) + 5 * ca.MX.eye(3)
    function = ca.Function("f", [z], [ca.solve(A, ca.sin(z), "symbolicqr") + ca.norm_2(z) * z])
    nodes, symbols = on_graph(function, [0, 1, 2])
    point = [0.3, -0.7, 1.1]
    own = evaluate(nodes, dict(zip(symbols, point, strict=True)))
    assert own == pytest.approx(np.asarray(function(point)).ravel(), rel=1e-12)


@pytest.mark.parametrize("kind", ["solve", "inv"])
def test_matrix_functions_that_do_not_expand_are_refused_by_name(kind):
    z = ca.MX.sym("z", 3)
    A = ca.mtimes(z, z.T) + 5 * ca.MX.eye(3)
    result = ca.solve(A, z) if kind == "solve" else ca.mtimes(ca.inv(A), z)
    with pytest.raises(
        mpcgen.UnsupportedExpressionError, match=r"'f', of MX.* no expansion.*OP_(SOLVE|INVERSE)"
    ):
        on_graph(ca.Function("f", [z], [result]), [0, 1, 2])


def test_a_call_left_in_an_expanded_function_is_refused_by_its_callee():
    z, q = ca.SX.sym("z"), ca.SX.sym("q")
    root = ca.rootfinder("root", "newton", {"x": z, "p": q, "g": z**3 + z - q})
    p = ca.MX.sym("p")
    function = ca.Function("f", [p], [root(x0=0, p=p)["x"]])
    assert "OP_CALL" in codes(function.expand())
    with pytest.raises(mpcgen.UnsupportedExpressionError, match=r"'f' uses OP_CALL of root \(Newton\)"):
        on_graph(function, [p])


def test_functions_of_other_kinds_are_refused():
    table = ca.interpolant("table", "linear", [[0.0, 1.0, 2.0]], [0.0, 1.0, 4.0])
    with pytest.raises(
        mpcgen.UnsupportedExpressionError, match=r"'table' is of the kind \w+; expected one made of SX"
    ):
        on_graph(table, [x])


def test_structural_zeros_and_columns():
    matrix, vector = ca.SX.sym("A", ca.Sparsity.lower(2)), ca.SX.sym("b", 2)
    function = ca.Function("f", [matrix, vector], [ca.vertcat(ca.mtimes(matrix, vector), ca.SX(1, 1))])
    assert function.nnz_in(0) == 3 and function.nnz_out(0) == 2
    problem = mpcgen.Problem("sparse", horizon=3)
    a, b = problem.states("a b")
    A = problem.parameter("A", shape=(2, 2))
    rows = mpcgen.casadi_expressions(problem, function, x=1, u=None, parameters={"A": 0})
    assert [row.doit() for row in rows] == [A[0, 0] * a, A[1, 0] * a + A[1, 1] * b, 0]


# --- as models ----------------------------------------------------------------------------------------


def pendulum(**options):
    """(x (2), u, mass, W (2, 2) as it lies in CasADi) -> dx/dt, cost, a row that reads no control."""
    state, torque, mass, W = ca.SX.sym("x", 2), ca.SX.sym("u"), ca.SX.sym("m"), ca.SX.sym("W", 2, 2)
    acceleration = 9.81 * ca.sin(state[0]) + torque / mass - ca.fabs(state[1]) * state[1]
    rates = ca.vertcat(state[1], acceleration) + ca.mtimes(W, state)
    cost = ca.sumsqr(state) + 0.1 * torque**2
    return ca.Function(
        "pendulum",
        [state, torque, mass, W],
        [rates, cost, state[0] + mass],
        list("xumW"),
        ["rates", "cost", "row"],
    )


def problem_of(function, **options):
    problem = mpcgen.Problem("pendulum", horizon=10)
    problem.states("angle rate")
    problem.controls("torque", lower=-2, upper=2)
    problem.parameter("mass", default=1.5)
    parameters = {"mass": "m", "W": 3}
    problem.dynamics = mpcgen.casadi_model(problem, function, parameters=parameters, scheme="rk4", dt=0.05)
    problem.stage_cost = mpcgen.casadi_cost(problem, function, parameters=parameters, output="cost")
    problem.constraint("row", mpcgen.casadi_expressions(problem, function, 0, 1, parameters, 2), upper=3)
    return problem


def test_a_model_lowers_to_what_the_baseline_makes_of_the_function_itself():
    spec = problem_of(pendulum()).spec()
    assert [(p.name, p.shape) for p in spec.parameters] == [("mass", ()), ("W", (2, 2))]
    assert spec.constraints[0].group == "state"  # of the function's inputs it reads no control
    model, witness = lower_spec(spec), Functions(spec)
    numbers = np.random.default_rng(0)
    point = numbers.uniform(-1, 1, 8)
    values = dict(zip((*model.states, *model.controls, *model.parameters), point, strict=True))
    state, control, theta = point[:2], point[2:3], point[3:]
    own = np.array(evaluate([*model.next_state, model.stage_cost], values))
    exact = [
        *np.asarray(witness.f(state, control, theta)).ravel(),
        float(witness.stage_cost(state, control, theta)),
    ]
    assert own == pytest.approx(np.array(exact), rel=1e-13)


def test_the_baseline_calls_the_function_and_not_what_was_made_of_it(monkeypatch):
    function = pendulum()
    problem = problem_of(function)
    spec = problem.spec()
    (entry,) = [row for row in spec.dynamics.expressions if row.args and row.index == 1]
    other = ca.Function("other", function.sx_in(), [2 * part for part in function.call(function.sx_in())])
    monkeypatch.setitem(vars(entry.call), "function", other)
    witness = Functions(spec)
    assert float(witness.f([0.1, 0.2], 0, [1, 0, 0, 0, 0])[0]) == pytest.approx(0.1 + 0.05 * 0.4, rel=0.05)


def test_an_arm_of_six_joints_comes_as_it_is_and_soon():
    function = arm()
    problem = mpcgen.Problem("arm", horizon=10)
    problem.states([f"x{i}" for i in range(12)])
    problem.controls([f"u{i}" for i in range(6)])
    problem.dynamics = mpcgen.casadi_model(problem, function, scheme="euler", dt=0.05)
    again = mpcgen.casadi_expressions(problem, arm())  # another function with the same instructions
    problem.stage_cost = sum(row**2 for row in again) + sum(u**2 for u in problem.control_symbols)
    spec = problem.spec()
    assert len(str(spec)) < 10_000
    model = lower_spec(spec)
    assert flops(model.next_state) < function.n_instructions()
    point = np.random.default_rng(0).uniform(-1, 1, 18)
    own = np.array(
        evaluate(model.next_state, dict(zip((*model.states, *model.controls), point, strict=True)))
    )
    exact = point[:12] + 0.05 * np.asarray(function(point[:12], point[12:])).ravel()
    assert own == pytest.approx(exact, rel=1e-12, abs=1e-12)


def test_steps_in_a_function_are_judged_like_others():
    problem = mpcgen.Problem("steps", horizon=3)
    problem.states("x")
    problem.controls("u")
    smooth = ca.Function("smooth", [x, y], [x + ca.if_else(x < 0, x * x, ca.sin(x)) + y])
    problem.dynamics = mpcgen.casadi_model(problem, smooth)
    problem.stage_cost = mpcgen.casadi_cost(problem, ca.Function("cost", [x, y], [x**2 + y**2]))
    problem.spec()
    jump = ca.Function("jump", [x, y], [x + ca.if_else(x < 0, 1, 2) + y])
    problem.dynamics = mpcgen.casadi_model(problem, jump)
    with pytest.raises(
        mpcgen.UnsupportedExpressionError, match=r"dynamics row 0 \(state x\) contains Piecewise"
    ):
        problem.spec()


def test_what_sympy_changes_is_no_longer_the_functions():
    problem = mpcgen.Problem("changed", horizon=3)
    (state,) = problem.states("x")
    (control,) = problem.controls("u")
    (row,) = mpcgen.casadi_expressions(problem, ca.Function("f", [x, y], [x * y + ca.sin(x)]))
    assert str(row) == "f[0](u, x)" and row.free_symbols == {state, control}
    assert row.subs(control, 2).doit() == 2 * state + sp.sin(state)
    assert row.diff(control).doit() == state
    assert (row - row, row + row) == (0, 2 * row)


BAD = [
    ({"function": "f"}, "was given str; expected a casadi.Function"),
    (
        {"parameters": {}},
        r"has inputs that nothing is given for: 2 \('m'\), 3 \('W'\); name them, as in parameters",
    ),
    (
        {"x": 3},
        r"input 3 of CasADi function 'pendulum' has shape \(2, 2\); expected a vector of 2, for the states",
    ),
    ({"x": "q"}, "there is no input of 'pendulum' called 'q': it has x, u, m, W"),
    ({"x": 7}, "there is no input of 'pendulum' at 7"),
    ({"u": 0}, "input 0 of CasADi function 'pendulum' is the states and the controls; choose one"),
    ({"output": "y"}, "there is no output of 'pendulum' called 'y'"),
    (
        {"output": 1},
        r"output 1 of CasADi function 'pendulum' has 1 row for the 2 states \(angle, rate\); expected one row per",
    ),
    (
        {"parameters": ["mass", "W"]},
        r"parameters= of CasADi .* \(list\); expected a mapping, such as \{.mass.: 2",
    ),
    (
        {"u": "m", "parameters": {"mass": 2}},
        "the controls and the parameter 'mass'; choose one; u=None is for a",
    ),
    ({"parameters": {"mass": "m", "W": 3, "x0": 3}}, "W.* choose one"),
    ({"parameters": {"mass": "m", "x0": 3}}, "parameter name 'x0' is reserved"),
    ({"parameters": {"mass": 3, "W": 2}}, r"parameter 'mass' has shape \(\); input 3 .* has \(2, 2\)"),
    (
        {"scheme": "rk45", "dt": 0.1},
        "the scheme of output 0 of CasADi function 'pendulum' is 'rk45'; expected one of discrete",
    ),
    ({"scheme": "rk4"}, "needs dt, the duration of one stage"),
    ({"dt": 0.1}, "dt or substeps with scheme 'discrete'"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=lambda value: str(value)[:40])
def test_mistakes_are_told_before_anything_is_built(change, message):
    problem = mpcgen.Problem("pendulum", horizon=10)
    problem.states("angle rate")
    problem.controls("torque")
    problem.parameter("mass", default=1.5)
    arguments = {"function": pendulum(), "parameters": {"mass": "m", "W": 3}} | change
    with pytest.raises(mpcgen.SpecError, match=message):
        mpcgen.casadi_model(problem, **arguments)
    assert [parameter.name for parameter in problem.parameter_specs] == ["mass"]


def test_a_place_is_an_integer_of_any_kind():
    problem = mpcgen.Problem("pendulum", horizon=10)
    problem.states("angle rate")
    problem.controls("torque")
    mpcgen.casadi_model(
        problem, pendulum(), x=np.int64(0), parameters={"mass": np.int32(2), "W": np.int64(3)}
    )
    assert problem.find_parameter("W").shape == (2, 2)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("scheme", ["discrete", "euler"])
def test_states_beside_those_of_the_function_have_discrete_rows(whole, scheme):
    problem = mpcgen.Problem("slew", horizon=3)
    angle, last, _ = problem.states("angle last rate")
    (torque,) = problem.controls("torque")
    state = ca.SX.sym("state", 3 if whole else 2)
    function = ca.Function("f", [state, x], [ca.vertcat(state[-1], ca.sin(state[0]) + x)])
    step = {} if scheme == "discrete" else {"dt": 1.0}
    problem.dynamics = mpcgen.casadi_model(
        problem, function, scheme=scheme, discrete={last: 2 * torque + angle}, **step
    )
    problem.stage_cost = torque**2 + last**2
    spec = problem.spec()
    model = lower_spec(spec)
    point = [0.3, 0.4, 0.5, 0.7]
    own = evaluate(model.next_state, dict(zip((*model.states, *model.controls), point, strict=True)))
    start = np.array([0.3, 0.5]) if scheme == "euler" else 0.0
    moved = start + np.array([0.5, math.sin(0.3) + 0.7])
    assert own == pytest.approx([moved[0], 2 * 0.7 + 0.3, moved[1]], rel=1e-15)
    assert own == pytest.approx(np.asarray(Functions(spec).f(point[:3], point[3:], [])).ravel(), rel=1e-15)


def test_a_cost_of_states_alone_says_how_it_is_called():
    problem = mpcgen.Problem("cost", horizon=3)
    problem.states("angle")
    problem.controls("torque")
    cost = ca.Function("cost", [x], [x**2])
    with pytest.raises(
        mpcgen.SpecError, match=r"no input of 'cost' at 1: .*; u=None is for a function without"
    ):
        mpcgen.casadi_cost(problem, cost)
    assert mpcgen.casadi_cost(problem, cost, u=None).free_symbols == set(problem.state_symbols)


def test_a_cost_is_one_number():
    problem = mpcgen.Problem("cost", horizon=3)
    problem.states("angle rate")
    problem.controls("torque")
    with pytest.raises(
        mpcgen.SpecError, match="output 0 of CasADi function 'pendulum' has 2 entries; a cost is one"
    ):
        mpcgen.casadi_cost(problem, pendulum(), parameters={"mass": 2, "W": 3})


def test_without_casadi_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "casadi", None)
    problem = mpcgen.Problem("none", horizon=3)
    with pytest.raises(mpcgen.MpcgenError, match=r"needs CasADi .* pip install 'mpcgen\[baseline\]'"):
        mpcgen.casadi_model(problem, "anything")


def test_a_specification_with_a_function_can_be_pickled():
    spec = problem_of(pendulum()).spec()
    assert lower_spec(pickle.loads(pickle.dumps(spec))).outputs().keys() == lower_spec(spec).outputs().keys()
