"""Costs that are integrated along with the dynamics."""

from __future__ import annotations

from typing import Any

import sympy as sp

from mpcgen.problem.values import as_expression
from mpcgen.problem.walks import unique_nodes


class RunningCost(sp.Expr):
    """The integral over a stage of ``args[0]``, a cost per unit of time; a term of the stage cost."""

    is_commutative = True
    is_real = True
    is_number = False

    def doit(self, **hints: Any) -> sp.Expr:
        """The same of a cost that is done: the integral itself is taken when the dynamics are."""
        return self.func(self.args[0].doit(**hints))

    def _eval_evalf(self, precision: int) -> sp.Expr:
        return self.func(self.args[0]._eval_evalf(precision))

    def _sympystr(self, printer: Any) -> str:
        return f"running_cost({printer.doprint(self.args[0])})"


def running_cost(cost: Any) -> sp.Expr:
    """Return the integral of a cost over a stage, by the scheme and the steps that integrate the dynamics.

    Use it in ``problem.stage_cost``, alone or beside terms per stage. Without it a stage's cost is that of its first
    state.

    Args:
        cost: per unit of time, an expression in states, controls and parameters.

    Raises:
        SpecError: not an expression. Of dynamics that are not integrated, and elsewhere than in the stage cost, the
            specification is refused.

    """
    return RunningCost(as_expression(cost, "the running cost"))


def running_costs(expression: sp.Expr) -> list[sp.Expr]:
    """The running costs in an expression, in a fixed order."""
    return [node for node in unique_nodes(expression) if isinstance(node, RunningCost)]
