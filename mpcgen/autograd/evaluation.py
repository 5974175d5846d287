"""The problem's own functions at any point, as methods of a controller: dynamics, stage cost, terminal cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from mpcgen.autograd.stage import evaluate_flat
from mpcgen.calls import learnable
from mpcgen.calls.arguments import explained, make_point
from mpcgen.calls.options import as_count
from mpcgen.errors import ParameterError
from mpcgen.runtime.controller import Controller


class Step(NamedTuple):
    """What a stage leads to: the next state (..., n), and its cost (...)."""

    x: Tensor
    cost: Tensor


class ProblemFunctions(torch.nn.Module):
    """Dynamics and costs of a controller's problem, differentiable once, in reverse and forward mode.

    x is (..., n), u (..., m), float32 or float64. No control is clipped, and constraints have no part in the costs.
    parameters: by name, (..., *shape) each, a per-stage one with its value at this stage; omitted ones take their
    learned values, a per-stage one that at ``stage``, else their defaults. Leading dimensions broadcast. What is not
    finite makes its own problem NaN. Raises what a call of the controller raises: ShapeError, DtypeError, DeviceError,
    LayoutError, ParameterError. The first call compiles the kernels' derivatives, if nothing has yet.
    """

    controller: ClassVar[Controller]
    key: str
    learned: tuple[str, ...]

    def step(self, x: Tensor, u: Tensor, *, stage: int = 0, **parameters: Any) -> Step:
        """Next state and stage cost at state ``x`` and control ``u``; see `ProblemFunctions`."""
        if u is None:
            raise ParameterError(f"{self.controller.name}: u is None; a control (..., m) is expected")
        return self._evaluate(x, u, stage, parameters)

    def dynamics(self, x: Tensor, u: Tensor, *, stage: int = 0, **parameters: Any) -> Tensor:
        """Next state f(x, u, parameters), (..., n); see `ProblemFunctions`."""
        return self.step(x, u, stage=stage, **parameters).x

    def stage_cost(self, x: Tensor, u: Tensor, *, stage: int = 0, **parameters: Any) -> Tensor:
        """Cost of a stage, (...); see `ProblemFunctions`."""
        return self.step(x, u, stage=stage, **parameters).cost

    def terminal_cost(self, x: Tensor, *, stage: int = -1, **parameters: Any) -> Tensor:
        """Cost of the last state, (...); see `ProblemFunctions`."""
        return self._evaluate(x, None, stage, parameters).cost

    def _evaluate(self, x: Tensor, u: Tensor | None, stage: int, given: Mapping[str, Any]) -> Step:
        x, u, parameters = self._point(x, u, stage, given)
        with explained(self.controller, {"x": x, **({} if u is None else {"u": u}), **parameters}):
            batch_shape, flat_x, flat_u, flat = make_point(self.controller, x, u, parameters)
            found, cost = evaluate_flat(self.key, u is None, flat_x, flat_u, flat)
        return Step(found.reshape(*batch_shape, found.shape[-1]), cost.reshape(batch_shape))

    def flat_parameters(self, x: Tensor, u: Tensor, given: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """What a step from x (..., n) reads of parameters, (B, *shape) or (1, *shape) each; raises what `step` does."""
        x, checked, parameters = self._point(x, u, 0, given)
        return make_point(self.controller, x, checked, parameters)[3]

    def _point(
        self, x: Tensor, u: Tensor | None, stage: int, given: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
        parameters = self._at_stage(x, stage, given)
        if learnable.is_autocast(x):
            x, u, _, parameters = learnable.leave_autocast(x, u, None, parameters)
        return x, u, parameters

    def _at_stage(self, x: Tensor, stage: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters, of learned ones that have an axis of stages the values at this stage."""
        values = learnable.with_learned(self, self.controller, self.learned, given, x)
        for p in self.controller.parameters:
            value = values.get(p.name)
            if p.per_stage and p.name in self.learned and given.get(p.name) is None and value is not None:
                values[p.name] = _value_at(self.controller, p.name, value, len(p.shape), stage)
        return values


def _value_at(controller: Controller, name: str, value: Tensor, rank: int, stage: int) -> Tensor:
    """The value of a per-stage parameter (..., stages, *shape) at a stage; of (*shape) alone, that."""
    if value.ndim <= rank:
        return value
    axis, index = value.ndim - rank - 1, as_count(stage)
    if index is None or not -value.shape[axis] <= index < value.shape[axis]:
        raise ParameterError(
            f"{controller.name}: stage={stage!r}; the learned {name} has values at stages 0 to {value.shape[axis] - 1}"
        )
    return value.select(axis, index)
