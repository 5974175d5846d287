"""Walks over sympy expressions as graphs: what they share is visited once, and nothing recurses."""

import sympy as sp


class Sealed(sp.Expr):
    """An expression that knows its ``free_symbols``: walks for symbols do not look into it."""


def unique_nodes(expression: sp.Basic, seen: set[sp.Basic] | None = None) -> list[sp.Basic]:
    """Return every distinct subexpression once, outermost first, in a reproducible order.

    seen: subexpressions that are left out, with what only they contain; those that are returned join them.
    """
    known = set() if seen is None else seen
    if expression in known:
        return []
    known.add(expression)
    nodes: list[sp.Basic] = []
    pending = [expression]
    while pending:
        node = pending.pop()
        nodes.append(node)
        for argument in reversed(node.args):
            if argument not in known:
                known.add(argument)
                pending.append(argument)
    return nodes


def symbols_in(*expressions: sp.Basic) -> set[sp.Symbol]:
    """Return the symbols of all expressions."""
    found: set[sp.Symbol] = set()
    seen: set[sp.Basic] = set(expressions)
    pending = list(seen)
    while pending:
        node = pending.pop()
        if isinstance(node, sp.Symbol):
            found.add(node)
        elif isinstance(node, Sealed):
            found |= node.free_symbols
        else:
            new = [argument for argument in node.args if argument not in seen]
            seen.update(new)
            pending.extend(new)
    return found


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
