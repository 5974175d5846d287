"""Fewer operations per stage: a rewriting of the derived functions between derivation and schedule.

What the derivation cannot see from inside one function:

- a trajectory holds x_{t+1} = f(x_t, u_t): where a derivative contains a component of f, it is read, not computed;
- what depends on parameters alone is the same at all stages: it is computed once per problem, `prepare_parameters`;
- the factors of a product may be taken in any order: constants and parameters first, so that they become one factor.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import mul

from mpcgen.derivative.kernels import Kernels
from mpcgen.ir import Expr, flops, rebuild, substitute, topological
from mpcgen.ir.function import Function, Input, Output
from mpcgen.passes.angles import without_angles
from mpcgen.stages import contract
from mpcgen.stages.contract import PREPARE

LEAST_REUSED = 2
"""Operations from which on a component of f is read rather than computed again."""


@dataclass(frozen=True)
class Economy:
    """The rewritten functions, `prepare_parameters` first if there is any; ``prepared`` is how many numbers it writes.

    ``names`` are the hints of `mpcgen.passes.naming`, for the nodes as they are now.
    """

    functions: tuple[Function, ...]
    prepared: int
    names: Mapping[Expr, str]

    def __str__(self) -> str:
        return "\n\n".join(str(function) for function in self.functions)


def economise(kernels: Kernels, names: Mapping[Expr, str]) -> Economy:
    """Rewrite the functions of ``kernels`` so that they do less; see the module."""
    fixed = frozenset(kernels.static)
    known = dict(names)
    functions = []
    for function in kernels.functions:
        reused = _read_next_state(function, kernels)
        expressions = without_angles(reused.expressions())
        functions.append(_rewritten(reused, _grouped(expressions, fixed), known))
    prepared = list(dict.fromkeys(node for function in functions for node in _fixed_parts(function, fixed)))
    graph = kernels.model.graph
    symbols = tuple(graph.symbol(f"fixed.{index}") for index in range(len(prepared)))
    mapping = dict(zip(prepared, symbols, strict=True))
    hoisted = [_rewritten(f, substitute(f.expressions(), mapping), known) for f in functions]
    labels = tuple(f"fixed_{index}" for index in range(len(prepared)))
    inputs, outputs = (Input("theta", kernels.static),), (Output("prepared", tuple(prepared), labels),)
    prepare = Function(PREPARE, contract(False)[PREPARE].purpose, inputs, outputs)
    rewritten = tuple(_reading_more(f, "theta", symbols) for f in hoisted)
    return Economy((prepare, *rewritten) if prepared else rewritten, len(prepared), known)


def _rewritten(function: Function, expressions: Sequence[Expr], names: dict[Expr, str]) -> Function:
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


def _read_next_state(function: Function, kernels: Kernels) -> Function:
    """Replace components of f by the state that follows in memory, where the contract says that it does."""
    model = kernels.model
    if not contract(model.constrained)[function.name].knows_next:
        return function
    following = tuple(model.graph.symbol(f"next.{x.value}") for x in model.states)
    mapping = {
        node: symbol
        for node, symbol in reversed(list(zip(model.next_state, following, strict=True)))
        if flops((node,)) >= LEAST_REUSED
    }
    rewritten = _rewritten(function, substitute(function.expressions(), mapping), {})
    return _reading_more(rewritten, "x", following)


def _is_fixed(node: Expr, fixed: set[Expr]) -> bool:
    return node.is_const or node in fixed


def _grouped(outputs: Sequence[Expr], fixed: frozenset[Expr]) -> list[Expr]:
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
        grouped = node.op == "mul" and node not in inside
        new = _regrouped(node, inside, rebuilt, static) if grouped else rebuild(node, rebuilt)
        rebuilt[node] = new
        for inner in topological((new,), stop=seen):
            seen.add(inner)
            if inner.args and all(_is_fixed(arg, static) for arg in inner.args):
                static.add(inner)
    return [rebuilt[output] for output in outputs]


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
        elif _is_fixed(rebuilt[factor], static):
            parameters.append(rebuilt[factor])
        else:
            rest.append(rebuilt[factor])
    if not sys.float_info.min <= abs(constant) < math.inf:
        return graph.mul(*(rebuilt[arg] for arg in node.args))
    coefficient = reduce(mul, parameters, graph.const(constant))
    return coefficient * reduce(mul, rest) if rest else coefficient


def _fixed_parts(function: Function, fixed: frozenset[Expr]) -> Iterable[Expr]:
    """Largest real expressions of a function that only read ``fixed`` symbols."""
    static = set(fixed)
    order = topological(function.expressions())
    for node in order:
        if node.args and not node.is_boolean and all(_is_fixed(arg, static) for arg in node.args):
            static.add(node)
    read = {arg for node in order if node not in static for arg in node.args} | set(function.expressions())
    return [node for node in order if node.args and node in static and node in read]


def _reading_more(function: Function, name: str, symbols: tuple[Expr, ...]) -> Function:
    """The function with more symbols behind those of an input, as they lie in memory."""
    inputs = tuple(
        replace(group, symbols=(*group.symbols, *symbols)) if group.name == name else group
        for group in function.inputs
    )
    return replace(function, inputs=inputs)
