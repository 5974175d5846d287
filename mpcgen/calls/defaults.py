"""Defaults of the parameters that a call does not give, as tensors."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from mpcgen.calls.watching import is_intercepted
from mpcgen.errors import ParameterError
from mpcgen.runtime.controller import Description, Parameter


def defaults_of(
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
    # Tensors made while tracing belong to the trace, and must not outlive it.
    if torch.compiler.is_compiling() or is_intercepted():
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
    # else autograd could not save them later, and they would belong to a transform of torch.func that will have ended
    with torch.inference_mode(False), temporarily_clear_interpreter_stack():
        return _make_defaults(parameters, dtype, device, stages)
