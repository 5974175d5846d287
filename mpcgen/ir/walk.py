"""Walks over the graph: order, substitution, symbols, operation counts. All iterative and deterministic."""

import math
from collections.abc import Collection, Mapping, Sequence

from mpcgen.ir.expr import Expr
from mpcgen.ir.linear import by_factors, entries_of, matrix_of, right_of
from mpcgen.ir.ops import OPERATIONS


def topological(outputs: Sequence[Expr], stop: Collection[Expr] = ()) -> list[Expr]:
    """Every node that ``outputs`` read, once, arguments before the nodes that use them.

    The order is that of a depth-first walk from the first output on. Nodes in ``stop`` are listed, but
    not what they read.
    """
    order: list[Expr] = []
    done: set[Expr] = set()
    stack: list[Expr | None] = list(reversed(outputs))
    while stack:
        node = stack.pop()
        if node is None:  # all that the node below reads has been listed
            node = stack.pop()
        elif node in done:
            continue
        elif node.args and node not in stop:
            stack += (node, None)
            stack += [arg for arg in reversed(node.args) if arg not in done]
            continue
        if node is not None:
            done.add(node)
            order.append(node)
    return order


def rebuild(node: Expr, rebuilt: Mapping[Expr, Expr]) -> Expr:
    """Return ``node`` on what its arguments were ``rebuilt`` to, simplified anew; itself if they are the same."""
    args = tuple(rebuilt[arg] for arg in node.args)
    return node if args == node.args else node.graph.rebuilt(node, args)


def substitute(outputs: Sequence[Expr], mapping: Mapping[Expr, Expr]) -> list[Expr]:
    """Return ``outputs`` with every node of ``mapping`` replaced at once, simplified anew."""
    rebuilt: dict[Expr, Expr] = {}
    for node in topological(outputs, stop=mapping.keys()):
        rebuilt[node] = mapping[node] if node in mapping else rebuild(node, rebuilt)
    return [rebuilt[output] for output in outputs]


def unrolled(outputs: Sequence[Expr]) -> list[Expr]:
    """Return ``outputs`` with every linear system written out; the graph remembers what is."""
    if not outputs or not outputs[0].graph.solves:
        return list(outputs)
    known = outputs[0].graph.unrolled
    for node in topological(outputs, stop=known.keys()):
        if node in known or node.op == "solve":
            continue
        if node.op == "entry":
            system = node.args[0]
            matrix = [[known[entry] for entry in row] for row in matrix_of(system)]
            solution = by_factors(matrix, [known[entry] for entry in right_of(system)])
            known.update(zip(entries_of(system), solution, strict=True))
        else:
            known[node] = rebuild(node, known)
    return [known[output] for output in outputs]


def symbols_of(outputs: Sequence[Expr]) -> list[Expr]:
    """Return the symbols that ``outputs`` depend on, by creation."""
    symbols = [node for node in topological(outputs) if node.op == "symbol"]
    return sorted(symbols, key=lambda node: node.index)


def operation_count(outputs: Sequence[Expr]) -> dict[str, int]:
    """Return how often each operation occurs in the nodes behind ``outputs``, in the table's order."""
    counts = dict.fromkeys(OPERATIONS, 0)
    for node in topological(unrolled(outputs)):
        if node.op in counts:
            counts[node.op] += 1
    return {op: count for op, count in counts.items() if count}


def behind(outputs: Sequence[Expr]) -> set[Expr]:
    """Return every operation that ``outputs`` need, linear systems written out."""
    seen: set[Expr] = set()
    stack = unrolled(outputs)
    while stack:
        node = stack.pop()
        if node.args and node not in seen:
            seen.add(node)
            stack += node.args
    return seen


def flops(outputs: Sequence[Expr]) -> int:
    """Total number of operations behind ``outputs``, each counted as one."""
    return len(behind(outputs))


def degree(outputs: Sequence[Expr], variables: Collection[Expr]) -> float:
    """Degree that ``outputs`` have at most as polynomials in ``variables``, or inf where one is no polynomial.

    Read from the nodes: a select between equal polynomials counts as none.
    """
    degrees: dict[Expr, float] = {}
    for node in topological(outputs):
        of_args = [degrees[arg] for arg in node.args]
        if node.op == "symbol":
            degrees[node] = float(node in variables)
        elif not any(of_args):
            degrees[node] = 0.0
        elif node.op in ("add", "sub", "neg"):
            degrees[node] = max(of_args)
        elif node.op == "mul" or (node.op == "div" and of_args[1] == 0.0):
            degrees[node] = sum(of_args)
        elif node.op == "entry":
            degrees[node] = of_args[0]
        elif node.op == "solve" and not any(of_args[: -node.value]):
            degrees[node] = max(of_args)
        elif node.op == "pow" and node.args[1].is_const and _is_natural(node.args[1].value):
            degrees[node] = of_args[0] * node.args[1].value
        else:
            degrees[node] = math.inf
    return max((degrees[output] for output in outputs), default=0.0)


def _is_natural(value: float) -> bool:
    return value >= 1.0 and value == math.floor(value)
