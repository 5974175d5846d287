"""Which products of a trace are layers of a network, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import sympy as sp
from torch import Tensor

from mpcgen.ir.model import ACTIVATIONS
from mpcgen.problem.network import WORTH, Chain, ChainLayer, ChainOutput

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

    def activated(self, name: str, options: Sequence[object], source: Tensor, result: Tensor) -> None:
        """Note an elementwise operation; options: what it takes besides a tensor."""
        chain = self._applied.get(_key(source))
        if chain is not None and name in ACTIVATIONS and list(options) in _DEFAULTS.get(name, ([],)):
            self._activated[_key(result)] = chain, name

    def outputs(self, table: Table, vector: Any, matrix: Any, bias: Tensor | None, numbers: Tensor) -> Tensor:
        """The numbers of the outputs of a layer, as the end of a chain; ``numbers``: those as plain expressions.

        They stay where the layer is tiny, or its weights are no symbols.
        """
        inputs, weights = (tuple(table.expressions[i] for i in _key(part)) for part in (vector, matrix))
        added = () if bias is None else tuple(table.expressions[i] for i in _key(bias))
        if len(weights) < WORTH or not all(isinstance(symbol, sp.Symbol) for symbol in (*weights, *added)):
            return numbers
        place = _key(vector)
        known, before = self._activated.get(place, (self._applied.get(place), "none"))
        layer = ChainLayer(before, len(weights) // len(inputs), len(inputs), weights, added)
        chain = Chain(inputs, (layer,)) if known is None else Chain(known.inputs, (*known.layers, layer))
        made = [ChainOutput(table.expressions[k], chain, i) for i, k in enumerate(_key(numbers))]
        found = table.numbered(made, numbers.shape)
        self._applied[_key(found)] = chain
        return found


def layer_of(name: str, args: Sequence[Any], result: Tensor) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """The vector, the matrix and the bias of a product that may be a layer."""
    if name not in ("addmm", "mm", "mv"):
        return None
    *bias, left, right = args
    vector, matrix = (right, left) if right.dim() == 1 or right.shape[-1] == 1 else (left, right.t())
    if vector.numel() != matrix.shape[1] or result.numel() != matrix.shape[0]:
        return None
    return vector, matrix, bias[0] if bias else None


def _key(numbers: Tensor) -> Numbers:
    return tuple(numbers.reshape(-1).tolist())
