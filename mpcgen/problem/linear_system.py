"""Linear systems inside expressions: the node that sympy sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy as sp

from mpcgen.ir.linear import by_factors, mirrored


class Solution(sp.Expr):
    """Component ``args[0]`` of the x with M x = r; the other ``args`` are the lower triangle of M by rows, then r."""

    is_commutative = True
    is_real = True
    is_number = False

    @property
    def system(self) -> tuple[sp.Matrix, sp.Matrix]:
        """M (n, n) and r (n, 1)."""
        matrix, right = split(self.args[1:])
        return sp.Matrix(matrix), sp.Matrix(right)

    def doit(self, **hints: Any) -> sp.Expr:
        """The component as a formula."""
        M, right = (part.doit(**hints) for part in self.system)
        return M.LUsolve(right)[int(self.args[0])]

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        M, right = self.system
        triangle = self.args[1 : -len(right)]
        solution = sp.Matrix(components(triangle, right))
        change = right.diff(symbol) - M.diff(symbol) * solution
        return components(triangle, change)[int(self.args[0])]

    def _eval_evalf(self, precision: int) -> sp.Expr:
        return self.doit()._eval_evalf(precision)

    def _sympystr(self, printer: Any) -> str:
        M, right = self.system
        return f"solve({printer.doprint(M.tolist())}, {printer.doprint(list(right))})[{self.args[0]}]"


def components(triangle: Sequence[sp.Expr], right: Sequence[sp.Expr]) -> list[sp.Expr]:
    """(n,) the x with M x = right, of the lower triangle of M by rows; n > 1."""
    if all(entry == 0 for entry in right):
        return [sp.S.Zero] * len(right)
    return [Solution(sp.Integer(i), *triangle, *right) for i in range(len(right))]


def split(values: Sequence[Any]) -> tuple[list[list[Any]], list[Any]]:
    """The rows of M and the right-hand side, of a lower triangle by rows followed by the right-hand side."""
    n = 1
    while n * (n + 3) // 2 < len(values):
        n += 1
    return mirrored(values[:-n], n), list(values[-n:])


def component(apply: Callable[..., Any], index: Any, *values: Any) -> Any:
    """The meaning of a `Solution`, for readers that have numbers."""
    return by_factors(*split(values))[int(index)]
