"""Functions of the constraints' rows: values, bounds, weights of soft rows, and their differentials.

A stage with controls has the path rows, mixed ones and then those of states; the last one has the end rows, those of
states and then terminal ones. What rows add to the quadratic model and to the Lagrangian is derived with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mpcgen.derivative.forward import tangents
from mpcgen.derivative.matrices import Matrix
from mpcgen.derivative.symbols import RowSymbols, Symbols, weighted_sum
from mpcgen.ir import Expr, Graph
from mpcgen.ir.function import Function


def row_functions(symbols: Symbols) -> Iterator[Function]:
    """The functions that a problem has because of its constraints; none without."""
    if not symbols.model.constrained:
        return
    path, end = symbols.path.rows, symbols.end.rows
    soft = (path + end).soft
    for place, rows in (("stage", path), ("terminal", end)):
        yield symbols.function(f"{place}_rows", rows=rows.values)
    seeds = dict(zip(symbols.tau, (*symbols.d_x, *symbols.d_u), strict=True))
    for place, rows in (("stage", path), ("terminal", end)):
        yield symbols.function(f"{place}_rows_tangent", d_rows=tangents(rows.values, seeds))
    for place, rows in (("stage", path), ("terminal", end)):
        yield symbols.function(f"{place}_row_bounds", lower=rows.lower, upper=rows.upper)
        if soft:
            prices = {"linear": rows.linear, "quadratic": rows.quadratic}
            yield symbols.function(f"{place}_row_weights", **prices)
    for prefix, named in (("", symbols.path), ("terminal_", symbols.end)):
        yield from _differentials(f"{prefix}row_bounds", symbols, named, ("lower", "upper"))
        if soft:
            yield from _differentials(f"{prefix}row_weights", symbols, named, ("linear", "quadratic"))


def _differentials(
    name: str, symbols: Symbols, rows: RowSymbols, pair: tuple[str, str]
) -> Iterator[Function]:
    """Reverse and forward mode through two values that each row has."""
    cotangents = rows.groups()
    weights = [symbol for what in pair for symbol in cotangents[f"g_{what}"]]
    values = [value for what in pair for value in getattr(rows.rows, what)]
    scalar = weighted_sum(symbols.graph, weights, values)
    yield symbols.function(f"{name}_gradient", **symbols.by_parameters(scalar))
    zero = symbols.graph.const(0)
    changes = {
        f"d_{what}": symbols.parameter_tangents(
            [zero if value.is_const else value for value in getattr(rows.rows, what)]
        )
        for what in pair
    }
    yield symbols.function(f"{name}_forward", **changes)


def with_stiffness(graph: Graph, V: Matrix, stiffness: Sequence[Expr]) -> Matrix:
    """The matrix of second derivatives by (f, rows): V, and the stiffness on the diagonal."""
    zero = graph.const(0)
    size = len(stiffness)
    above = tuple((*row, *(zero for _ in range(size))) for row in V)
    below = tuple(
        (*(zero for _ in V), *(entry if i == j else zero for j in range(size)))
        for i, entry in enumerate(stiffness)
    )
    return above + below
