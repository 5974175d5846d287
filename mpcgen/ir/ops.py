"""The table of operations: what a node of the graph may compute, and its value in double precision.

Real values are Python floats with IEEE 754 results: a pole gives an infinity and a point outside the
domain NaN, as in C, where Python's `math` would raise. Boolean values are 1.0 and 0.0.

Three names need a word. ``length`` is the square root of a sum of squares: where all of them are zero its slope counts
as 0, as that of |x| does. ``pinv`` is the Moore-Penrose inverse of a number, 1/x and 0 for 0. ``min`` and ``max`` are
NaN where an argument is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

NAN = math.nan
INF = math.inf


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    ``boolean`` says that the result is a truth value; ``boolean_args`` says the same of each argument.
    ``evaluate`` maps floats to a float.
    """

    name: str
    arity: int
    evaluate: Callable[..., float]
    commutative: bool = False
    boolean: bool = False
    boolean_args: tuple[bool, ...] = ()


def _or_nan(function: Callable[[float], float]) -> Callable[[float], float]:
    def evaluate(x: float) -> float:
        try:
            return function(x)
        except ValueError:
            return NAN

    return evaluate


def _div(a: float, b: float) -> float:
    if b != 0.0:
        return a / b
    return NAN if a == 0.0 or math.isnan(a) else math.copysign(INF, a) * math.copysign(1.0, b)


def _pow(a: float, b: float) -> float:
    try:
        return math.pow(a, b)
    except OverflowError:
        return -INF if a < 0.0 and math.fmod(b, 2.0) != 0.0 else INF
    except ValueError:  # zero to a negative power is a pole, a negative base to a fraction is not real
        if a != 0.0:
            return NAN
        return math.copysign(INF, a) if math.fmod(b, 2.0) == -1.0 else INF


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return INF


def _log(x: float) -> float:
    if x > 0.0:
        return math.log(x)
    return -INF if x == 0.0 else NAN


def _sinh(x: float) -> float:
    try:
        return math.sinh(x)
    except OverflowError:
        return math.copysign(INF, x)


def _cosh(x: float) -> float:
    try:
        return math.cosh(x)
    except OverflowError:
        return INF


def _atanh(x: float) -> float:
    if abs(x) < 1.0:
        return math.atanh(x)
    return math.copysign(INF, x) if abs(x) == 1.0 else NAN


def _pinv(x: float) -> float:
    return 0.0 if x == 0.0 else 1.0 / x


def _expm1(x: float) -> float:
    try:
        return math.expm1(x)
    except OverflowError:
        return INF


def _log1p(x: float) -> float:
    if x > -1.0:
        return math.log1p(x)
    return -INF if x == -1.0 else NAN


def _sigmoid(x: float) -> float:
    small = math.exp(-abs(x))
    return (small if x < 0.0 else 1.0) / (1.0 + small)


def _softplus(x: float) -> float:
    return x if math.isnan(x) else max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _minimum(a: float, b: float) -> float:
    return NAN if math.isnan(a) or math.isnan(b) else min(a, b)


def _maximum(a: float, b: float) -> float:
    return NAN if math.isnan(a) or math.isnan(b) else max(a, b)


def _sign(x: float) -> float:
    return x if math.isnan(x) else float((x > 0.0) - (x < 0.0))


_ROWS = (
    Operation("add", 2, lambda a, b: a + b, commutative=True),
    Operation("sub", 2, lambda a, b: a - b),
    Operation("mul", 2, lambda a, b: a * b, commutative=True),
    Operation("div", 2, _div),
    Operation("neg", 1, lambda a: -a),
    Operation("pow", 2, _pow),
    Operation("sqrt", 1, _or_nan(math.sqrt)),
    Operation("length", 1, _or_nan(math.sqrt)),
    Operation("pinv", 1, _pinv),
    Operation("exp", 1, _exp),
    Operation("expm1", 1, _expm1),
    Operation("log", 1, _log),
    Operation("log1p", 1, _log1p),
    Operation("sigmoid", 1, _sigmoid),
    Operation("softplus", 1, _softplus),
    Operation("sin", 1, _or_nan(math.sin)),
    Operation("cos", 1, _or_nan(math.cos)),
    Operation("tan", 1, _or_nan(math.tan)),
    Operation("asin", 1, _or_nan(math.asin)),
    Operation("acos", 1, _or_nan(math.acos)),
    Operation("atan", 1, math.atan),
    Operation("atan2", 2, math.atan2),
    Operation("sinh", 1, _sinh),
    Operation("cosh", 1, _cosh),
    Operation("tanh", 1, math.tanh),
    Operation("asinh", 1, math.asinh),
    Operation("acosh", 1, _or_nan(math.acosh)),
    Operation("atanh", 1, _atanh),
    Operation("erf", 1, math.erf),
    Operation("abs", 1, abs),
    Operation("sign", 1, _sign),
    Operation("min", 2, _minimum, commutative=True),
    Operation("max", 2, _maximum, commutative=True),
    Operation("select", 3, lambda c, a, b: a if c else b, boolean_args=(True, False, False)),
    Operation("lt", 2, lambda a, b: float(a < b), boolean=True),
    Operation("le", 2, lambda a, b: float(a <= b), boolean=True),
    Operation("eq", 2, lambda a, b: float(a == b), commutative=True, boolean=True),
    Operation(
        "and",
        2,
        lambda a, b: float(bool(a) and bool(b)),
        commutative=True,
        boolean=True,
        boolean_args=(True, True),
    ),
    Operation(
        "or",
        2,
        lambda a, b: float(bool(a) or bool(b)),
        commutative=True,
        boolean=True,
        boolean_args=(True, True),
    ),
    Operation("not", 1, lambda a: float(not a), boolean=True, boolean_args=(True,)),
)

OPERATIONS: dict[str, Operation] = {row.name: row for row in _ROWS}
"""Every operation with arguments, by name, in the order in which reports list them."""

LEAVES = ("const", "symbol")
"""The two kinds of node without arguments."""
