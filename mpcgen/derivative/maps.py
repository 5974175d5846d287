"""Derivatives of functions of a point that are before loops over networks: see `mpcgen.stages.network.Map`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain

from mpcgen.derivative.forward import tangents
from mpcgen.derivative.matrices import Matrix, dot, hessian, jacobian, lower_triangle, triangle_labels
from mpcgen.derivative.reverse import gradient
from mpcgen.derivative.symbols import Symbols
from mpcgen.ir import Expr
from mpcgen.ir.function import Function
from mpcgen.ir.model import Model, Rows
from mpcgen.stages.network import Map


class MapDerivation(Symbols):
    """The functions of a map k(w): ``point`` are the symbols w, ``values`` the expressions k."""

    def __init__(self, model: Model, of: Map, point: Sequence[Expr], values: Sequence[Expr]) -> None:
        zero = model.graph.const(0.0)
        self.of, self.count = of, len(values)
        super().__init__(
            replace(
                model,
                states=tuple(point),
                controls=(),
                next_state=tuple(values),
                stage_cost=zero,
                terminal_cost=zero,
                mixed=Rows(),
                state_rows=Rows(),
                terminal=Rows(),
                substeps=None,
                priced=(None, None),
            )
        )

    @property
    def values(self) -> tuple[Expr, ...]:
        """The expressions k."""
        return self.model.next_state

    @property
    def row_names(self) -> tuple[str, ...]:
        """Of the values."""
        return tuple(f"{self.of.prefix}.{i}" for i in range(self.count))

    def _groups(self) -> dict[tuple[str, str], tuple[Expr, ...]]:
        of = self.of
        self.multipliers = self.named("lambda", self.row_names)
        self.d_multipliers = self.named("d_lambda", self.row_names)
        return {
            ("x", of.width): self.model.states,
            ("theta", "NTHETA + NPREPARED"): self.static,
            ("theta_t", "NTHETA_STAGE"): self.per_stage,
            ("costate", of.rows): self.multipliers,
            ("d_x", of.width): self.d_x,
            ("d_costate", of.rows): self.d_multipliers,
            ("d_theta", "NTHETA"): self.d_static,
            ("d_theta_t", "NTHETA_STAGE"): self.d_per_stage,
        }

    def _labels(self) -> dict[str, tuple[str, ...]]:
        of, rows = self.of, tuple(str(i) for i in range(self.count))
        return {
            **super()._labels(),
            of.width: self.x_names,
            of.rows: rows,
            of.triangle: triangle_labels(self.x_names),
            f"{of.rows} * {of.width}": tuple(f"{row}, {x}" for row in rows for x in self.x_names),
        }

    @cached_property
    def slopes(self) -> Matrix:
        """dk/dw."""
        return jacobian(self.values, self.model.states)

    @cached_property
    def curvature(self) -> Matrix:
        """Hessian of lambda'k."""
        return hessian(self._weighted(), self.model.states)

    def _weighted(self) -> Expr:
        return dot(self.graph, self.multipliers, self.values)

    @property
    def is_bent(self) -> bool:
        """Whether there are second derivatives."""
        return any(not entry.is_zero for row in self.curvature for entry in row)

    def functions(self) -> tuple[Function, ...]:
        """All functions of the map, in the order of the text; no curvature where there is none."""
        w, weighted = self.model.states, self._weighted()
        along = dict(zip(w, self.d_x, strict=True))
        (turned,) = tangents((weighted,), along)
        scalar = turned + dot(self.graph, self.d_multipliers, self.values)
        before = gradient(weighted, w)
        moving = along | dict(
            zip((*self.static, *self.per_stage), (*self.d_static, *self.d_per_stage), strict=True)
        )
        turning = moving | dict(zip(self.multipliers, self.d_multipliers, strict=True))
        made: dict[str, dict[str, Sequence[Expr]]] = {
            "values": {"values": self.values},
            "slopes": {"F": tuple(chain(*self.slopes))},
            "curvature": {"H": lower_triangle(self.curvature)},
            "tangent": {"d_values": tangents(self.values, along)},
            "gradient": {**self.by_parameters(scalar), "g": gradient(scalar, w), "before": before},
            "change": {"d_values": tangents(self.values, moving)},
            "forward": {"before": before, "d_slope": tangents(before, turning)},
        }
        if not self.is_bent:
            del made["curvature"]
        return tuple(self.function(self.of.name(name), **outputs) for name, outputs in made.items())
