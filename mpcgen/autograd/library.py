"""The solver as a registered torch operator: what `torch.compile` and `torch.export` see.

A registered operator carries tensors, numbers and strings only, so a controller goes by its key, its name and the
digest of its C text, and the options by their text. Called directly, an MPC takes the shorter way through
`functions.Solve`, which also knows forward mode and vmap.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpcgen.calls import kernels
from mpcgen.calls.options import Options
from mpcgen.errors import ParameterError, SecondDerivativeError
from mpcgen.runtime.controller import Controller

_CONTROLLERS: dict[str, Controller] = {}


def register(controller: Controller) -> str:
    """Make a controller known to the operators; returns its key."""
    key = controller.key
    _CONTROLLERS[key] = controller
    return key


def _controller(key: str) -> Controller:
    try:
        return _CONTROLLERS[key]
    except KeyError:
        name = key.partition(":")[0]
        raise ParameterError(
            f"the controller {key} is not loaded in this process; import the generated package {name!r} first"
        ) from None


@torch.library.custom_op("mpcgen::solve", mutates_args=())
def solve(
    controller: str, options: str, horizon: int, x0: Tensor, u_init: Tensor | None, parameters: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Operator form of `kernels.solve`."""
    chosen = Options.from_text(options)
    return kernels.solve(_controller(controller), chosen, horizon, x0, u_init, tuple(parameters))  # type: ignore[return-value]


@solve.register_fake
def _(
    controller: str, options: str, horizon: int, x0: Tensor, u_init: Tensor | None, parameters: list[Tensor]
) -> tuple[Tensor, ...]:
    batch, n, m = x0.shape[0], x0.shape[1], len(_controller(controller).controls)
    counts = x0.new_empty(batch, dtype=torch.int32)
    return (
        x0.new_empty(batch, horizon + 1, n),
        x0.new_empty(batch, horizon, m),
        x0.new_empty(batch),
        counts,
        torch.empty_like(counts),
        x0.new_empty(batch),
        x0.new_empty(batch, horizon + 1, n),
        x0.new_empty(batch, horizon, m, n),
    )


@torch.library.custom_op("mpcgen::differentiate", mutates_args=())
def differentiate(
    controller: str,
    options: str,
    x: Tensor,
    u: Tensor,
    status: Tensor,
    cotangents: list[Tensor],
    parameters: list[Tensor],
) -> list[Tensor]:
    """Operator form of `kernels.differentiate`; cotangents of x, u and cost, gradients of (x0, *parameters)."""
    g_x, g_u, g_cost = cotangents
    chosen = Options.from_text(options)
    gradients = kernels.differentiate(
        _controller(controller), chosen, x, u, status, tuple(parameters), (g_x, g_u, g_cost)
    )
    return list(gradients)


@differentiate.register_fake
def _(
    controller: str,
    options: str,
    x: Tensor,
    u: Tensor,
    status: Tensor,
    cotangents: list[Tensor],
    parameters: list[Tensor],
) -> list[Tensor]:
    return [x.new_empty(x.shape[0], x.shape[2]), *(torch.empty_like(p) for p in parameters)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.controller, ctx.options, _, _, _, parameters = inputs
    ctx.save_for_backward(*output[:2], output[3], *parameters)
    ctx.mark_non_differentiable(*output[3:])


def _backward(ctx: Any, g_x: Tensor, g_u: Tensor, g_cost: Tensor, *_: Any) -> tuple[Any, ...]:
    x, u, status, *parameters = ctx.saved_tensors
    g_x0, *grads = differentiate(ctx.controller, ctx.options, x, u, status, [g_x, g_u, g_cost], parameters)
    return None, None, None, g_x0, None, grads


def _refuse(ctx: Any, *_: Any) -> Any:
    raise SecondDerivativeError


solve.register_autograd(_backward, setup_context=_setup_context)
differentiate.register_autograd(_refuse)
