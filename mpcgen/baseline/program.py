"""The optimal control problem as one nonlinear program: direct multiple shooting, in the order that fatrop wants.

Variables run x_0, v_0, x_1, v_1, ..., x_N, v_N. v_t has the controls, the unknowns of an implicit integrator and, of
each soft row of that stage, by how much it is below its lower and above its upper bound; v_N has these last alone.
Constraints run stage by stage, the defect x_{t+1} - f first; x_0 is an equality constraint of the first stage. An
integrator's equations come next, the rows last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import casadi as ca
import numpy as np

from mpcgen.baseline.functions import Functions
from mpcgen.baseline.parameters import Array
from mpcgen.baseline.rows import Evaluated, Rows, evaluate_rows


@dataclass(frozen=True)
class Bounds:
    """What varies from problem to problem besides the parameters: bounds of variables and of constraints."""

    lower_variables: Array
    upper_variables: Array
    lower_constraints: Array
    upper_constraints: Array


class Program:
    """The nonlinear program of a specification and a horizon, and where everything lies in it."""

    def __init__(self, functions: Functions, horizon: int) -> None:
        self.functions = functions
        self.horizon = horizon

    def rows(self, t: int) -> Rows:
        """The rows of stage t, of which `Rows.present` says which hold."""
        return self.functions.path_rows if t < self.horizon else self.functions.end_rows

    @cached_property
    def kept(self) -> list[np.ndarray]:
        """Which rows of each stage are constraints: (k,) places, stages 0..N."""
        return [np.flatnonzero(self.rows(t).present(t)) for t in range(self.horizon + 1)]

    def _soft(self, t: int) -> np.ndarray:
        """Which of the kept rows of a stage are soft."""
        return self.rows(t).soft[self.kept[t]]

    @cached_property
    def widths(self) -> list[int]:
        """Length of v_t: controls, unknowns of the integrator and two excesses of each soft row."""
        N = self.horizon
        own = self.functions.m + self._unknowns
        return [(own if t < N else 0) + 2 * int(self._soft(t).sum()) for t in range(N + 1)]

    @property
    def _unknowns(self) -> int:
        """How many numbers an implicit integrator solves for in a stage, by as many equations."""
        return int(self.functions.unknowns.numel_out(0))

    @cached_property
    def problem(self) -> dict[str, Any]:
        """What `casadi.nlpsol` takes."""
        functions, N = self.functions, self.horizon
        x = [ca.MX.sym(f"x_{t}", functions.n) for t in range(N + 1)]
        v = [ca.MX.sym(f"u_{t}", width) for t, width in enumerate(self.widths)]
        x_init = ca.MX.sym("x_init", functions.n)
        theta = ca.MX.sym("theta", functions.n_theta, N + 1)
        cost = functions.terminal_cost(x[N], theta[:, N])
        constraints: list[ca.MX] = []
        for t in range(N + 1):
            u = v[t][: functions.m] if t < N else ca.MX(functions.m, 1)
            if t < N:
                unknowns = v[t][functions.m : functions.m + self._unknowns]
                following, price, equations = functions.lifted(x[t], u, theta[:, t], unknowns)
                cost += price
                constraints.append(x[t + 1] - following)
            if t == 0:
                constraints.append(x[0] - x_init)
            if t < N and self._unknowns:
                constraints.append(equations)
            if len(self.kept[t]):
                values, price = self._relaxed(t, x[t], u, theta[:, t], v[t])
                constraints.append(values)
                cost += price
        variables = [part for pair in zip(x, v, strict=True) for part in pair]
        return {
            "x": ca.vertcat(*variables),
            "p": ca.vertcat(x_init, ca.vec(theta)),
            "f": cost,
            "g": ca.vertcat(*constraints),
        }

    def _relaxed(self, t: int, x: ca.MX, u: ca.MX, theta: ca.MX, v: ca.MX) -> tuple[ca.MX, ca.MX]:
        """Rows of a stage, soft ones brought back by their excesses, and the price of these."""
        rows, kept, soft = self.rows(t), self.kept[t], np.flatnonzero(self._soft(t))
        values = rows.values(x, u, theta)[kept.tolist()]
        if not len(soft):
            return values, ca.MX(0)
        excess = v[v.numel() - 2 * len(soft) :]
        below, above = excess[: len(soft)], excess[len(soft) :]
        for place, index in enumerate(soft.tolist()):
            values[index] += below[place] - above[place]
        _, _, linear, quadratic = rows.sides.call([theta])
        places = kept[soft].tolist()
        price = ca.dot(linear[places], below + above)
        return values, price + ca.dot(quadratic[places], below**2 + above**2) / 2

    def structure(self) -> dict[str, Any]:
        """Sizes by stage, as fatrop wants them told."""
        n, N = self.functions.n, self.horizon
        equality: list[bool] = []
        for t in range(N + 1):
            equality += [True] * ((n + self._unknowns if t < N else 0) + (n if t == 0 else 0))
            equality += self.rows(t).equality[self.kept[t]].tolist()
        return {
            "structure_detection": "manual",
            "N": N,
            "nx": [n] * (N + 1),
            "nu": self.widths,
            "ng": [
                len(kept) + (n if t == 0 else 0) + (self._unknowns if t < N else 0)
                for t, kept in enumerate(self.kept)
            ],
            "equality": equality,
        }

    def evaluated(self, theta: Array, x: Array, u: Array) -> list[Evaluated]:
        """The rows of every stage along a trajectory; theta (n_theta, N+1)."""
        controls = np.vstack([u, np.zeros(self.functions.m)])
        return [
            evaluate_rows(self.rows(t), t, x[t], controls[t], theta[:, t]) for t in range(self.horizon + 1)
        ]

    def bounds(self, lower: Array, upper: Array, rows: Sequence[Evaluated]) -> Bounds:
        """Bounds of all variables and constraints; lower, upper: (N, m), of the controls."""
        n, N = self.functions.n, self.horizon
        variables: list[tuple[Array, Array]] = []
        constraints: list[tuple[Array, Array]] = []
        for t in range(N + 1):
            free, equal = np.full(n, np.inf), np.zeros(n)
            unknown = np.full(self._unknowns, np.inf)
            excess = np.full(2 * int(self._soft(t).sum()), np.inf)
            variables.append((-free, free))
            if t < N:
                variables += [(lower[t], upper[t]), (-unknown, unknown)]
                constraints.append((equal, equal))
            if t == 0:
                constraints.append((equal, equal))
            if t < N:
                constraints.append((np.zeros(self._unknowns), np.zeros(self._unknowns)))
            variables.append((0 * np.ones_like(excess), excess))
            constraints.append((rows[t].lower[self.kept[t]], rows[t].upper[self.kept[t]]))
        lows, highs = (np.concatenate([pair[side] for pair in variables]) for side in (0, 1))
        from_, to = (np.concatenate([pair[side] for pair in constraints]) for side in (0, 1))
        return Bounds(lows, highs, from_, to)

    def start(self, x: Array, u: Array, theta: Array) -> Array:
        """All variables at a trajectory (N+1, n), (N, m) with theta (n_theta, N+1), with no excess."""
        parts = []
        m = self.functions.m
        for t, width in enumerate(self.widths):
            v = np.zeros(width)
            if t < self.horizon:
                v[:m] = u[t]
                v[m : m + self._unknowns] = np.asarray(
                    self.functions.unknowns(x[t], u[t], theta[:, t])
                ).ravel()
            parts += [x[t], v]
        return np.concatenate(parts)

    def trajectory(self, variables: Array) -> tuple[Array, Array]:
        """States (N+1, n) and controls (N, m) among all variables."""
        n, m = self.functions.n, self.functions.m
        starts = np.concatenate([[0], np.cumsum([n + width for width in self.widths])])[:-1]
        x = np.array([variables[start : start + n] for start in starts])
        u = np.array([variables[start + n : start + n + m] for start in starts[:-1]])
        return x, u

    def multipliers(self, multipliers: Array) -> tuple[Array, list[Array]]:
        """Costates (N+1, n) and the rows' multipliers, (k,) by stage, among those of all constraints."""
        n, N = self.functions.n, self.horizon
        costates = np.zeros((N + 1, n))
        duals = []
        at = 0
        for t in range(N + 1):
            if t < N:
                costates[t + 1] = -multipliers[at : at + n]
                at += n
            if t == 0:
                costates[0] = -multipliers[at : at + n]
                at += n
            if t < N:
                at += self._unknowns
            own = np.zeros(self.rows(t).count)
            own[self.kept[t]] = multipliers[at : at + len(self.kept[t])]
            at += len(self.kept[t])
            duals.append(own)
        return costates, duals
