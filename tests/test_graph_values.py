"""The value of every operation in the Python and torch back ends, against mpmath."""

import math

import mpmath
import pytest
import torch

from mpcgen.errors import ParameterError
from mpcgen.ir import (
    OPERATIONS,
    PYTHON,
    Graph,
    evaluate,
    torch_backend,
)

EPS = 2.0**-52
INF = math.inf


POINTS = {
    "asin": [(-0.9,), (0.3,)],
    "acos": [(-0.9,), (0.3,)],
    "atanh": [(-0.9,), (0.3,)],
    "acosh": [(1.2,), (4.0,)],
    "log": [(0.2,), (3.0,)],
    "sqrt": [(0.2,), (3.0,)],
    "length": [(0.0,), (0.2,), (3.0,)],
    "pinv": [(-2.0,), (0.0,), (3.0,)],
    "log1p": [(-0.5,), (1e-9,), (3.0,)],
    "expm1": [(-40.0,), (1e-9,), (3.0,)],
    "sigmoid": [(-800.0,), (-40.0,), (0.3,), (40.0,), (800.0,)],
    "softplus": [(-800.0,), (-40.0,), (0.3,), (40.0,), (800.0,)],
    "pow": [(0.7, 1.3), (2.5, -0.4), (3.0, 0.0)],
    "select": [(True, 2.0, 3.0), (False, 2.0, 3.0)],
    "and": [(True, True), (True, False), (False, False)],
    "or": [(True, True), (True, False), (False, False)],
    "not": [(True,), (False,)],
    "sign": [(-2.0,), (0.0,), (3.0,)],
}
UNARY_POINTS = [(-1.3,), (0.4,), (2.2,)]
BINARY_POINTS = [(0.7, -1.3), (-2.0, 0.5), (1.5, 1.5)]
WITNESS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "pow": mpmath.power,
    "abs": mpmath.fabs,
    "length": mpmath.sqrt,
    "pinv": lambda a: 1 / a if a else a,
    "sigmoid": lambda a: 1 / (1 + mpmath.exp(-a)),
    "softplus": lambda a: mpmath.log1p(mpmath.exp(a)),
    "min": min,
    "max": max,
    "select": lambda c, a, b: a if c else b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
}


def points_of(operation):
    return POINTS.get(operation.name, UNARY_POINTS if operation.arity == 1 else BINARY_POINTS)


def exact(operation, point):
    """Return the value in 50 digits, as a float."""
    witness = WITNESS.get(operation.name) or getattr(mpmath, operation.name)
    with mpmath.workdps(50):
        return float(witness(*(value if isinstance(value, bool) else mpmath.mpf(value) for value in point)))


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda row: row.name)
def test_python_value_of_every_operation(operation):
    for point in points_of(operation):
        value = PYTHON.table[operation.name](*point)
        assert value == pytest.approx(exact(operation, point), rel=4 * EPS, abs=0.0)  # libm is within 4 ulp


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda row: row.name)
def test_torch_value_of_every_operation(operation):
    table = torch_backend().table
    points = points_of(operation)
    columns = [
        torch.tensor(column, dtype=torch.bool if isinstance(column[0], bool) else torch.float64)
        for column in zip(*points, strict=True)
    ]
    values = table[operation.name](*columns).to(torch.float64)
    for value, point in zip(values.tolist(), points, strict=True):
        assert value == pytest.approx(exact(operation, point), rel=4 * EPS, abs=0.0)


@pytest.mark.parametrize(
    ("op", "args", "expected"),
    [
        ("div", (1.0, 0.0), INF),
        ("div", (-1.0, 0.0), -INF),
        ("div", (0.0, 0.0), math.nan),
        ("log", (0.0,), -INF),
        ("log", (-1.0,), math.nan),
        ("sqrt", (-1.0,), math.nan),
        ("exp", (1e4,), INF),
        ("sinh", (-1e4,), -INF),
        ("cosh", (-1e4,), INF),
        ("pow", (-2.0, 0.5), math.nan),
        ("pow", (0.0, -1.0), INF),
        ("pow", (-1e200, 3.0), -INF),
        ("pow", (-1e200, 4.0), INF),
        ("atanh", (1.0,), INF),
        ("atanh", (2.0,), math.nan),
        ("acosh", (0.0,), math.nan),
        ("sin", (INF,), math.nan),
        ("expm1", (1e4,), INF),
        ("log1p", (-1.0,), -INF),
        ("log1p", (-2.0,), math.nan),
        ("sigmoid", (-INF,), 0.0),
        ("softplus", (INF,), INF),
        ("min", (math.nan, 1.0), math.nan),
        ("max", (1.0, math.nan), math.nan),
    ],
)
def test_python_follows_ieee_where_math_raises(op, args, expected):
    assert PYTHON.table[op](*args) == pytest.approx(expected, nan_ok=True)


def test_torch_evaluation_broadcasts_and_keeps_float32():
    g = Graph()
    x, y = g.symbol("x"), g.symbol("y")
    (value,) = evaluate([x * 0.1 + y], {x: torch.ones(3, 1), y: torch.ones(4)}, torch_backend())
    assert value.shape == (3, 4)
    assert value.dtype == torch.float32


def test_torch_constants_are_double_next_to_double_tensors():
    g = Graph()
    x = g.symbol("x")
    (value,) = evaluate(
        [g.select(g.lt(x, 0), 0.1, 0.2)], {x: torch.zeros(2, dtype=torch.float64)}, torch_backend()
    )
    assert value.tolist() == [0.2, 0.2]


def test_torch_evaluation_is_differentiable():
    g = Graph()
    x = g.symbol("x")
    value = torch.tensor([0.5, -0.7], dtype=torch.float64, requires_grad=True)
    (output,) = evaluate([g.select(g.lt(x, 0), g.exp(x), g.sin(x))], {x: value}, torch_backend())
    output.sum().backward()
    assert value.grad.tolist() == pytest.approx([math.cos(0.5), math.exp(-0.7)], rel=4 * EPS)


def test_a_shared_node_is_computed_once():
    g = Graph()
    x = g.symbol("x")
    calls = []
    table = dict(PYTHON.table, sin=lambda value: calls.append(value) or math.sin(value))
    s = g.sin(x)
    evaluate([s * s, s + 1, g.exp(s)], {x: 1.0}, type(PYTHON)("counting", table, PYTHON.constants))
    assert calls == [1.0]


def test_a_missing_value_is_named():
    g = Graph()
    with pytest.raises(ParameterError, match="'speed'"):
        evaluate([g.symbol("speed") + 1], {})
