"""Linear dynamics and quadratic costs that touch given ones along a trajectory, by torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpcgen.compat.forms import GradMethods
from mpcgen.compat.util import bmv
from mpcgen.errors import ParameterError

_STEP = 1e-4
"""Of finite differences."""


def linearize_dynamics(
    method: GradMethods, x: Tensor, u: Tensor, dynamics: Any, diff: bool
) -> tuple[Tensor, Tensor]:
    """F (T-1, B, n, n+m) and f (T-1, B, n) at x (T, B, n), u (T, B, m); with ``diff`` they have a graph.

    method: ANALYTIC asks ``dynamics.grad_input(x, u)``, which returns ∂f/∂x and ∂f/∂u; ANALYTIC_CHECK compares that
    with autograd's, and raises ParameterError where it is another one.
    """
    T, B, n = x.shape
    flat_x, flat_u = x[:-1].reshape(-1, n), u[:-1].reshape(-1, u.shape[-1])
    with torch.enable_grad():
        by_x, by_u = _slopes(method, flat_x, flat_u, dynamics, diff)
        following = dynamics(flat_x, flat_u)
        f = following - bmv(by_x, flat_x) - bmv(by_u, flat_u)
        F = torch.cat((by_x, by_u), -1).reshape(T - 1, B, n, -1)
    f = f.reshape(T - 1, B, n)
    return (F, f) if diff else (F.detach(), f.detach())


def _slopes(method: GradMethods, x: Tensor, u: Tensor, dynamics: Any, diff: bool) -> tuple[Tensor, Tensor]:
    if method is GradMethods.FINITE_DIFF:
        return _differences(dynamics, x, u)
    if method is GradMethods.AUTO_DIFF:
        return _autograd(dynamics, x, u, diff)
    if not callable(getattr(dynamics, "grad_input", None)):
        raise ParameterError(
            f"grad_method={method} asks the dynamics for grad_input(x, u), which {type(dynamics).__name__} has not; "
            "use GradMethods.AUTO_DIFF"
        )
    found = dynamics.grad_input(x, u)
    if method is GradMethods.ANALYTIC_CHECK:
        off = max(
            (a - b).abs().max().item() for a, b in zip(found, _autograd(dynamics, x, u, diff), strict=True)
        )
        if off > torch.finfo(x.dtype).eps ** 0.5:
            raise ParameterError(
                f"grad_input of {type(dynamics).__name__} differs from autograd's slopes by {off:.1e}"
            )
    return found


def _autograd(dynamics: Any, x: Tensor, u: Tensor, diff: bool) -> tuple[Tensor, Tensor]:
    at = [v if diff and v.requires_grad else v.detach().requires_grad_() for v in (x, u)]
    following = dynamics(*at)
    rows = [
        torch.autograd.grad(column.sum(), at, retain_graph=True, create_graph=diff, materialize_grads=True)
        for column in following.unbind(-1)
    ]
    by_x, by_u = (torch.stack(parts, 1) for parts in zip(*rows, strict=True))
    return by_x, by_u


def _differences(dynamics: Any, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    tau, n = torch.cat((x, u), -1), x.shape[-1]
    columns = []
    for step in _STEP * torch.eye(tau.shape[-1], dtype=x.dtype, device=x.device):
        ahead, behind = tau + step, tau - step
        columns.append(dynamics(ahead[:, :n], ahead[:, n:]) - dynamics(behind[:, :n], behind[:, n:]))
    slope = torch.stack(columns, -1) / (2 * _STEP)
    return slope[..., :n], slope[..., n:]


def approximate_cost(
    x: Tensor, u: Tensor, cost: Callable[[Tensor], Tensor], diff: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """C (T, B, n+m, n+m), c (T, B, n+m) and the costs (T, B) at x (T, B, n), u (T, B, m); with ``diff`` with a graph.

    cost: of τ (B, n+m), returns (B,).
    """
    with torch.enable_grad():
        tau = torch.cat((x, u), -1).detach().flatten(0, 1).requires_grad_()
        costs = cost(tau)
        (slope,) = torch.autograd.grad(costs.sum(), tau, create_graph=True, materialize_grads=True)
        rows = [
            torch.autograd.grad(
                column.sum(), tau, retain_graph=True, create_graph=diff, materialize_grads=True
            )[0]
            if column.requires_grad
            else torch.zeros_like(tau)
            for column in slope.unbind(-1)
        ]
        C = torch.stack(rows, -1)
        c = slope - bmv(C, tau)
        found = tuple(value.unflatten(0, x.shape[:2]) for value in (C, c, costs))
    C, c, costs = found if diff else (value.detach() for value in found)
    return C, c, costs
