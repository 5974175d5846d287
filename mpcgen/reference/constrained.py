"""The reference interior point as a torch module: problems with constraints, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mpcgen.calls.arguments import Call, Start, at_each_stage, make_call
from mpcgen.calls.reporting import report_statuses
from mpcgen.problem.lowering import lower_spec
from mpcgen.problem.spec import Spec, SupportsSpec, require_explicit, spec_of
from mpcgen.reference.interior_point import Result, Settings, differentiable, solve
from mpcgen.reference.module import check_options
from mpcgen.reference.program import Program
from mpcgen.runtime.status import Status


@dataclass(frozen=True)
class ConstrainedSolution:
    """Solutions of a batch (...).

    x: (..., N+1, n), u: (..., N, m), cost: (...), the prices of soft rows included. costates: (..., N+1, n), of which
    costates[0] is zero. duals: by control, bounded state and constraint (..., stages, rows). violation: (...), largest
    of a hard row or of the dynamics. residual, status, iterations: (...).
    """

    x: Tensor
    u: Tensor
    cost: Tensor
    status: Tensor
    iterations: Tensor
    residual: Tensor
    violation: Tensor
    costates: Tensor
    duals: dict[str, Tensor]


class InteriorPoint(torch.nn.Module):
    """The interior point of `mpcgen.reference.interior_point`: no compiler, dense, and slow; for small problems.

    problem: a `mpcgen.Problem` or its frozen `Spec`. tol: of the scaled conditions of optimality. Gradients reach x0
    and the parameters by the implicit function theorem; those of problems that did not converge are zero.
    """

    def __init__(
        self,
        problem: SupportsSpec | Spec,
        *,
        tol: float = 1e-8,
        max_iterations: int = 200,
        on_unconverged: str = "warn",
    ) -> None:
        super().__init__()
        check_options(tol, max_iterations, {"on_unconverged": on_unconverged})
        self.tol, self.max_iterations, self.on_unconverged = tol, max_iterations, on_unconverged
        spec = spec_of(problem)
        require_explicit(spec, "mpcgen.reference.InteriorPoint")
        self.model = lower_spec(spec)
        self.description = self.model.signature

    def forward(
        self,
        x0: Tensor,
        *,
        u_init: Tensor | None = None,
        x_init: Tensor | None = None,
        horizon: int | None = None,
        **parameters: Any,
    ) -> ConstrainedSolution:
        """Solve the problems that start at ``x0`` (..., n), from u_init (..., N, m) and x_init (..., N+1, n).

        Without x_init the first states are the rollout of the first controls.
        """
        call = make_call(self.description, x0, Start(u_init), horizon, parameters)
        guesses = None if x_init is None else x_init.expand(*call.batch_shape, *x_init.shape[-2:])
        guesses = None if guesses is None else guesses.reshape(len(call.x0), *guesses.shape[-2:])
        solved = [
            self._solve_one(call, b, None if guesses is None else guesses[b]) for b in range(len(call.x0))
        ]
        parts = {name: torch.stack([one[name] for one in solved]) for name in solved[0]}
        shaped = {name: part.reshape(call.batch_shape + part.shape[1:]) for name, part in parts.items()}
        report_statuses(self.description.name, parts["status"], self.on_unconverged)
        duals = {name[1]: shaped.pop(name) for name in list(shaped) if isinstance(name, tuple)}
        return ConstrainedSolution(**shaped, duals=duals)

    def _program(self, call: Call, b: int) -> Program:
        theta = [
            at_each_stage(value, p.stages(call.horizon) if p.per_stage else None, p.size)
            for p, value in zip(self.description.parameters, call.parameters, strict=True)
        ]
        own = [p[b if len(p) > 1 else 0] for p in theta]
        return Program(self.model, call.x0[b], own, call.horizon)

    def _solve_one(self, call: Call, b: int, x_init: Tensor | None) -> dict[Any, Tensor]:
        program = self._program(call, b)
        with torch.no_grad():
            held = self._program(_detached(call), b)
            shape = (call.horizon, len(self.description.controls))
            u = call.x0.new_zeros(shape) if call.u_init is None else call.u_init[b % len(call.u_init)]
            start = held.point(held.rollout(u) if x_init is None else x_init.detach(), u)
            result = solve(held, start, Settings(self.tol, self.max_iterations))
        return self._outputs(program, held, result)

    def _outputs(self, program: Program, held: Program, result: Result) -> dict[Any, Tensor]:
        point = result.iterate
        if result.status == Status.CONVERGED and torch.is_grad_enabled():
            z, y, zeta = differentiable(program, point)
        else:
            program, z, y, zeta = held, point.z, point.y, point.zeta
        x, u, _ = program.split(z)
        costates = y[: program.horizon * program.n].reshape(program.horizon, program.n)
        numbers: dict[Any, Tensor] = {
            "x": x,
            "u": u,
            "cost": program.cost(z),
            "status": torch.tensor(result.status, dtype=torch.int32),
            "iterations": torch.tensor(result.iterations, dtype=torch.int32),
            "residual": x.new_tensor(result.residual),
            "violation": x.new_tensor(result.violation),
            "costates": torch.cat([torch.zeros_like(costates[:1]), costates]),
        }
        return numbers | {("dual", name): dual for name, dual in self._duals(program, y, zeta).items()}

    def _duals(self, program: Program, y: Tensor, zeta: Tensor) -> dict[str, Tensor]:
        """By control and by constraint: (stages, rows)."""
        groups = program.duals(y, zeta)
        found = {name: groups["controls"][:, i : i + 1] for i, name in enumerate(self.description.controls)}
        used = dict.fromkeys(groups, 0)
        for constraint in self.description.constraints:
            at = used[constraint.group]
            used[constraint.group] += constraint.rows
            found[constraint.name] = groups[constraint.group][:, at : at + constraint.rows]
        return found


def _detached(call: Call) -> Call:
    parameters = tuple(value.detach() for value in call.parameters)
    start = Start(None if call.u_init is None else call.u_init.detach())
    return Call(call.batch_shape, call.horizon, call.x0.detach(), start, parameters)
