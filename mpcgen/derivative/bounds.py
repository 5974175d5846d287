"""Functions of the controls' bounds: values and their differentials."""

from __future__ import annotations

from mpcgen.derivative.symbols import Symbols, weighted_sum
from mpcgen.ir.function import Function, Input, Output


def stage_bounds(symbols: Symbols) -> Function:
    """Both bounds of a stage's controls."""
    """Both bounds of a stage's controls."""
    outputs = (
        Output("lower", symbols.model.lower, symbols.u_names),
        Output("upper", symbols.model.upper, symbols.u_names),
    )
    return Function("stage_bounds", "bounds of the controls", (symbols.theta, symbols.theta_t), outputs)


def bounds_gradient(symbols: Symbols) -> Function:
    """The parameters' share of what the loss gains by a change of the bounds."""
    """The parameters' share of what the loss gains by a change of the bounds."""
    g_lower = symbols.named("g_lower", symbols.u_names)
    g_upper = symbols.named("g_upper", symbols.u_names)
    scalar = weighted_sum(symbols.graph, (*g_lower, *g_upper), (*symbols.model.lower, *symbols.model.upper))
    inputs = (symbols.theta, symbols.theta_t, Input("g_lower", g_lower), Input("g_upper", g_upper))
    outputs = symbols.parameter_outputs(scalar)
    purpose = "gradient with respect to theta of g_lower'lower + g_upper'upper"
    return Function("bounds_gradient", purpose, inputs, outputs)


def bounds_forward(symbols: Symbols) -> Function:
    """What a change of the parameters does to the bounds."""
    """What a change of the parameters does to the bounds."""
    bounds = [
        symbols.graph.const(0) if b.is_const else b for b in (*symbols.model.lower, *symbols.model.upper)
    ]
    along = symbols.parameter_tangents(bounds)
    m = len(symbols.u_names)
    outputs = (
        Output("d_lower", tuple(along[:m]), symbols.u_names),
        Output("d_upper", tuple(along[m:]), symbols.u_names),
    )
    inputs = (symbols.theta, symbols.theta_t, *symbols.parameter_inputs())
    return Function("bounds_forward", "change of the bounds along d_theta", inputs, outputs)
