"""Products of batches, bounds, rollouts and costs, under the names that mpc.pytorch gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mpcgen.compat.forms import LinDx, QuadCost
from mpcgen.errors import ShapeError


def bger(x: Tensor, y: Tensor) -> Tensor:
    """Outer products (B, n, m) of x (B, n) and y (B, m)."""
    return x[:, :, None] * y[:, None, :]


def bmv(X: Tensor, y: Tensor) -> Tensor:
    """Products (B, n) of matrices X (B, n, m) and vectors y (B, m)."""
    return torch.einsum("bij,bj->bi", X, y)


def bdot(x: Tensor, y: Tensor) -> Tensor:
    """Inner products (B,) of x and y, (B, n)."""
    return torch.einsum("bi,bi->b", x, y)


def bquad(x: Tensor, Q: Tensor) -> Tensor:
    """The forms xᵀQx, (B,), of x (B, n) and Q (B, n, n)."""
    return bdot(x, bmv(Q, x))


def bdiag(d: Tensor) -> Tensor:
    """Diagonal matrices (B, n, n) of d (B, n)."""
    return torch.diag_embed(d)


def eclamp(x: Tensor, lower: Tensor | float, upper: Tensor | float) -> Tensor:
    """Clamp ``x`` in place to bounds of its shape, or numbers, and return it."""
    with torch.no_grad():
        low = torch.as_tensor(lower, dtype=x.dtype, device=x.device)
        high = torch.as_tensor(upper, dtype=x.dtype, device=x.device)
        return x.copy_(torch.minimum(torch.maximum(x, low), high))


def jacobian(f: Callable[[Tensor], Tensor], x: Tensor, eps: float) -> Tensor:
    """Central differences (k, n) of f: (n,) -> (k,) at x (n,), with steps of ``eps``."""
    x = x.reshape(-1)
    steps = eps * torch.eye(len(x), dtype=x.dtype, device=x.device)
    return torch.stack([(f(x + step) - f(x - step)) / (2 * eps) for step in steps], dim=-1)


def expandParam(X: Tensor, n_batch: int, nDim: int) -> tuple[Tensor, bool]:  # noqa: N802
    """Give ``X`` a batch dimension if it lacks one of its ``nDim``; says whether it did."""
    if X.ndim in (0, nDim):
        return X, False
    if X.ndim == nDim - 1:
        return X.expand(n_batch, *X.shape), True
    raise ShapeError(
        f"a parameter of shape {tuple(X.shape)}; {nDim} dimensions, or one fewer, the batch's, are expected"
    )


def detach_maybe(x: Tensor | None) -> Tensor | None:
    """``x`` without its graph; None stays None."""
    return None if x is None else x.detach()


def get_data_maybe(x: Any) -> Any:
    """The numbers of a tensor, without its graph; anything else as it is."""
    return x.detach() if isinstance(x, Tensor) else x


def data_maybe(x: Tensor | None) -> Tensor | None:
    """`detach_maybe`."""
    return detach_maybe(x)


def table_log(tag: str, d: Sequence[tuple[Any, ...]], _headed: set[str] = set()) -> None:  # noqa: B006
    """Print a row of a table: pairs of name and value, or triples with a format; names once for each ``tag``."""
    if tag not in _headed:
        print("| " + " | ".join(entry[0] for entry in d) + " |")
        _headed.add(tag)
    print(
        "| "
        + " | ".join(entry[2].format(entry[1]) if len(entry) > 2 else str(entry[1]) for entry in d)
        + " |"
    )


def get_traj(T: int, u: Tensor, x_init: Tensor, dynamics: Any) -> Tensor:
    """States (T, B, n) that controls u (T, B, m) lead to from x_init (B, n), without a graph.

    dynamics: a `LinDx`, or a module of x (B, n) and u (B, m).
    """
    with torch.no_grad():
        states = [x_init.detach()]
        for t in range(T - 1):
            states.append(_following(dynamics, t, states[-1], u[t].detach()))
        return torch.stack(states)


def _following(dynamics: Any, t: int, x: Tensor, u: Tensor) -> Tensor:
    if not isinstance(dynamics, LinDx):
        return dynamics(x, u)
    if dynamics.F is None:
        raise ShapeError("LinDx has no F")
    moved = bmv(_at(dynamics.F, t, 4), torch.cat((x, u), 1).expand(len(x), -1))
    return moved if dynamics.f is None else moved + _at(dynamics.f, t, 3)


def _at(value: Tensor, t: int, full: int) -> Tensor:
    """The entry of stage t, with a dimension of the batch; full: the dimensions of (T, B, ...)."""
    return value[t] if value.ndim == full else value[t][None] if value.ndim == full - 1 else value[None]


def get_cost(
    T: int, u: Tensor, cost: Any, dynamics: Any = None, x_init: Tensor | None = None, x: Tensor | None = None
) -> Tensor:
    """Cost (B,) of controls u (T, B, m), along states x (T, B, n) or, without them, from x_init (B, n).

    cost: a `QuadCost`, or a module of τ (B, n+m).
    """
    if x is None:
        if x_init is None:
            raise ShapeError("get_cost needs x, the states, or x_init, to roll them out from")
        x = get_traj(T, u, x_init, dynamics)
    total = x.new_zeros(x.shape[1])
    for t in range(T):
        tau = torch.cat((x[t], u[t]), 1)
        total = total + _stage_cost(cost, t, tau)
    return total


def _stage_cost(cost: Any, t: int, tau: Tensor) -> Tensor:
    if not isinstance(cost, QuadCost):
        return cost(tau)
    if cost.C is None:
        raise ShapeError("QuadCost has no C")
    C = _at(cost.C, t, 4).detach().expand(len(tau), -1, -1)
    quadratic = 0.5 * bquad(tau, C)
    if cost.c is None:
        return quadratic
    return quadratic + bdot(tau, _at(cost.c, t, 3).detach().expand(len(tau), -1))
