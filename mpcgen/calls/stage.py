"""Calls of the compiled kernels for one stage, or the last state, of flat batches: values and their derivatives.

x is (B, n), u (B, m), or (B, 0) at the last state; parameters are (B, *shape), or (1, *shape) where the batch shares
one. At the last state there is no next one: what stands for it is (B, 0).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpcgen.calls.devices import Device, device_of
from mpcgen.calls.kernels import each_dense, pointer_to, pointers_to, run_entry, stride_array_of
from mpcgen.calls.struct import dense
from mpcgen.runtime.controller import Controller

Tensors = tuple[Tensor, ...]


def _point(device: Device, last: bool, x: Tensor, u: Tensor, parameters: Tensors) -> dict[str, Any]:
    return {
        "last": last,
        "threads": torch.get_num_threads(),
        "states": pointer_to(device, x),
        "controls": pointer_to(device, u),
        "parameters": pointers_to(device, parameters),
        "parameter_strides": stride_array_of(device, parameters),
    }


def _next_like(x: Tensor, last: bool) -> Tensor:
    return x.new_empty(x.shape[0], 0) if last else torch.empty_like(x)


def evaluate(
    controller: Controller, last: bool, x: Tensor, u: Tensor, parameters: Tensors
) -> tuple[Tensor, Tensor]:
    """Next state (B, n) and stage cost (B,); at the last state the terminal cost."""
    x, u, parameters = dense(x), dense(u), each_dense(parameters)
    device, found, cost = device_of(controller, x), _next_like(x, last), x.new_empty(x.shape[0])
    fields = _point(device, last, x, u, parameters)
    fields |= {"next_states": pointer_to(device, None if last else found), "cost": pointer_to(device, cost)}
    run_entry(device, "evaluate", "evaluate", x, fields)
    return found, cost


def pull_back(
    controller: Controller,
    last: bool,
    x: Tensor,
    u: Tensor,
    g_next: Tensor | None,
    g_cost: Tensor | None,
    parameters: Tensors,
) -> Tensors:
    """Gradients of x, u and every parameter for cotangents of next state and cost."""
    x, u, parameters = dense(x), dense(u), each_dense(parameters)
    g_next, g_cost = (None if g is None else dense(g) for g in (g_next, g_cost))
    device = device_of(controller, x)
    g_x, g_u, *gradients = map(torch.zeros_like, (x, u, *parameters))
    fields = _point(device, last, x, u, parameters) | {
        "cotangent_next": pointer_to(device, None if last else g_next),
        "cotangent_cost": pointer_to(device, g_cost),
        "gradient_states": pointer_to(device, g_x),
        "gradient_controls": pointer_to(device, None if last else g_u),
        "gradient_parameters": pointers_to(device, tuple(gradients)),
    }
    run_entry(device, "evaluate", "evaluate", x, fields)
    return g_x, g_u, *gradients


def push_forward(
    controller: Controller,
    last: bool,
    x: Tensor,
    u: Tensor,
    d_x: Tensor | None,
    d_u: Tensor | None,
    parameters: Tensors,
    changes: tuple[Tensor | None, ...],
) -> tuple[Tensor, Tensor]:
    """Changes of next state and cost along changes of x, u and the parameters."""
    x, u, parameters = dense(x), dense(u), each_dense(parameters)
    d_x, d_u = (None if d is None else dense(d) for d in (d_x, d_u))
    changes = tuple(None if d is None else dense(d) for d in changes)
    device, d_next, d_cost = device_of(controller, x), _next_like(x, last), x.new_empty(x.shape[0])
    fields = _point(device, last, x, u, parameters) | {
        "tangent_states": pointer_to(device, d_x),
        "tangent_controls": pointer_to(device, None if last else d_u),
        "tangent_parameters": pointers_to(device, changes),
        "tangent_strides": stride_array_of(device, changes),
        "tangent_next": pointer_to(device, None if last else d_next),
        "tangent_cost": pointer_to(device, d_cost),
    }
    run_entry(device, "evaluate", "evaluate", x, fields)
    return d_next, d_cost
