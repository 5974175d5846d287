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
from mpcgen.ir.function import Function, Input, Output


def row_functions(symbols: Symbols) -> Iterator[Function]:
    """The functions that a problem has because of its constraints; none without."""
    if not symbols.model.constrained:
        return
    x, u, theta, theta_t = symbols.x, symbols.u, symbols.theta, symbols.theta_t
    d_x, d_u = Input("d_x", symbols.d_x), Input("d_u", symbols.d_u)
    path, end = symbols.path, symbols.end
    soft = (path.rows + end.rows).soft
    yield _values("stage_rows", "rows of a stage, mixed and then of states", path, (x, u, theta, theta_t))
    yield _values(
        "terminal_rows", "rows of the last state, of states and then terminal", end, (x, theta, theta_t)
    )
    seeds = dict(zip(symbols.tau, (*symbols.d_x, *symbols.d_u), strict=True))
    yield _tangent("stage_rows_tangent", path, (x, u, theta, theta_t, d_x, d_u), seeds)
    yield _tangent("terminal_rows_tangent", end, (x, theta, theta_t, d_x), seeds)
    for place, rows in (("stage", path), ("terminal", end)):
        yield _bounds(f"{place}_row_bounds", rows, (theta, theta_t))
        if soft:
            yield _weights(f"{place}_row_weights", rows, (theta, theta_t))
    for prefix, rows in (("", path), ("terminal_", end)):
        yield _bounds_gradient(f"{prefix}row_bounds_gradient", symbols, rows)
        yield _bounds_forward(f"{prefix}row_bounds_forward", symbols, rows)
        if soft:
            yield _weights_gradient(f"{prefix}row_weights_gradient", symbols, rows)
            yield _weights_forward(f"{prefix}row_weights_forward", symbols, rows)


def model_inputs(rows: RowSymbols) -> tuple[Input, ...]:
    """What a quadratic model reads of the rows: D_i of J'DJ is their stiffness, and J'force goes into the offset."""
    if not rows.rows:
        return ()
    return (Input("dual", rows.dual), Input("stiffness", rows.stiffness), Input("force", rows.force))


def dual_inputs(rows: RowSymbols) -> tuple[Input, ...]:
    """The multipliers of the rows, for what reads the Lagrangian."""
    return (Input("dual", rows.dual),) if rows.rows else ()


def d_dual_inputs(rows: RowSymbols) -> tuple[Input, ...]:
    """Their differentials."""
    return (Input("d_dual", rows.d_dual),) if rows.rows else ()


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


def _values(name: str, purpose: str, rows: RowSymbols, inputs: tuple[Input, ...]) -> Function:
    return Function(name, purpose, inputs, (Output("rows", rows.rows.values, rows.rows.labels),))


def _tangent(name: str, rows: RowSymbols, inputs: tuple[Input, ...], seeds: dict[Expr, Expr]) -> Function:
    outputs = (Output("d_rows", tuple(tangents(rows.rows.values, seeds)), rows.rows.labels),)
    return Function(name, "directional derivative of the rows", inputs, outputs)


def _bounds(name: str, rows: RowSymbols, inputs: tuple[Input, ...]) -> Function:
    labels = rows.rows.labels
    outputs = (Output("lower", rows.rows.lower, labels), Output("upper", rows.rows.upper, labels))
    return Function(name, "bounds of the rows", inputs, outputs)


def _weights(name: str, rows: RowSymbols, inputs: tuple[Input, ...]) -> Function:
    labels = rows.rows.labels
    outputs = (Output("linear", rows.rows.linear, labels), Output("quadratic", rows.rows.quadratic, labels))
    purpose = (
        "price of exceeding a row by e, linear e + quadratic e^2 / 2; a linear one of infinity: a hard row"
    )
    return Function(name, purpose, inputs, outputs)


def _bounds_gradient(name: str, symbols: Symbols, rows: RowSymbols) -> Function:
    weights, bounds = (*rows.g_lower, *rows.g_upper), (*rows.rows.lower, *rows.rows.upper)
    inputs = (
        symbols.theta, symbols.theta_t, Input("g_lower", rows.g_lower), Input("g_upper", rows.g_upper),
    )  # fmt: skip
    outputs = symbols.parameter_outputs(weighted_sum(symbols.graph, weights, bounds))
    return Function(name, "gradient with respect to theta of g_lower'lower + g_upper'upper", inputs, outputs)


def _weights_gradient(name: str, symbols: Symbols, rows: RowSymbols) -> Function:
    weights, prices = (*rows.g_linear, *rows.g_quadratic), (*rows.rows.linear, *rows.rows.quadratic)
    inputs = (
        symbols.theta, symbols.theta_t, Input("g_linear", rows.g_linear), Input("g_quadratic", rows.g_quadratic),
    )  # fmt: skip
    outputs = symbols.parameter_outputs(weighted_sum(symbols.graph, weights, prices))
    purpose = "gradient with respect to theta of g_linear'linear + g_quadratic'quadratic"
    return Function(name, purpose, inputs, outputs)


def _bounds_forward(name: str, symbols: Symbols, rows: RowSymbols) -> Function:
    return _changes(name, "bounds", symbols, rows, ("d_lower", rows.rows.lower), ("d_upper", rows.rows.upper))


def _weights_forward(name: str, symbols: Symbols, rows: RowSymbols) -> Function:
    pairs = ("d_linear", rows.rows.linear), ("d_quadratic", rows.rows.quadratic)
    return _changes(name, "weights", symbols, rows, *pairs)


def _changes(
    name: str, what: str, symbols: Symbols, rows: RowSymbols, *groups: tuple[str, tuple[Expr, ...]]
) -> Function:
    zero = symbols.graph.const(0)
    outputs = tuple(
        Output(
            label,
            tuple(symbols.parameter_tangents([zero if value.is_const else value for value in values])),
            rows.rows.labels,
        )
        for label, values in groups
    )
    inputs = (symbols.theta, symbols.theta_t, *symbols.parameter_inputs())
    return Function(name, f"change of the rows' {what} along d_theta", inputs, outputs)
