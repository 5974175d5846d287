"""Expressions as C over the lane type of ``mpcgen_lane.h``: operators where C has them, lane_* calls elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mpcgen.errors import InternalError
from mpcgen.ir import Expr
from mpcgen.ir.ops import OPERATIONS

_SUM, _PRODUCT, _UNARY, _ATOM = range(4)
_OPERATORS = {"add": ("+", _SUM), "sub": ("-", _SUM), "mul": ("*", _PRODUCT), "div": ("/", _PRODUCT)}
CALLS = {op: f"lane_{op}" for op in OPERATIONS if op not in _OPERATORS and op != "neg"}
CALLS |= {"min": "lane_minimum", "max": "lane_maximum", "length": "lane_sqrt"}
"""The function of ``mpcgen_lane.h`` for each operation that C has no operator for."""


def number(value: float) -> str:
    """A C literal that reads back as the same double."""
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return str(int(value)) if value.is_integer() and abs(value) < 1e9 else repr(value)


def c_definition(node: Expr, names: Mapping[Expr, str]) -> str:
    """Return C that computes ``node`` from its arguments; arguments in ``names`` are written as their name."""
    return _operation(node, names)[0]


def c_value(node: Expr, names: Mapping[Expr, str]) -> str:
    """Return C for ``node``: its name if it has one, a constant, or what computes it."""
    return _text(node, names, vector=True)[0]


def _text(node: Expr, names: Mapping[Expr, str], vector: bool) -> tuple[str, int]:
    """``vector``: a constant must become one in every lane, not the scalar that operators take."""
    if node in names:
        return names[node], _ATOM
    if node.op == "const":
        return f"{'ALL' if vector else 'R'}({number(node.value)})", _ATOM
    if node.op == "symbol":
        raise InternalError(f"the symbol {node.value} is read, but no input of the function provides it")
    return _operation(node, names)


def _operation(node: Expr, names: Mapping[Expr, str]) -> tuple[str, int]:
    if node.op == "neg":
        text, precedence = _text(node.args[0], names, vector=True)
        return f"-{text if precedence >= _UNARY else f'({text})'}", _UNARY
    if node.op in _OPERATORS:
        return _infix(node, names)
    if node.op not in CALLS:
        raise InternalError(f"no C for the operation {node.op!r}; add it to mpcgen_lane.h and to ir/ops.py")
    arguments = ", ".join(_text(arg, names, vector=True)[0] for arg in node.args)
    return f"{CALLS[node.op]}({arguments})", _ATOM


def _infix(node: Expr, names: Mapping[Expr, str]) -> tuple[str, int]:
    symbol, precedence = _OPERATORS[node.op]
    constants = all(arg.is_const for arg in node.args)
    left, left_precedence = _text(node.args[0], names, vector=constants)
    right, right_precedence = _text(node.args[1], names, vector=constants)
    if left_precedence < precedence:
        left = f"({left})"
    if right_precedence <= precedence:
        right = f"({right})"
    return f"{left} {symbol} {right}", precedence
