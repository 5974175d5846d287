"""Torch's elementwise operations on expressions, with torch's values and slopes at ties and kinks.

Keys are the names of core ATen, without the overload. Each function takes `Nodes` and then what the operation takes,
tensors as one entry each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mpcgen.errors import UnsupportedExpressionError
from mpcgen.problem.nodes import Nodes

Elementwise = Callable[..., Any]


def _div(b: Nodes, x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        raise UnsupportedExpressionError("a rounded quotient jumps")
    return b.div(x, y)


def _pow(b: Nodes, x: Any, y: Any) -> Any:
    exponent = b.number(y)
    return b.number(1) if exponent == 0 else b.power(x, exponent)


def _maximum(b: Nodes, x: Any, y: Any) -> Any:
    """Half of each slope at a tie."""
    tie = b.mul(0.5, b.add(x, y))
    return b.joined(b.less(y, x), x, b.joined(b.less(x, y), y, tie))


def _minimum(b: Nodes, x: Any, y: Any) -> Any:
    tie = b.mul(0.5, b.add(x, y))
    return b.joined(b.less(x, y), x, b.joined(b.less(y, x), y, tie))


def _clamp(b: Nodes, x: Any, low: Any = None, high: Any = None) -> Any:
    """Slope 1 at the bounds."""
    below = x if low is None else b.joined(b.less(x, low), low, x)
    return below if high is None else b.joined(b.less(high, x), high, below)


def _hardtanh(b: Nodes, x: Any, low: Any = -1.0, high: Any = 1.0) -> Any:
    """Slope 0 at the bounds."""
    return b.joined(b.at_most(x, low), low, b.joined(b.at_most(high, x), high, x))


def _hardsigmoid(b: Nodes, x: Any) -> Any:
    return b.joined(b.at_most(x, -3), 0, b.joined(b.at_most(3, x), 1, b.div(b.add(x, 3), 6)))


def _hardswish(b: Nodes, x: Any) -> Any:
    inner = b.div(b.mul(x, b.add(x, 3)), 6)
    return b.joined(b.at_most(x, -3), 0, b.joined(b.at_most(3, x), x, inner))


def _sigmoid(b: Nodes, x: Any) -> Any:
    return b.power(b.add(1, b.call("exp", b.neg(x))), -1)


def _softplus(b: Nodes, x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """As torch has it: x beyond the threshold, where the two differ by 2e-9."""
    scaled = b.mul(beta, x)
    smooth = b.div(b.call("log", b.add(1, b.call("exp", scaled))), beta)
    return b.joined(b.less(threshold, scaled), x, smooth)


def _gelu(b: Nodes, x: Any, approximate: str = "none") -> Any:
    if approximate == "tanh":
        inner = b.mul(math.sqrt(2 / math.pi), b.add(x, b.mul(0.044715, b.power(x, 3))))
        return b.mul(b.mul(0.5, x), b.add(1, b.call("tanh", inner)))
    return b.mul(b.mul(0.5, x), b.add(1, b.call("erf", b.mul(math.sqrt(0.5), x))))


def _elu(b: Nodes, x: Any, alpha: Any = 1, scale: Any = 1, input_scale: Any = 1) -> Any:
    below = b.mul(b.mul(alpha, scale), b.call("expm1", b.mul(input_scale, x)))
    return b.joined(b.less(0, x), b.mul(scale, x), below)


def _leaky_relu(b: Nodes, x: Any, slope: Any = 0.01) -> Any:
    return b.joined(b.less(0, x), x, b.mul(slope, x))


def _softshrink(b: Nodes, x: Any, limit: Any = 0.5) -> Any:
    below = b.joined(b.less(x, b.neg(limit)), b.add(x, limit), 0)
    return b.joined(b.less(limit, x), b.sub(x, limit), below)


def _not(b: Nodes, x: Any) -> Any:
    condition = b.condition(x)
    return b.apply("not", condition)


def _connected(name: str) -> Elementwise:
    return lambda b, x, y: b.apply(name, b.condition(x), b.condition(y))


def _same(name: str) -> Elementwise:
    return lambda b, x: b.call(name, x)


_SAME_NAME = "exp expm1 log log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf abs sign"
ELEMENTWISE: dict[str, Elementwise] = {name: _same(name) for name in _SAME_NAME.split()}
ELEMENTWISE |= {
    "add": lambda b, x, y, alpha=1: b.add(x, b.mul(alpha, y)),
    "sub": lambda b, x, y, alpha=1: b.sub(x, b.mul(alpha, y)),
    "rsub": lambda b, x, y, alpha=1: b.sub(y, b.mul(alpha, x)),
    "mul": lambda b, x, y: b.mul(x, y),
    "div": _div,
    "neg": lambda b, x: b.neg(x),
    "reciprocal": lambda b, x: b.power(x, -1),
    "square": lambda b, x: b.power(x, 2),
    "pow": _pow,
    "sqrt": lambda b, x: b.sqrt(x),
    "rsqrt": lambda b, x: b.power(b.sqrt(x), -1),
    "exp2": lambda b, x: b.call("exp", b.mul(math.log(2), x)),
    "log2": lambda b, x: b.mul(1 / math.log(2), b.call("log", x)),
    "log10": lambda b, x: b.mul(1 / math.log(10), b.call("log", x)),
    "erfc": lambda b, x: b.sub(1, b.call("erf", x)),
    "sgn": _same("sign"),
    "atan2": lambda b, y, x: b.call("atan2", y, x),
    "hypot": lambda b, x, y: b.sqrt(b.add(b.power(x, 2), b.power(y, 2))),
    "maximum": _maximum,
    "minimum": _minimum,
    "fmax": _maximum,
    "fmin": _minimum,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": lambda b, x, high: _clamp(b, x, None, high),
    "relu": lambda b, x: b.call("max", 0, x),
    "relu6": lambda b, x: _hardtanh(b, x, 0, 6),
    "leaky_relu": _leaky_relu,
    "_prelu_kernel": lambda b, x, weight: _leaky_relu(b, x, weight),
    "elu": _elu,
    "celu": lambda b, x, alpha=1: _elu(b, x, alpha, 1, 1 / alpha),
    "sigmoid": _sigmoid,
    "silu": lambda b, x: b.mul(x, _sigmoid(b, x)),
    "softplus": _softplus,
    "gelu": _gelu,
    "hardtanh": _hardtanh,
    "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish,
    "softshrink": _softshrink,
    "threshold": lambda b, x, limit, value: b.where(b.at_most(x, limit), value, x),
    "lt": lambda b, x, y: b.less(x, y),
    "le": lambda b, x, y: b.at_most(x, y),
    "gt": lambda b, x, y: b.less(y, x),
    "ge": lambda b, x, y: b.at_most(y, x),
    "logical_and": _connected("and"),
    "logical_or": _connected("or"),
    "logical_not": _not,
    "bitwise_and": _connected("and"),
    "bitwise_or": _connected("or"),
    "bitwise_not": _not,
    "where": lambda b, condition, x, y: b.where(condition, x, y),
    "masked_fill": lambda b, x, mask, value: b.where(mask, value, x),
    "fill": lambda b, x, value: b.number(value),
    "copy": lambda b, x, source, non_blocking=False: b.number(source),
}
"""Value of an entry from entries."""

RANDOM = (
    "it is random; a compiled solver has no random numbers. Of dropout in training: call module.eval() first"
)
"""What to say of an operation that draws numbers."""
_JUMPING = "floor ceil round trunc frac fmod remainder floor_divide heaviside copysign"
_AT_POINTS = "eq ne isclose"
_OF_VALUES = "_local_scalar_dense item is_nonzero equal nonzero masked_select unique"
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        _JUMPING.split(),
        "which jumps, so that it has no derivative there; smooth it, for example with tanh(k*x)",
    ),
    **dict.fromkeys(
        _AT_POINTS.split(),
        "which holds, or fails, at single points only, where its branch's derivatives are wrong; compare with < or <=",
    ),
    **dict.fromkeys(
        _OF_VALUES.split(),
        "which turns what is traced into a number of Python, as a branch that depends on data does; use torch.where",
    ),
}
"""Operations that no solver can have, and what to say of each."""
