"""A trajectory holds x_{t+1} = f(x_t, u_t): where a derivative contains a component of f, it is read, not computed."""

from __future__ import annotations

from mpcgen.ir import flops, substitute
from mpcgen.ir.function import Function
from mpcgen.ir.model import Model
from mpcgen.passes.rewriting import reading_more, rewritten
from mpcgen.stages import contract

LEAST_REUSED = 2
"""Operations from which on a component of f is read rather than computed again."""


def read_next_state(function: Function, model: Model) -> Function:
    """Replace components of f by the state that follows in memory, where the contract says that it does."""
    if not contract(model.constrained)[function.name].knows_next:
        return function
    following = tuple(model.graph.symbol(f"next.{x.value}") for x in model.states)
    mapping = {
        node: symbol
        for node, symbol in reversed(list(zip(model.next_state, following, strict=True)))
        if flops((node,)) >= LEAST_REUSED
    }
    reused = rewritten(function, substitute(function.expressions(), mapping), {})
    return reading_more(reused, "x", following)
