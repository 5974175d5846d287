"""The differentiable functions: `Solve`, and the linear maps `Differentiate` and `Tangent` of its two modes.

They compose with torch.func: each says how it is vectorised, by making the mapped dimension part of the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpcgen.calls import kernels
from mpcgen.calls.options import Options
from mpcgen.errors import SecondDerivativeError
from mpcgen.runtime.controller import Controller

N_OUTPUTS = 8


def _fold(tensor: Tensor, dim: int | None, size: int, batch: int) -> Tensor:
    """Make a mapped dimension part of the batch: (V*B, ...), or still (1, ...) if all share one value."""
    if dim is None:
        if tensor.shape[0] == 1:
            return tensor
        tensor = tensor.unsqueeze(0).expand(size, *tensor.shape)
    else:
        tensor = tensor.movedim(dim, 0)
    if tensor.shape[1] != batch:
        tensor = tensor.expand(size, batch, *tensor.shape[2:])
    return tensor.reshape(size * batch, *tensor.shape[2:])


def _own(tensor: Tensor, dim: int | None, size: int, batch: int) -> Tensor:
    """Like `_fold`, but a value for each problem even where they share it."""
    folded = _fold(tensor, dim, size, batch)
    if folded.shape[0] == size * batch:
        return folded
    return folded.expand(size * batch, *folded.shape[1:]).contiguous()


def _unfold(tensor: Tensor, size: int) -> Tensor:
    return tensor.reshape(size, tensor.shape[0] // size, *tensor.shape[1:])


def _batch(tensor: Tensor, dim: int | None) -> int:
    return tensor.shape[0] if dim is None or dim > 0 else tensor.shape[1]


class Solve(torch.autograd.Function):
    """(x0, u_init, *parameters) -> (x, u, cost, status, iterations, residual, costates, gains), flat batch."""

    @staticmethod
    def forward(
        controller: Controller,
        options: Options,
        horizon: int,
        x0: Tensor,
        u_init: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        """Run the solver."""
        return kernels.solve(controller, options, horizon, x0, u_init, parameters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the solution and the parameters: nothing that grows with the iterations."""
        ctx.controller, ctx.options = inputs[:2]
        ctx.mark_non_differentiable(*output[3:])
        ctx.set_materialize_grads(False)
        x, u, _, status = output[:4]
        ctx.save_for_backward(x, u, status, *inputs[5:])
        ctx.save_for_forward(x, u, status, *inputs[5:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Reverse mode."""
        x, u, status, *parameters = ctx.saved_tensors
        g_x0, *g_parameters = Differentiate.apply(
            ctx.controller, ctx.options, x, u, status, *cotangents[:3], *parameters
        )
        return (None, None, None, g_x0, None, *g_parameters)

    @staticmethod
    def jvp(ctx: Any, *changes: Tensor | None) -> tuple[Tensor | None, ...]:
        """Forward mode."""
        x, u, status, *parameters = ctx.saved_tensors
        d_x, d_u, d_cost = Tangent.apply(
            ctx.controller, ctx.options, len(parameters), x, u, status, changes[3], *parameters, *changes[5:]
        )
        return (d_x, d_u, d_cost, *(None for _ in range(N_OUTPUTS - 3)))

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *args: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Make the mapped dimension part of the batch."""
        controller, options, horizon, x0, u_init, *parameters = args
        size, batch = info.batch_size, _batch(x0, in_dims[3])
        u_init = None if u_init is None else _fold(u_init, in_dims[4], size, batch)
        parameters = [_fold(p, d, size, batch) for p, d in zip(parameters, in_dims[5:], strict=True)]
        x0 = _own(x0, in_dims[3], size, batch)
        outputs = Solve.apply(controller, options, horizon, x0, u_init, *parameters)
        return tuple(_unfold(out, size) for out in outputs), (0,) * N_OUTPUTS


class _LastDerivative(torch.autograd.Function):
    """What is a derivative already and has none of its own."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep nothing: there is no second derivative."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        """Refuse: raises SecondDerivativeError."""
        raise SecondDerivativeError

    @staticmethod
    def jvp(ctx: Any, *changes: Tensor | None) -> Any:
        """Refuse: raises SecondDerivativeError."""
        raise SecondDerivativeError


class Differentiate(_LastDerivative):
    """(x, u, status, cotangents of x, u and cost, *parameters) -> gradients of (x0, *parameters)."""

    @staticmethod
    def forward(
        controller: Controller,
        options: Options,
        x: Tensor,
        u: Tensor,
        status: Tensor,
        g_x: Tensor | None,
        g_u: Tensor | None,
        g_cost: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        """Run the reverse mode."""
        return kernels.differentiate(controller, options, x, u, status, parameters, (g_x, g_u, g_cost))

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *args: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Fold; the gradient of a parameter that the batch shares is summed for each mapped index by itself."""
        controller, options, *tensors = args
        dims = in_dims[2:]
        size, batch = info.batch_size, _batch(tensors[0], dims[0])
        parameters, p_dims = tensors[6:], dims[6:]
        shared = [_batch(p, d) == 1 and batch != 1 for p, d in zip(parameters, p_dims, strict=True)]
        solution = [
            None if t is None else _own(t, d, size, batch) for t, d in zip(tensors[:6], dims[:6], strict=True)
        ]
        own = [_own(p, d, size, batch) for p, d in zip(parameters, p_dims, strict=True)]
        g_x0, *grads = Differentiate.apply(controller, options, *solution, *own)
        unfolded = [_unfold(g, size) for g in grads]
        summed = [g.sum(1, keepdim=True) if s else g for g, s in zip(unfolded, shared, strict=True)]
        return (_unfold(g_x0, size), *summed), (0,) * (1 + len(grads))


class Tangent(_LastDerivative):
    """(x, u, status, change of x0, *parameters, *their changes) -> changes of (x, u, cost)."""

    @staticmethod
    def forward(
        controller: Controller,
        options: Options,
        count: int,
        x: Tensor,
        u: Tensor,
        status: Tensor,
        d_x0: Tensor | None,
        *values: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Run the forward mode; ``count`` parameters are followed by as many changes."""
        parameters = tuple(value for value in values[:count] if value is not None)
        return kernels.tangent(controller, options, x, u, status, parameters, d_x0, values[count:])

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *args: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Fold."""
        controller, options, count, *tensors = args
        dims = in_dims[3:]
        size, batch = info.batch_size, _batch(tensors[0], dims[0])
        solution = [
            None if t is None else _own(t, d, size, batch) for t, d in zip(tensors[:4], dims[:4], strict=True)
        ]
        values = [
            None if t is None else _fold(t, d, size, batch)
            for t, d in zip(tensors[4:], dims[4:], strict=True)
        ]
        outputs = Tangent.apply(controller, options, count, *solution, *values)
        return tuple(_unfold(out, size) for out in outputs), (0, 0, 0)
