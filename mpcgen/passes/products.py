"""Factors of a product may be taken in any order: constants and parameters first, so that they become one factor."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import mul

from mpcgen.ir import Expr, rebuild, topological
from mpcgen.passes.rewriting import is_fixed


def grouped(outputs: Sequence[Expr], fixed: frozenset[Expr]) -> list[Expr]:
    """Reorder products that nobody else reads part of: constants, then parameters, then the rest as it was."""
    order = topological(outputs)
    uses = dict.fromkeys(order, 0)
    for read in (*(arg for node in order for arg in node.args), *outputs):
        uses[read] += 1
    inside: set[Expr] = set()
    for node in reversed(order):
        if node.op == "mul" or node in inside:
            inside.update(arg for arg in node.args if uses[arg] == 1 and arg.op in ("mul", "neg"))
    rebuilt: dict[Expr, Expr] = {}
    static = set(fixed)
    seen: set[Expr] = set()
    for node in order:
        outermost = node.op == "mul" and node not in inside
        new = _regrouped(node, inside, rebuilt, static) if outermost else rebuild(node, rebuilt)
        rebuilt[node] = new
        for inner in _unseen(new, seen):
            seen.add(inner)
            if inner.args and all(is_fixed(arg, static) for arg in inner.args):
                static.add(inner)
    return [rebuilt[output] for output in outputs]


def _unseen(node: Expr, seen: set[Expr]) -> Sequence[Expr]:
    """What ``node`` reads and itself, arguments first, from what has been seen on: nearly always it alone."""
    if node in seen:
        return ()
    return (node,) if seen.issuperset(node.args) else topological((node,), stop=seen)


def _regrouped(node: Expr, inside: set[Expr], rebuilt: Mapping[Expr, Expr], static: set[Expr]) -> Expr:
    graph = node.graph
    constant = 1.0
    parameters: list[Expr] = []
    rest: list[Expr] = []
    stack = list(reversed(node.args))
    while stack:
        factor = stack.pop()
        if factor in inside and factor.op == "mul":
            stack.extend(reversed(factor.args))
        elif factor in inside and factor.op == "neg":
            constant = -constant
            stack.append(factor.args[0])
        elif factor.is_const:
            constant *= factor.value
        elif is_fixed(rebuilt[factor], static):
            parameters.append(rebuilt[factor])
        else:
            rest.append(rebuilt[factor])
    if not sys.float_info.min <= abs(constant) < math.inf:
        return graph.mul(*(rebuilt[arg] for arg in node.args))
    coefficient = reduce(mul, parameters, graph.const(constant))
    return coefficient * reduce(mul, rest) if rest else coefficient
