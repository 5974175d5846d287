"""The box QP of a stage, by projected Newton (Tassa, Mansard and Todorov 2014, section III), in batches.

    minimise  ½ δu' Q δu + q' δu   subject to  lower <= δu <= upper

Finding the active set is a search over finitely many sets and has no derivative; the solution with the set
held is a linear system and has one. So the search runs without a graph and `solve_held` with one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ARMIJO = 0.1
HALVINGS = 8


@dataclass(frozen=True)
class ActiveSet:
    """Where each component stands, bool (B, m); convex: (B,), whether the free block of Q is so, strictly."""

    at_lower: Tensor
    at_upper: Tensor
    convex: Tensor

    @property
    def free(self) -> Tensor:
        """Components that are not held at a bound."""
        return ~(self.at_lower | self.at_upper)


@torch.no_grad()
def find_active_set(Q: Tensor, q: Tensor, lower: Tensor, upper: Tensor) -> ActiveSet:
    """Active set of the solution; Q (B, m, m) symmetric, the rest (B, m), bounds possibly infinite."""
    m = q.shape[-1]
    du = _clip(torch.zeros_like(q), lower, upper)
    convex = torch.ones(len(q), dtype=torch.bool)
    settled, full_step = ~convex, ~convex
    free = torch.zeros_like(q, dtype=torch.bool)
    at_lower, at_upper = free, free
    for _ in range(4 * m + 4):
        slope = q + _times(Q, du)
        at_lower, at_upper = (du <= lower) & (slope > 0), (du >= upper) & (slope < 0)
        now_free = ~(at_lower | at_upper)
        settled = settled | (full_step & (now_free == free).all(-1))
        if settled.all():
            break
        free = now_free
        factor, positive = _factor(Q, free)
        convex = convex & positive
        settled = settled | ~positive
        newton = -_solve(factor, torch.where(free, slope, 0.0))
        du, full_step = _projected_step(Q, slope, du, newton, lower, upper, settled)
    return ActiveSet(at_lower, at_upper, convex)


def solve_held(
    Q: Tensor, q: Tensor, Q_ux: Tensor, lower: Tensor, upper: Tensor, held: ActiveSet
) -> tuple[Tensor, Tensor]:
    """Step k (B, m) and gain K (B, m, n) of the box QP with its active set held; Q_ux (B, m, n).

    k_c = bound, k_f = -Q_ff⁻¹ (q_f + Q_fc k_c); K_f = -Q_ff⁻¹ Q_f,ux, K_c = 0 (Algorithm 2, the lines of k_t
    and K_t). Only where ``held.convex``; elsewhere the numbers mean nothing.
    """
    free = held.free
    # The bounds of free components may be infinite: they must not reach a product.
    fixed = torch.where(free, 0.0, torch.where(held.at_lower, lower, upper))
    rhs = torch.cat([(q + _times(Q, fixed))[..., None], Q_ux], dim=-1)
    factor, _ = _factor(Q, free)
    solution = -torch.cholesky_solve(torch.where(free[..., None], rhs, 0.0), factor)
    return fixed + solution[..., 0], solution[..., 1:]


def _factor(Q: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factor (B, m, m) of Q, held components replaced by the identity; where it holds (B,).

    It does not where a pivot is so small that rounding may have made it positive.
    """
    m = Q.shape[-1]
    masked = torch.where(free[..., :, None] & free[..., None, :], Q, torch.eye(m, dtype=Q.dtype))
    factor, info = torch.linalg.cholesky_ex(masked)
    diagonal = masked.diagonal(dim1=-2, dim2=-1)
    safe = factor.diagonal(dim1=-2, dim2=-1) ** 2 > 8 * m * torch.finfo(Q.dtype).eps * diagonal.abs()
    return factor, (info == 0) & safe.all(-1)


def _projected_step(
    Q: Tensor, slope: Tensor, du: Tensor, newton: Tensor, lower: Tensor, upper: Tensor, settled: Tensor
) -> tuple[Tensor, Tensor]:
    """Backtrack along the projected Newton direction, Armijo on the quadratic; the settled stay.

    Returns the new point, and where the whole step was taken without touching a bound.
    """
    best, pending, length = du, ~settled, 1.0
    full_step = torch.zeros_like(settled)
    for halving in range(HALVINGS):
        target = du + length * newton
        candidate = _clip(target, lower, upper)
        change = candidate - du
        linear = (slope * change).sum(-1)
        good = pending & (linear + 0.5 * (change * _times(Q, change)).sum(-1) <= ARMIJO * linear)
        best = torch.where(good[..., None], candidate, best)
        if halving == 0:
            full_step = good & (candidate == target).all(-1)
        pending = pending & ~good
        if not pending.any():
            break
        length *= 0.5
    return best, full_step


def _solve(factor: Tensor, rhs: Tensor) -> Tensor:
    return torch.cholesky_solve(rhs[..., None], factor)[..., 0]


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _clip(value: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(value, lower), upper)
