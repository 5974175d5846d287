"""The weights of a torch module as parameters of a problem: what they are called, and their values for a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mpcgen.errors import SpecError


def weights_of(module: Any) -> dict[str, Tensor]:
    """The parameters of a module and its persistent buffers of real numbers, by name; tied ones once.

    module: a `torch.nn.Module`, a mapping from names to tensors, or a function, which has none.
    """
    if isinstance(module, Mapping):
        return dict(module)
    if not isinstance(module, nn.Module):
        return {}
    found = dict(module.named_parameters())
    kept = {name: buffer for name, buffer in module.named_buffers() if name in module.state_dict()}
    return found | {name: buffer for name, buffer in kept.items() if buffer.is_floating_point()}


def parameter_name(name: str, weight: str) -> str:
    """The parameter that stands for a weight, ``0.bias`` of ``model``: ``model_0_bias``."""
    return f"{name}_{weight}".replace(".", "_")


def torch_parameters(module: nn.Module | Mapping[str, Tensor], name: str = "model") -> dict[str, Tensor]:
    """Return the arguments of a controller's call that give it the weights of a module, ``mpc(x0, **arguments)``.

    They are the module's own tensors, so that gradients reach ``module.parameters()``.

    Args:
        module: a module of the architecture that the problem was made with, or its weights by name, as
            `torch.func.stack_module_state` returns them: with leading dimensions, one module for each problem.
        name: that the module has in the problem, see `mpcgen.torch_model`.

    Raises SpecError for what has no weights.

    """
    if not isinstance(module, nn.Module | Mapping):
        raise SpecError(
            f"torch_parameters was given {type(module).__name__}; expected a torch.nn.Module, or its weights by name"
        )
    return {parameter_name(name, weight): tensor for weight, tensor in weights_of(module).items()}
