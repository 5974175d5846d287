"""Forward mode: tangents along any number of directions in one walk, zeros never built."""

from collections.abc import Mapping, Sequence

from mpcgen.derivative.rules import partials
from mpcgen.ir import Expr, topological


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
    for node in topological(outputs, stop=seeds.keys()):
        if node in seeds:
            found[node] = dict(seeds[node])
            continue
        columns: dict[int, Expr] = {}
        for arg, partial in partials(node, found):
            for direction, tangent in found[arg].items():
                term = tangent * partial
                columns[direction] = columns[direction] + term if direction in columns else term
        columns = {direction: tangent for direction, tangent in columns.items() if not tangent.is_zero}
        if columns:
            found[node] = columns
    return [found.get(output, {}) for output in outputs]
