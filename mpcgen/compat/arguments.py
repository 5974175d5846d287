"""What a call is given, in the layout (T, batch, ...), checked and turned into arguments of a controller's call.

A controller takes (batch, T, ...), without the dimensions over which a value does not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from mpcgen.compat.forms import LinDx, QuadCost
from mpcgen.errors import DtypeError, ParameterError, ShapeError


@dataclass(frozen=True)
class Sizes:
    """Of a call: stages, problems, states, controls."""

    T: int
    B: int
    n: int
    m: int


def tensor_of(name: str, value: Any, like: Tensor) -> Tensor:
    """``value``, of the dtype and on the device of x_init; raises ParameterError or DtypeError otherwise."""
    if not isinstance(value, Tensor):
        raise ParameterError(f"{name} is a {type(value).__name__}; a tensor is expected")
    if value.dtype != like.dtype or value.device != like.device:
        raise DtypeError(
            f"{name} is {value.dtype} on {value.device}; {like.dtype} on {like.device}, as x_init, is expected"
        )
    return value


def over_stages(name: str, value: Any, entry: tuple[int, ...], T: int, B: int, like: Tensor) -> Tensor:
    """(T, B, *entry), (T, *entry) or (*entry) as (B, T, *entry), (T, *entry) or (*entry)."""
    value = tensor_of(name, value, like)
    leading = tuple(value.shape[: value.ndim - len(entry)])
    if tuple(value.shape) != leading + entry or leading not in ((), (T,), (T, B), (T, 1)):
        listed = ", ".join(str(tuple(more) + entry) for more in ((T, B), (T,), ()))
        raise ShapeError(f"{name} has shape {tuple(value.shape)}; one of {listed} is expected")
    if len(leading) < 2:
        return value
    shared = leading[1] == 1 or (value.stride(1) == 0 and not value.requires_grad)
    return value[:, 0] if shared else value.transpose(0, 1)


def quadratic_cost(cost: QuadCost, sizes: Sizes, like: Tensor) -> dict[str, Tensor]:
    """C (..., T, n+m, n+m) and c (..., T, n+m)."""
    k = sizes.n + sizes.m
    found = {"C": over_stages("QuadCost.C", cost.C, (k, k), sizes.T, sizes.B, like)}
    if cost.c is not None:
        found["c"] = over_stages("QuadCost.c", cost.c, (k,), sizes.T, sizes.B, like)
    return found


def unseen_controls(given: dict[str, Tensor], sizes: Sizes) -> Tensor | None:
    """Which entries (m,) or (B, m) of the last control no term of C and c or of the slew rate reads; None for none."""
    C, n, c, slew = given["C"], sizes.n, given.get("c"), given.get("slew_rate_penalty")
    last = (C if C.ndim == 2 else C[..., -1, :, :]).detach()
    unseen = (last[..., n:, :] == 0).all(-1) & (last[..., :, n:] == 0).all(-2)
    if c is not None:
        unseen = unseen & ((c if c.ndim == 1 else c[..., -1, :]).detach()[..., n:] == 0)
    if slew is not None:
        unseen = unseen & (slew.detach() == 0)
    return unseen if bool(unseen.any()) else None


def add_curvature(unseen: tuple[int, ...], given: dict[str, Tensor], sizes: Sizes, like: Tensor) -> Tensor:
    """Give curvature to entries of the last control that neither a module, see ``unseen``, nor a slew rate reads."""
    found = like.new_zeros(sizes.T, sizes.m)
    found[-1, list(unseen)] = 1
    if "slew_rate_penalty" in given:
        found[-1] *= given["slew_rate_penalty"].detach() == 0
    given["curvature"] = found
    return found[-1]


def slew_rate(value: Any, sizes: Sizes, like: Tensor) -> Tensor:
    """slew_rate_penalty, a number, () or (m,), as (m,)."""
    if isinstance(value, Real) and not isinstance(value, bool):
        return like.new_full((sizes.m,), float(value))
    if not isinstance(value, Tensor):
        raise ParameterError(
            f"slew_rate_penalty is a {type(value).__name__}; a number or a tensor ({sizes.m},) is expected"
        )
    if tuple(value.shape) not in ((), (sizes.m,)):
        raise ShapeError(
            f"slew_rate_penalty has shape {tuple(value.shape)}; a number, or ({sizes.m},), a weight for each control, "
            "is expected"
        )
    return value.to(like).expand(sizes.m)


def with_curvature(C: Tensor, unseen: Tensor, sizes: Sizes) -> Tensor:
    """C with the curvature 1 for the entries of the last control that are ``unseen``.

    The last control moves nothing, so that they are free; at zero, which they become, what is put in costs nothing.
    """
    added = torch.diag_embed(torch.nn.functional.pad(unseen.to(C.dtype), (sizes.n, 0)))[..., None, :, :]
    at_last = torch.arange(sizes.T, device=C.device) == sizes.T - 1
    return (C if C.ndim > 2 else C[None]) + added * at_last[:, None, None]


def linear_dynamics(dx: LinDx, sizes: Sizes, like: Tensor) -> dict[str, Tensor]:
    """F (..., T, n, n+m) and f (..., T, n), zero at the last stage, where they are not the same at all stages."""
    n, k = sizes.n, sizes.n + sizes.m
    found = {"F": _transitions("LinDx.F", dx.F, (n, k), sizes, like)}
    if dx.f is not None:
        found["f"] = _transitions("LinDx.f", dx.f, (n,), sizes, like)
    return found


def _transitions(name: str, value: Any, entry: tuple[int, ...], sizes: Sizes, like: Tensor) -> Tensor:
    if isinstance(value, Tensor) and value.ndim > len(entry) and len(value) == sizes.T:
        value = value[:-1]
    moved = over_stages(name, value, entry, sizes.T - 1, sizes.B, like)
    if moved.ndim == len(entry):
        return moved
    return torch.nn.functional.pad(moved, (0, 0) * len(entry) + (0, 1))


def bound(name: str, value: Any, missing: float, sizes: Sizes, like: Tensor) -> Tensor:
    """A bound as (m,), (T, m) or (B, T, m). value: a number, a tensor, or None."""
    if value is None or (isinstance(value, Real) and not isinstance(value, bool)):
        return like.new_full((sizes.m,), missing if value is None else float(value))
    if isinstance(value, Tensor) and value.ndim == 0:
        return tensor_of(name, value, like).expand(sizes.m)
    return over_stages(name, value, (sizes.m,), sizes.T, sizes.B, like)


def check_order(lower: Tensor, upper: Tensor) -> None:
    """Refuse bounds of all problems that are crossed or NaN. Those of one problem are its status."""
    if lower.device.type != "cpu" or max(lower.ndim, upper.ndim) == 3:
        return
    wrong = ~(lower <= upper)
    if bool(wrong.any()):
        low, high = (v.detach().expand_as(wrong)[wrong][0].item() for v in (lower, upper))
        raise ParameterError(f"u_lower has {low} where u_upper has {high}; u_lower <= u_upper is expected")


def zero_controls(mask: Any, lower: Tensor, upper: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Bounds with those of the controls that ``mask`` (T, B, m) marks at zero."""
    if not isinstance(mask, Tensor) or tuple(mask.shape) != (sizes.T, sizes.B, sizes.m):
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ShapeError(f"u_zero_I is {shape}; a tensor of shape {(sizes.T, sizes.B, sizes.m)} is expected")
    held = mask.transpose(0, 1) != 0
    return torch.where(held, 0.0, lower), torch.where(held, 0.0, upper)


def first_controls(value: Any, sizes: Sizes, like: Tensor) -> Tensor | None:
    """u_init as (T, m) or (B, T, m); it takes the dtype of x_init."""
    if value is None:
        return None
    if not isinstance(value, Tensor):
        raise ParameterError(f"u_init is a {type(value).__name__}; a tensor is expected")
    moved = value.detach().to(like)
    if moved.ndim == 1:
        raise ShapeError(f"u_init has shape {tuple(value.shape)}; {(sizes.T, sizes.B, sizes.m)} is expected")
    return over_stages("u_init", moved, (sizes.m,), sizes.T, sizes.B, like)


def previous_control(value: Any, sizes: Sizes, like: Tensor) -> Tensor:
    """prev_ctrl, (m,), (B, m) or (1, B, m), as (B, m); zero if there is none."""
    if value is None:
        return like.new_zeros(sizes.B, sizes.m)
    value = tensor_of("prev_ctrl", value, like)
    try:
        return value.expand(1, sizes.B, sizes.m)[0]
    except RuntimeError as error:
        raise ShapeError(
            f"prev_ctrl has shape {tuple(value.shape)}; ({sizes.m},), ({sizes.B}, {sizes.m}) or "
            f"(1, {sizes.B}, {sizes.m}) is expected"
        ) from error


def sizes_of(x_init: Any, T: int, n: int, m: int, n_batch: int | None) -> Sizes:
    """Sizes of a call that starts at ``x_init`` (B, n)."""
    if not isinstance(x_init, Tensor):
        raise ParameterError(f"x_init is a {type(x_init).__name__}; a tensor (batch, {n}) is expected")
    if x_init.ndim != 2 or x_init.shape[1] != n:
        raise ShapeError(f"x_init has shape {tuple(x_init.shape)}; (batch, {n}) is expected")
    if n_batch is not None and len(x_init) != n_batch:
        raise ShapeError(f"x_init has {len(x_init)} rows; n_batch={n_batch} of them are expected")
    if x_init.dtype not in (torch.float32, torch.float64):
        raise DtypeError(f"x_init is {x_init.dtype}; torch.float32 or torch.float64 is expected")
    return Sizes(T, len(x_init), n, m)
