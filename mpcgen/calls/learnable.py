"""Problem parameters as torch Parameters of the controller, free or with a constraint.

A constraint is a parametrization (`torch.nn.utils.parametrize`): the optimiser sees an unconstrained tensor z, the
solver its image, and assignment to the attribute goes through the inverse.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mpcgen.calls.arguments import DTYPES, check_names
from mpcgen.errors import DeviceError, DtypeError, ParameterError
from mpcgen.runtime.controller import Description, Parameter

Constraint: TypeAlias = "str | tuple[str, float, float] | nn.Module | None"
Learn: TypeAlias = "str | Iterable[str] | Mapping[str, Constraint]"

_CONSTRAINTS = 'None, "positive", ("interval", lower, upper) or a parametrization (a torch.nn.Module)'


class Positive(nn.Module):
    """value = exp(z) > 0: equal steps of z are equal factors of the value, whatever its unit."""

    def forward(self, z: Tensor) -> Tensor:
        """Value for z, any shape."""
        return z.exp()

    def right_inverse(self, value: Tensor) -> Tensor:
        """Return the z of a value; raises ParameterError unless all of it is positive and finite."""
        _check_inside(value, 0.0, math.inf)
        return value.log()

    def extra_repr(self) -> str:
        """Nothing varies."""
        return "exp"


class Interval(nn.Module):
    """lower < value < upper, value = lower + (upper - lower) / (1 + exp(-z))."""

    def __init__(self, lower: float, upper: float) -> None:
        super().__init__()
        self.lower, self.upper = lower, upper

    def forward(self, z: Tensor) -> Tensor:
        """Value for z, any shape."""
        return self.lower + (self.upper - self.lower) * z.sigmoid()

    def right_inverse(self, value: Tensor) -> Tensor:
        """Return the z of a value; raises ParameterError unless all of it lies inside."""
        _check_inside(value, self.lower, self.upper)
        return (value - self.lower).log() - (self.upper - value).log()

    def extra_repr(self) -> str:
        """Limits."""
        return f"{self.lower}, {self.upper}"


def _check_inside(value: Tensor, lower: float, upper: float) -> None:
    if not isinstance(value, Tensor):
        raise DtypeError(f"a learned value is a tensor, not a {type(value).__name__}; pass torch.tensor(...)")
    # a tensor without storage (device "meta") has no values to check
    if not value.is_meta and not bool(((value > lower) & (value < upper)).all()):
        raise ParameterError(
            f"the learned value {value.tolist()} is outside its constraint: "
            f"it has to lie strictly between {lower} and {upper}"
        )


def register(
    module: nn.Module, controller: Description, learn: Learn, initial: Mapping[str, Any]
) -> tuple[str, ...]:
    """Register the parameters named in ``learn`` on ``module``; returns their names.

    Raises ParameterError, DtypeError as `mpcgen.autograd.MPC` says.
    """
    constraints = _constraints(learn)
    check_names(controller, constraints)
    stray = [name for name in initial if name not in constraints]
    if stray:
        raise ParameterError(
            f"{controller.name}: initial has {stray[0]!r}, which is not learned; add it to learn={list(constraints)}"
        )
    known = {p.name: p for p in controller.parameters}
    for name, constraint in constraints.items():
        if hasattr(module, name) or name == "parametrizations":  # which the first constraint would bring
            raise ParameterError(
                f"{controller.name}: the parameter {name!r} cannot be learned under its name, since torch modules "
                f"have an attribute of that name; rename it in the spec, or pass a tensor at each call"
            )
        value = _initial_value(controller, known[name], initial.get(name))
        module.register_parameter(name, nn.Parameter(value))
        _constrain(module, controller, name, constraint)
    return tuple(constraints)


def _constraints(learn: Learn) -> dict[str, Constraint]:
    if isinstance(learn, str):
        return {learn: None}
    if isinstance(learn, Mapping):
        return dict(learn)
    names = list(learn)
    if not all(isinstance(name, str) for name in names):
        raise ParameterError(f"learn={names!r}; names of parameters are expected")
    if len(set(names)) != len(names):
        raise ParameterError(f"learn={names!r} names a parameter twice")
    return dict.fromkeys(names)


def _initial_value(controller: Description, parameter: Parameter, given: Any) -> Tensor:
    """Return a fresh (..., [stages,] *shape): what is given, or the default at each stage of the spec's horizon."""
    where = f"{controller.name}: initial value of {parameter.name}"
    if given is None:
        if parameter.default is None:
            raise ParameterError(
                f"{controller.name}: the parameter {parameter.name!r} of shape {parameter.shape} has no default to "
                f"start learning from; pass initial={{{parameter.name!r}: ...}}"
            )
        value = torch.tensor(parameter.default, dtype=torch.float64).reshape(parameter.shape)
        return value.expand(parameter.full_shape(controller.horizon)).clone()
    try:
        value = (
            given.detach().clone() if isinstance(given, Tensor) else torch.tensor(given, dtype=torch.float64)
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise ParameterError(
            f"{where} is {given!r}; a tensor or (nested lists of) numbers is expected"
        ) from error
    if value.dtype not in DTYPES:
        raise DtypeError(f"{where} is {value.dtype}; float32 or float64 is expected, try .double()")
    rank = len(parameter.shape)
    if tuple(value.shape[value.ndim - rank :]) != parameter.shape or value.ndim < rank:
        raise ParameterError(
            f"{where} has shape {tuple(value.shape)}; it has to end with the parameter's shape {parameter.shape}"
        )
    return value


def _constrain(module: nn.Module, controller: Description, name: str, constraint: Constraint) -> None:
    if constraint is None:
        return
    parametrization = _parametrization(f"{controller.name}: learn[{name!r}]={constraint!r}", constraint)
    try:
        parametrize.register_parametrization(module, name, parametrization)
    except ParameterError as error:
        raise ParameterError(
            f"{controller.name}: {name!r} cannot start there, {error}; choose another with initial={{{name!r}: ...}}"
        ) from None


def _parametrization(where: str, constraint: Constraint) -> nn.Module:
    if isinstance(constraint, nn.Module):
        return constraint
    if constraint == "positive":
        return Positive()
    if not isinstance(constraint, tuple | list) or len(constraint) != 3 or constraint[0] != "interval":
        raise ParameterError(f"{where}; expected one of {_CONSTRAINTS}")
    try:
        lower, upper = float(constraint[1]), float(constraint[2])
    except (TypeError, ValueError):
        raise ParameterError(f"{where}; the limits of an interval are numbers") from None
    if not -math.inf < lower < upper < math.inf:
        raise ParameterError(f"{where}; finite limits with lower < upper are expected")
    return Interval(lower, upper)


def with_learned(
    module: nn.Module, controller: Description, learned: tuple[str, ...], given: Mapping[str, Any], x0: Tensor
) -> dict[str, Any]:
    """Add the learned parameters that are not ``given``.

    Raises DtypeError or DeviceError where they do not fit x0, of which nothing else is checked.
    """
    values = dict(given)
    convert = is_autocast(x0)
    for name in learned:
        if values.get(name) is None:
            values[name] = value = getattr(module, name)
            if not convert:
                _check_like(controller, name, value, x0)
    return values


def _check_like(controller: Description, name: str, value: Tensor, x0: Tensor) -> None:
    # an x0 that no module could take is reported as such, later
    if not isinstance(x0, Tensor) or x0.dtype not in DTYPES:
        return
    where = f"{controller.name}: the learned {name} is"
    if value.dtype != x0.dtype:
        raise DtypeError(
            f"{where} {value.dtype}, but x0 is {x0.dtype}; convert the controller with .to({x0.dtype}) or x0 "
            f"with .to({value.dtype})"
        )
    if value.device != x0.device:
        raise DeviceError(
            f"{where} on {value.device}, but x0 is on {x0.device}; move the controller with .to({str(x0.device)!r})"
        )


def is_autocast(x0: Any) -> bool:
    """Whether x0's device is under `torch.autocast`."""
    # not x0.device.type, which costs a microsecond of every call
    return isinstance(x0, Tensor) and torch.is_autocast_enabled("cpu" if x0.is_cpu else "cuda")


def leave_autocast(
    x0: Tensor, u_init: Tensor | None, x_init: Tensor | None, parameters: Mapping[str, Any]
) -> tuple[Tensor, Tensor | None, Tensor | None, dict[str, Any]]:
    """Convert what autocast may have lowered: x0 to float32 unless it is float64, floating tensors to x0's dtype."""
    if x0.dtype in (torch.bfloat16, torch.float16):
        x0 = x0.float()
    raised = {name: raised_to(x0, value) for name, value in parameters.items()}
    return x0, raised_to(x0, u_init), raised_to(x0, x_init), raised


def raised_to(x0: Tensor, value: Any) -> Any:
    """A floating tensor in x0's dtype; anything else as it is."""
    return value.to(x0.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
