"""The box QP of a stage, by projected Newton."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpcgen.errors import DtypeError, ParameterError, ShapeError

_ARMIJO = 0.1
_HALVINGS = 40
_MOST = 1000
"""Iterations, of which a handful are taken as a rule."""


def pnqp(
    H: Tensor,
    q: Tensor,
    lower: Tensor | float,
    upper: Tensor | float,
    x_init: Tensor | None = None,
    n_iter: int = 20,
) -> tuple[Tensor, Any, Tensor, int]:
    """Minimise ½ xᵀHx + qᵀx over lower <= x <= upper; H (B, n, n) positive definite, the rest (B, n) or numbers.

    Returns x (B, n); the LU factors of H with the identity's rows and columns in place of those of held entries, or
    that matrix itself where n is 1; which entries are free, (B, n), as numbers; and the number of iterations. It goes
    on to the solution, whatever ``n_iter`` says, and x has the gradients of it.

    Raises ShapeError and DtypeError where a size or a precision is another one, ParameterError where H is not positive
    definite, numbers are NaN, H or q infinite, or bounds crossed, or where the solution is not found.
    """
    H, low, high, start = _checked(H, q, lower, upper, x_init)
    if not (bool(H.isfinite().all()) and bool(q.isfinite().all()) and bool((low <= high).all())):
        raise ParameterError(
            "pnqp: finite H and q and lower <= upper are expected; some are NaN, infinite or crossed"
        )
    at_low, at_high, count = _search(H.detach(), q.detach(), low.detach(), high.detach(), start.detach())
    free = ~(at_low | at_high)
    bound = torch.where(free, 0.0, torch.where(at_low, low, high))
    masked = _masked(H, free)
    rest = torch.where(free, q + (H @ bound[..., None])[..., 0], 0.0)
    x = bound - torch.linalg.solve(masked, rest)
    return x, masked if q.shape[1] == 1 else torch.linalg.lu_factor(masked), free.to(q.dtype), count


def _checked(H: Any, q: Any, lower: Any, upper: Any, x_init: Any) -> tuple[Tensor, ...]:
    """H (B, n, n), bounds and start (B, n), as q (B, n) says."""
    if not isinstance(q, Tensor) or not isinstance(H, Tensor):
        raise ParameterError(
            f"pnqp: H is a {type(H).__name__}, q a {type(q).__name__}; tensors (B, n, n) and (B, n) are expected"
        )
    if q.ndim != 2 or H.shape != (*q.shape, q.shape[1]):
        raise ShapeError(
            f"pnqp: H has shape {tuple(H.shape)}, q {tuple(q.shape)}; (B, n, n) and (B, n) are expected"
        )
    if H.dtype != q.dtype or not q.is_floating_point() or H.device != q.device:
        raise DtypeError(
            f"pnqp: H is {H.dtype} on {H.device}, q {q.dtype} on {q.device}; real numbers of one precision are expected"
        )
    rows = {"lower": lower, "upper": upper, "x_init": 0.0 if x_init is None else x_init}
    found = [H]
    for name, value in rows.items():
        row = torch.as_tensor(value, dtype=q.dtype, device=q.device)
        try:
            found.append(row.expand_as(q))
        except RuntimeError as error:
            raise ShapeError(
                f"pnqp: {name} has shape {tuple(row.shape)}; a number, or {tuple(q.shape)} as q, is expected"
            ) from error
    return tuple(found)


def _masked(H: Tensor, free: Tensor) -> Tensor:
    """H with the identity's rows and columns in place of those that are not free."""
    eye = torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)
    return torch.where(free[:, :, None] & free[:, None, :], H, eye)


@torch.no_grad()
def _search(H: Tensor, q: Tensor, low: Tensor, high: Tensor, x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Which entries the solution holds at their lower and upper bounds, and the number of iterations."""
    x = x.clamp(low, high)
    for count in range(_MOST):
        slope = q + (H @ x[..., None])[..., 0]
        at_low, at_high = (x <= low) & (slope > 0), (x >= high) & (slope < 0)
        free = ~(at_low | at_high)
        factor, info = torch.linalg.cholesky_ex(_masked(H, free))
        if bool((info != 0).any()):
            raise ParameterError("pnqp: H is not positive definite")
        newton = -torch.cholesky_solve(torch.where(free, slope, 0.0)[..., None], factor)[..., 0]
        if bool(((x + newton >= low) & (x + newton <= high)).all()):
            slope = q + (H @ (x + newton)[..., None])[..., 0]
            if bool((torch.where(at_low, slope > 0, True) & torch.where(at_high, slope < 0, True)).all()):
                return at_low, at_high, count
        x = _shortened(H, slope, x, newton, low, high)
    raise ParameterError(f"pnqp: no solution after {_MOST} iterations; are the bounds and H in sane units?")


def _shortened(H: Tensor, slope: Tensor, x: Tensor, newton: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Go along the projected direction as far as the cost falls with it."""
    length, best, pending = 1.0, x, torch.ones(len(x), dtype=torch.bool, device=x.device)
    for _ in range(_HALVINGS):
        candidate = (x + length * newton).clamp(low, high)
        change = candidate - x
        linear = (slope * change).sum(-1)
        fallen = linear + 0.5 * (change * (H @ change[..., None])[..., 0]).sum(-1) <= _ARMIJO * linear
        best = torch.where((pending & fallen)[:, None], candidate, best)
        pending = pending & ~fallen
        if not bool(pending.any()):
            break
        length *= 0.5
    return best
