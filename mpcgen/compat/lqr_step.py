"""One step of an iterative LQR: a linear-quadratic problem, and a line search on the true one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpcgen.compat import mpc, util
from mpcgen.compat.forms import LinDx, QuadCost

_PATIENCE = 50
"""lqr_iter of the linear-quadratic problem, which is solved to the end."""


def LQRStep(  # noqa: N802
    n_state: int,
    n_ctrl: int,
    T: int,
    u_lower: Any = None,
    u_upper: Any = None,
    u_zero_I: Tensor | None = None,
    delta_u: float | None = None,
    linesearch_decay: float = 0.2,
    max_linesearch_iter: int = 10,
    true_cost: Any = None,
    true_dynamics: Any = None,
    delta_space: bool = True,
    current_x: Tensor | None = None,
    current_u: Tensor | None = None,
    verbose: int = 0,
    back_eps: float = 1e-3,
    no_op_forward: bool = False,
) -> Callable[..., tuple[Tensor, ...]]:
    """A function of x_init (B, n), C, c, F, f, see `QuadCost` and `LinDx`, that takes a step from current_u (T, B, m).

    It solves that linear-quadratic problem within bounds, and within delta_u of current_u, and goes along the change of
    the controls until the true cost along the true dynamics, by default those of the problem, does not rise. It returns
    x, u, the count of box QPs, which is not kept (0), costs (B,), the norm of the change (B,) and the mean share of it
    that was gone; with no_op_forward x and u, which are current_x and current_u. Gradients of x and u are those of the
    problem's solution, which bounds and C, c, F, f, x_init take part in. delta_space, verbose and back_eps have no
    meaning here.
    """

    def step(x_init: Tensor, C: Tensor, c: Tensor, F: Tensor, f: Tensor | None = None) -> tuple[Tensor, ...]:
        linear = LinDx(F, None if f is None or f.numel() == 0 else f)
        at = x_init.new_zeros(T, len(x_init), n_ctrl) if current_u is None else current_u
        low, high = _bounds(u_lower, u_upper, delta_u, at)
        solver = mpc.MPC(
            n_state,
            n_ctrl,
            T,
            low,
            high,
            u_zero_I,
            u_init=at,
            lqr_iter=_PATIENCE,
            verbose=-1,
            detach_unconverged=False,
        )
        x, u, _ = solver(x_init, QuadCost(C, c), linear)
        if no_op_forward:
            return _placed(x, current_x), _placed(u, current_u)
        cost = QuadCost(C, c) if true_cost is None else true_cost
        dynamics = linear if true_dynamics is None else true_dynamics
        found_x, found_u, costs, shares = _search(
            T, x_init, at.detach(), u.detach(), cost, dynamics, linesearch_decay, max_linesearch_iter
        )
        change = (u.detach() - at.detach()).square().sum((0, 2)).sqrt()
        return _placed(x, found_x), _placed(u, found_u), x_init.new_zeros(1), costs, change, shares.mean()

    return step


def _bounds(lower: Any, upper: Any, delta_u: float | None, at: Tensor) -> tuple[Any, Any]:
    if delta_u is None:
        return lower, upper
    low, high = at.detach() - delta_u, at.detach() + delta_u
    return (
        low if lower is None else torch.maximum(low, torch.as_tensor(lower).to(low)),
        high if upper is None else torch.minimum(high, torch.as_tensor(upper).to(high)),
    )


def _placed(value: Tensor, at: Tensor | None) -> Tensor:
    """The gradient of ``value`` at the numbers of ``at``."""
    return value if at is None else at.detach() + (value - value.detach())


@torch.no_grad()
def _search(
    T: int, x_init: Tensor, start: Tensor, end: Tensor, cost: Any, dynamics: Any, decay: float, most: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, controls, costs (B,) and shares (B,) of the way from ``start`` to ``end``."""
    shares = x_init.new_ones(len(x_init))
    before = util.get_cost(T, start, cost, dynamics, x_init=x_init)
    for trial in range(max(most, 1)):
        u = start + shares[None, :, None] * (end - start)
        x = util.get_traj(T, u, x_init, dynamics)
        costs = util.get_cost(T, u, cost, x=x)
        risen = costs > before
        if not bool(risen.any()) or trial == most - 1:
            break
        shares = torch.where(risen, shares * decay, shares)
    return x, u, costs, shares
