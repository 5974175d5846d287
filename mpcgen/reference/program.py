"""One constrained problem as a nonlinear program in plain PyTorch: what `mpcgen.reference.interior_point` solves.

The unknowns z are x_1 ... x_N, then u_0 ... u_{N-1}, then the excesses e of soft rows; x_0 is given. Of z, `Program`
has a cost, equalities h(z) = 0 and inequalities g(z) <= 0, all written with the graph's values alone: derivatives are
left to torch.func, so that neither the derivation nor the sweeps of the compiled solver have a part in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mpcgen.ir import Expr, Model, evaluate, torch_backend
from mpcgen.ir.model import Rows


@dataclass(frozen=True)
class Group:
    """Rows that hold at the same stages: which they are, and the stages (a slice of 0 .. N)."""

    name: str
    rows: Rows
    stages: slice


@dataclass(frozen=True)
class Sides:
    """The rows of a group over its stages, each (stages, rows): bounds and prices."""

    lower: Tensor
    upper: Tensor
    linear: Tensor
    quadratic: Tensor

    @property
    def equal(self) -> Tensor:
        """Which rows are equalities: hard ones whose bounds meet."""
        return (self.lower == self.upper) & (self.linear == torch.inf)

    @property
    def soft(self) -> Tensor:
        """Which rows may be exceeded."""
        return self.linear < torch.inf


class Program:
    """A problem's functions of z.

    x0: (n,). theta: of each parameter (stages or 1, size). horizon: N. Rows come by group: bounds of controls, mixed
    rows, rows of states, terminal ones. Each soft row has two excesses, below and above.
    """

    def __init__(self, model: Model, x0: Tensor, theta: Sequence[Tensor], horizon: int) -> None:
        self.model, self.x0, self.theta, self.horizon = model, x0, tuple(theta), horizon
        self.n, self.m = len(model.states), len(model.controls)
        stages, after = slice(0, horizon), slice(1, horizon + 1)
        infinite, zero = model.graph.const(torch.inf), model.graph.const(0.0)
        names = tuple(str(control.value) for control in model.controls)
        hard = (infinite,) * self.m, (zero,) * self.m
        controls = Rows(names, model.controls, model.lower, model.upper, *hard)
        self.groups = (
            Group("controls", controls, stages),
            Group("mixed", model.mixed, stages),
            Group("state", model.state_rows, after),
            Group("terminal", model.terminal, slice(horizon, horizon + 1)),
        )
        # Bounds and prices of each group; made here, so that whoever asks first does not decide about gradients.
        self.sides = tuple(self._sides(group) for group in self.groups)

    # ---- the pieces of z ----

    @property
    def trajectory_size(self) -> int:
        """How many of z are states and controls."""
        return self.horizon * (self.n + self.m)

    def point(self, x: Tensor, u: Tensor) -> Tensor:
        """Z at states x (N+1, n) and controls u (N, m), with no excess."""
        excess = x.new_zeros(2 * sum(int(side.soft.sum()) for side in self.sides))
        return torch.cat([x[1:].flatten(), u.flatten(), excess])

    def split(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States (N+1, n), controls (N, m) and excesses (rows, 2), below and above, of z."""
        states = self.horizon * self.n
        x = torch.cat([self.x0[None], z[:states].reshape(self.horizon, self.n)])
        u = z[states : self.trajectory_size].reshape(self.horizon, self.m)
        return x, u, z[self.trajectory_size :].reshape(-1, 2)

    def rollout(self, u: Tensor) -> Tensor:
        """States (N+1, n) of the dynamics under controls u (N, m)."""
        x = [self.x0]
        for t in range(self.horizon):
            stage = slice(t, t + 1)
            values = self._at(stage, x[-1][None], u[stage])
            x.append(_stacked(self.model.next_state, values, 1)[0])
        return torch.stack(x)

    # ---- functions of z ----

    def cost(self, z: Tensor) -> Tensor:
        """Scalar: costs of all stages and the prices of all excesses."""
        x, u, excess = self.split(z)
        stages = self._evaluate([self.model.stage_cost], slice(0, self.horizon), x, u)
        end = self._evaluate([self.model.terminal_cost], slice(self.horizon, self.horizon + 1), x, u)
        linear, quadratic = (torch.cat(parts) for parts in zip(*self._prices(), strict=True))
        price = linear[:, None] * excess + quadratic[:, None] * excess**2 / 2
        return stages.sum() + end.sum() + price.sum()

    def equalities(self, z: Tensor) -> Tensor:
        """(k,): f(x_t, u_t) - x_{t+1} of all stages, then the equality rows by group."""
        x, u, _ = self.split(z)
        following = self._evaluate(self.model.next_state, slice(0, self.horizon), x, u)
        parts = [(following - x[1:]).flatten()]
        for values, side in zip(self.row_values(z), self.sides, strict=True):
            parts.append((values - side.lower)[side.equal])
        return torch.cat(parts)

    def inequalities(self, z: Tensor) -> Tensor:
        """(k,): lower - row, then row - upper where finite, group after group; then -e of all excesses."""
        _, _, excess = self.split(z)
        parts = []
        used = 0
        for values, side in zip(self.row_values(z), self.sides, strict=True):
            count = int(side.soft.sum())
            own = excess[used : used + count]
            used += count
            below, above = (_spread(column, side.soft) for column in own.T)
            for distance, keep in zip(
                (side.lower - values - below, values - side.upper - above),
                _inequality_sides(side),
                strict=True,
            ):
                parts.append(distance[keep])
        return torch.cat([*parts, -excess.flatten()])

    def row_values(self, z: Tensor) -> list[Tensor]:
        """(stages, rows) of each group."""
        x, u, _ = self.split(z)
        return [self._evaluate(group.rows.values, group.stages, x, u) for group in self.groups]

    def _sides(self, group: Group) -> Sides:
        rows = group.rows
        x = self.x0.expand(self.horizon + 1, self.n)  # which no bound reads
        u = self.x0.new_zeros(self.horizon, self.m)
        parts = (rows.lower, rows.upper, rows.linear, rows.quadratic)
        return Sides(*(self._evaluate(part, group.stages, x, u) for part in parts))

    def _prices(self) -> list[tuple[Tensor, Tensor]]:
        return [(side.linear[side.soft], side.quadratic[side.soft]) for side in self.sides]

    def duals(self, of_equalities: Tensor, of_inequalities: Tensor) -> dict[str, Tensor]:
        """(stages, rows) by group: positive where the upper, negative where the lower bound pushes."""
        found = {}
        equal_at, at = self.horizon * self.n, 0
        for group, side in zip(self.groups, self.sides, strict=True):
            count = int(side.equal.sum())
            total = _spread(of_equalities[equal_at : equal_at + count], side.equal)
            equal_at += count
            for sign, keep in zip((-1, 1), _inequality_sides(side), strict=True):
                count = int(keep.sum())
                total = total + sign * _spread(of_inequalities[at : at + count], keep)
                at += count
            found[group.name] = total
        return found

    # ---- values of the graph ----

    def _evaluate(self, outputs: Sequence[Expr], stages: slice, x: Tensor, u: Tensor) -> Tensor:
        """(stages, outputs); stage N has no controls."""
        controls = u[stages] if stages.stop <= self.horizon else None
        return _stacked(outputs, self._at(stages, x[stages], controls), stages.stop - stages.start)

    def _at(self, stages: slice, x: Tensor, u: Tensor | None) -> dict[Expr, Tensor]:
        """Values of the model's symbols at some stages, (stages,) each."""
        values = dict(zip(self.model.states, x.unbind(-1), strict=True))
        if u is not None:
            values.update(zip(self.model.controls, u.unbind(-1), strict=True))
        entries: list[Tensor] = []
        for spec, p in zip(self.model.signature.parameters, self.theta, strict=True):
            entries += (p[stages] if spec.per_stage and len(p) > 1 else p).unbind(-1)
        count = stages.stop - stages.start
        values.update(
            (s, e) for s, e in zip(self.model.parameters, entries, strict=True) if len(e) in (1, count)
        )
        return values


def _stacked(outputs: Sequence[Expr], values: Mapping[Expr, Tensor], count: int) -> Tensor:
    """(count, outputs)."""
    if not outputs:
        return next(iter(values.values())).new_zeros(count, 0)
    results = evaluate(outputs, values, torch_backend())
    return torch.stack([result.expand(count) for result in results], dim=-1)


def _spread(values: Tensor, places: Tensor) -> Tensor:
    """Zeros like ``places``, a mask, with the values where it is true."""
    flat = values.new_zeros(places.numel()).index_add(0, places.flatten().nonzero()[:, 0], values)
    return flat.reshape(places.shape)


def _inequality_sides(side: Sides) -> tuple[Tensor, Tensor]:
    """Which lower and which upper sides of rows are inequalities."""
    return (side.lower > -torch.inf) & ~side.equal, (side.upper < torch.inf) & ~side.equal
