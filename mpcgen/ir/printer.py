"""Expressions as text: numbered assignments in infix notation, with parentheses where precedence asks."""

from collections.abc import Mapping

from mpcgen.ir.expr import Expr
from mpcgen.ir.walk import flops, operation_count, topological

MAX_INLINE = 60
"""Longest text, in characters, that is still written inside another expression."""

_OR, _AND, _NOT, _RELATION, _SUM, _PRODUCT, _POWER, _ATOM = range(8)
_INFIX = {
    "or": (" or ", _OR),
    "and": (" and ", _AND),
    "lt": (" < ", _RELATION),
    "le": (" <= ", _RELATION),
    "eq": (" == ", _RELATION),
    "add": (" + ", _SUM),
    "sub": (" - ", _SUM),
    "mul": ("*", _PRODUCT),
    "div": ("/", _PRODUCT),
    "pow": ("**", _POWER),
}
_CHAINED = ("or", "and", "add", "sub", "mul", "div")


def number(value: float) -> str:
    """Return the shortest text that reads back as ``value``, whole numbers without a point."""
    if value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    return repr(value)


def listing(outputs: Mapping[str, Expr]) -> str:
    """Return the named outputs as assignments, what they share as t0, t1, ... before them.

    A subexpression gets a number of its own where it is used twice or its text is too long to nest.
    """
    order = topological(list(outputs.values()))
    uses = dict.fromkeys(order, 0)
    for used in [*(arg for node in order for arg in node.args), *outputs.values()]:
        uses[used] += 1
    lines: list[str] = []
    texts: dict[Expr, tuple[str, int]] = {}
    last = {node: name for name, node in outputs.items() if uses[node] == 1}
    for node in order:
        text, precedence = _text(node, texts)
        if node.args and node not in last and (uses[node] > 1 or len(text) > MAX_INLINE):
            name = f"t{len(lines)}"
            lines.append(f"{name} = {text}")
            text, precedence = name, _ATOM
        texts[node] = text, precedence
    lines += [f"{name} = {texts[node][0]}" for name, node in outputs.items()]
    return "\n".join(lines)


def summary(outputs: Mapping[str, Expr]) -> str:
    """Return one line with the number of operations behind the outputs, in total and by kind."""
    expressions = list(outputs.values())
    kinds = ", ".join(f"{count} {op}" for op, count in operation_count(expressions).items())
    return f"{flops(expressions)} operations" + (f": {kinds}" if kinds else "")


def _text(node: Expr, texts: Mapping[Expr, tuple[str, int]]) -> tuple[str, int]:
    if node.op == "symbol":
        return str(node.value), _ATOM
    if node.op == "const":
        return number(node.value), _SUM if node.value < 0.0 else _ATOM
    if node.op == "neg":
        return f"-{_operand(node.args[0], texts, _PRODUCT)}", _SUM
    if node.op == "not":
        return f"not {_operand(node.args[0], texts, _ATOM)}", _NOT
    if node.op == "entry":
        return f"{_operand(node.args[0], texts, _ATOM)}[{node.value}]", _ATOM
    if node.op in _INFIX:
        return _infix(node, texts)
    return f"{node.op}({', '.join(texts[arg][0] for arg in node.args)})", _ATOM


def _infix(node: Expr, texts: Mapping[Expr, tuple[str, int]]) -> tuple[str, int]:
    symbol, precedence = _INFIX[node.op]
    first, second = node.args
    # the left operand of a chain needs no parentheses; a leading -2*x reads as a sum's term does
    left = _operand(first, texts, precedence if node.op in _CHAINED else precedence + 1)
    right = _operand(second, texts, precedence + 1)
    if node.op == "mul" and first.op == "const" and first.value < 0.0:
        return f"{texts[first][0]}{symbol}{right}", _SUM
    return f"{left}{symbol}{right}", precedence


def _operand(node: Expr, texts: Mapping[Expr, tuple[str, int]], least: int) -> str:
    text, precedence = texts[node]
    return text if precedence >= least else f"({text})"
