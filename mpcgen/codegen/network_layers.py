"""The layers of a network as a table in C: where units and their derivatives lie, and what each layer reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from mpcgen.ir.expr import Expr
from mpcgen.ir.network import ACTIVATIONS, Layer, Network, Read, bent_layers, is_chain

KINDS = ("affine", "given", "sum", "product", "norm")
"""In the order of `mpcgen_network.h`."""
KEPT_SUMS = ("softplus", "silu", "gelu", "hardsigmoid", "hardswish", "gelu_tanh", "sin", "cos")
"""Activations whose values do not tell their derivatives."""
GIVEN = -1
"""The layer that the inputs are."""


@dataclass
class LayerTable:
    """The rows of a network's table of layers, and the sizes of what they take.

    ``units``: rows of all layers but the ends; ``sums``: the same, where an activation's derivatives need what it is
    applied to; ``sloped``: units for whose derivatives there is room; ``widest``: most units of a
    layer, or that one reads; ``scaled``: most of these whose derivatives are scaled before weights multiply them.
    """

    network: Network
    offsets: Mapping[Expr, int]
    first_sum: int
    """Where the site's sums of this network begin."""
    rows: list[str] = field(default_factory=list)
    units: int = 0
    sums: int = 0
    sloped: int = 0
    widest: int = 1
    scaled: int = 1

    def __post_init__(self) -> None:
        self._at: dict[int, int] = {}
        self._slopes: dict[int, int] = {}
        self._room: list[tuple[int, int, int, int]] = []
        """Of layers' derivatives: where they begin and end, the first and last layer that they are there for."""
        network = self.network
        self.is_chain = is_chain(network.layers)
        self._last = len(network.layers) - 1
        self._bent = bent_layers(network.layers)
        rows = [network.layers[end].rows for end in network.ends]
        self._outputs = dict(zip(network.ends, accumulate(rows, initial=0), strict=False))
        """Where those of an end begin."""
        if not self.is_chain:
            self._add(GIVEN, Layer("given", len(network.inputs), len(network.inputs), ()))
        for index, layer in enumerate(network.layers):
            self._add(index, layer)

    def _add(self, index: int, layer: Layer[Expr]) -> None:
        """Place a layer behind those before it."""
        is_first, ends = self.is_chain and index == 0, index in self._outputs
        if ends:
            self._at[index] = self._slopes[index] = self._outputs[index]
        else:
            self._at[index] = self.units
            self._slopes[index] = -1 if is_first else self._placed(index, layer)
            self.units += layer.rows
        self.widest = max(self.widest, 0 if is_first else layer.columns, 0 if ends else layer.rows)
        if self._scales(layer, ends):
            self.scaled = max(self.scaled, layer.columns)
        if layer.kind == "join":
            begin = 0
            for read in layer.reads:
                self.rows.append(self._row(Layer("sum", read.count, read.count, (read,)), index, begin))
                begin += read.count
        else:
            self.rows.append(self._row(layer, index, 0))

    def _scales(self, layer: Layer[Expr], ends: bool) -> bool:
        """Whether derivatives of what a layer reads are scaled in an array of their own before it multiplies them."""
        if layer.kind != "affine" or layer.reads[0].layer == GIVEN:
            return False
        return not ends or self._slopes[layer.reads[0].layer] < 0

    def _row(self, layer: Layer[Expr], index: int, begin: int) -> str:
        """The initialiser of a layer's struct. begin: of a layer that joins others, which of its rows these are."""
        sums, slopes = -1, self._slopes[index]
        if layer.activation in KEPT_SUMS:
            sums = self.first_sum + self.sums
            self.sums += layer.rows
        weights, bias = (self.offsets[of[0]] if of else -1 for of in (layer.weights, layer.bias))
        numbers = [KINDS.index(layer.kind), layer.rows, layer.columns, weights, bias]
        ends = int(index in self._outputs)
        numbers += [ACTIVATIONS.index(layer.activation), ends, self._at[index] + begin, sums]
        numbers.append(slopes + begin if slopes >= 0 else -1)
        for place in (0, 1):
            numbers += self._read(layer.reads[place] if place < len(layer.reads) else None)
        constants = [f"R({number!r})" for number in (*layer.constants, *layer.options)]
        return "{" + ", ".join([*map(str, numbers), *constants]) + "}"

    def _read(self, read: Read | None) -> tuple[int, int]:
        """Where the units that a layer reads, and their derivatives, begin."""
        if read is None or read.layer not in self._at:
            return -1, -1
        slopes = self._slopes[read.layer]
        return self._at[read.layer] + read.begin, slopes + read.begin if slopes >= 0 else -1

    def _placed(self, index: int, layer: Layer[Expr]) -> int:
        """Where a layer's derivatives find room: until the last layer that reads them, or for all."""
        readers = [
            i for i, other in enumerate(self.network.layers) if any(r.layer == index for r in other.reads)
        ]
        bent = index == GIVEN or self._bent[index]
        last = self._last if bent else max(readers, default=index)
        taken = sorted(
            (begin, end) for begin, end, since, until in self._room if since <= last and index <= until
        )
        at = 0
        for begin, end in taken:
            if at + layer.rows <= begin:
                break
            at = max(at, end)
        self._room.append((at, at + layer.rows, index, last))
        self.sloped = max(self.sloped, at + layer.rows)
        return at


def layer_tables(networks: Sequence[Network], offsets: Mapping[Expr, int]) -> Iterator[LayerTable]:
    """Of the networks of a site."""
    first = 0
    for network in networks:
        table = LayerTable(network, offsets, first)
        first += table.sums
        yield table
