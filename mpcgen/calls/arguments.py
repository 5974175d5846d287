"""From what a user passes to what the kernels take: checks, broadcasting of leading dimensions."""

from __future__ import annotations

import contextlib
import difflib
import math
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpcgen.calls.defaults import defaults_of
from mpcgen.calls.options import as_count, belongs_elsewhere
from mpcgen.calls.watching import is_foreign, without_memory
from mpcgen.errors import DeviceError, DtypeError, LayoutError, MpcgenError, ParameterError, ShapeError
from mpcgen.runtime.controller import Description, Parameter

DTYPES = (torch.float64, torch.float32)
DEVICES = ("cpu", "cuda")


class Start(NamedTuple):
    """What a solver starts from, None where a call does not say; no gradient flows through it.

    u: (..., N, m) controls. x: (..., N+1, n) states, whose first row is x0's place. costates: (..., N+1, n), and duals:
    (..., N+1, rows) where there are constraints, of the solution that has u and x: the interior point starts near it.
    """

    u: Tensor | None = None
    x: Tensor | None = None
    costates: Tensor | None = None
    duals: Tensor | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What a call gave them by."""
        if self.costates is None:
            return ("u_init", "x_init", "", "")
        return tuple(f"warm_start.{name}" for name in ("u", "x", "costates", "row_duals"))

    @property
    def named(self) -> list[tuple[str, Tensor]]:
        """Those that there are, by what a call gave them by."""
        return [(name, guess) for name, guess in zip(self.names, self, strict=True) if guess is not None]

    def shapes(self, controller: Description, horizon: int) -> tuple[tuple[int, ...], ...]:
        """The shapes of one problem."""
        n, m = len(controller.states), len(controller.controls)
        rows = 0 if self.duals is None else self.duals.shape[-1]
        return ((horizon, m), (horizon + 1, n), (horizon + 1, n), (horizon + 1, rows))

    @property
    def given(self) -> tuple[Tensor, ...]:
        """Those that there are."""
        if self.u is None and self.x is None and self.costates is None:
            return ()  # the most common call, at the least cost
        return tuple([value for value in self if value is not None])


@dataclass(frozen=True)
class Call:
    """A batch of problems as the kernels take it; B is the product of ``batch_shape``.

    x0: (B, n). start: each (B, ...), (1, ...) or None. parameters: per parameter (B, [stages,] *shape) or (1, ...), the
    latter shared by the batch; all differentiable functions of what the user passed. The axis of stages has length
    one in all of them if none came with a value for each stage.
    """

    batch_shape: torch.Size
    horizon: int
    x0: Tensor
    start: Start
    parameters: tuple[Tensor, ...]

    @property
    def u_init(self) -> Tensor | None:
        """(B, N, m), (1, N, m) or None."""
        return self.start.u


def make_call(
    controller: Description,
    x0: Tensor,
    start: Start,
    horizon: int | None,
    given: Mapping[str, Any],
) -> Call:
    """Check and broadcast the arguments of a call; see `mpcgen.autograd.MPC.forward`."""
    _check_x0(controller, x0)
    check_names(controller, given)
    for name, guess in zip(start.names, start, strict=True):
        if guess is not None:
            _check_like_x0(controller, name, guess, x0)
    values = {
        p.name: as_tensor(controller, p, given[p.name], x0) for p in controller.parameters if p.name in given
    }
    horizon = _find_horizon(controller, horizon, start)
    stages = None if _is_given_once(controller, values) else horizon
    defaults = defaults_of(controller, x0, stages, frozenset(values))
    leading: dict[str, torch.Size] = {}
    for p in controller.parameters:
        if p.name in values:
            values[p.name], leading[p.name] = _with_stages(controller, p, values[p.name], stages)
    shapes = start.shapes(controller, horizon)
    for name, guess, shape in zip(start.names, start, shapes, strict=True):
        if guess is not None:
            leading[name] = _leading(controller, name, guess, shape)
    batch_shape = _broadcast(controller, x0, leading) if leading else x0.shape[:-1]
    n = len(controller.states)
    return Call(
        batch_shape,
        horizon,
        (x0.expand(*batch_shape, n) if leading else x0).reshape(math.prod(batch_shape), n),
        Start(
            *(
                None if guess is None else _flatten(guess, shape, batch_shape)
                for guess, shape in zip(start, shapes, strict=True)
            )
        ),
        tuple(
            _flatten(values[p.name], p.full_shape(stages), batch_shape)
            if p.name in values
            else defaults[p.name]
            for p in controller.parameters
        ),
    )


def make_point(
    controller: Description, x: Tensor, u: Tensor | None, given: Mapping[str, Any]
) -> tuple[torch.Size, Tensor, Tensor, tuple[Tensor, ...]]:
    """Check and broadcast state, control and parameters of one stage, or of the last state where ``u`` is None.

    given: by name, (..., *shape) of that stage. Returns the leading dimensions, and flat x (B, n), u (B, m), or (B, 0)
    at the last state, and parameters, (B, *shape) or (1, *shape) each.
    """
    _check_x0(controller, x, "x")
    check_names(controller, given)
    leading: dict[str, torch.Size] = {}
    m = 0 if u is None else len(controller.controls)
    if u is not None:
        _check_like_x0(controller, "u", u, x, "x")
        leading["u"] = _leading(controller, "u", u, (m,))
    parameters = []
    absent = defaults_of(controller, x, None, frozenset(given))
    for p in controller.parameters:
        if p.name not in given:
            parameters.append(absent[p.name].reshape(1, *p.shape))
            continue
        value = as_tensor(controller, p, given[p.name], x)
        leading[p.name] = _leading(
            controller, p.name, value, p.shape, ": a stage by itself has one value of each"
        )
        parameters.append(value)
    batch_shape = _broadcast(controller, x, leading, "x")
    count, n = math.prod(batch_shape), len(controller.states)
    flat_u = x.new_empty(count, 0) if u is None else u.expand(*batch_shape, m).reshape(count, m)
    flat = [
        _flatten(value, p.shape, batch_shape) if p.name in given else value
        for p, value in zip(controller.parameters, parameters, strict=True)
    ]
    return batch_shape, x.expand(*batch_shape, n).reshape(count, n), flat_u, tuple(flat)


@contextlib.contextmanager
def explained(controller: Description, given: Mapping[str, Any]) -> Iterator[None]:
    """Let FakeTensors be called among their like; say of other classes of tensors that they refused the solver.

    Raises LayoutError where the class of an argument has its own idea of what operators do, and none of this one.
    """
    foreign = {name: value for name, value in given.items() if is_foreign(value)}
    with getattr(next(iter(foreign.values()), None), "fake_mode", None) or contextlib.nullcontext():
        try:
            yield
        except MpcgenError:
            raise
        except Exception as error:
            if not foreign:
                raise
            kinds = ", ".join(f"{name} is a {type(value).__name__}" for name, value in foreign.items())
            raise LayoutError(
                f"{controller.name}: {kinds}, which cannot be solved; pass the plain tensor that it stands for, such "
                f"as to_local() of a DTensor or get_data() of a MaskedTensor ({type(error).__name__}: {error})"
            ) from error


def _check_x0(controller: Description, x0: Tensor, called: str = "x0") -> None:
    n = len(controller.states)
    if not isinstance(x0, Tensor):
        remedy = f"pass a torch tensor of shape (..., {n})"
        if type(x0).__module__.startswith("torch.fx"):
            remedy = "torch.fx.symbolic_trace cannot follow a controller; use torch.export, or make_fx"
        raise DtypeError(f"{controller.name}: {called} is a {type(x0).__name__}; {remedy}")
    if x0.dtype not in DTYPES:
        raise DtypeError(
            f"{controller.name}: {called} is {x0.dtype}; float32 or float64 is expected, try {called}.double()"
        )
    if str(x0.dtype).removeprefix("torch.") not in controller.dtypes:
        raise DtypeError(
            f"{controller.name}: {called} is {x0.dtype}, but this module was compiled for "
            f"{' and '.join(controller.dtypes)} alone; convert {called}, or compile it for both, "
            "which is the default of dtypes="
        )
    if x0.device.type not in DEVICES:
        raise DeviceError(
            f"{controller.name}: {called} is on {x0.device}; controllers run on the CPU and on CUDA devices, pass "
            f"{called}.cpu()"
        )
    _check_memory(controller, called, x0)
    if x0.ndim == 0 or x0.shape[-1] != n:
        raise ShapeError(
            f"{controller.name}: {called} has shape {tuple(x0.shape)}; (..., {n}) is expected, "
            f"the states being {', '.join(controller.states)}"
        )


def check_names(controller: Description, given: Mapping[str, Any]) -> None:
    """Refuse what is no parameter of the problem: raises ParameterError."""
    names = [p.name for p in controller.parameters]
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else belongs_elsewhere(name)
            known = ", ".join(names) or "none"
            raise ParameterError(
                f"{controller.name} has no parameter {name!r}; {hint}its parameters are {known}"
            )


def _check_memory(controller: Description, name: str, value: Tensor) -> None:
    if torch.compiler.is_compiling():
        return  # tensors that stand for others, which are checked when they come
    if words := without_memory(value):
        raise LayoutError(f"{controller.name}: {name} {words}")


def as_tensor(controller: Description, parameter: Parameter, value: Any, x0: Tensor) -> Tensor:
    """A parameter's value as a tensor like x0; raises ParameterError, DtypeError or DeviceError where it is none."""
    if isinstance(value, Tensor):
        _check_like_x0(controller, parameter.name, value, x0)
        return value
    try:
        if _has_tensors(value):
            return _stack(value, x0)
        return torch.as_tensor(value, dtype=x0.dtype, device=x0.device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ParameterError(
            f"{controller.name}: {parameter.name}={reprlib.repr(value)} is not a tensor, a number or a nested list of "
            f"numbers"
        ) from error


def _has_tensors(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(v, Tensor) or _has_tensors(v) for v in value)


def _stack(value: Any, x0: Tensor) -> Tensor:
    """A nested list of numbers and tensors as one tensor; unlike `torch.as_tensor` with their gradients."""
    if isinstance(value, list | tuple):
        return torch.stack([_stack(v, x0) for v in value])
    return torch.as_tensor(value, dtype=x0.dtype, device=x0.device)


def _check_like_x0(controller: Description, name: str, value: Tensor, x0: Tensor, called: str = "x0") -> None:
    if not isinstance(value, Tensor):
        raise DtypeError(f"{controller.name}: {name} is a {type(value).__name__}; pass a torch tensor")
    if value.dtype != x0.dtype:
        remedy = "convert one with .to(...)"
        if name.startswith("warm_start"):
            remedy = "solve both in one precision, or pass u_init=solution.u.to(...)"
        raise DtypeError(f"{controller.name}: {name} is {value.dtype}, but {called} is {x0.dtype}; {remedy}")
    if value.device != x0.device:
        raise DeviceError(f"{controller.name}: {name} is on {value.device}, but {called} is on {x0.device}")
    _check_memory(controller, name, value)


def _find_horizon(controller: Description, horizon: Any, start: Start) -> int:
    """The horizon asked for, else that of what the solver starts from, else the spec's."""
    if horizon is None:
        for guess, more in ((start.u, 0), (start.x, 1)):
            if guess is not None and guess.ndim >= 2:
                return max(guess.shape[-2] - more, 1)
        return controller.horizon
    count = as_count(horizon)
    if count is None or not 1 <= count < 2**31:
        raise ParameterError(
            f"{controller.name}: horizon={horizon!r}; a whole number of at least 1 is expected"
        )
    return count


def _is_given_once(controller: Description, values: Mapping[str, Tensor]) -> bool:
    """Whether no per-stage parameter came with an axis of stages."""
    return all(
        values[p.name].shape == p.shape for p in controller.parameters if p.per_stage and p.name in values
    )


def _with_stages(
    controller: Description, parameter: Parameter, value: Tensor, stages: int | None
) -> tuple[Tensor, torch.Size]:
    """The value with the axis of stages that it lacks, and its leading dimensions."""
    shape, name = parameter.full_shape(stages), parameter.name
    if not parameter.per_stage:
        return value, _leading(controller, name, value, shape)
    if value.shape == parameter.shape:
        value = value.expand(shape)
    remedy = f"; or {parameter.shape}, the same for all stages and problems"
    split = value.ndim - len(shape)
    if stages is not None and split >= 0 and tuple(value.shape[split + 1 :]) == parameter.shape:
        last = ", the last for the terminal cost" if parameter.in_terminal else ""
        remedy += (
            f". It has {value.shape[split]} values along the axis of stages, where the horizon {stages} needs "
            f"{shape[0]}{last}; the horizon is the problem's own, unless horizon= or u_init says another"
        )
    return value, _leading(controller, name, value, shape, remedy)


def _leading(
    controller: Description, name: str, value: Tensor, shape: tuple[int, ...], remedy: str = ""
) -> torch.Size:
    split = value.ndim - len(shape)
    if split < 0 or tuple(value.shape[split:]) != shape:
        expected = ", ".join(["...", *map(str, shape)])
        raise ShapeError(
            f"{controller.name}: {name} has shape {tuple(value.shape)}; ({expected}) is expected, "
            f"leading dimensions being the batch{remedy}"
        )
    return value.shape[:split]


def _broadcast(
    controller: Description, x0: Tensor, leading: Mapping[str, torch.Size], called: str = "x0"
) -> torch.Size:
    own = x0.shape[:-1]
    if all(shape == own or not shape for shape in leading.values()):
        return own  # the most common call, at the least cost
    try:
        return torch.broadcast_shapes(own, *leading.values())
    except RuntimeError as error:
        shapes = [f"{called} {tuple(x0.shape[:-1])}"]
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
    return value.expand(*batch_shape, *shape).reshape(math.prod(batch_shape), *shape)
