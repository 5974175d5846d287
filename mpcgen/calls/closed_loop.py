"""Calls of the compiled closed loop on flat batches: a controller, and its own model as the plant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from mpcgen.calls.arguments import Start
from mpcgen.calls.devices import Device, device_of
from mpcgen.calls.kernels import (
    each_dense,
    is_constant,
    pointer_to,
    pointers_to,
    strides_of,
)
from mpcgen.calls.options import Options
from mpcgen.calls.solver import method_of, solver_fields
from mpcgen.calls.struct import dense
from mpcgen.calls.wanted import usable
from mpcgen.runtime.controller import Controller

_UNFINISHED = -1
"""The status of a step that was not solved yet, as in `mpcgen_outcome.h`."""


class Plans(IntEnum):
    """Which steps' plans a loop keeps, as `mpcgen_loop_steps.h` calls them."""

    NONE = 0
    ALL = 1
    WITHOUT_POLICY = 2


Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class LoopCall:
    """A batch of B closed loops as the kernels take it.

    parameters: (B, [stages,] *shape), (1, ...) where the batch shares one, or (steps, B, ...) of those that are in
    ``by_step``, by their places. disturbance: (B, steps, n) or (1, steps, n).
    """

    controller: Controller
    options: Options
    steps: int
    horizon: int
    u_init: Tensor | None
    by_step: frozenset[int]

    def of_a_step(self, parameters: Tensors) -> Tensors:
        """The parameters of the first step, in which others are to be found by strides."""
        return tuple(p[0] if place in self.by_step else p for place, p in enumerate(parameters))

    def strides(self, parameters: Tensors) -> list[int]:
        """Numbers of each parameter from one problem to the next; of those by step never 0, which is read once."""
        shared = strides_of(self.of_a_step(parameters))
        return [
            p[0, 0].numel() if place in self.by_step else shared[place] for place, p in enumerate(parameters)
        ]

    def step_strides(self, parameters: Tensors) -> list[int]:
        """Numbers of each parameter from one step to the next."""
        return [p[0].numel() if place in self.by_step else 0 for place, p in enumerate(parameters)]


@dataclass(frozen=True)
class LoopOutputs:
    """x (B, steps+1, n), u (B, steps, m), costs (B, steps), status (steps, B) int32; plans where they were to be kept.

    plans: states (steps, B, N+1, n) and controls (steps, B, N, m) of each step's solution; of those that were not to be
    kept there is nothing.
    policies: (B, steps, m, n), du/dx of the controls, NaN where the solver does not know it.
    """

    x: Tensor
    u: Tensor
    costs: Tensor
    status: Tensor
    plans: tuple[Tensor, Tensor]
    policies: Tensor | None


def run_loop(
    call: LoopCall, x0: Tensor, disturbance: Tensor | None, parameters: Tensors, keeps: Plans
) -> LoopOutputs:
    """Run the loops from x0 (B, n)."""
    steps, horizon = call.steps, call.horizon
    (batch, n), m = x0.shape, len(call.controller.controls)
    kept = steps if keeps else 1
    found = LoopOutputs(
        x0.new_empty(batch, steps + 1, n),
        x0.new_empty(batch, steps, m),
        x0.new_empty(batch, steps),
        torch.full((steps, batch), _UNFINISHED, dtype=torch.int32),
        (x0.new_empty(kept, batch, horizon + 1, n), x0.new_empty(kept, batch, horizon, m)),
        x0.new_full((batch, steps, m, n), float("nan")) if keeps and _has_policies(call.options) else None,
    )
    if batch == 0:
        return found
    found.x[:, 0] = x0
    device = device_of(call.controller, x0)
    given = _Parameters(call, device, each_dense(parameters))
    arguments, ffi = device.arguments("closed_loop"), device.ffi
    push = None if disturbance is None else dense(disturbance)
    plans, progress = x0.new_empty(batch, horizon, m), torch.zeros(batch, dtype=torch.int32)
    step_arguments = ffi.new(ffi.getctype(ffi.typeof(arguments.step_arguments).item, "[]"), steps)
    step_parameters = ffi.new("void *[]", steps * len(parameters) + 1)
    members = {
        "steps": steps,
        "keeps_solutions": int(keeps),
        "parameter_steps": given.steps,
        "disturbance": pointer_to(device, push),
        "disturbance_stride": 0 if push is None else strides_of((push,))[0],
        "plans": pointer_to(device, plans),
        "plant_states": pointer_to(device, found.x),
        "applied": pointer_to(device, found.u),
        "stage_costs": pointer_to(device, found.costs),
        "policies": pointer_to(device, found.policies),
        "progress": ffi.cast("int32_t *", progress.data_ptr()),
        "step_arguments": step_arguments,
        "step_parameters": step_parameters,
    }
    alive = _fill_solve(arguments.solve, call, device, given, found)
    _fill(arguments, members)
    device.entry("closed_loop", x0.dtype, batch)(arguments)
    del alive
    return found


def _has_policies(options: Options) -> bool:
    """Whether the gains of a solution that converged are what the differentials would have."""
    return options.gradient == options.hessian == "exact" and options.smoothing == 0


class _Parameters:
    """A loop's parameters as its structs have them, which do not keep them alive."""

    def __init__(self, call: LoopCall, device: Device, parameters: Tensors) -> None:
        first, ffi = call.of_a_step(parameters), device.ffi
        self.tensors = parameters
        self.steps = ffi.new("int64_t[]", call.step_strides(parameters))
        self.fields: dict[str, Any] = {
            "parameters": pointers_to(device, first),
            "parameter_strides": ffi.new("int64_t[]", call.strides(parameters)),
            "constant_parameters": is_constant(call.controller, first),
        }


def _fill(struct: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setattr(struct, name, value)


def _fill_solve(
    struct: Any, call: LoopCall, device: Device, given: _Parameters, found: LoopOutputs
) -> tuple[Any, ...]:
    """Fill the arguments of the first step's solve; returns what has to outlive the call."""
    (states, controls), options = found.plans, call.options
    batch, horizon, m = controls.shape[1:]
    n, guess = states.shape[-1], None if call.u_init is None else dense(call.u_init)
    # of which each step writes over what the one before has left
    sizes = {
        "costates": batch * (horizon + 1) * n,
        "gains": batch * horizon * m * n,
        "cost": batch,
        "residual": batch,
    }
    scratch = {name: states.new_empty(size) for name, size in sizes.items()}
    iterations = torch.zeros(batch, dtype=torch.int32)
    kept = scratch | {"states": states, "controls": controls, "initial_state": found.x}
    _fill(struct, {name: pointer_to(device, value) for name, value in kept.items()})
    _fill(struct, given.fields)
    rest = solver_fields(options, states.dtype, horizon, given.fields["constant_parameters"]) | {
        "batch": batch,
        "method": method_of(options, Start(), constrained=False),
        "threads": 1 if batch == 1 else options.thread_count(),
        "initial_controls": pointer_to(device, guess),
        "initial_controls_stride": 0 if guess is None else strides_of((guess,))[0],
        "status": device.ffi.cast("int32_t *", found.status.data_ptr()),
        "iterations": device.ffi.cast("int32_t *", iterations.data_ptr()),
    }
    _fill(struct, rest)
    return scratch, iterations, guess


def differentiate_loop(
    call: LoopCall,
    found: LoopOutputs,
    parameters: Tensors,
    cotangents: tuple[Tensor | None, Tensor | None, Tensor | None],
    of_parameters: bool,
    of_disturbance: bool,
) -> tuple[Tensor, Tensor | None, Tensors]:
    """Gradients of x0 (B, n), of a disturbance (B, steps, n) and of the parameters, where these are wanted.

    found: of a loop that kept its plans. cotangents: of its x, u and costs.
    """
    options, parameters = call.options, each_dense(parameters)
    g_x0 = torch.empty_like(found.x[:, 0], memory_format=torch.contiguous_format)
    g_push = (
        torch.empty_like(found.x[:, 1:], memory_format=torch.contiguous_format) if of_disturbance else None
    )
    gradients = tuple(map(torch.empty_like, parameters)) if of_parameters else ()
    if len(g_x0) == 0:
        return g_x0, g_push, tuple(map(torch.zeros_like, gradients))
    device = device_of(call.controller, found.x)
    given, wanted = _Parameters(call, device, parameters), usable(found.status.flatten(), options)
    addresses = pointers_to(device, gradients)
    pushes = [None if g is None else dense(g) for g in cotangents]
    arguments = device.arguments("loop_gradient")
    fields = given.fields | {
        "batch": len(g_x0),
        "horizon": call.horizon,
        "exact_hessian": options.gradient == "exact",
        "threads": 1 if len(g_x0) == 1 else options.thread_count(),
        "smoothing": options.smoothing,
        "barrier": options.smooth == "solve",
        "states": pointer_to(device, found.plans[0]),
        "controls": pointer_to(device, found.plans[1]),
        "usable": device.ffi.cast("int32_t *", wanted.data_ptr()),
        "gradient_initial_state": pointer_to(device, g_x0),
        "gradient_parameters": addresses if of_parameters else device.ffi.NULL,
    }
    members = {
        "steps": call.steps,
        "parameter_steps": given.steps,
        "plant_states": pointer_to(device, found.x),
        "applied": pointer_to(device, found.u),
        "policies": pointer_to(device, found.policies),
        "gradient_disturbance": pointer_to(device, g_push),
    }
    names = ("cotangent_states", "cotangent_controls", "cotangent_costs")
    members |= {name: pointer_to(device, push) for name, push in zip(names, pushes, strict=True)}
    _fill(arguments.gradient, fields)
    _fill(arguments, members)
    device.entry("differentiate_loop", found.x.dtype, len(g_x0))(arguments)
    return g_x0, g_push, gradients
