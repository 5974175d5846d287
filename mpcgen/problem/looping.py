"""What of a problem loops over networks make: the dynamics and costs by the outputs of networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import add

import sympy as sp

from mpcgen.ir.expr import Expr, Graph
from mpcgen.ir.model import Layer, Network, Priced, Substeps
from mpcgen.ir.recognise import recognise
from mpcgen.problem.network import Chain, outermost
from mpcgen.problem.networks import Networks
from mpcgen.problem.running import running_costs
from mpcgen.problem.spec import Spec

Lower = Callable[[Sequence[sp.Expr], Mapping[sp.Expr, Expr] | None], list[Expr]]
"""From expressions to nodes, where some are known."""


class Looping:
    """A problem's expressions by the outputs of networks that loops evaluate.

    table: nodes of symbols; parameters: those of parameters; lowered: how expressions become nodes.
    """

    def __init__(
        self,
        spec: Spec,
        graph: Graph,
        table: Mapping[sp.Symbol, Expr],
        parameters: Sequence[Expr],
        lowered: Lower,
    ) -> None:
        self.spec, self.graph, self.table = spec, graph, table
        self.parameters, self.lowered = parameters, lowered
        self.networks = Networks(spec)
        self.looped: dict[str, Sequence[Chain]] = {}

    def by_outputs(self, moving: Sequence[sp.Expr]) -> tuple[list[Expr], tuple[Network, ...]]:
        """The dynamics and running costs, and their networks; neither where loops evaluate none."""
        return self._by_outputs(moving, self.networks.of_dynamics(moving), "network")

    def priced_stage(self, running: Mapping[sp.Expr, Expr]) -> Priced | None:
        """The stage cost; running: symbols of its integrals, which no network may multiply."""
        return self._priced(self.spec.stage_cost, running, "priced")

    def priced_end(self) -> Priced | None:
        """The terminal cost."""
        return self._priced(self.spec.terminal_cost, {}, "end")

    def written_out(self, moving: Sequence[sp.Expr]) -> Iterator[str]:
        """Say of each large network that loops do not evaluate why that is."""
        spec = self.spec
        rows = [row for constraint in spec.constraints for row in constraint.rows]
        for expressions, prefix, reason in (
            (moving, "network", f"the integrator {spec.dynamics.scheme} is implicit"),
            ([spec.stage_cost], "priced", "a cost multiplies it with a running cost"),
            ([spec.terminal_cost], "end", ""),
            (rows, "", "a constraint reads it"),
        ):
            yield from self.networks.written_out(expressions, self.looped.get(prefix, ()), reason)

    def _priced(self, cost: sp.Expr, running: Mapping[sp.Expr, Expr], prefix: str) -> Priced | None:
        """The terms of a cost that read networks, and the others."""
        terms = sp.Add.make_args(cost)
        chains = self.networks.looped(terms)
        known = set(chains)
        reads = [any(True for _ in outermost([term], known.__contains__)) for term in terms]
        priced = [term for term, does in zip(terms, reads, strict=True) if does]
        if not chains or any(running_costs(term) for term in priced):
            return None
        rows, networks = self._by_outputs(priced, chains, prefix)
        rest = self.lowered([term for term, does in zip(terms, reads, strict=True) if not does], running)
        zero = self.graph.const(0.0)
        (total,) = recognise([reduce(add, rest, zero)], self.parameters)
        return Priced(networks, reduce(add, rows), total)

    def _by_outputs(
        self, expressions: Sequence[sp.Expr], chains: Sequence[Chain], prefix: str
    ) -> tuple[list[Expr], tuple[Network, ...]]:
        """Expressions by the outputs of networks, and these. prefix: of the outputs' names."""
        if not chains:
            return [], ()
        self.looped[prefix] = chains
        known = _known_outputs(expressions, chains, self.graph, prefix)
        inputs = [entry for chain in chains for entry in chain.inputs]
        both = [*self.lowered(expressions, known), *self.lowered(inputs, None)]
        nodes = iter(recognise(both, self.parameters))
        rows = [next(nodes) for _ in expressions]
        each = [[next(nodes) for _ in chain.inputs] for chain in chains]
        return rows, _networks_of(chains, self.graph, self.table, each, prefix)


def _known_outputs(
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


def _networks_of(
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
