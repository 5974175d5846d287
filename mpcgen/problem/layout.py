"""The layers of a network that gives some arrays of a trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import sympy as sp

from mpcgen.ir.network import Layer, Read
from mpcgen.problem.arrays import Array, Piece, Source
from mpcgen.problem.network import Net


def network_of(*ends: Array) -> Net:
    """The network whose outputs are some arrays, one after the other."""
    return _Layout(ends).network()


def together(nets: Sequence[Net]) -> list[list[Net]]:
    """Networks in groups, of those that read the same part of an array: what they share is evaluated once."""
    groups: list[tuple[list[Net], set[tuple[Array, int]]]] = []
    for one in nets:
        rows = _rows_of(one)
        joined, apart = [one], []
        for members, others in groups:
            if rows.isdisjoint(others):
                apart.append((members, others))
            else:
                joined = [*members, *joined]
                rows |= others
        groups = [*apart, (joined, rows)]
    return [members for members, _ in groups]


def _rows_of(one: Net) -> set[tuple[Array, int]]:
    """Rows of arrays with weights that a network reads or gives."""
    pieces = [Piece(end, 0, end.rows) for end in one.arrays]
    pieces += [piece for array in _before(one.arrays) for source in array.sources for piece in source]
    return {
        (piece.array, piece.begin + i)
        for piece in pieces
        if piece.array.kind == "affine"
        for i in range(piece.count)
    }


def _before(ends: Sequence[Array]) -> list[Array]:
    """All arrays that some are made of, each behind what it reads, and these."""
    order: dict[Array, None] = {}
    pending = [(end, False) for end in reversed(ends)]
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
    """The layers of all that arrays are made of, placed one after the other."""

    def __init__(self, ends: Sequence[Array]) -> None:
        self.ends = tuple(ends)
        self.arrays = _before(ends)
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

    def network(self) -> Net:
        """All of them."""
        for array in self.arrays:
            if array.kind != "given":
                self.placed[array] = self._fused(array) or self._placed(array)
        ends = tuple(self._ended(end) for end in self.ends)
        return Net(self.inputs, tuple(self.layers), ends, self.ends)

    def _ended(self, end: Array) -> int:
        """The layer that gives an array, which nothing reads."""
        index, _ = self.placed[end]
        if self.used[end] or self.layers[index].activation != "none":
            read = Read(index, 0, end.rows)
            self.layers.append(Layer("sum", end.rows, end.rows, (read,)))
            return len(self.layers) - 1
        return index

    def _fused(self, array: Array) -> tuple[int, int] | None:
        """Let a layer end with an activation of all that it has, where nothing else reads it."""
        if array.kind != "map" or len(array.sources[0]) > 1:
            return None
        ((piece,),) = array.sources
        if piece.array.kind == "given" or piece.array in self.ends or len(self.used[piece.array]) > 1:
            return None
        index, first = self.placed[piece.array]
        layer = self.layers[index]
        if layer.activation != "none" or (piece.begin, piece.count) != (first, layer.rows):
            return None
        self.layers[index] = replace(layer, activation=array.activation, options=array.options)
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
            array.options,
        )
        self.layers.append(layer)
        return len(self.layers) - 1, first

    def _rows(self, array: Array) -> tuple[int, int]:
        """The rows of an array that are read: layers of several members on the same inputs are one product."""
        used = sorted((piece.begin, piece.begin + piece.count) for piece in self.used[array])
        if array.kind != "affine" or array in self.ends:
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
