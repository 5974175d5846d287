"""Walks over sympy expressions as graphs: what they share is visited once, and nothing recurses."""

import sympy as sp


def unique_nodes(expression: sp.Basic) -> list[sp.Basic]:
    """Return every distinct subexpression once, outermost first, in a reproducible order."""
    seen: set[sp.Basic] = {expression}
    nodes: list[sp.Basic] = []
    pending = [expression]
    while pending:
        node = pending.pop()
        nodes.append(node)
        for argument in reversed(node.args):
            if argument not in seen:
                seen.add(argument)
                pending.append(argument)
    return nodes


def symbols_in(*expressions: sp.Basic) -> set[sp.Symbol]:
    """Return the symbols of all expressions."""
    return {node for item in expressions for node in unique_nodes(item) if isinstance(node, sp.Symbol)}


def inner_first(expression: sp.Basic) -> list[sp.Basic]:
    """Return every distinct subexpression once, each after those that it contains."""
    done: set[sp.Basic] = set()
    order: list[sp.Basic] = []
    pending = [expression]
    while pending:
        node = pending[-1]
        inner = [argument for argument in node.args if argument not in done]
        if node not in done and inner:
            pending.extend(reversed(inner))
            continue
        pending.pop()
        if node not in done:
            done.add(node)
            order.append(node)
    return order
