"""Names, shapes and bounds of a specification, without its expressions."""

from __future__ import annotations

from mpcgen.ir.signature import Signature
from mpcgen.problem.spec import DynamicsSpec, Spec, bound_text, row_texts
from mpcgen.runtime.controller import Constraint, Parameter


def signature(spec: Spec) -> Signature:
    """Return what is read of a specification after its expressions are lowered."""
    constraints = [c for group in ("mixed", "state", "terminal") for c in spec.group(group)]
    placed, first = [], len(spec.controls)
    for c in constraints:
        placed.append(Constraint(c.name, c.group, first, len(c.rows), c.vector, any(c.is_soft)))
        first += len(c.rows)
    return Signature(
        name=spec.name,
        horizon=spec.horizon,
        states=tuple(map(str, spec.states)),
        controls=tuple(str(control.symbol) for control in spec.controls),
        bounds=tuple((bound_text(control.lower), bound_text(control.upper)) for control in spec.controls),
        parameters=tuple(
            Parameter(p.name, p.shape, p.default, p.per_stage, p.in_terminal, p.only_bounds)
            for p in spec.parameters
        ),
        constraints=tuple(placed),
        rows=tuple(text for c in constraints for text in row_texts(c)),
        dynamics=_dynamics(spec.dynamics),
    )


def _dynamics(dynamics: DynamicsSpec) -> str:
    if dynamics.dt is None:
        return dynamics.scheme
    steps = f"{dynamics.substeps} step{'s' if dynamics.substeps > 1 else ''}"
    return f"{steps} of {dynamics.scheme} over dt = {bound_text(dynamics.dt)}"
