"""From what a user passes to what the kernels take: checks, defaults, broadcasting of leading dimensions."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mpcgen.errors import DeviceError, DtypeError, ParameterError, ShapeError
from mpcgen.runtime.controller import Description, Parameter

DTYPES = (torch.float64, torch.float32)
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Call:
    """A batch of problems as the kernels take it; B is the product of ``batch_shape``.

    x0: (B, n). u_init: (B, N, m), (1, N, m) or None. parameters: per parameter (B, [stages,] *shape) or (1, ...), the
    latter shared by the batch; all differentiable functions of what the user passed. The axis of stages has length
    one in all of them if none came with a value for each stage.
    """

    batch_shape: torch.Size
    horizon: int
    x0: Tensor
    u_init: Tensor | None
    parameters: tuple[Tensor, ...]


def make_call(
    controller: Description,
    x0: Tensor,
    u_init: Tensor | None,
    horizon: int | None,
    given: Mapping[str, Any],
) -> Call:
    """Check and broadcast the arguments of a call; see `mpcgen.autograd.MPC.forward`."""
    _check_x0(controller, x0)
    _check_names(controller, given)
    if u_init is not None:
        _check_like_x0(controller, "u_init", u_init, x0)
    values = {
        p.name: _as_tensor(controller, p, given[p.name], x0) for p in controller.parameters if p.name in given
    }
    horizon = _find_horizon(controller, horizon, u_init, values)
    stages = None if _is_given_once(controller, values) else horizon
    defaults = _defaults(controller, x0, stages, frozenset(values))
    leading: dict[str, torch.Size] = {}
    for p in controller.parameters:
        if p.name in values:
            values[p.name], leading[p.name] = _with_stages(controller, p, values[p.name], stages)
    u_shape = (horizon, len(controller.controls))
    if u_init is not None:
        leading["u_init"] = _leading(controller, "u_init", u_init, u_shape)
    batch_shape = _broadcast(controller, x0, leading) if leading else x0.shape[:-1]
    n = len(controller.states)
    return Call(
        batch_shape,
        horizon,
        (x0.expand(*batch_shape, n) if leading else x0).reshape(-1, n),
        None if u_init is None else _flatten(u_init, u_shape, batch_shape),
        tuple(
            _flatten(values[p.name], p.full_shape(stages), batch_shape)
            if p.name in values
            else defaults[p.name]
            for p in controller.parameters
        ),
    )


def _defaults(
    controller: Description, x0: Tensor, stages: int | None, given: frozenset[str]
) -> dict[str, Tensor]:
    """Defaults of the parameters not given, each (1, [stages,] *shape)."""
    absent = tuple(p for p in controller.parameters if p.name not in given)
    for parameter in absent:
        if parameter.default is None:
            raise ParameterError(
                f"{controller.name}: the parameter {parameter.name!r} of shape {parameter.shape} has no default; "
                f"pass {parameter.name}=..."
            )
    # Tensors made while tracing or inside a functorch transform belong to it, and must not outlive it.
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return _make_defaults(absent, x0.dtype, x0.device, stages)
    return _kept_defaults(absent, x0.dtype, x0.device, stages)


def _make_defaults(
    parameters: tuple[Parameter, ...], dtype: torch.dtype, device: torch.device, stages: int | None
) -> dict[str, Tensor]:
    made = {}
    for parameter in parameters:
        value = torch.tensor(parameter.default, dtype=dtype, device=device).reshape(parameter.shape)
        made[parameter.name] = value.expand(1, *parameter.full_shape(stages)).contiguous()
    return made


@functools.lru_cache(maxsize=64)
def _kept_defaults(
    parameters: tuple[Parameter, ...], dtype: torch.dtype, device: torch.device, stages: int | None
) -> dict[str, Tensor]:
    with torch.inference_mode(False):  # else autograd could not save them later
        return _make_defaults(parameters, dtype, device, stages)


def _check_x0(controller: Description, x0: Tensor) -> None:
    n = len(controller.states)
    if not isinstance(x0, Tensor):
        raise DtypeError(
            f"{controller.name}: x0 is a {type(x0).__name__}; pass a torch tensor of shape (..., {n})"
        )
    if x0.dtype not in DTYPES:
        raise DtypeError(
            f"{controller.name}: x0 is {x0.dtype}; float32 or float64 is expected, try x0.double()"
        )
    if x0.device.type not in DEVICES:
        raise DeviceError(
            f"{controller.name}: x0 is on {x0.device}; controllers run on the CPU and on CUDA devices, pass x0.cpu()"
        )
    if x0.ndim == 0 or x0.shape[-1] != n:
        raise ShapeError(
            f"{controller.name}: x0 has shape {tuple(x0.shape)}; (..., {n}) is expected, "
            f"the states being {', '.join(controller.states)}"
        )


def _check_names(controller: Description, given: Mapping[str, Any]) -> None:
    names = [p.name for p in controller.parameters]
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            known = ", ".join(names) or "none"
            raise ParameterError(
                f"{controller.name} has no parameter {name!r}; {hint}its parameters are {known}"
            )


def _as_tensor(controller: Description, parameter: Parameter, value: Any, x0: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        _check_like_x0(controller, parameter.name, value, x0)
        return value
    try:
        return torch.as_tensor(value, dtype=x0.dtype, device=x0.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ParameterError(
            f"{controller.name}: {parameter.name}={value!r} is not a tensor, a number or a nested list of numbers"
        ) from error


def _check_like_x0(controller: Description, name: str, value: Tensor, x0: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise DtypeError(f"{controller.name}: {name} is a {type(value).__name__}; pass a torch tensor")
    if value.dtype != x0.dtype:
        raise DtypeError(
            f"{controller.name}: {name} is {value.dtype}, but x0 is {x0.dtype}; convert one with .to(...)"
        )
    if value.device != x0.device:
        raise DeviceError(f"{controller.name}: {name} is on {value.device}, but x0 is on {x0.device}")


def _find_horizon(
    controller: Description, horizon: int | None, u_init: Tensor | None, values: Mapping[str, Tensor]
) -> int:
    """The horizon asked for, else that of u_init or of a per-stage parameter, else the spec's."""
    if horizon is not None:
        if isinstance(horizon, bool) or not isinstance(horizon, int) or not 1 <= horizon < 2**31:
            raise ParameterError(
                f"{controller.name}: horizon={horizon!r}; a whole number of at least 1 is expected"
            )
        return horizon
    if u_init is not None and u_init.ndim >= 2:
        return max(u_init.shape[-2], 1)
    for parameter in controller.parameters:
        rank = len(parameter.shape)
        value = values.get(parameter.name)
        if parameter.per_stage and value is not None and value.ndim > rank:
            return max(value.shape[value.ndim - rank - 1] - parameter.in_terminal, 1)
    return controller.horizon


def _is_given_once(controller: Description, values: Mapping[str, Tensor]) -> bool:
    """Whether no per-stage parameter came with an axis of stages."""
    return all(
        values[p.name].shape == p.shape for p in controller.parameters if p.per_stage and p.name in values
    )


def _with_stages(
    controller: Description, parameter: Parameter, value: Tensor, stages: int | None
) -> tuple[Tensor, torch.Size]:
    """The value with the axis of stages that it lacks, and its leading dimensions."""
    shape = parameter.full_shape(stages)
    if not parameter.per_stage:
        return value, _leading(controller, parameter.name, value, shape)
    if value.shape == parameter.shape:
        value = value.expand(shape)
    return value, _leading(controller, parameter.name, value, shape, parameter.shape)


def _leading(
    controller: Description,
    name: str,
    value: Tensor,
    shape: tuple[int, ...],
    constant: tuple[int, ...] | None = None,
) -> torch.Size:
    split = value.ndim - len(shape)
    if split < 0 or tuple(value.shape[split:]) != shape:
        expected = ", ".join(["...", *map(str, shape)])
        once = "" if constant is None else f"; or {constant}, the same for all stages and problems"
        raise ShapeError(
            f"{controller.name}: {name} has shape {tuple(value.shape)}; ({expected}) is expected, "
            f"leading dimensions being the batch{once}"
        )
    return value.shape[:split]


def _broadcast(controller: Description, x0: Tensor, leading: Mapping[str, torch.Size]) -> torch.Size:
    try:
        return torch.broadcast_shapes(x0.shape[:-1], *leading.values())
    except RuntimeError as error:
        shapes = [f"x0 {tuple(x0.shape[:-1])}"]
        shapes += [f"{name} {tuple(shape)}" for name, shape in leading.items() if len(shape)]
        raise ShapeError(
            f"{controller.name}: the leading (batch) dimensions do not broadcast: {', '.join(shapes)}"
        ) from error


def at_each_stage(value: Tensor, stages: int | None, size: int) -> Tensor:
    """(B or 1, stages, size) of a `Call`'s parameter; ``stages`` is None if it has no axis of stages."""
    if stages is None:
        return value.reshape(value.shape[0], 1, size)
    return value.reshape(*value.shape[:2], size).expand(-1, stages, -1)


def _flatten(value: Tensor, shape: tuple[int, ...], batch_shape: torch.Size) -> Tensor:
    """(B, *shape), or (1, *shape) where the batch shares one value."""
    split = value.ndim - len(shape)
    if value.shape[:split].numel() == 1:
        return value.reshape(1, *shape)
    return value.expand(*batch_shape, *shape).reshape(-1, *shape)
