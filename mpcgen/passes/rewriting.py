"""What passes do to a function: its written expressions replaced, more symbols read; and what must hold after each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from mpcgen.errors import InternalError
from mpcgen.ir import Expr, symbols_of
from mpcgen.ir.function import Function


def rewritten(function: Function, expressions: Sequence[Expr], names: dict[Expr, str]) -> Function:
    """The function with its written expressions replaced, in order; names go over to the new nodes."""
    values = iter(expressions)
    outputs = []
    for out in function.outputs:
        entries = list(out.expressions)
        for index in out.written():
            new = next(values)
            if entries[index] in names:
                names.setdefault(new, names[entries[index]])
            entries[index] = new
        outputs.append(replace(out, expressions=tuple(entries)))
    return replace(function, outputs=tuple(outputs))


def reading_more(function: Function, name: str, symbols: tuple[Expr, ...]) -> Function:
    """The function with more symbols behind those of an input, as they lie in memory."""
    inputs = tuple(
        replace(group, symbols=(*group.symbols, *symbols)) if group.name == name else group
        for group in function.inputs
    )
    return replace(function, inputs=inputs)


def is_fixed(node: Expr, fixed: Collection[Expr]) -> bool:
    """Whether a node is a constant, or among those that are the same at all stages."""
    return node.is_const or node in fixed


def verify(function: Function, after: str) -> Function:
    """Return a function that reads no symbol but those of its inputs; InternalError for another."""
    known = {symbol for group in function.inputs for symbol in group.symbols}
    stray = [str(s.value) for s in symbols_of(function.expressions()) if s not in known]
    if stray:
        raise InternalError(
            f"after {after}, {function.name} reads {', '.join(stray)}, which none of its inputs has"
        )
    return function
