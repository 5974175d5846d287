"""The differentiable operator: a batch of problems in, solutions out; its backward is one Riccati sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mpcgen.autograd.reporting import report_singular
from mpcgen.runtime.controller import Controller
from mpcgen.runtime.status import Status


@dataclass(frozen=True)
class Options:
    """Options of `mpcgen.autograd.MPC`, checked."""

    tol: float | None
    max_iterations: int
    hessian: str
    gradient: str
    on_unconverged: str
    unconverged_gradient: str
    threads: int | None

    def tolerance(self, dtype: torch.dtype) -> float:
        """KKT residual to reach: as asked, or what the precision can bear."""
        if self.tol is not None:
            return self.tol
        return 1e-8 if dtype == torch.float64 else 1e-4

    def thread_count(self) -> int:
        """Threads for the next call."""
        return torch.get_num_threads() if self.threads is None else self.threads


def _bits(tensor: Tensor) -> int:
    return tensor.element_size() * 8


def _pointer(controller: Controller, tensor: Tensor | None) -> Any:
    ffi = controller.library.ffi
    return ffi.NULL if tensor is None else ffi.cast("void *", tensor.data_ptr())


def _strides(parameters: tuple[Tensor, ...]) -> list[int]:
    """Numbers from one problem to the next; a value that the batch shares has stride zero."""
    return [0 if p.shape[0] == 1 else p[0].numel() for p in parameters]


class Solve(torch.autograd.Function):
    """(x0, u_init, *parameters) -> (x, u, cost, status, iterations, residual, costates, gains), flat batch."""

    @staticmethod
    def forward(
        ctx: Any,
        controller: Controller,
        options: Options,
        horizon: int,
        x0: Tensor,
        u_init: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        """Run the solver; see the class."""
        outputs = solve(controller, options, horizon, x0, u_init, parameters)
        ctx.controller, ctx.options, ctx.horizon = controller, options, horizon
        x, u, _, status = outputs[:4]
        ctx.mark_non_differentiable(*outputs[3:])
        ctx.save_for_backward(x, u, status, *parameters)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients with respect to x0 and the parameters."""
        x, u, status, *parameters = ctx.saved_tensors
        g_x0, *g_parameters = differentiate(
            ctx.controller, ctx.options, x, u, status, tuple(parameters), cotangents[:3]
        )
        return (None, None, None, g_x0, None, *g_parameters)


def solve(
    controller: Controller,
    options: Options,
    horizon: int,
    x0: Tensor,
    u_init: Tensor | None,
    parameters: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """Solve a flat batch: x0 (B, n), u_init (B or 1, N, m), parameters (B or 1, ...)."""
    batch, n, m = x0.shape[0], len(controller.states), len(controller.controls)
    ffi = controller.library.ffi
    x0 = x0.contiguous()
    x = x0.new_empty(batch, horizon + 1, n)
    u = x0.new_empty(batch, horizon, m)
    costates = torch.empty_like(x)
    gains = x0.new_empty(batch, horizon, m, n)
    cost, residual = x0.new_empty(batch), x0.new_empty(batch)
    status = torch.empty(batch, dtype=torch.int32)
    iterations = torch.empty_like(status)
    a = controller.arguments("solve")
    pointers = ffi.new("void *[]", [_pointer(controller, p) for p in parameters])
    strides = ffi.new("int64_t[]", _strides(parameters))
    a.batch, a.horizon, a.max_iterations = batch, horizon, options.max_iterations
    a.exact_hessian = options.hessian == "exact"
    a.certify = options.hessian == "exact" or options.gradient == "exact"
    a.threads, a.tolerance = options.thread_count(), options.tolerance(x0.dtype)
    a.initial_state, a.initial_state_stride = _pointer(controller, x0), n
    a.initial_controls = _pointer(controller, u_init)
    a.initial_controls_stride = 0 if u_init is None or u_init.shape[0] == 1 else horizon * m
    a.parameters, a.parameter_strides = pointers, strides
    a.states, a.controls = _pointer(controller, x), _pointer(controller, u)
    a.costates, a.gains = _pointer(controller, costates), _pointer(controller, gains)
    a.cost, a.residual = _pointer(controller, cost), _pointer(controller, residual)
    a.status = ffi.cast("int32_t *", status.data_ptr())
    a.iterations = ffi.cast("int32_t *", iterations.data_ptr())
    controller.check(controller.entry("solve", _bits(x0), batch)(a), "solve")
    return x, u, cost, status, iterations, residual, costates, gains


def differentiate(
    controller: Controller,
    options: Options,
    x: Tensor,
    u: Tensor,
    status: Tensor,
    parameters: tuple[Tensor, ...],
    cotangents: tuple[Tensor | None, ...],
) -> tuple[Tensor, ...]:
    """Gradients of a loss with the given cotangents of (x, u, cost), for x0 (B, n) and every parameter."""
    batch, horizon = u.shape[:2]
    ffi = controller.library.ffi
    g_x, g_u, g_cost = (None if g is None else g.contiguous() for g in cotangents)
    g_x0 = x.new_empty(batch, x.shape[2])
    g_parameters = tuple(torch.empty_like(p) for p in parameters)
    usable = _usable(status, options)
    singular = torch.empty_like(status)
    a = controller.arguments("gradient")
    pointers = ffi.new("void *[]", [_pointer(controller, p) for p in parameters])
    targets = ffi.new("void *[]", [_pointer(controller, g) for g in g_parameters])
    strides = ffi.new("int64_t[]", _strides(parameters))
    a.batch, a.horizon, a.exact_hessian = batch, horizon, options.gradient == "exact"
    a.threads = options.thread_count()
    a.parameters, a.parameter_strides, a.gradient_parameters = pointers, strides, targets
    a.states, a.controls = _pointer(controller, x), _pointer(controller, u)
    a.usable = ffi.cast("int32_t *", usable.data_ptr())
    a.cotangent_states, a.cotangent_controls = _pointer(controller, g_x), _pointer(controller, g_u)
    a.cotangent_cost = _pointer(controller, g_cost)
    a.gradient_initial_state = _pointer(controller, g_x0)
    a.singular = ffi.cast("int32_t *", singular.data_ptr())
    controller.check(controller.entry("differentiate", _bits(x), batch)(a), "differentiate")
    report_singular(controller.name, singular, options.on_unconverged)
    if options.unconverged_gradient == "nan":
        _poison(g_x0, g_parameters, usable.logical_not() | singular.bool())
    return g_x0, *g_parameters


def _usable(status: Tensor, options: Options) -> Tensor:
    """int32 mask of the problems that get a gradient. One without a trajectory never does."""
    if options.unconverged_gradient == "keep":
        nothing = (status == Status.INVALID_INPUT) | (status == Status.DIVERGED)
        return nothing.logical_not().to(torch.int32)
    return (status == Status.CONVERGED).to(torch.int32)


def _poison(g_x0: Tensor, g_parameters: tuple[Tensor, ...], where: Tensor) -> None:
    """Put NaN where a problem has no gradient; a shared parameter has none if any problem has none."""
    g_x0[where] = float("nan")
    for g in g_parameters:
        if g.shape[0] == len(where):
            g[where] = float("nan")
        elif where.any():
            g.fill_(float("nan"))
