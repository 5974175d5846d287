"""Calls of the compiled kernels on flat batches: tensors in, tensors out, no gradients.

Parameters are (B, ...) or (1, ...), the latter shared by the batch; everything is dense.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from mpcgen.calls.arguments import Call, Start
from mpcgen.calls.devices import Device, device_of
from mpcgen.calls.gradient import Gradient
from mpcgen.calls.options import Options
from mpcgen.calls.solver import Solver, report
from mpcgen.calls.struct import dense, strides_of_shapes
from mpcgen.calls.wanted import poison, usable
from mpcgen.runtime.controller import Controller

Tensors = tuple[Tensor, ...]
LOST = 2
"""In ``singular``: not even the cost has a gradient."""
_MOST_READY = 64
"""After so many, what is ready for calls of other sizes is forgotten."""
_Ready = TypeVar("_Ready", Solver, Gradient)
_ready: dict[tuple[Any, ...], Any] = {}


def _ready_for(make: Callable[[], _Ready], *sizes: Any) -> _Ready:
    """What an earlier call of these sizes has made ready, else what ``make`` makes."""
    try:
        found: _Ready = _ready[sizes]
    except KeyError:
        if len(_ready) >= _MOST_READY:
            _ready.clear()
        found = _ready[sizes] = make()
    return found


def pointer_to(device: Device, tensor: Tensor | None) -> Any:
    """A pointer of a struct to a tensor's numbers, or NULL."""
    ffi = device.ffi
    return ffi.NULL if tensor is None else ffi.cast("void *", tensor.data_ptr())


def _flags(device: Device, tensor: Tensor) -> Any:
    return device.ffi.cast("int32_t *", tensor.data_ptr())


def pointers_to(device: Device, tensors: tuple[Tensor | None, ...]) -> Any:
    """An array of pointers, which a struct does not keep alive."""
    return device.ffi.new("void *[]", [pointer_to(device, t) for t in tensors])


def strides_of(parameters: tuple[Tensor | None, ...]) -> list[int]:
    """Numbers from one problem to the next; a value that the batch shares has stride zero."""
    return strides_of_shapes((1,) if p is None else p.shape for p in parameters)


def stride_array_of(device: Device, parameters: tuple[Tensor | None, ...]) -> Any:
    """`strides_of` as an array, which a struct does not keep alive."""
    return device.ffi.new("int64_t[]", strides_of(parameters))


def is_constant(controller: Controller, parameters: Tensors) -> bool:
    """Whether every per-stage parameter (B or 1, stages, ...) has one value for all stages."""
    pairs = zip(controller.parameters, parameters, strict=True)
    return all(value.shape[1] == 1 for parameter, value in pairs if parameter.per_stage)


def _parameter_fields(controller: Controller, device: Device, parameters: Tensors) -> dict[str, Any]:
    """What an argument struct says of the parameters; its arrays live as long as this."""
    return {
        "parameters": pointers_to(device, parameters),
        "parameter_strides": stride_array_of(device, parameters),
        "constant_parameters": is_constant(controller, parameters),
    }


def _dense_duals(duals: Tensor | None) -> Tensor | None:
    """Multipliers of rows as the kernels read them; None where there are none."""
    return None if duals is None or duals.numel() == 0 else dense(duals)


def each_dense(parameters: Tensors) -> Tensors:
    """The parameters as the kernels read them."""
    return tuple(map(dense, parameters))


def run_entry(device: Device, verb: str, entry: str, like: Tensor, fields: dict[str, Any]) -> None:
    """Fill an argument struct and call an entry point; a batch of none is done at once."""
    batch = like.shape[0]
    if batch == 0:
        return
    arguments = device.arguments(verb)
    arguments.batch = batch
    for name, value in fields.items():
        setattr(arguments, name, value)
    device.entry(entry, like.dtype, batch)(arguments)


def solve(
    controller: Controller,
    options: Options,
    horizon: int,
    x0: Tensor,
    start: Start,
    parameters: Tensors,
    history: Tensor | None = None,
) -> Tensors:
    """Solve a batch: x0 (B, n); what it starts from, (B or 1, ...) each.

    Returns what `mpcgen.runtime.outputs` lists, leading dimension B. history: (B, max_iterations+1, 2), receives cost
    and residual by pass.
    """
    call = Call(x0.shape[:1], horizon, x0, start, parameters)
    guesses = each_dense(start.given)
    solver = _ready_for(
        lambda: solver_of(controller, options, call),
        device_of(controller, x0),
        options,
        x0.dtype,
        horizon,
        x0.shape[0],
        *(None if t is None else t.shape for t in (*start, *parameters)),
    )
    return tuple(solver.solve_anew(dense(x0), guesses, each_dense(parameters), history))


def attach(
    controller: Controller, options: Options, outputs: Tensors, x0: Tensor, parameters: Tensors
) -> Tensors:
    """Copies of what a quiet `solve` of a flat batch has found, which reports as that would have."""
    if outputs[0].shape[0] > 0:
        report(controller, device_of(controller, outputs[0]), options, outputs, (x0, (), lambda: parameters))
    return tuple(out.clone() for out in outputs)


def solver_of(controller: Controller, options: Options, call: Call) -> Solver:
    """The solver for a call and for others of the same sizes; outputs have the call's leading dimensions."""
    shapes = [p.shape for p in call.parameters]
    device = device_of(controller, call.x0)
    constant = is_constant(controller, call.parameters)
    return Solver(
        controller,
        device,
        options,
        call.x0.dtype,
        call.horizon,
        call.batch_shape,
        shapes,
        call.start,
        constant,
    )


def _dual_fields(device: Device, duals: Tensor | None) -> dict[str, Any]:
    """Multipliers of the rows, which only structs of problems with constraints know; (B, N+1, rows)."""
    return {} if duals is None else {"duals": pointer_to(device, duals)}


def _solution_fields(
    device: Device,
    options: Options,
    x: Tensor,
    u: Tensor,
    wanted: Tensor,
    singular: Tensor,
    duals: Tensor | None,
) -> dict[str, Any]:
    return _dual_fields(device, duals) | {
        "horizon": u.shape[1],
        "exact_hessian": options.gradient == "exact",
        "threads": options.thread_count(),
        "smoothing": options.smoothing,
        "barrier": options.smooth == "solve",
        "states": pointer_to(device, x),
        "controls": pointer_to(device, u),
        "usable": _flags(device, wanted),
        "singular": _flags(device, singular),
    }


def differentiate(
    controller: Controller,
    options: Options,
    x: Tensor,
    u: Tensor,
    status: Tensor,
    parameters: Tensors,
    cotangents: tuple[Tensor | None, ...],
    duals: Tensor | None = None,
) -> Tensors:
    """Reverse mode: gradients of x0 (B, n) and of every parameter for cotangents of x, u, cost and duals.

    duals: (B, N+1, rows) of a problem with constraints, as its cotangent.
    """
    device, shapes, batch, horizon = (
        device_of(controller, x),
        [p.shape for p in parameters],
        len(x),
        u.shape[1],
    )
    gradient = _ready_for(
        lambda: Gradient(
            controller.dual_count > 0,
            device,
            options,
            x.dtype,
            batch,
            len(controller.states),
            horizon,
            shapes,
            is_constant(controller, parameters),
        ),
        *(device, options, x.dtype, batch, horizon, *shapes),
    )
    return gradient(x, u, status, each_dense(parameters), cotangents, duals)


def tangent(
    controller: Controller,
    options: Options,
    x: Tensor,
    u: Tensor,
    status: Tensor,
    parameters: Tensors,
    d_x0: Tensor | None,
    d_parameters: tuple[Tensor | None, ...],
    duals: Tensor | None = None,
) -> Tensors:
    """Forward mode: changes of x, u, cost and duals along changes of x0 (B, n) and of the parameters."""
    x, u, parameters = dense(x), dense(u), each_dense(parameters)
    d_x0 = None if d_x0 is None else dense(d_x0)
    d_parameters = tuple(None if d is None else dense(d) for d in d_parameters)
    d_x, d_u, d_cost = torch.empty_like(x), torch.empty_like(u), x.new_empty(x.shape[0])
    device = device_of(controller, x)
    wanted, singular = usable(status, options), torch.empty_like(status)
    changes, change_strides = pointers_to(device, d_parameters), stride_array_of(device, d_parameters)
    d_duals = x.new_empty(x.shape[0], 0, 0) if duals is None else torch.empty_like(dense(duals))
    duals = _dense_duals(duals)
    fields = _solution_fields(device, options, x, u, wanted, singular, duals)
    if duals is not None:
        fields["tangent_duals"] = pointer_to(device, d_duals)
    fields |= _parameter_fields(controller, device, parameters) | {
        "tangent_initial_state": pointer_to(device, d_x0),
        "tangent_parameters": changes,
        "tangent_strides": change_strides,
        "tangent_states": pointer_to(device, d_x),
        "tangent_controls": pointer_to(device, d_u),
        "tangent_cost": pointer_to(device, d_cost),
    }
    run_entry(device, "tangent", "tangent", x, fields)
    device.report_singular(singular, options.on_unconverged)
    if options.unconverged_gradient == "nan":
        poison((d_x, d_u, d_duals), (wanted == 0) | (singular != 0))
        poison((d_cost,), (wanted == 0) | (singular == LOST))
    return d_x, d_u, d_cost, d_duals


def examine(
    controller: Controller,
    x: Tensor,
    u: Tensor,
    status: Tensor,
    parameters: Tensors,
    duals: Tensor | None = None,
) -> Tensors:
    """dL/du, lower and upper bounds, (B, N, m) each, and of rows values, bounds and reserve, like duals (B, N+1, rows).

    Then the cost's unit, (B,), by which multipliers are weighed against distances, 1 where there are no rows. The
    reserve is what a soft row's price is above its multiplier, and inf where no row is soft. NaN for problems
    without a trajectory; rows are empty where there are no constraints.
    """
    x, u, parameters = dense(x), dense(u), each_dense(parameters)
    outputs = tuple(torch.full_like(u, float("nan")) for _ in range(3))
    like = u.new_empty(len(u), 0, 0) if duals is None else duals
    soft = any(constraint.soft for constraint in controller.constraints)
    rows = tuple(torch.full_like(like, float("nan")) for _ in range(4 if soft else 3))
    unit = u.new_ones(len(u))
    device = device_of(controller, x)
    wanted = usable(status, Options(unconverged_gradient="keep"))
    duals = _dense_duals(duals)
    fields = (
        _parameter_fields(controller, device, parameters)
        | _dual_fields(device, duals)
        | {
            "horizon": u.shape[1],
            "states": pointer_to(device, x),
            "controls": pointer_to(device, u),
            "usable": _flags(device, wanted),
        }
    )
    fields |= {
        name: pointer_to(device, out)
        for name, out in zip(("multipliers", "lower", "upper"), outputs, strict=True)
    }
    if duals is not None:
        names = ("row_values", "row_lower", "row_upper", "row_reserve")
        fields |= {name: pointer_to(device, out) for name, out in zip(names, rows, strict=False)}
        fields["cost_unit"] = pointer_to(device, unit)
    run_entry(device, "examine", "examine", x, fields)
    reserve = rows[3:] if soft else (torch.full_like(like, float("inf")),)
    return *outputs, *rows[:3], *reserve, unit
