"""The optimal control problem on the graph: the second typed value of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpcgen.ir.expr import Expr, Graph
from mpcgen.ir.printer import listing

if TYPE_CHECKING:
    from mpcgen.problem.spec import Spec


@dataclass(frozen=True)
class Model:
    """A lowered specification with n states, m controls and p parameter entries.

    ``parameters`` are the symbols of all `ParameterSpec`s, flat and in order; ``next_state`` is the discrete
    map after integration; ``lower`` and ``upper`` depend on parameters only and may be ±inf.
    """

    graph: Graph
    states: tuple[Expr, ...]
    controls: tuple[Expr, ...]
    parameters: tuple[Expr, ...]
    next_state: tuple[Expr, ...]
    stage_cost: Expr
    terminal_cost: Expr
    lower: tuple[Expr, ...]
    upper: tuple[Expr, ...]
    spec: Spec

    def outputs(self) -> dict[str, Expr]:
        """All expressions of the model, by a name for people."""
        named = {f"{x.value}_next": row for x, row in zip(self.states, self.next_state, strict=True)}
        named |= {"stage_cost": self.stage_cost, "terminal_cost": self.terminal_cost}
        for u, low, high in zip(self.controls, self.lower, self.upper, strict=True):
            named |= {f"{u.value}_lower": low, f"{u.value}_upper": high}
        return named

    def __str__(self) -> str:
        head = [f"model {self.spec.name}: horizon {self.spec.horizon}"]
        for title, symbols in (
            ("states", self.states),
            ("controls", self.controls),
            ("parameters", self.parameters),
        ):
            head.append(f"  {title:<11}{', '.join(str(symbol.value) for symbol in symbols)}")
        return "\n".join([*head, listing(self.outputs())])
