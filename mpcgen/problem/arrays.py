"""Arrays of a trace that loops could evaluate, and what each of them reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sympy as sp

from mpcgen.ir.network import Options


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

    "given": ``entries``, of which the trace knows no more; "map": an ``activation`` with ``options`` of what it reads.
    """

    kind: str
    rows: int
    sources: tuple[Source, ...] = ()
    entries: tuple[sp.Expr, ...] = ()
    weights: tuple[sp.Expr, ...] = ()
    bias: tuple[sp.Expr, ...] = ()
    activation: str = "none"
    constants: tuple[float, float, float] = (1.0, 1.0, 0.0)
    options: Options = (0.0, 0.0, 0.0)


def given(entries: Sequence[sp.Expr]) -> Source:
    """A vector of which no more is known."""
    return (Piece(Array("given", len(entries), entries=tuple(entries)), 0, len(entries)),)


def is_given(source: Source) -> bool:
    """Whether nothing is known of a vector's entries."""
    return all(piece.array.kind == "given" for piece in source)
