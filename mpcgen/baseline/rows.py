"""CasADi functions of the constraints' rows, and how multipliers go from names to stages and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import casadi as ca
import numpy as np
from numpy.typing import ArrayLike

from mpcgen.baseline.parameters import Array
from mpcgen.baseline.translate import Translator
from mpcgen.errors import ParameterError, ShapeError
from mpcgen.problem.spec import Constraint, Spec

if TYPE_CHECKING:
    from mpcgen.baseline.functions import Functions

GROUPS = {"path": ("mixed", "state"), "end": ("state", "terminal")}
"""What rows a stage with controls has, and the last one, in order."""


class Rows:
    """The k rows of a stage with controls, or of the last one, as CasADi sees the specification.

    Its functions take x (n,), u (m,), theta (n_theta,) and where they say so duals y (k,), also at the last stage,
    whose rows do not depend on u.
    """

    def __init__(
        self, place: str, functions: Functions, symbols: tuple[ca.SX, ca.SX, ca.SX], of: Translator
    ) -> None:
        spec = functions.spec
        self.constraints = tuple(c for group in GROUPS[place] for c in spec.group(group))
        self.count = sum(len(c.rows) for c in self.constraints)
        self._place = place
        self._x, self._u, self._theta = symbols
        self._tau = ca.vertcat(self._x, self._u)
        self._dual = ca.SX.sym("dual", self.count)
        self._values = self._column(of, "rows")
        self._sides = [self._column(of, field) for field in ("lower", "upper", "soft", "soft_quadratic")]

    def _column(self, translate: Translator, field: str) -> ca.SX:
        entries = [entry for c in self.constraints for entry in getattr(c, field)]
        return translate.vector(entries) if entries else ca.SX(0, 1)

    def _function(self, name: str, *results: ca.SX, dual: bool = False) -> ca.Function:
        arguments = [self._x, self._u, self._theta, *([self._dual] if dual else [])]
        return ca.Function(f"{self._place}_{name}", arguments, [ca.densify(result) for result in results])

    @cached_property
    def values(self) -> ca.Function:
        """(x, u, theta) -> (k, 1)."""
        return self._function("rows", self._values)

    @cached_property
    def D_tau(self) -> ca.Function:  # noqa: N802
        """(x, u, theta) -> (k, n+m) Jacobian."""
        return self._function("rows_D_tau", ca.jacobian(self._values, self._tau))

    @cached_property
    def D_theta(self) -> ca.Function:  # noqa: N802
        """(x, u, theta) -> (k, n_theta) Jacobian."""
        return self._function("rows_D_theta", ca.jacobian(self._values, self._theta))

    @cached_property
    def curvature(self) -> ca.Function:
        """(x, u, theta, y) -> (n+m, n+m) Hessian of y . rows."""
        return self._function("curvature", ca.hessian(self._weighted, self._tau)[0], dual=True)

    @cached_property
    def D_tau_theta(self) -> ca.Function:  # noqa: N802
        """(x, u, theta, y) -> (n+m, n_theta) mixed second derivative of y . rows."""
        mixed = ca.jacobian(ca.gradient(self._weighted, self._tau), self._theta)
        return self._function("rows_D_tau_theta", mixed, dual=True)

    @property
    def _weighted(self) -> ca.SX:
        return ca.dot(self._dual, self._values)

    @cached_property
    def sides(self) -> ca.Function:
        """(theta) -> lower, upper, linear and quadratic weight, each (k, 1)."""
        return ca.Function(f"{self._place}_sides", [self._theta], [ca.densify(side) for side in self._sides])

    @cached_property
    def sides_D_theta(self) -> ca.Function:  # noqa: N802
        """(theta) -> their Jacobians, each (k, n_theta)."""
        slopes = [ca.densify(ca.jacobian(side, self._theta)) for side in self._sides]
        return ca.Function(f"{self._place}_sides_D_theta", [self._theta], slopes)

    @cached_property
    def soft(self) -> np.ndarray:
        """(k,) which rows may be exceeded."""
        return np.array([soft for c in self.constraints for soft in c.is_soft], dtype=bool)

    @cached_property
    def equality(self) -> np.ndarray:
        """(k,) which rows have the same expression on both sides, and are hard."""
        flags = [equal for c in self.constraints for equal in c.is_equality]
        return np.array(flags, dtype=bool) & ~self.soft

    def present(self, t: int) -> np.ndarray:
        """(k,) which rows hold at stage t: rows of states alone do not at stage 0, whose state is given."""
        flags = [t > 0 or c.group == "mixed" for c in self.constraints for _ in c.rows]
        return np.array(flags, dtype=bool)


@dataclass(frozen=True)
class Evaluated:
    """Rows of one stage at a point: each (k,); ``present`` as in `Rows.present`."""

    present: np.ndarray
    values: Array
    lower: Array
    upper: Array
    linear: Array
    quadratic: Array


def evaluate_rows(rows: Rows, t: int, x: Array, u: Array, theta: Array) -> Evaluated:
    """The rows of stage t at a point."""
    sides = [np.asarray(side, dtype=float).ravel() for side in rows.sides.call([theta])]
    return Evaluated(rows.present(t), np.asarray(rows.values(x, u, theta), dtype=float).ravel(), *sides)


def duals_by_stage(spec: Spec, duals: Mapping[str, ArrayLike], horizon: int) -> list[Array]:
    """Multipliers of the rows of each stage, (k,) each for stages 0..N, from (stages, rows) by constraint's name.

    Raises `ParameterError` for missing names and `ShapeError` for shapes; other names, such as those of controls, are
    left alone.
    """
    given = {c.name: _checked(c, duals, horizon) for c in spec.constraints}
    stages = []
    for t in range(horizon + 1):
        parts = [_at(c, given[c.name], t) for c in _of_stage(spec, t, horizon)]
        stages.append(np.concatenate(parts) if parts else np.zeros(0))
    return stages


def duals_by_name(spec: Spec, stages: Sequence[Array]) -> dict[str, Array]:
    """The reverse of `duals_by_stage`."""
    horizon = len(stages) - 1
    found: dict[str, list[Array]] = {c.name: [] for c in spec.constraints}
    for t, values in enumerate(stages):
        start = 0
        for c in _of_stage(spec, t, horizon):
            stop = start + len(c.rows)
            if t > 0 or c.group == "mixed":
                found[c.name].append(values[start:stop])
            start = stop
    return {name: np.array(rows) for name, rows in found.items()}


def _of_stage(spec: Spec, t: int, horizon: int) -> list[Constraint]:
    return [c for group in GROUPS["path" if t < horizon else "end"] for c in spec.group(group)]


def _stages(constraint: Constraint, horizon: int) -> int:
    return 1 if constraint.terminal else horizon


def _checked(constraint: Constraint, duals: Mapping[str, ArrayLike], horizon: int) -> Array:
    if constraint.name not in duals:
        raise ParameterError(f"no multipliers of constraint {constraint.name!r} were given")
    value = np.asarray(duals[constraint.name], dtype=float)
    expected = (_stages(constraint, horizon), len(constraint.rows))
    if value.shape != expected:
        raise ShapeError(f"duals of {constraint.name!r} have shape {value.shape}, expected {expected}")
    return value


def _at(constraint: Constraint, value: Array, t: int) -> Array:
    """Multipliers of a constraint at stage t; zeros where it does not hold."""
    if constraint.terminal:
        return value[0]
    if constraint.group == "state":
        return value[t - 1] if t > 0 else np.zeros(value.shape[1])
    return value[t]
