"""Which arrays of a trace are layers of a network: products with weights, and what is between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Protocol

import sympy as sp
import torch
from torch import Tensor

from mpcgen.ir.network import ACTIVATIONS, Options
from mpcgen.problem.arrays import Array, Piece, Source, given, is_given
from mpcgen.problem.layout import network_of
from mpcgen.problem.network import LEAST, WORTH, WORTH_OF_OTHERS, NetOutput
from mpcgen.problem.torch_norms import MeanSquares, Numbers

WORTH_OF_GATES = 4
"""Rows of a product of two vectors from which on a network may end in it."""
COMBINED = ("add", "sub", "rsub", "mul", "div", "neg")
"""Elementwise operations of two arrays, or of one and a number, that may lie between layers."""
Found = tuple[str, Options]
"""An activation of loops, and its options."""


def _of_gelu(approximate: str = "none") -> Found:
    return "gelu" if approximate == "none" else "gelu_tanh", _NO_OPTIONS


def _of_elu(alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Found | None:
    """Its sign tells that of what it is applied to."""
    return ("elu", (scale, alpha * scale, input_scale)) if min(alpha, scale, input_scale) > 0 else None


def _of_leaky_relu(slope: float = 0.01) -> Found | None:
    return ("leaky_relu", (slope, 0.0, 0.0)) if slope >= 0 else None


def _of_hardtanh(low: float = -1.0, high: float = 1.0) -> Found | None:
    return ("hardtanh", (low, high, 0.0)) if low < high else None


def _of_softplus(beta: float = 1.0, threshold: float = 20.0) -> Found | None:
    return ("softplus", (beta, threshold, 0.0)) if beta > 0 else None


_NO_OPTIONS: Options = (0.0, 0.0, 0.0)
_WITH_OPTIONS: dict[str, Callable[..., Found | None]] = {
    "gelu": _of_gelu,
    "elu": _of_elu,
    "celu": lambda alpha=1.0: _of_elu(alpha, 1, 1 / alpha),
    "leaky_relu": _of_leaky_relu,
    "hardtanh": _of_hardtanh,
    "relu6": lambda: _of_hardtanh(0.0, 6.0),
    "softplus": _of_softplus,
}
"""Of torch's options those of the activation that loops have, or none where they do not have it."""


def _activation(name: str, options: Sequence[Any]) -> Found | None:
    """The activation that an operation of torch is."""
    if name in _WITH_OPTIONS:
        found = _WITH_OPTIONS[name](*options)
        return found and (found[0], tuple(map(float, found[1])))  # type: ignore[return-value]
    return (name, _NO_OPTIONS) if name in ACTIVATIONS and not options else None


class Table(Protocol):
    """Expressions by number."""

    expressions: list[Any]

    def numbered(self, entries: Sequence[Any], shape: Sequence[int]) -> Tensor:
        """The numbers of expressions, in a shape."""


class Layers:
    """What the arrays are that entries come from, by the numbers of their expressions.

    table: the expressions; learned: symbols that may be weights.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self.learned: set[Any] = set()
        self._known: dict[int, tuple[Array, int]] = {}
        self._gated: dict[Array, bool] = {}
        self.mean_squares = MeanSquares()

    def activated(self, name: str, options: Sequence[object], source: Tensor, result: Tensor) -> None:
        """Note an elementwise operation; options: what it takes besides a tensor."""
        is_square = name == "square" or (name == "pow" and list(options) == [2])
        for before, after in _vectors(source, result) if is_square or name == "rsqrt" else ():
            (self.mean_squares.squared if is_square else self.mean_squares.inverted)(before, after)
        activation = _activation(name, options)
        if activation is None:
            return
        for before, after in _vectors(source, result):
            read = self._source(before)
            if not is_given(read):
                self._note(
                    after, Array("map", len(after), (read,), activation=activation[0], options=activation[1])
                )

    def combined(self, name: str, terms: Sequence[Tensor], scale: float, result: Tensor) -> Tensor:
        """Note one of `COMBINED`, and return the numbers of what it gives.

        terms: what it takes; scale: of the second term of a sum. What reads a product of two vectors, as gates make it,
        is an output of a network.
        """
        grids = torch.broadcast_tensors(*terms, result)
        found: list[int] = []
        for *parts, after in _vectors(*grids):
            made = self._combination(name, parts, scale)
            constant = self._constant(parts[-1])
            if name == "add" and constant is not None:
                self.mean_squares.raised(parts[0], scale * constant, after)
            if made is not None and self._ends_in_gates(made):
                found.extend(self._ended(made, torch.tensor(after)).tolist())
                continue
            if made is not None:
                self._note(after, made)
            found.extend(after)
        return torch.tensor(found, dtype=torch.int64).reshape(result.shape)

    def normed(
        self, source: Tensor, weights: Tensor | None, bias: Tensor | None, eps: float, result: Tensor
    ) -> None:
        """Note rows less their mean, over the root of their variance and eps; times weights and with a bias."""
        factors, added = (() if part is None else self._entries(_key(part)) for part in (weights, bias))
        if not self._are_learned((*factors, *added)):
            return
        for before, after in _vectors(source, result):
            read = self._source(before)
            if not is_given(read):
                norm = Array("norm", len(after), (read,), (), factors, added, constants=(1.0, 1.0, eps))
                self._note(after, norm)

    def biased(self, terms: Sequence[Tensor], numbers: Tensor) -> Tensor:
        """The numbers of a sum, where one term is the end of layers without bias, and the other may be that."""
        for product, added in (terms, terms[::-1]):
            layers = [self._bare_layer(_key(row)) for row in _rows(product)]
            if any(layer is None for layer in layers) or not self._are_learned(self._entries(_key(added))):
                continue
            ends = []
            for layer, bias, row in zip(layers, _rows(added), _rows(numbers), strict=True):
                assert layer is not None
                ends.append(self._ended(replace(layer, bias=self._entries(_key(bias))), row))
            return torch.stack(ends).reshape(numbers.shape)
        return numbers

    def outputs(self, vector: Tensor, matrix: Tensor, bias: Tensor | None, numbers: Tensor) -> Tensor:
        """The numbers of the outputs of a layer, as those of a network; ``numbers``: those as plain expressions.

        They stay where the layer is tiny, or where it is not large and its weights are no symbols.
        """
        weights = self._entries(_key(matrix))
        added = () if bias is None else self._entries(_key(bias))
        symbols = all(isinstance(entry, sp.Symbol) for entry in (*weights, *added))
        if len(weights) < (WORTH if symbols else WORTH_OF_OTHERS):
            return numbers
        read = self._source(_key(vector))
        return self._ended(Array("affine", numbers.numel(), (read,), weights=weights, bias=added), numbers)

    def _ended(self, layer: Array, numbers: Tensor) -> Tensor:
        """The numbers of the outputs of a network, given those of their plain expressions."""
        network = network_of(layer)
        made = [NetOutput(entry, network, i) for i, entry in enumerate(self._entries(_key(numbers)))]
        found = self._table.numbered(made, numbers.shape)
        self._note(_key(found), layer)
        return found

    def _ends_in_gates(self, array: Array) -> bool:
        """Whether a network is to end in an array that no layer with weights makes."""
        if array.rows < WORTH_OF_GATES or not self._is_gated(array):
            return False
        return network_of(array).products >= LEAST

    def _is_gated(self, array: Array) -> bool:
        """Whether a product of vectors is in an array, behind the last layer with weights."""
        if array not in self._gated:
            pieces = [piece for source in array.sources for piece in source]
            known = [piece for piece in pieces if piece.array.kind == "given"]
            broadcast = any(len(set(piece.array.entries)) < piece.count for piece in known)
            inner = array.kind in ("sum", "map") and any(self._is_gated(piece.array) for piece in pieces)
            self._gated[array] = (array.kind == "product" and not broadcast) or inner
        return self._gated[array]

    def _combination(self, name: str, terms: Sequence[Numbers], scale: float) -> Array | None:
        x, y = terms[0], terms[-1]
        left, right = self._constant(x), self._constant(y)
        if name == "neg":
            return self._scaled(x, -1.0)
        if name == "div":
            return self._scaled(x, 1 / right) if right else None
        if name == "mul":
            if right is not None:
                return self._scaled(x, right)
            if left is not None:
                return self._scaled(y, left)
            norm = self._over_root(x, y) or self._over_root(y, x)
            return norm or self._weighted(x, y) or self._weighted(y, x) or self._both("product", x, y)
        a, b = (1.0, scale if name == "add" else -scale)[:: -1 if name == "rsub" else 1]
        if right is not None:
            return self._scaled(x, a, b * right)
        if left is not None:
            return self._scaled(y, b, a * left)
        shifted = self._shifted(x, y) or self._shifted(y, x) if a == b == 1 else None
        return shifted or self._both("sum", x, y, (a, b, 0.0))

    def _scaled(self, x: Numbers, factor: float, added: float = 0.0) -> Array | None:
        read = self._source(x)
        if is_given(read):
            return None
        return Array("sum", len(x), (read,), constants=(factor, 1.0, added))

    def _both(
        self, kind: str, x: Numbers, y: Numbers, constants: tuple[float, float, float] = (1.0, 1.0, 0.0)
    ) -> Array | None:
        """A sum or product where one of them comes from layers, and the rest are symbols of the model's."""
        reads = (self._source(x), self._source(y))
        if all(map(is_given, reads)):
            return None
        entries = [e for read in reads for piece in read for e in piece.array.entries]
        plain = all(e.is_Number or (isinstance(e, sp.Symbol) and e not in self.learned) for e in entries)
        return Array(kind, len(x), reads, constants=constants) if plain else None

    def _over_root(self, x: Numbers, y: Numbers) -> Array | None:
        """A norm that takes no mean."""
        constant, read = self.mean_squares.constant_of(x, y), self._source(x)
        if constant is None or is_given(read):
            return None
        return Array("norm", len(x), (read,), constants=(1.0, 0.0, constant))

    def _weighted(self, x: Numbers, y: Numbers) -> Array | None:
        """A norm with factors that come after it, as those of several members do."""
        norm = self._whole(x, "norm")
        if norm is None or norm.weights or norm.bias or not self._are_learned(self._entries(y)):
            return None
        return replace(norm, weights=self._entries(y))

    def _shifted(self, x: Numbers, y: Numbers) -> Array | None:
        norm = self._whole(x, "norm")
        if norm is None or norm.bias or not self._are_learned(self._entries(y)):
            return None
        return replace(norm, bias=self._entries(y))

    def _whole(self, numbers: Numbers, kind: str) -> Array | None:
        """The array of a kind whose entries these are."""
        read = self._source(numbers)
        if len(read) > 1 or read[0].array.kind != kind or read[0].count != read[0].array.rows:
            return None
        return read[0].array

    def _bare_layer(self, numbers: Numbers) -> Array | None:
        """The layer without bias whose rows these are, of several members on the same inputs those of one."""
        (piece, *others) = self._source(numbers)
        layer, columns = piece.array, len(piece.array.weights) // piece.array.rows
        if others or layer.kind != "affine" or layer.bias:
            return None
        weights = layer.weights[piece.begin * columns : (piece.begin + piece.count) * columns]
        return replace(layer, rows=piece.count, weights=weights)

    def _source(self, numbers: Numbers) -> Source:
        """What is known of a vector."""
        pieces: list[Piece] = []
        for number in numbers:
            array, index = self._known.get(number, (None, 0))
            last = pieces[-1] if pieces else None
            if array is None:
                pieces.extend(given([self._table.expressions[number]]))
            elif last is not None and last.array is array and last.begin + last.count == index:
                pieces[-1] = replace(last, count=last.count + 1)
            else:
                pieces.append(Piece(array, index, 1))
        return _merged(pieces)

    def _note(self, numbers: Numbers, array: Array) -> None:
        for index, number in enumerate(numbers):
            if not self._table.expressions[number].is_Number:
                self._known.setdefault(number, (array, index))

    def _constant(self, numbers: Numbers) -> float | None:
        """The number that all entries are."""
        entry = self._table.expressions[numbers[0]]
        return float(entry) if entry.is_Number and len(set(numbers)) == 1 else None

    def _entries(self, numbers: Numbers) -> tuple[Any, ...]:
        return tuple(self._table.expressions[number] for number in numbers)

    def _are_learned(self, entries: Sequence[Any]) -> bool:
        return all(entry in self.learned for entry in entries)


def _merged(pieces: Sequence[Piece]) -> Source:
    """Pieces, of which those that follow each other and of which nothing is known are one."""
    merged: list[Piece] = []
    for is_unknown, group in groupby(pieces, lambda piece: piece.array.kind == "given"):
        if is_unknown:
            merged.extend(given([entry for piece in group for entry in piece.array.entries]))
        else:
            merged.extend(group)
    return tuple(merged)


def layers_of(
    name: str, args: Sequence[Any], result: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """The vector, the matrix and the bias of a product that may be a layer; of a row with a column either may be."""
    if name not in ("addmm", "mm", "mv"):
        return
    *bias, left, right = args
    is_column = right.dim() == 1 or right.shape[-1] == 1
    for vector, matrix in (
        *(((left, right.t()),) if right.dim() == 2 else ()),
        *(((right, left),) if is_column else ()),
    ):
        if vector.numel() == matrix.shape[1] and result.numel() == matrix.shape[0]:
            yield vector, matrix, bias[0] if bias else None


def _rows(numbers: Tensor) -> Tensor:
    return numbers.reshape(-1, numbers.shape[-1]) if numbers.dim() else numbers.reshape(1, 1)


def _vectors(*tensors: Tensor) -> Iterator[tuple[Numbers, ...]]:
    """The vectors of tensors of one shape: rows, or a column."""
    if tensors[0].dim() < 2 or tensors[0].shape[-1] == 1:
        tensors = tuple(tensor.reshape(1, -1) for tensor in tensors)
    yield from zip(*(map(_key, _rows(tensor)) for tensor in tensors), strict=True)


def _key(numbers: Tensor) -> Numbers:
    return tuple(numbers.reshape(-1).tolist())
