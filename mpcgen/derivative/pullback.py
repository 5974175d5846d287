"""What is pulled back through a map, as a question and as its answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from mpcgen.derivative.matrices import Matrix, lower_triangle
from mpcgen.derivative.reverse import dependents
from mpcgen.ir import Expr, unrolled
from mpcgen.ir.linear import entries_of


@dataclass(frozen=True)
class Pullback:
    """A map f = ``outputs`` of the k nodes ``wrt``, and what is wanted of it.

    ``V``: (n, n) symmetric, or None for no such term. ``cotangents``: vectors (n,) whose F'c is wanted; the first is
    also the c of the second derivatives weight c'f, which a ``weight`` of None leaves out.
    """

    outputs: tuple[Expr, ...]
    wrt: tuple[Expr, ...]
    V: Matrix | None
    cotangents: tuple[tuple[Expr, ...], ...]
    weight: Expr | None

    @cached_property
    def order(self) -> list[Expr]:
        """Numbers that depend on ``wrt``, arguments first; of a linear system all entries, whoever reads them."""
        order: dict[Expr, None] = {}
        for node in dependents(self.outputs, self.wrt):
            order[node] = None
            if node.op == "solve":
                order.update(dict.fromkeys(entries_of(node)))
        return list(order)

    @property
    def unrolled(self) -> Pullback:
        """The same question of ``outputs`` without linear systems."""
        return replace(self, outputs=tuple(unrolled(self.outputs)))

    @property
    def zero(self) -> Expr:
        """The constant 0."""
        return self.wrt[0].graph.const(0.0)


@dataclass(frozen=True)
class PulledBack:
    """``hessian``: (k, k) of weight c'f + (f - f0)'V(f - f0)/2. ``gradients``: (k,) F'c, one per cotangent.

    ``terms``: second derivatives by pairs of nodes that an elimination formed on its way.
    """

    hessian: Matrix
    gradients: tuple[tuple[Expr, ...], ...]
    terms: int = 0

    def expressions(self) -> tuple[Expr, ...]:
        """Everything that is computed, the symmetric half once."""
        return (*lower_triangle(self.hessian), *(entry for g in self.gradients for entry in g))
