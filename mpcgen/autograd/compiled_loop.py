"""Closed loops that the kernels run from the first step to the last: the plant is a generated model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpcgen.autograd import functions
from mpcgen.calls.arguments import Call
from mpcgen.calls.closed_loop import (
    LoopCall,
    LoopOutputs,
    Plans,
    PlantCall,
    differentiate_loop,
    run_loop,
)
from mpcgen.calls.options import Options
from mpcgen.calls.watching import PLAIN, is_forward_mode, is_traced, never_compiled
from mpcgen.runtime.controller import Controller

Tensors = tuple[Tensor, ...]


def is_compiled(controller: Controller, options: Options, tensors: list[Any]) -> bool:
    """Whether the kernels can run a loop of these tensors, in reverse mode too; else it is run step by step.

    They are on a CPU; transforms, tracers and forward mode see each step.
    """
    return not (
        torch.compiler.is_compiling()
        or is_traced()
        or is_forward_mode()
        or controller.library.kind != "cpu"
        or options.gradient == "unrolled"
        or options.unconverged_gradient == "nan"
    ) and all(type(t) in PLAIN and t.is_cpu for t in tensors if isinstance(t, Tensor))


class OtherPlant(NamedTuple):
    """A model as the plant that has parameters by itself: another than the controller's own, or that.

    parameters: flat, of one stage, of each step, or of the first alone where no parameter is ``by_step``.
    """

    controller: Controller
    parameters: Sequence[Tensors]
    by_step: Sequence[str]


def are_alike(parameters: Sequence[Tensors]) -> bool:
    """Whether each has the same shape at all steps, but for the batch: a value a stage, or one for all."""
    shapes = [[value.shape[1:] for value in of_step] for of_step in parameters]
    return all(of_step == shapes[0] for of_step in shapes)


def run_compiled(
    controller: Controller,
    options: Options,
    calls: Sequence[Call],
    by_step: Sequence[str],
    steps: int,
    disturbance: Tensor | None,
    plant: OtherPlant | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run all steps: x (..., steps+1, n), u (..., steps, m), status (..., steps), cost (...).

    calls: of each step, or of the first one alone where no parameter is ``by_step``. They have the loop's x0.
    """
    first = calls[0]
    places = _places(controller, by_step)
    parameters = _of_loop([call.parameters for call in calls], places, len(first.x0))
    moved: PlantCall | None = None
    own: Tensors = ()
    if plant is not None:
        moved = PlantCall(plant.controller, _places(plant.controller, plant.by_step))
        own = _of_loop(plant.parameters, moved.by_step, len(first.x0))
    call = LoopCall(controller, options, steps, first.horizon, first.start.u, places, moved)
    flat = None
    if disturbance is not None:
        shape = disturbance.shape[-2:]
        shared = math.prod(disturbance.shape[:-2]) == 1
        flat = disturbance if shared else disturbance.expand(*first.batch_shape, *shape)
        flat = flat.reshape(-1, *shape)
    x, u, costs, status = _apply(call, first.x0, flat, parameters, own)
    return (
        x.reshape(*first.batch_shape, *x.shape[1:]),
        u.reshape(*first.batch_shape, *u.shape[1:]),
        status.reshape(*first.batch_shape, steps),
        costs.reshape(*first.batch_shape, steps).sum(-1),
    )


def _places(controller: Controller, names: Sequence[str]) -> frozenset[int]:
    return frozenset(place for place, p in enumerate(controller.parameters) if p.name in names)


def _of_loop(of_steps: Sequence[Tensors], places: frozenset[int], batch: int) -> Tensors:
    """Parameters as `mpcgen.calls.closed_loop.Given` has them, of those of the steps."""
    return tuple(
        _of_all_steps([parameters[place] for parameters in of_steps], batch) if place in places else value
        for place, value in enumerate(of_steps[0])
    )


def _of_all_steps(values: list[Tensor], batch: int) -> Tensor:
    """(steps, B, ...) of values (B, ...) or (1, ...) by step; (steps, 1, ...) where the batch shares each."""
    if all(len(value) == 1 for value in values):
        return torch.stack(values)
    return torch.stack([value.expand(batch, *value.shape[1:]) for value in values])


@never_compiled
def _apply(
    call: LoopCall, x0: Tensor, disturbance: Tensor | None, parameters: Tensors, plant: Tensors
) -> Tensors:
    given = (*parameters, *plant)
    if functions.is_recorded(x0, given if disturbance is None else (*given, disturbance)):
        return functions.apply(_Loop, call, len(parameters), x0, disturbance, *given)
    found = run_loop(call, x0, disturbance, parameters, plant, Plans.NONE)
    return found.x, found.u, found.costs, found.status.t()


class _Loop(torch.autograd.Function):
    """(call, count, x0, disturbance, *parameters) -> states, controls, costs, statuses of all steps, flat batch.

    The first ``count`` parameters are the controller's, the others those of a plant that is another model.
    """

    @staticmethod
    @never_compiled
    def forward(
        ctx: Any, call: LoopCall, count: int, x0: Tensor, disturbance: Tensor | None, *parameters: Tensor
    ) -> Any:
        """Run the loops, and keep what their gradients read: plans, or policies where these do."""
        ctx.is_wanted = any(ctx.needs_input_grad[4 : 4 + count])
        keeps = Plans.ALL if ctx.is_wanted else Plans.WITHOUT_POLICY
        found = run_loop(call, x0, disturbance, parameters[:count], parameters[count:], keeps)
        ctx.call, ctx.count, ctx.names = call, count, tuple(found.plans)
        ctx.is_shared_disturbance = disturbance is not None and len(disturbance) == 1 != len(x0)
        # a copy, which may be written to: the gradients read the other
        status = found.status.t().clone(memory_format=torch.contiguous_format)
        ctx.mark_non_differentiable(status)
        ctx.set_materialize_grads(False)
        kept = (found.x, found.u, found.status, found.policies, *found.plans.values())
        ctx.save_for_backward(*kept, *parameters)
        return found.x, found.u, found.costs, status

    @staticmethod
    @never_compiled
    def backward(ctx: Any, g_x: Tensor | None, g_u: Tensor | None, g_costs: Tensor | None, _: Any) -> Any:
        """Reverse mode, once."""
        functions.refuse_tracer()
        count, plans = ctx.count, len(ctx.names)

        def of_one(g_x: Any, g_u: Any, g_costs: Any, *kept: Any) -> Any:
            x, u, status, policies, *rest = kept
            found = LoopOutputs(x, u, u, status, dict(zip(ctx.names, rest[:plans], strict=True)), policies)
            parameters = tuple(rest[plans:])
            g_x0, g_push, gradients, of_plant = differentiate_loop(
                ctx.call,
                found,
                parameters[:count],
                parameters[count:],
                (g_x, g_u, g_costs),
                ctx.is_wanted,
                ctx.needs_input_grad[3],
            )
            if g_push is not None and ctx.is_shared_disturbance:
                g_push = g_push.sum(0, keepdim=True)
            return None, None, g_x0, g_push, *(gradients or [None] * count), *of_plant

        is_plain = functions.is_plain((g_x, g_u, g_costs))
        compute = of_one if is_plain else partial(functions.one_by_one, of_one)
        given = (g_x, g_u, g_costs, *ctx.saved_tensors)
        return functions.apply(_Once, compute, *given) if torch.is_grad_enabled() else compute(*given)


class _Once(functions.Last):
    """(compute, *tensors) -> what it computes of them, gradients that have none of their own."""

    @staticmethod
    def forward(ctx: Any, compute: Any, *tensors: Tensor | None) -> Any:
        """Compute."""
        return compute(*tensors)
