"""The network of a problem's dynamics that loops evaluate, where there is one that they can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import sympy as sp

from mpcgen.ir.expr import Expr, Graph
from mpcgen.ir.model import Layer, Network, Substeps
from mpcgen.problem.network import Chain, ChainOutput, outermost
from mpcgen.problem.spec import IMPLICIT, Spec

LOOPED_FROM = 256
"""Products of a network from which on loops are worth it."""


def network_of(
    spec: Spec, graph: Graph, table: Mapping[sp.Symbol, Expr]
) -> tuple[Network, dict[ChainOutput, Expr]] | None:
    """The one network that the dynamics read, and symbols for its outputs, by their expressions.

    None: there is none, or more than one; its inputs are no plain states and controls; its weights are not those of
    parameters, in order; or the integrator is implicit. Then everything is written out.
    """
    found = list(outermost(spec.dynamics.expressions))
    if (
        not found
        or spec.dynamics.scheme in IMPLICIT
        or any(output.chain is not found[0].chain for output in found)
    ):
        return None
    chain = found[0].chain
    tau = {*spec.states, *(control.symbol for control in spec.controls)}
    plain = len(set(chain.inputs)) == len(chain.inputs) and tau.issuperset(chain.inputs)
    if not plain or not _in_order(spec, chain):
        return None
    outputs = tuple(graph.symbol(f"network.{i}") for i in range(chain.layers[-1].rows))
    following = [*(layer.before for layer in chain.layers[1:]), "none"]
    layers = tuple(
        Layer(
            layer.rows,
            layer.columns,
            tuple(table[symbol] for symbol in layer.weights),
            tuple(table[symbol] for symbol in layer.bias),
            activation,
        )
        for layer, activation in zip(chain.layers, following, strict=True)
    )
    network = Network(tuple(table[symbol] for symbol in chain.inputs), layers, outputs)
    if network.products < LOOPED_FROM:
        return None
    return network, {output: outputs[output.index] for output in found}


def _in_order(spec: Spec, chain: Chain) -> bool:
    """Whether weights and biases lie in theta one after the other."""
    static = [s for parameter in spec.parameters if not parameter.per_stage for s in parameter.symbols]
    places = {symbol: i for i, symbol in enumerate(static)}
    for layer in chain.layers:
        for symbols in (layer.weights, layer.bias):
            found = [places.get(symbol, -1) for symbol in symbols]
            if found and (found[0] < 0 or found != list(range(found[0], found[0] + len(found)))):
                return False
    return True


def one_slope(
    network: Network, rows: Sequence[Expr], full: Sequence[Expr], states: Sequence[Expr], cost: Expr
) -> Substeps:
    """A discrete map as a step of one slope, the change of the states that the network moves.

    rows: the next state by the network's outputs; full: written out.
    """
    moving = tuple(i for i, (row, whole) in enumerate(zip(rows, full, strict=True)) if row is not whole)
    zero = cost.graph.const(0.0)
    return Substeps(
        count=1,
        reach=(0.0,),
        share=(1.0,),
        moving=moving,
        changes=tuple(rows[i] - states[i] for i in moving),
        sums=(),
        increments=(),
        cost=cost,
        others=tuple(zero if i in moving else row for i, row in enumerate(full)),
        network=network,
    )


def with_network(network: Network, substeps: Substeps, rows: Sequence[Expr], h: Expr) -> Substeps:
    """Substeps of explicit schemes whose rates, ``rows``, read the network's outputs; h: a step's time."""
    n = len(substeps.others)
    return replace(
        substeps,
        changes=tuple(h * rows[i] for i in substeps.moving),
        increments=tuple(h * row for row in rows[n:]),
        network=network,
    )
