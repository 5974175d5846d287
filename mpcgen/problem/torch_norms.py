"""Which entries of a trace are the root of a vector's mean square: what `torch.nn.RMSNorm` divides by, in parts."""

from __future__ import annotations

from collections.abc import Sequence

Numbers = tuple[int, ...]


class MeanSquares:
    """Mean squares of vectors plus a constant, and one over the roots of these, by the numbers of their expressions."""

    def __init__(self) -> None:
        self._squares: dict[Numbers, Numbers] = {}
        self._means: dict[int, tuple[Numbers, float]] = {}
        self._roots: dict[int, tuple[Numbers, float]] = {}

    def squared(self, x: Numbers, squares: Numbers) -> None:
        """Note the squares of a vector."""
        self._squares[squares] = x

    def averaged(self, rows: Sequence[Sequence[int]], means: Sequence[int]) -> None:
        """Note the means of vectors."""
        for row, mean in zip(rows, means, strict=True):
            if tuple(row) in self._squares:
                self._means[mean] = self._squares[tuple(row)], 0.0

    def raised(self, numbers: Numbers, constant: float, sums: Numbers) -> None:
        """Note numbers plus a constant."""
        for number, total in zip(numbers, sums, strict=True):
            if number in self._means:
                x, added = self._means[number]
                self._means[total] = x, added + constant

    def inverted(self, numbers: Numbers, roots: Numbers) -> None:
        """Note one over the roots of numbers."""
        found = zip(numbers, roots, strict=True)
        self._roots |= {root: self._means[number] for number, root in found if number in self._means}

    def constant_of(self, x: Numbers, factors: Numbers) -> float | None:
        """What was added to the mean square of x, if factors are all one over the root of that."""
        vector, constant = self._roots.get(factors[0], ((), 0.0))
        return constant if vector == x and len(set(factors)) == 1 else None
