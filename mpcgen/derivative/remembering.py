"""What takes long and both a rollout and the exact model read: computed once, and remembered."""

from __future__ import annotations

from itertools import chain

from mpcgen.derivative.symbols import Symbols
from mpcgen.ir import Expr, flops, substitute, symbols_of
from mpcgen.ir.function import Function
from mpcgen.ir.walk import behind
from mpcgen.stages.contract import EXPAND, REMEMBERED, REMEMBERING

COSTLY = {"div": 6, "pinv": 8, "sqrt": 6, "length": 6, "pow": 40} | dict.fromkeys(
    (
        "sin",
        "cos",
        "tan",
        "tanh",
        "exp",
        "expm1",
        "log",
        "log1p",
        "sigmoid",
        "softplus",
        "atan",
        "asin",
        "acos",
    ),
    15,
)
"""Operations that take longer than a store and a load, and roughly how many of the short ones they take as long as."""
WORTH_REMEMBERING = 0.05
"""Share of a stage's exact model that has to be saved."""


def with_remembering(d: Symbols, models: tuple[Function, ...], dynamics: Function) -> tuple[Function, ...]:
    """The models, and where rollout and exact model share what takes long, both in a form that computes it once."""
    exact = next((model for model in models if model.name == EXPAND["exact"]), None)
    if exact is None or not d.model.constrained:
        return models
    shared = behind(dynamics.expressions()) & behind(exact.expressions())
    costly = sorted((node for node in shared if _cost(d, node)), key=lambda node: node.index)
    known = {node: d.graph.symbol(f"point.{number}") for number, node in enumerate(costly)}
    groups = {out.name: substitute(out.expressions, known) for out in exact.outputs}
    read = set(symbols_of(list(chain(*groups.values()))))
    remembered = {node: symbol for node, symbol in known.items() if symbol in read}
    if sum(_cost(d, node) for node in remembered) < WORTH_REMEMBERING * flops(exact.expressions()):
        return models
    d.groups["point", "NREMEMBERED"] = tuple(remembered.values())
    d.labels["NREMEMBERED"] = tuple(node.op for node in remembered)
    values = {out.name: out.expressions for out in dynamics.outputs}
    rollout = d.function(REMEMBERING, **values, point=tuple(remembered))
    return (*models, rollout, d.function(REMEMBERED, **groups))


def _cost(d: Symbols, node: Expr) -> int:
    """Operations that a node is worth remembering for; 0 of what is short, or the same at all stages."""
    cost = COSTLY.get(node.op, 0)
    return cost if cost and not set(symbols_of([node])).isdisjoint(d.tau) else 0
