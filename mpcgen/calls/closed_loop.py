"""Calls of the compiled closed loop on flat batches: a controller, and its own model or another as the plant."""

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

_SHARED_BY_STEP = -1
"""The stride of what the batch shares at each step, as in `mpcgen_problem.h`."""
_UNFINISHED = -1
"""The status of a step that was not solved yet, as in `mpcgen_outcome.h`."""


class Plans(IntEnum):
    """Which steps' plans a loop keeps, as `mpcgen_loop_steps.h` calls them."""

    NONE = 0
    ALL = 1
    WITHOUT_POLICY = 2


Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Given:
    """Parameters of a batch of B loops, flat: by_step has the places of those that differ between steps.

    Each is (B, [stages,] *shape) or (1, ...) where the batch shares one, and of those in ``by_step`` (steps, B, ...) or
    (steps, 1, ...).
    """

    values: Tensors
    by_step: frozenset[int]

    def of_a_step(self) -> Tensors:
        """Those of the first step, in which others are to be found by strides."""
        return tuple(p[0] if place in self.by_step else p for place, p in enumerate(self.values))

    def strides(self) -> list[int]:
        """Numbers of each from one problem to the next; -1 of those that are shared at each step: 0 is read once."""
        strides = strides_of(self.of_a_step())
        return [
            _SHARED_BY_STEP if place in self.by_step and stride == 0 else stride
            for place, stride in enumerate(strides)
        ]

    def steps(self) -> list[int]:
        """Numbers of each from one step to the next."""
        return [p[0].numel() if place in self.by_step else 0 for place, p in enumerate(self.values)]

    def room(self, batch: int) -> Tensors:
        """Zeros for the gradients: those of what is shared at each step are of each problem."""
        return tuple(
            p.new_zeros(len(p), batch, *p.shape[2:]) if place in self.by_step else torch.zeros_like(p)
            for place, p in enumerate(self.values)
        )

    def sums(self, gradients: Tensors) -> Tensors:
        """Gradients of the values, of what was made `room` for."""
        return tuple(
            g if g.shape == p.shape else g.sum(1, keepdim=True)
            for g, p in zip(gradients, self.values, strict=True)
        )


@dataclass(frozen=True)
class PlantCall:
    """Another model as the plant, whose parameters of one stage are `Given` by step where they are in ``by_step``."""

    controller: Controller
    by_step: frozenset[int]


@dataclass(frozen=True)
class LoopCall:
    """A batch of B closed loops as the kernels take it; the plant is the controller's own model where it is None.

    by_step: see `Given`. A disturbance is (B, steps, n) or (1, steps, n).
    """

    controller: Controller
    options: Options
    steps: int
    horizon: int
    u_init: Tensor | None
    by_step: frozenset[int]
    plant: PlantCall | None


@dataclass(frozen=True)
class LoopOutputs:
    """x (B, steps+1, n), u (B, steps, m), costs (B, steps), status (steps, B) int32; plans where they were to be kept.

    plans: states (steps, B, N+1, n), controls (steps, B, N, m) and, where there are constraints, multipliers
    (steps, B, N+1, rows) of each step's solution; of those that were not to be kept there is nothing.
    policies: (B, steps, m, n), du/dx of the controls, NaN where box-DDP does not know it.
    """

    x: Tensor
    u: Tensor
    costs: Tensor
    status: Tensor
    plans: dict[str, Tensor]
    policies: Tensor | None


def run_loop(
    call: LoopCall,
    x0: Tensor,
    disturbance: Tensor | None,
    parameters: Tensors,
    plant_parameters: Tensors,
    keeps: Plans,
) -> LoopOutputs:
    """Run the loops from x0 (B, n). plant_parameters: of a plant that has some by itself."""
    steps, constrained = call.steps, call.controller.dual_count > 0
    (batch, n), m = x0.shape, len(call.controller.controls)
    by_interior_point = constrained or call.options.is_interior_point
    has_policies = keeps and not by_interior_point and _has_policies(call.options)
    found = LoopOutputs(
        x0.new_empty(batch, steps + 1, n),
        x0.new_empty(batch, steps, m),
        x0.new_empty(batch, steps),
        torch.full((steps, batch), _UNFINISHED, dtype=torch.int32),
        _new_plans(call, x0, steps if keeps else 1),
        x0.new_full((batch, steps, m, n), float("nan")) if has_policies else None,
    )
    if batch == 0:
        return found
    found.x[:, 0] = x0
    device = device_of(call.controller, x0)
    given = _Parameters(device, Given(each_dense(parameters), call.by_step))
    plant = _Plant(call, device, x0, plant_parameters)
    arguments, ffi = device.arguments("closed_loop"), device.ffi
    push = None if disturbance is None else dense(disturbance)
    progress = torch.zeros(batch, dtype=torch.int32)
    following = {f"plan_{name}": plan[0] for name, plan in _new_plans(call, x0, 1).items()}
    following["plans"] = following.pop("plan_controls")
    if by_interior_point:
        following["plan_costates"] = torch.empty_like(following["plan_states"])
    else:
        del following["plan_states"]
    step_arguments = ffi.new(ffi.getctype(ffi.typeof(arguments.step_arguments).item, "[]"), steps)
    step_parameters = ffi.new("void *[]", steps * len(parameters) + 1)
    _fill(arguments.plant, plant.fields)
    members = {
        "steps": steps,
        "keeps_solutions": int(keeps),
        "parameter_steps": given.steps,
        "disturbance": pointer_to(device, push),
        "disturbance_stride": 0 if push is None else strides_of((push,))[0],
        "plant_states": pointer_to(device, found.x),
        "applied": pointer_to(device, found.u),
        "stage_costs": pointer_to(device, found.costs),
        "progress": ffi.cast("int32_t *", progress.data_ptr()),
        "step_arguments": step_arguments,
        "step_parameters": step_parameters,
    }
    members |= {name: pointer_to(device, plan) for name, plan in following.items()}
    if not constrained:
        members["policies"] = pointer_to(device, found.policies)
        members["interior_point"] = _interior_point(call, device, x0)
    constant = is_constant(call.controller, given.of_a_step)
    alive = _fill_solve(arguments.solve, call, device, given.fields, constant, found)
    _fill(arguments, members)
    device.entry("closed_loop", x0.dtype, batch)(arguments)
    del alive
    return found


def _interior_point(call: LoopCall, device: Any, x0: Tensor) -> Any:
    """Its entry point, where the steps of a problem that box-DDP could solve are to begin with it; or NULL."""
    if not call.options.is_interior_point:
        return device.ffi.NULL
    return device.ffi.cast("int (*)(const void *)", device.address("interior_point", x0.dtype, len(x0)))


def _new_plans(call: LoopCall, x0: Tensor, steps: int) -> dict[str, Tensor]:
    """Memory for the solutions of so many steps, by the names of the solver's argument struct."""
    c, batch, stages = call.controller, len(x0), call.horizon
    sizes = {"states": (stages + 1, len(c.states)), "controls": (stages, len(c.controls))}
    if c.dual_count:
        sizes["duals"] = (stages + 1, c.dual_count)
    return {name: x0.new_empty(steps, batch, *size) for name, size in sizes.items()}


def _has_policies(options: Options) -> bool:
    """Whether the gains of a solution that converged are what the differentials would have."""
    return options.gradient == options.hessian == "exact" and options.smoothing == 0


class _Parameters:
    """Parameters as structs have them, which do not keep them alive."""

    def __init__(self, device: Device, given: Given) -> None:
        ffi = device.ffi
        self.given, self.of_a_step = given, given.of_a_step()
        self.steps = ffi.new("int64_t[]", given.steps())
        self.fields: dict[str, Any] = {
            "parameters": pointers_to(device, self.of_a_step),
            "parameter_strides": ffi.new("int64_t[]", given.strides()),
        }


class _Plant:
    """A plant as structs have it, which do not keep its tensors alive."""

    def __init__(
        self, call: LoopCall, device: Device, x0: Tensor, parameters: Tensors, *, back: bool = False
    ) -> None:
        self._room: Tensors = ()
        self.fields: dict[str, Any] = {}
        if call.plant is None:
            return
        ffi, batch = device.ffi, len(x0)
        self._parameters = _Parameters(device, Given(each_dense(parameters), call.plant.by_step))
        plant: Any = device_of(call.plant.controller, x0)
        first = self._parameters.of_a_step
        self.fields = {
            "evaluate": ffi.cast("int (*)(const void *)", plant.address("evaluate", x0.dtype, batch)),
            "count": len(first),
            "parameters": self._parameters.fields["parameters"],
            "strides": self._parameters.fields["parameter_strides"],
            "steps": self._parameters.steps,
            "pointers": ffi.new("void *[]", batch * len(first) + 1),
        }
        if back:
            self._prepare_gradients(device, x0)

    @property
    def gradients(self) -> Tensors:
        """Of its parameters; zeros at first."""
        return self._parameters.given.sums(self._room) if self._room else ()

    def _prepare_gradients(self, device: Device, x0: Tensor) -> None:
        ffi, batch = device.ffi, len(x0)
        self._room = self._parameters.given.room(batch)
        sizes = [p.shape[1:].numel() for p in self._parameters.of_a_step]
        self._latest = x0.new_empty(batch, sum(sizes))
        self.fields |= {
            "sizes": ffi.new("int64_t[]", sizes),
            "gradients": pointers_to(device, self._room),
            "latest": pointer_to(device, self._latest),
            "latest_pointers": ffi.new("void *[]", batch * len(sizes) + 1),
        }


def _fill(struct: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setattr(struct, name, value)


def _fill_solve(
    struct: Any,
    call: LoopCall,
    device: Device,
    given: Mapping[str, Any],
    constant: bool,
    found: LoopOutputs,
) -> tuple[Any, ...]:
    """Fill the arguments of the first step's solve; returns what has to outlive the call."""
    options, states, constrained = call.options, found.plans["states"], "duals" in found.plans
    batch, horizon, m = found.plans["controls"].shape[1:]
    n, guess = states.shape[-1], None if call.u_init is None else dense(call.u_init)
    # of which each step writes over what the one before has left
    sizes = {
        "costates": batch * (horizon + 1) * n,
        "gains": batch * horizon * m * n,
        "cost": batch,
        "residual": batch,
    } | ({"violation": batch} if constrained else {})
    scratch = {name: states.new_empty(size) for name, size in sizes.items()}
    iterations = torch.zeros(batch, dtype=torch.int32)
    kept = scratch | found.plans | {"initial_state": found.x}
    _fill(struct, {name: pointer_to(device, value) for name, value in kept.items()})
    _fill(struct, given)
    rest = solver_fields(options, states.dtype, horizon, constant) | {
        "batch": batch,
        "method": method_of(options, Start(), constrained),
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
    plant_parameters: Tensors,
    cotangents: tuple[Tensor | None, Tensor | None, Tensor | None],
    of_parameters: bool,
    of_disturbance: bool,
) -> tuple[Tensor, Tensor | None, Tensors, Tensors]:
    """Gradients of x0 (B, n), a disturbance (B, steps, n) and the parameters, where wanted, and of the plant's.

    found: of a loop that kept its plans. cotangents: of its x, u and costs.
    """
    options, parameters = call.options, each_dense(parameters)
    g_x0 = torch.empty_like(found.x[:, 0], memory_format=torch.contiguous_format)
    g_push = (
        torch.empty_like(found.x[:, 1:], memory_format=torch.contiguous_format) if of_disturbance else None
    )
    if len(g_x0) == 0:
        none, of_plant = (tuple(map(torch.zeros_like, values)) for values in (parameters, plant_parameters))
        return g_x0, g_push, none if of_parameters else (), of_plant
    device = device_of(call.controller, found.x)
    given, wanted = (
        _Parameters(device, Given(parameters, call.by_step)),
        usable(found.status.flatten(), options),
    )
    plant = _Plant(call, device, g_x0, plant_parameters, back=True)
    room = given.given.room(len(g_x0)) if of_parameters else ()
    singular, addresses = torch.zeros_like(found.status), pointers_to(device, room)
    pushes = [None if g is None else dense(g) for g in cotangents]
    arguments = device.arguments("loop_gradient")
    fields = given.fields | {
        "constant_parameters": is_constant(call.controller, given.of_a_step),
        "batch": len(g_x0),
        "horizon": call.horizon,
        "exact_hessian": options.gradient == "exact",
        "threads": 1 if len(g_x0) == 1 else options.thread_count(),
        "smoothing": options.smoothing,
        "barrier": options.smooth == "solve",
        "usable": device.ffi.cast("int32_t *", wanted.data_ptr()),
        "singular": device.ffi.cast("int32_t *", singular.data_ptr()),
        "gradient_initial_state": pointer_to(device, g_x0),
        "gradient_parameters": addresses if of_parameters else device.ffi.NULL,
    }
    fields |= {name: pointer_to(device, plan) for name, plan in found.plans.items()}
    members = {
        "steps": call.steps,
        "parameter_steps": given.steps,
        "plant_states": pointer_to(device, found.x),
        "applied": pointer_to(device, found.u),
        "gradient_disturbance": pointer_to(device, g_push),
    }
    names = ("cotangent_states", "cotangent_controls", "cotangent_costs")
    members |= {name: pointer_to(device, push) for name, push in zip(names, pushes, strict=True)}
    if found.policies is not None:
        members["policies"] = pointer_to(device, found.policies)
    _fill(arguments.gradient, fields)
    _fill(arguments.plant, plant.fields)
    _fill(arguments, members)
    device.entry("differentiate_loop", found.x.dtype, len(g_x0))(arguments)
    device.report_singular(singular, options.on_unconverged)
    return g_x0, g_push, given.given.sums(room) if of_parameters else (), plant.gradients
