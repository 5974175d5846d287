"""A derived function: named groups of symbols in, named groups of expressions out."""

from __future__ import annotations

from dataclasses import dataclass

from mpcgen.ir import Expr
from mpcgen.ir.printer import listing, summary


@dataclass(frozen=True)
class Input:
    """A group of symbols that a function reads, e.g. the state; flat, in memory order."""

    name: str
    symbols: tuple[Expr, ...]


@dataclass(frozen=True)
class Output:
    """A group of expressions that a function writes; ``labels`` say what each entry is.

    ``accumulate``: the values are added to what the destination holds.
    """

    name: str
    expressions: tuple[Expr, ...]
    labels: tuple[str, ...]
    accumulate: bool = False

    def written(self) -> tuple[int, ...]:
        """Positions that change anything: structural zeros need not be added."""
        return tuple(i for i, e in enumerate(self.expressions) if not (self.accumulate and e.is_zero))


@dataclass(frozen=True)
class Function:
    """A straight-line function on the graph, one of those a kernel is made of."""

    name: str
    purpose: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]

    def expressions(self) -> tuple[Expr, ...]:
        """All written expressions, in order."""
        return tuple(out.expressions[i] for out in self.outputs for i in out.written())

    def named_outputs(self) -> dict[str, Expr]:
        """Written expressions by ``group[label]``."""
        return {
            f"{out.name}[{out.labels[i]}]": out.expressions[i] for out in self.outputs for i in out.written()
        }

    def __str__(self) -> str:
        named = self.named_outputs()
        reads = ", ".join(f"{group.name}({len(group.symbols)})" for group in self.inputs)
        return f"{self.name}({reads}): {self.purpose}\n{summary(named)}\n{listing(named)}"
