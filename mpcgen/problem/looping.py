"""What of a problem loops over networks make: the dynamics and costs by the outputs of networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import add

import sympy as sp

from mpcgen.ir.expr import Expr, Graph
from mpcgen.ir.model import Priced, Substeps
from mpcgen.ir.network import Network
from mpcgen.ir.recognise import recognise
from mpcgen.problem.layout import network_of, together
from mpcgen.problem.network import Net, outermost
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
        self.looped: dict[str, Sequence[Net]] = {}

    def by_outputs(self, moving: Sequence[sp.Expr]) -> tuple[list[Expr], tuple[Network, ...]]:
        """The dynamics and running costs, and their networks; neither where loops evaluate none."""
        nets = self.networks.of_dynamics(moving)
        self.looped["network"] = nets
        return self._by_outputs(moving, nets, "network")

    def priced(self, running: Mapping[sp.Expr, Expr]) -> tuple[Priced | None, Priced | None]:
        """Costs and rows of stages, and those of the end, as they read networks of loops.

        running: symbols of the stage cost's integrals; no network that multiplies one is a loop.
        """
        spec = self.spec
        costs = [list(sp.Add.make_args(cost)) for cost in (spec.stage_cost, spec.terminal_cost)]
        mixed, state, terminal = (
            [row for constraint in spec.group(group) for row in constraint.rows]
            for group in ("mixed", "state", "terminal")
        )
        beside = outermost([term for term in costs[0] if running_costs(term)])
        multiplied = {output.net for output in beside}
        every = self.networks.looped([*costs[0], *costs[1], *mixed, *state, *terminal])
        nets = [net for net in every if net not in multiplied]
        self.looped |= {"priced": nets}
        return (
            self._priced(costs[0], [*mixed, *state], nets, running, "priced"),
            self._priced(costs[1], [*state, *terminal], nets, {}, "end"),
        )

    def written_out(self, moving: Sequence[sp.Expr]) -> Iterator[str]:
        """Say of each large network that loops do not evaluate why that is."""
        spec = self.spec
        rows = [row for constraint in spec.constraints for row in constraint.rows]
        outside = [spec.stage_cost, spec.terminal_cost, *rows]
        for expressions, prefix, reason in (
            (moving, "network", "residuals of dynamics read it"),
            (outside, "priced", "a cost multiplies it with a running cost"),
        ):
            yield from self.networks.written_out(expressions, self.looped.get(prefix, ()), reason)

    def _priced(
        self,
        terms: Sequence[sp.Expr],
        rows: Sequence[sp.Expr],
        nets: Sequence[Net],
        running: Mapping[sp.Expr, Expr],
        prefix: str,
    ) -> Priced | None:
        """The terms and rows that read networks, and the other terms."""
        known = set(nets)

        def reads(expression: sp.Expr) -> bool:
            return any(True for _ in outermost([expression], known.__contains__))

        priced, places = (
            [term for term in terms if reads(term)],
            [i for i, row in enumerate(rows) if reads(row)],
        )
        if not priced and not places:
            return None
        here = [*priced, *(rows[i] for i in places)]
        read = {output.net for output in outermost(here, known.__contains__)}
        nodes, networks = self._by_outputs(here, [net for net in nets if net in read], prefix)
        rest = self.lowered([term for term in terms if term not in priced], running)
        zero = self.graph.const(0.0)
        (total,) = recognise([reduce(add, rest, zero)], self.parameters)
        values = zip(places, nodes[len(priced) :], strict=True)
        return Priced(networks, reduce(add, nodes[: len(priced)], zero), total, tuple(values))

    def _by_outputs(
        self, expressions: Sequence[sp.Expr], nets: Sequence[Net], prefix: str
    ) -> tuple[list[Expr], tuple[Network, ...]]:
        """Expressions by the outputs of networks, and these. prefix: of the outputs' names."""
        if not nets:
            return [], ()
        groups = _grouped(nets)
        members = [net for group, _ in groups for net in group]
        known = _known_outputs(expressions, members, self.graph, prefix)
        inputs = [entry for _, network in groups for entry in network.inputs]
        both = [*self.lowered(expressions, known), *self.lowered(inputs, None)]
        nodes = iter(recognise(both, self.parameters))
        rows = [next(nodes) for _ in expressions]
        each = [[next(nodes) for _ in network.inputs] for _, network in groups]
        return rows, _networks_of([network for _, network in groups], self.graph, self.table, each, prefix)


def _grouped(nets: Sequence[Net]) -> list[tuple[list[Net], Net]]:
    """Networks that share layers, and one of all these; those of the same inputs follow each other."""
    by_inputs: dict[tuple[sp.Expr, ...], list[tuple[list[Net], Net]]] = {}
    for members in together(nets):
        arrays = [array for net in members for array in net.arrays]
        network = members[0] if len(members) == 1 else network_of(*arrays)
        by_inputs.setdefault(network.inputs, []).append((members, network))
    return [group for groups in by_inputs.values() for group in groups]


def _known_outputs(
    expressions: Sequence[sp.Expr], nets: Sequence[Net], graph: Graph, prefix: str
) -> dict[sp.Expr, Expr]:
    """Symbols for what expressions read of the networks that loops evaluate. prefix: of their names."""
    first: dict[Net, int] = {}
    for net in nets:
        first[net] = sum(known.outputs for known in first)
    found = outermost(expressions, first.__contains__)
    return {output: _symbol(graph, prefix, first[output.net] + output.index) for output in found}


def _symbol(graph: Graph, prefix: str, index: int) -> Expr:
    return graph.symbol(f"{prefix}.{index}")


def _networks_of(
    nets: Sequence[Net],
    graph: Graph,
    table: Mapping[sp.Symbol, Expr],
    inputs: Sequence[Sequence[Expr]],
    prefix: str,
) -> tuple[Network, ...]:
    """The networks with nodes in place of expressions. inputs: those of each; prefix: of the outputs' names."""
    networks, first = [], 0
    for net, entries in zip(nets, inputs, strict=True):
        layers = tuple(layer.with_weights(table.__getitem__) for layer in net.layers)
        outputs = tuple(_symbol(graph, prefix, first + i) for i in range(net.outputs))
        networks.append(Network(tuple(entries), layers, net.ends, outputs))
        first += net.outputs
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
    """Substeps whose rates, ``rows``, read the networks' outputs, and none is a residual; h: a step's time."""
    n = len(substeps.others)
    return replace(
        substeps,
        changes=tuple(h * rows[i] for i in substeps.moving),
        increments=tuple(h * row for row in rows[n:]),
        networks=networks,
    )
