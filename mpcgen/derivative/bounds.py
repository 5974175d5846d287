"""Functions of the controls' bounds: values and their differentials."""

from __future__ import annotations

from mpcgen.derivative.symbols import Symbols, weighted_sum
from mpcgen.ir.function import Function


def stage_bounds(symbols: Symbols) -> Function:
    """Both bounds of a stage's controls."""
    return symbols.function("stage_bounds", lower=symbols.model.lower, upper=symbols.model.upper)


def bounds_gradient(symbols: Symbols) -> Function:
    """The parameters' share of what the loss gains by a change of the bounds."""
    g_lower = symbols.named("g_lower", symbols.u_names)
    g_upper = symbols.named("g_upper", symbols.u_names)
    symbols.groups |= {("g_lower", "NU"): g_lower, ("g_upper", "NU"): g_upper}
    scalar = weighted_sum(symbols.graph, (*g_lower, *g_upper), (*symbols.model.lower, *symbols.model.upper))
    return symbols.function("bounds_gradient", **symbols.by_parameters(scalar))


def bounds_forward(symbols: Symbols) -> Function:
    """What a change of the parameters does to the bounds."""
    bounds = [
        symbols.graph.const(0) if b.is_const else b for b in (*symbols.model.lower, *symbols.model.upper)
    ]
    along = symbols.parameter_tangents(bounds)
    m = len(symbols.u_names)
    return symbols.function("bounds_forward", d_lower=along[:m], d_upper=along[m:])
