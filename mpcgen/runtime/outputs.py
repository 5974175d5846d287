"""The outputs of a solve: one table, from which memory, operators, the C struct's pointers and solutions are made.

Every tuple of outputs is in its order. A row is a field of `Outputs`: its name in Python, and what `_row` is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Output:
    """A row: ``member`` of the solver's argument struct, of ``dims`` per problem: of N, N+1, n (states), m (controls).

    ``constrained``: the struct has it, and it is not empty, where a problem has constraints only.
    ``integer``: int32 rather than the dtype of x0. ``differentiable``: with respect to x0 and the parameters.
    """

    name: str
    member: str
    dims: tuple[str, ...]
    meaning: str
    integer: bool
    differentiable: bool
    constrained: bool

    def shape(self, batch: Sequence[Any], sizes: Mapping[str, Any]) -> tuple[Any, ...]:
        """Its shape for leading dimensions ``batch``; sizes: of the dims, see `sizes_of`."""
        return (*batch, *(sizes[dim] for dim in self.dims))


def _row(
    member: str,
    *dims: str,
    meaning: str = "",
    integer: bool = False,
    differentiable: bool = False,
    constrained: bool = False,
) -> dict[str, Any]:
    row = {"member": member, "dims": dims, "meaning": meaning}
    return row | {"integer": integer, "differentiable": differentiable, "constrained": constrained}


@dataclass(frozen=True)
class Outputs:
    """What a solve computes."""

    x: Tensor = field(metadata=_row("states", "N+1", "n", differentiable=True))
    u: Tensor = field(metadata=_row("controls", "N", "m", differentiable=True))
    cost: Tensor = field(metadata=_row("cost", differentiable=True))
    status: Tensor = field(metadata=_row("status", meaning="mpcgen.Status", integer=True))
    iterations: Tensor = field(metadata=_row("iterations", integer=True))
    residual: Tensor = field(metadata=_row("residual", meaning="max |u - clip(u - dL/du, lower, upper)|"))
    costates: Tensor = field(
        metadata=_row("costates", "N+1", "n", meaning="multipliers of the dynamics, dL/dx_t")
    )
    gains: Tensor = field(metadata=_row("gains", "N", "m", "n", meaning="du_t/dx_t of the optimal policy"))
    row_duals: Tensor | None = field(
        default=None,
        metadata=_row(
            "duals",
            "dual stages",
            "duals",
            meaning="multipliers, bounds of controls first",
            differentiable=True,
            constrained=True,
        ),
    )
    row_violation: Tensor | None = field(
        default=None,
        metadata=_row(
            "violation", "violations", meaning="of the dynamics and of rows, the largest", constrained=True
        ),
    )


OUTPUTS = tuple(Output(name=row.name, **row.metadata) for row in fields(Outputs))
DIFFERENTIABLE = tuple(place for place, output in enumerate(OUTPUTS) if output.differentiable)
"""Places of the outputs with derivatives: x, u, cost and, where there are constraints, their multipliers."""


def sizes_of(horizon: Any, n: int, m: int, duals: int = 0) -> dict[str, Any]:
    """The sizes that an output's dims name, for N = ``horizon`` controls of m numbers and states of n.

    duals: multipliers of a stage, 0 without constraints.
    """
    sizes = {"N": horizon, "N+1": horizon + 1, "n": n, "m": m}
    return sizes | {"duals": duals, "dual stages": horizon + 1 if duals else 0, "violations": int(duals > 0)}
