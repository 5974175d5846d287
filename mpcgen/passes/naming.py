"""Names for the nodes that mean something, so that a reader of the text finds them."""

from __future__ import annotations

from mpcgen.derivative.kernels import Kernels
from mpcgen.ir import Expr


def naming_hints(kernels: Kernels) -> dict[Expr, str]:
    """Names for the nodes that mean something: next states, entries of F, the cost's gradient."""
    model = kernels.model
    tau = (*model.states, *model.controls)
    hints: dict[Expr, str] = {}
    for state, following in zip(model.states, model.next_state, strict=True):
        hints.setdefault(following, f"{state.value}_next")
    for state, row in zip(model.states, kernels.F, strict=True):
        for variable, entry in zip(tau, row, strict=True):
            hints.setdefault(entry, f"{state.value}_next_D_{variable.value}")
    # By number: the name of a constraint need not be fit for C.
    for name, rows in (("row", model.path_rows), ("end_row", model.end_rows)):
        for index, value in enumerate(rows.values):
            hints.setdefault(value, f"{name}_{index}")
    for variable, entry in zip(tau, kernels.cost_gradient, strict=True):
        hints.setdefault(entry, f"cost_D_{variable.value}")
    return hints
