"""Costs and rows of constraints that read networks, as loops: maps, which headers compose with the networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from mpcgen.derivative.maps import MapDerivation
from mpcgen.ir import Expr
from mpcgen.ir.function import Function
from mpcgen.ir.model import Model, Priced
from mpcgen.ir.network import Network
from mpcgen.stages.network import PRICED, PRICED_INPUTS


@dataclass(frozen=True)
class PricedLoop:
    """A cost and ``rows`` at a ``site``, "stage" or "end": ``inputs`` of ``networks``; ``body``: all by their outputs.

    ``rows``: positions among those of the site.
    """

    site: str
    rows: tuple[int, ...]
    networks: Sequence[Network]
    inputs: MapDerivation
    body: MapDerivation

    def functions(self) -> tuple[Function, ...]:
        """Those of both maps."""
        return (*self.inputs.functions(), *self.body.functions())

    @property
    def products(self) -> int:
        """Operations of the networks and their derivatives."""
        return sum(2 * network.products * (len(network.inputs) + 4) for network in self.networks)


def priced_loops(model: Model) -> tuple[PricedLoop, ...]:
    """The costs of a model that are loops."""
    points = {"stage": (*model.states, *model.controls), "end": model.states}
    return tuple(
        _loop(model, site, point, priced)
        for (site, point), priced in zip(points.items(), model.priced, strict=True)
        if priced is not None
    )


def _loop(model: Model, site: str, point: Sequence[Expr], priced: Priced) -> PricedLoop:
    inputs = list(chain(*dict.fromkeys(network.inputs for network in priced.networks)))
    outputs = chain.from_iterable(network.outputs for network in priced.networks)
    return PricedLoop(
        site,
        tuple(i for i, _ in priced.rows),
        priced.networks,
        MapDerivation(model, PRICED_INPUTS[site], point, inputs),
        MapDerivation(model, PRICED[site], (*point, *outputs), priced.values),
    )
