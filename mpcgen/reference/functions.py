"""What the algorithm asks of a problem, from the expression graph, evaluated in torch on whole batches.

Shapes: B problems, N controls, n states, m controls per stage, n + m entries of tau = (x, u).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mpcgen.derivative import gradient, hessian, jacobian
from mpcgen.ir import Expr, Model, evaluate, torch_backend


class Functions:
    """The model's functions and the derivatives that Algorithm 2 needs, as expressions."""

    def __init__(self, model: Model) -> None:
        self.model = model
        x, tau = model.states, (*model.states, *model.controls)
        self.F = [entry for row in jacobian(model.next_state, tau) for entry in row]
        self.cost_gradient = gradient(model.stage_cost, tau)
        self.cost_hessian = [entry for row in hessian(model.stage_cost, tau) for entry in row]
        self.terminal_gradient = gradient(model.terminal_cost, x)
        self.terminal_hessian = [entry for row in hessian(model.terminal_cost, x) for entry in row]
        # A dot cannot occur in a user's name, so these symbols are new.
        self.costates = [model.graph.symbol(f"lambda.{state.value}") for state in x]
        weighted = model.graph.const(0.0)
        for costate, row in zip(self.costates, model.next_state, strict=True):
            weighted = weighted + costate * row
        self.curvature = [entry for row in hessian(weighted, tau) for entry in row]


@dataclass(frozen=True)
class Expansion:
    """Taylor expansions of a trajectory's stages, equations (12) and (13), in deviations from the trajectory.

    cost_gradient: p_t (B, N, n+m). cost_hessian: H_t (B, N, n+m, n+m). F: (B, N, n, n+m). defect: (B, N, n),
    f(tau_t) - x_{t+1}. terminal_gradient: (B, n) and terminal_hessian: (B, n, n) of the terminal cost.
    """

    cost_gradient: Tensor
    cost_hessian: Tensor
    F: Tensor
    defect: Tensor
    terminal_gradient: Tensor
    terminal_hessian: Tensor


@dataclass(frozen=True)
class Problems:
    """B problems: the functions, x_init (B, n), and the parameters' numbers.

    theta: per parameter (B or 1, stages or 1, size). lower, upper: (B, N, m), possibly infinite.
    """

    functions: Functions
    x_init: Tensor
    theta: tuple[Tensor, ...]
    lower: Tensor
    upper: Tensor

    def with_bounds(self) -> Problems:
        """The same problems with their bounds evaluated from theta."""
        model = self.functions.model
        values = self._parameters(slice(self.horizon))
        values[model.states[0]] = self.x_init[:, :1]  # says dtype and batch; no bound reads it
        shape = (len(self.x_init), self.horizon)
        lower, upper = (_stacked(bound, values, shape) for bound in (model.lower, model.upper))
        return replace(self, lower=lower, upper=upper)

    @property
    def horizon(self) -> int:
        """N."""
        return self.lower.shape[1]

    def select(self, index: Tensor) -> Problems:
        """The problems with the given indices (k,)."""
        theta = tuple(p if p.shape[0] == 1 else p[index] for p in self.theta)
        return replace(
            self, x_init=self.x_init[index], theta=theta, lower=self.lower[index], upper=self.upper[index]
        )

    def stage(self, t: int, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Next state f(x_t, u_t) (B, n) and stage cost (B,) at x (B, n), u (B, m)."""
        model = self.functions.model
        values = self._values(slice(t, t + 1), x[:, None], u[:, None])
        both = _stacked((*model.next_state, model.stage_cost), values, (len(x), 1))[:, 0]
        return both[:, :-1], both[:, -1]

    def terminal_cost(self, x: Tensor) -> Tensor:
        """Terminal cost (B,) at x (B, n)."""
        return self._terminal([self.functions.model.terminal_cost], x)[:, 0]

    def expand(self, x: Tensor, u: Tensor) -> Expansion:
        """Expansions at the trajectories x (B, N+1, n), u (B, N, m)."""
        f = self.functions
        batch, horizon, n, width = len(x), u.shape[1], x.shape[2], x.shape[2] + u.shape[2]
        values = self._values(slice(horizon), x[:, :-1], u)
        outputs = (*f.cost_gradient, *f.cost_hessian, *f.F, *f.model.next_state)
        stages = _stacked(outputs, values, (batch, horizon))
        p, H, F, x_next = stages.split([width, width * width, n * width, n], dim=-1)
        terminal = self._terminal((*f.terminal_gradient, *f.terminal_hessian), x[:, -1])
        return Expansion(
            p,
            H.unflatten(-1, (width, width)),
            F.unflatten(-1, (n, width)),
            x_next - x[:, 1:],
            terminal[:, :n],
            terminal[:, n:].unflatten(-1, (n, n)),
        )

    def curvature(self, x: Tensor, u: Tensor, costates: Tensor) -> Tensor:
        """Hessian of lambda_{t+1}' f (B, N, n+m, n+m) at x (B, N+1, n), u (B, N, m), costates (B, N+1, n)."""
        width = x.shape[2] + u.shape[2]
        values = self._values(slice(u.shape[1]), x[:, :-1], u)
        values.update(zip(self.functions.costates, costates[:, 1:].unbind(-1), strict=True))
        return _stacked(self.functions.curvature, values, u.shape[:2]).unflatten(-1, (width, width))

    def _terminal(self, outputs: Sequence[Expr], x: Tensor) -> Tensor:
        values = self._parameters(slice(self.horizon, None))
        values.update(zip(self.functions.model.states, x[:, None].unbind(-1), strict=True))
        return _stacked(outputs, values, (len(x), 1))[:, 0]

    def _values(self, stages: slice, x: Tensor, u: Tensor) -> dict[Expr, Tensor]:
        model = self.functions.model
        values = self._parameters(stages)
        values.update(zip(model.states, x.unbind(-1), strict=True))
        values.update(zip(model.controls, u.unbind(-1), strict=True))
        return values

    def _parameters(self, stages: slice) -> dict[Expr, Tensor]:
        """Each parameter entry's values (B or 1, stages or 1); those without a value there are left out."""
        entries: list[Tensor] = []
        for known, p in zip(self.functions.model.signature.parameters, self.theta, strict=True):
            entries += (p[:, stages] if known.per_stage else p).unbind(-1)
        symbols = self.functions.model.parameters
        return {s: entry for s, entry in zip(symbols, entries, strict=True) if entry.shape[1]}


def _stacked(outputs: Sequence[Expr], values: Mapping[Expr, Tensor], shape: Sequence[int]) -> Tensor:
    """Values of the outputs, (*shape, number of outputs)."""
    results = evaluate(outputs, values, torch_backend())
    return torch.stack([result.expand(*shape) for result in results], dim=-1)
