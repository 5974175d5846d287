"""The network of a problem's dynamics that loops evaluate, where there is one that they can."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import sympy as sp

from mpcgen.ir.expr import Expr, Graph
from mpcgen.ir.model import Layer, Network, Substeps
from mpcgen.problem.expressions import short_text
from mpcgen.problem.network import Chain, ChainOutput, outermost
from mpcgen.problem.spec import IMPLICIT, Spec

LOOPED_FROM = 256
"""Products of a network from which on loops are worth it."""
LONG_FROM = 600
"""Products of a network from which on a compiler takes long for it where it is written out."""


def network_of(
    spec: Spec, graph: Graph, table: Mapping[sp.Symbol, Expr]
) -> tuple[Network, dict[ChainOutput, Expr]] | None:
    """The one network that the dynamics read, and symbols for its outputs, by their expressions.

    None: there is none, or `_hindrance` says why loops cannot evaluate it. Then everything is written out.
    """
    found = list(outermost(spec.dynamics.expressions))
    if not found or _hindrance(spec, found) is not None:
        return None
    chain = found[0].chain
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


def _hindrance(spec: Spec, found: Sequence[ChainOutput]) -> str | None:
    """Why loops cannot evaluate the network whose outputs dynamics read, or None."""
    chain = found[0].chain
    if spec.dynamics.scheme in IMPLICIT:
        return f"the integrator {spec.dynamics.scheme} is implicit"
    if any(output.chain is not chain for output in found):
        return "the dynamics read more than one network, or one at several points"
    tau = {*spec.states, *(control.symbol for control in spec.controls)}
    for i, entry in enumerate(chain.inputs):
        if entry not in tau:
            return f"its input {i}, {short_text(entry)}, is no state and no control itself"
        if entry in chain.inputs[:i]:
            return f"its inputs have {entry} twice"
    return (
        None if _in_order(spec, chain) else "its weights are not parameters that all stages share, one by one"
    )


def long_texts(spec: Spec, is_looped: bool) -> Iterator[str]:
    """Say of each large network that is written out why it is. ``is_looped``: that of the dynamics is not."""
    dynamics = list(outermost(spec.dynamics.expressions))
    if dynamics and not is_looped:
        yield from _of_large(dynamics, _hindrance(spec, dynamics))
    yield from _of_large(outermost([spec.stage_cost, spec.terminal_cost]), "a cost reads it")
    rows = [row for constraint in spec.constraints for row in constraint.rows]
    yield from _of_large(outermost(rows), "a constraint reads it")


def _of_large(outputs: Iterable[ChainOutput], reason: str | None) -> Iterator[str]:
    for chain in dict.fromkeys(output.chain for output in outputs):
        products = sum(layer.rows * layer.columns for layer in chain.layers)
        if products >= LONG_FROM:
            yield (
                f"a network of {products:,} weights is written out, operation by operation, for which a compiler takes "
                f"minutes: {reason}. Loops evaluate one network of the dynamics, on states and controls themselves "
                f"(docs/torch_models.md, Large networks)"
            )


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
