"""Arrays of a trace that loops could evaluate, and the layers of a network that ends in one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import sympy as sp

from mpcgen.ir.network import Layer, Read
from mpcgen.problem.network import Chain


@dataclass(frozen=True)
class Piece:
    """``count`` entries of an array from ``begin`` on."""

    array: Array
    begin: int
    count: int


Source = tuple[Piece, ...]
"""A vector: pieces, one after the other."""


@dataclass(frozen=True, eq=False)
class Array:
    """A vector of a trace: ``kind`` and the rest are as in `mpcgen.ir.network.Layer`, but for two kinds.

    "given": ``entries``, of which the trace knows no more; "map": an ``activation`` of what it reads.
    """

    kind: str
    rows: int
    sources: tuple[Source, ...] = ()
    entries: tuple[sp.Expr, ...] = ()
    weights: tuple[sp.Expr, ...] = ()
    bias: tuple[sp.Expr, ...] = ()
    activation: str = "none"
    constants: tuple[float, float, float] = (1.0, 1.0, 0.0)


def given(entries: Sequence[sp.Expr]) -> Source:
    """A vector of which no more is known."""
    return (Piece(Array("given", len(entries), entries=tuple(entries)), 0, len(entries)),)


def is_given(source: Source) -> bool:
    """Whether nothing is known of a vector's entries."""
    return all(piece.array.kind == "given" for piece in source)


def network_of(end: Array) -> Chain:
    """The network whose last layer an affine array is."""
    return _Layout(end).network()


def _before(end: Array) -> list[Array]:
    """All arrays that one is made of, each behind what it reads, and it."""
    order: dict[Array, None] = {}
    pending = [(end, False)]
    while pending:
        array, is_ready = pending.pop()
        if array in order:
            continue
        if is_ready:
            order[array] = None
            continue
        pending.append((array, True))
        pieces = [piece for source in array.sources for piece in source]
        pending.extend((piece.array, False) for piece in reversed(pieces))
    return list(order)


class _Layout:
    """The layers of all that an array is made of, placed one after the other."""

    def __init__(self, end: Array) -> None:
        self.arrays = _before(end)
        self.used: dict[Array, list[Piece]] = {array: [] for array in self.arrays}
        for array in self.arrays:
            for source in array.sources:
                for piece in source:
                    self.used[piece.array].append(piece)
        vectors = list(dict.fromkeys(array.entries for array in self.arrays if array.kind == "given"))
        self.inputs = vectors[0] if len(vectors) == 1 else tuple(dict.fromkeys(chain(*vectors)))
        self.places = {entry: i for i, entry in enumerate(self.inputs)} if len(vectors) > 1 else {}
        self.layers: list[Layer[sp.Expr]] = []
        self.placed: dict[Array, tuple[int, int]] = {}
        """Layer and first row that it has, of an array."""

    def network(self) -> Chain:
        """All of them."""
        for array in self.arrays:
            if array.kind != "given":
                self.placed[array] = self._fused(array) or self._placed(array)
        return Chain(self.inputs, tuple(self.layers))

    def _fused(self, array: Array) -> tuple[int, int] | None:
        """Let a layer end with an activation of all that it has, where nothing else reads it."""
        if array.kind != "map" or len(array.sources[0]) > 1:
            return None
        ((piece,),) = array.sources
        if piece.array.kind == "given" or len(self.used[piece.array]) > 1:
            return None
        index, first = self.placed[piece.array]
        layer = self.layers[index]
        if layer.activation != "none" or (piece.begin, piece.count) != (first, layer.rows):
            return None
        self.layers[index] = replace(layer, activation=array.activation)
        return index, 0

    def _placed(self, array: Array) -> tuple[int, int]:
        reads = tuple(self._read(source) for source in array.sources)
        kind = "sum" if array.kind == "map" else array.kind
        columns = reads[0].count
        first, end = self._rows(array)
        layer = Layer(
            kind,
            end - first,
            columns,
            reads,
            array.weights[first * columns : end * columns] if kind == "affine" else array.weights,
            array.bias[first:end],
            array.activation,
            array.constants,
        )
        self.layers.append(layer)
        return len(self.layers) - 1, first

    def _rows(self, array: Array) -> tuple[int, int]:
        """The rows of an array that are read: layers of several members on the same inputs are one product."""
        used = sorted((piece.begin, piece.begin + piece.count) for piece in self.used[array])
        if array.kind != "affine" or not used:
            return 0, array.rows
        first, end = used[0]
        for begin, stop in used[1:]:
            if begin > end:
                return 0, array.rows
            end = max(end, stop)
        return first, end

    def _read(self, source: Source) -> Read:
        """What to read for a vector: it is joined first where it lies apart."""
        reads: list[Read] = []
        for read in chain.from_iterable(map(self._parts, source)):
            last = reads[-1] if reads else None
            if last is not None and (last.layer, last.begin + last.count) == (read.layer, read.begin):
                reads[-1] = replace(last, count=last.count + read.count)
            else:
                reads.append(read)
        if len(reads) > 1:
            rows = sum(read.count for read in reads)
            self.layers.append(Layer("join", rows, rows, tuple(reads)))
            return Read(len(self.layers) - 1, 0, rows)
        return reads[0]

    def _parts(self, piece: Piece) -> Iterator[Read]:
        if piece.array.kind != "given":
            index, first = self.placed[piece.array]
            yield Read(index, piece.begin - first, piece.count)
        elif not self.places:
            yield Read(-1, piece.begin, piece.count)
        else:
            for entry in piece.array.entries[piece.begin : piece.begin + piece.count]:
                yield Read(-1, self.places[entry], 1)
