"""Which products of a trace are layers of a network, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import sympy as sp
import torch
from torch import Tensor

from mpcgen.ir.model import ACTIVATIONS
from mpcgen.problem.network import WORTH, WORTH_OF_OTHERS, Chain, ChainLayer, ChainOutput

Numbers = tuple[int, ...]
_DEFAULTS: dict[str, tuple[list[object], ...]] = {
    "gelu": ([], ["none"]),
    "elu": ([], [1], [1, 1, 1]),
    "softplus": ([], [1], [1, 20]),
}
"""Options with which an activation is the one that loops have."""


class Table(Protocol):
    """Expressions by number."""

    expressions: list[Any]

    def numbered(self, entries: Sequence[Any], shape: Sequence[int]) -> Tensor:
        """The numbers of expressions, in a shape."""


class Layers:
    """Chains of layers by the numbers of the expressions that they give."""

    def __init__(self) -> None:
        self._applied: dict[Numbers, Chain] = {}
        self._activated: dict[Numbers, tuple[Chain, str]] = {}
        self._single: dict[int, tuple[Chain, int]] = {}

    def activated(self, name: str, options: Sequence[object], source: Tensor, result: Tensor) -> None:
        """Note an elementwise operation; options: what it takes besides a tensor."""
        if name not in ACTIVATIONS or list(options) not in _DEFAULTS.get(name, ([],)):
            return
        for before, after in _vectors(source, result):
            chain = self._chain_of(_key(before))
            if chain is not None:
                self._activated[_key(after)] = chain, name

    def biased(self, table: Table, terms: tuple[Tensor, Tensor], numbers: Tensor) -> Tensor:
        """The numbers of a sum, where one term is the end of chains without bias, and the other may be that."""
        for product, added in (terms, terms[::-1]):
            chains = [self._chain_of(_key(row)) for row in _rows(product)]
            entries = [table.expressions[i] for i in _key(added)]
            if any(chain is None or chain.layers[-1].bias for chain in chains) or not _are_learned(entries):
                continue
            ends = []
            for chain, bias, row in zip(chains, _rows(added), _rows(numbers), strict=True):
                assert chain is not None
                last = replace(chain.layers[-1], bias=tuple(table.expressions[i] for i in _key(bias)))
                ends.append(self._ended(table, Chain(chain.inputs, (*chain.layers[:-1], last)), row))
            return torch.stack(ends).reshape(numbers.shape)
        return numbers

    def outputs(self, table: Table, vector: Any, matrix: Any, bias: Tensor | None, numbers: Tensor) -> Tensor:
        """The numbers of the outputs of a layer, as the end of a chain; ``numbers``: those as plain expressions.

        They stay where the layer is tiny, or where it is not large and its weights are no symbols.
        """
        inputs, weights = (tuple(table.expressions[i] for i in _key(part)) for part in (vector, matrix))
        added = () if bias is None else tuple(table.expressions[i] for i in _key(bias))
        if len(weights) < (WORTH if _are_learned([*weights, *added]) else WORTH_OF_OTHERS):
            return numbers
        place = _key(vector)
        known, before = self._activated.get(place, (self._chain_of(place), "none"))
        layer = ChainLayer(before, len(weights) // len(inputs), len(inputs), weights, added)
        chain = Chain(inputs, (layer,)) if known is None else Chain(known.inputs, (*known.layers, layer))
        return self._ended(table, chain, numbers)

    def _ended(self, table: Table, chain: Chain, numbers: Tensor) -> Tensor:
        """The numbers of a chain's outputs, given those of their plain expressions."""
        made = [ChainOutput(table.expressions[k], chain, i) for i, k in enumerate(_key(numbers))]
        found = table.numbered(made, numbers.shape)
        self._applied[_key(found)] = chain
        if len(chain.layers) == 1:
            self._single |= {number: (chain, i) for i, number in enumerate(_key(found))}
        return found

    def _chain_of(self, numbers: Numbers) -> Chain | None:
        """The chain that ends in these numbers, or the part of a single layer that does.

        Layers of several members on the same inputs are one product.
        """
        if numbers in self._applied:
            return self._applied[numbers]
        found = [self._single.get(number) for number in numbers]
        if not found or found[0] is None:
            return None
        chain, first = found[0]
        if any(entry != (chain, first + i) for i, entry in enumerate(found)):
            return None
        (layer,) = chain.layers
        begin, end = first * layer.columns, (first + len(numbers)) * layer.columns
        part = replace(
            layer,
            rows=len(numbers),
            weights=layer.weights[begin:end],
            bias=layer.bias[first : first + len(numbers)],
        )
        return Chain(chain.inputs, (part,))


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


def _are_learned(entries: Sequence[Any]) -> bool:
    return all(isinstance(entry, sp.Symbol) for entry in entries)


def _rows(numbers: Tensor) -> Tensor:
    return numbers.reshape(-1, numbers.shape[-1]) if numbers.dim() else numbers.reshape(1, 1)


def _vectors(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """What may be vectors of tensors of one shape: all entries, or the rows of each."""
    yield tensors
    if tensors[0].dim() > 1:
        yield from zip(*map(_rows, tensors), strict=True)


def _key(numbers: Tensor) -> Numbers:
    return tuple(numbers.reshape(-1).tolist())
