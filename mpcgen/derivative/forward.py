"""Forward mode: tangents along any number of directions in one walk, zeros never built."""

from collections.abc import Mapping, Sequence

from mpcgen.derivative.rules import partials
from mpcgen.ir import Expr, topological
from mpcgen.ir.linear import tangent_of_solution


def tangents(outputs: Sequence[Expr], seeds: Mapping[Expr, Expr]) -> list[Expr]:
    """Return the derivative of each output along the direction that ``seeds`` gives to some nodes.

    A node with a seed counts as independent of all others.
    """
    return [
        columns.get(0, output.graph.const(0.0))
        for output, columns in zip(
            outputs, propagate(outputs, {node: {0: seed} for node, seed in seeds.items()}), strict=True
        )
    ]


def propagate(outputs: Sequence[Expr], seeds: Mapping[Expr, Mapping[int, Expr]]) -> list[dict[int, Expr]]:
    """Return for each output its tangents by direction, directions with a structural zero left out.

    ``seeds`` gives each independent node its tangents, again by direction.
    """
    found: dict[Expr, dict[int, Expr]] = {}
    solutions: dict[Expr, dict[int, Sequence[Expr]]] = {}
    for node in topological(outputs, stop=seeds.keys()):
        if node in seeds:
            found[node] = dict(seeds[node])
            continue
        if node.op == "solve":
            solutions[node] = _solution(node, found)
            continue
        columns: dict[int, Expr] = {}
        if node.op == "entry":
            columns = {d: along[node.value] for d, along in solutions[node.args[0]].items()}
        for arg, partial in partials(node, found):
            for direction, tangent in found[arg].items():
                term = tangent * partial
                columns[direction] = columns[direction] + term if direction in columns else term
        columns = {direction: tangent for direction, tangent in columns.items() if not tangent.is_zero}
        if columns:
            found[node] = columns
    return [found.get(output, {}) for output in outputs]


def _solution(node: Expr, found: Mapping[Expr, Mapping[int, Expr]]) -> dict[int, Sequence[Expr]]:
    """Tangents of the solution of a linear system, by direction."""
    moving = {arg: found[arg] for arg in node.args if arg in found}
    directions = dict.fromkeys(direction for columns in moving.values() for direction in columns)
    return {
        d: tangent_of_solution(node, {arg: columns[d] for arg, columns in moving.items() if d in columns})
        for d in directions
    }
