"""Dynamics as modules: a network, an affine map, and one that remembers the last control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from mpcgen.errors import ParameterError, ShapeError

ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "elu": nn.functional.elu,
}
_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda z: z * (1 - z),
    "relu": lambda z: (z > 0).to(z.dtype),
    "elu": lambda z: torch.where(z > 0, torch.ones_like(z), z + 1),
}
"""Slopes of the activations by their values."""


class NNDynamics(nn.Module):
    """A network of linear layers, x_{t+1} = net(x_t, u_t), to which x_t is added with ``passthrough``."""

    def __init__(
        self,
        n_state: int,
        n_ctrl: int,
        hidden_sizes: Sequence[int] = (100,),
        activation: str = "sigmoid",
        passthrough: bool = True,
    ) -> None:
        super().__init__()
        if activation not in ACTS:
            raise ParameterError(f"activation={activation!r}; expected one of {', '.join(map(repr, ACTS))}")
        self.activation, self.passthrough = activation, passthrough
        widths = [n_state + n_ctrl, *hidden_sizes, n_state]
        self.fcs = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """(..., n) from (..., n) and (..., m)."""
        z = self._hidden(torch.cat((x, u), -1))[-1]
        following = self.fcs[-1](z)
        return following + x if self.passthrough else following

    def _hidden(self, z: Tensor) -> list[Tensor]:
        """The inputs of each layer."""
        act, found = ACTS[self.activation], [z]
        for layer in self.fcs[:-1]:
            found.append(act(layer(found[-1])))
        return found

    def grad_input(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """∂x_{t+1}/∂x (B, n, n) and ∂x_{t+1}/∂u (B, n, m) at x (B, n) and u (B, m)."""
        n, hidden = x.shape[-1], self._hidden(torch.cat((x, u), -1))
        weights = [layer.weight for layer in self.fcs if isinstance(layer, nn.Linear)]
        slope = weights[-1].expand(len(x), -1, -1)
        for weight, z in zip(reversed(weights[:-1]), reversed(hidden[1:]), strict=True):
            slope = (slope * _SLOPES[self.activation](z)[:, None, :]) @ weight
        by_x, by_u = slope[..., :n], slope[..., n:]
        if self.passthrough:
            by_x = by_x + torch.eye(n, dtype=x.dtype, device=x.device)
        return by_x, by_u


class AffineDynamics(nn.Module):
    """x_{t+1} = A x_t + B u_t + c with A (n, n), B (n, m) and c (n,) or None; `MPC` takes it as linear."""

    def __init__(self, A: Tensor, B: Tensor, c: Tensor | None = None) -> None:
        super().__init__()
        if A.ndim != 2 or B.ndim != 2 or (c is not None and c.ndim != 1):
            shapes = ", ".join(str(tuple(v.shape)) for v in (A, B, c) if v is not None)
            raise ShapeError(
                f"AffineDynamics was given A, B, c of shapes {shapes}; (n, n), (n, m), (n,) are expected"
            )
        self.A, self.B, self.c = A, B, c

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """(..., n) from (..., n) and (..., m)."""
        moved = x @ self.A.T + u @ self.B.T
        return moved if self.c is None else moved + self.c

    def grad_input(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """A and B, once for each of the batch."""
        return self.A.expand(len(x), -1, -1), self.B.expand(len(x), -1, -1)


class CtrlPassthroughDynamics(nn.Module):
    """Dynamics of (u_{t-1}, x_t): the control goes into the next state, before what ``dynamics`` makes of x_t."""

    def __init__(self, dynamics: nn.Module) -> None:
        super().__init__()
        self.dynamics = dynamics

    def forward(self, tilde_x: Tensor, u: Tensor) -> Tensor:
        """(..., m+n) from (..., m+n) and (..., m)."""
        return torch.cat((u, self.dynamics(tilde_x[..., u.shape[-1] :], u)), -1)
