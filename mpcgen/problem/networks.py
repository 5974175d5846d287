"""The networks that loops evaluate: which these are of those that expressions read, and why others are written out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import sympy as sp

from mpcgen.ir.expr import Expr, Graph
from mpcgen.ir.model import Layer, Network, Substeps
from mpcgen.problem.network import Chain, outermost
from mpcgen.problem.spec import IMPLICIT, Spec

LOOPED_FROM = 256
"""Products of all networks at a place from which on loops are worth it."""
LEAST = 64
"""The same of each of them."""
LONG_FROM = 600
"""Products of a network from which on a compiler takes long for it where it is written out."""
MOST_OUTPUTS = 48
"""Outputs of all networks at a place: what reads them is derived by each, and has a matrix of second derivatives."""


Known = Mapping[sp.Expr, Expr]
"""Symbols that stand for the outputs of networks."""


class Networks:
    """The networks of a problem: which loops evaluate, and why not the others."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        static = [s for parameter in spec.parameters if not parameter.per_stage for s in parameter.symbols]
        self._places = {symbol: i for i, symbol in enumerate(static)}
        self._fit: dict[Chain, bool] = {}

    def of_dynamics(self, expressions: Sequence[sp.Expr]) -> list[Chain]:
        """The chains that loops evaluate of those that the dynamics and running costs read."""
        return [] if self.spec.dynamics.scheme in IMPLICIT else self.looped(expressions)

    def looped(self, expressions: Sequence[sp.Expr]) -> list[Chain]:
        """The chains that loops evaluate of those that expressions read; those of the same inputs follow each other."""
        read = self._read(expressions)
        if sum(chain.products for chain in read) < LOOPED_FROM or _outputs(read) > MOST_OUTPUTS:
            return []
        groups: dict[tuple[sp.Expr, ...], list[Chain]] = {}
        for chain in read:
            groups.setdefault(chain.inputs, []).append(chain)
        return [chain for group in groups.values() for chain in group]

    def written_out(
        self, expressions: Sequence[sp.Expr], looped: Sequence[Chain], reader: str
    ) -> Iterator[str]:
        """Say of each large chain that expressions read and loops do not evaluate why that is: or who reads it."""
        known = set(looped)
        inside = [entry for chain in looped for entry in chain.inputs]
        large = lambda chain: chain in known or chain.products >= LONG_FROM  # noqa: E731
        for chain in dict.fromkeys(output.chain for output in outermost([*expressions, *inside], large)):
            if chain not in known:
                yield (
                    f"a network of {chain.products:,} weights is written out, operation by operation, for which a "
                    f"compiler takes minutes: {self._reason(chain, expressions) or reader} "
                    "(docs/torch_models.md, Large networks)"
                )

    def _reason(self, chain: Chain, expressions: Sequence[sp.Expr]) -> str | None:
        if not self._has_ordered_weights(chain):
            return "its weights are not parameters that all stages share, one by one"
        if not self._fits(chain):
            return "its inputs read another network"
        outputs = _outputs(self._read(expressions))
        if outputs > MOST_OUTPUTS:
            return f"what reads it reads {outputs} outputs of networks, more than {MOST_OUTPUTS}"
        return None

    def _read(self, expressions: Sequence[sp.Expr]) -> list[Chain]:
        return list(dict.fromkeys(output.chain for output in outermost(expressions, self._fits)))

    def _fits(self, chain: Chain) -> bool:
        """Whether loops can evaluate a chain, and it is large enough."""
        if chain not in self._fit:
            fits = chain.products >= LEAST and self._has_ordered_weights(chain)
            self._fit[chain] = fits and next(outermost(chain.inputs, self._fits), None) is None
        return self._fit[chain]

    def _has_ordered_weights(self, chain: Chain) -> bool:
        """Whether weights and biases lie in theta one after the other."""
        for layer in chain.layers:
            for symbols in (layer.weights, layer.bias):
                found = [self._places.get(symbol, -1) for symbol in symbols]
                if found and (found[0] < 0 or found != list(range(found[0], found[0] + len(found)))):
                    return False
        return True


def _outputs(chains: Sequence[Chain]) -> int:
    return sum(chain.outputs for chain in chains)


def known_outputs(
    expressions: Sequence[sp.Expr], chains: Sequence[Chain], graph: Graph, prefix: str
) -> dict[sp.Expr, Expr]:
    """Symbols for what expressions read of the chains that loops evaluate. prefix: of their names."""
    first: dict[Chain, int] = {}
    for chain in chains:
        first[chain] = sum(known.outputs for known in first)
    found = outermost(expressions, first.__contains__)
    return {output: _symbol(graph, prefix, first[output.chain] + output.index) for output in found}


def _symbol(graph: Graph, prefix: str, index: int) -> Expr:
    return graph.symbol(f"{prefix}.{index}")


def networks_of(
    chains: Sequence[Chain],
    graph: Graph,
    table: Mapping[sp.Symbol, Expr],
    inputs: Sequence[Sequence[Expr]],
    prefix: str,
) -> tuple[Network, ...]:
    """The chains with nodes in place of expressions. inputs: those of each; prefix: of the outputs' names."""
    networks, first = [], 0
    for chain, entries in zip(chains, inputs, strict=True):
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
        outputs = tuple(_symbol(graph, prefix, first + i) for i in range(chain.outputs))
        networks.append(Network(tuple(entries), layers, outputs))
        first += chain.outputs
    return tuple(networks)


def one_slope(
    networks: tuple[Network, ...],
    rows: Sequence[Expr],
    full: Sequence[Expr],
    states: Sequence[Expr],
    cost: Expr,
) -> Substeps:
    """A discrete map as a step of one slope, the change of the states that the networks move.

    rows: the next state by the networks' outputs; full: written out.
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
        networks=networks,
    )


def with_networks(
    networks: tuple[Network, ...], substeps: Substeps, rows: Sequence[Expr], h: Expr
) -> Substeps:
    """Substeps of explicit schemes whose rates, ``rows``, read the networks' outputs; h: a step's time."""
    n = len(substeps.others)
    return replace(
        substeps,
        changes=tuple(h * rows[i] for i in substeps.moving),
        increments=tuple(h * row for row in rows[n:]),
        networks=networks,
    )
