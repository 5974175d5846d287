"""What depends on parameters alone is the same at all stages: it is computed once per problem."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mpcgen.ir import Expr, substitute, topological
from mpcgen.ir.function import Function, Input, Output
from mpcgen.passes.rewriting import is_fixed, reading_more, rewritten
from mpcgen.stages import contract
from mpcgen.stages.contract import PREPARE


def prepare_parameters(
    functions: Sequence[Function], static: tuple[Expr, ...], names: dict[Expr, str]
) -> tuple[tuple[Function, ...], int]:
    """Return the functions, with one before them that prepares what they read of ``static``, and how much that is.

    names: of nodes; they go over to the new ones.
    """
    fixed = frozenset(static)
    prepared = list(dict.fromkeys(node for function in functions for node in _fixed_parts(function, fixed)))
    if not prepared:
        return tuple(functions), 0
    graph = prepared[0].graph
    symbols = tuple(graph.symbol(f"fixed.{index}") for index in range(len(prepared)))
    mapping = dict(zip(prepared, symbols, strict=True))
    hoisted = [rewritten(f, substitute(f.expressions(), mapping), names) for f in functions]
    labels = tuple(f"fixed_{index}" for index in range(len(prepared)))
    inputs, outputs = (Input("theta", static),), (Output("prepared", tuple(prepared), labels),)
    prepare = Function(PREPARE, contract(False)[PREPARE].purpose, inputs, outputs)
    return (prepare, *(reading_more(f, "theta", symbols) for f in hoisted)), len(prepared)


def _fixed_parts(function: Function, fixed: frozenset[Expr]) -> Iterable[Expr]:
    """Largest real expressions of a function that only read ``fixed`` symbols."""
    static = set(fixed)
    order = topological(function.expressions())
    for node in order:
        if node.args and not node.is_boolean and all(is_fixed(arg, static) for arg in node.args):
            static.add(node)
    read = {arg for node in order if node not in static for arg in node.args} | set(function.expressions())
    return [node for node in order if node.args and node in static and node in read]
