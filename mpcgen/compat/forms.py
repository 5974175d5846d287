"""What a call describes: quadratic costs, linear dynamics, and how derivatives were to be found."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from torch import Tensor


class QuadCost(NamedTuple):
    """The cost ½ τᵀC_tτ + c_tᵀτ of stage t, τ = (x, u).

    C: (T, batch, n+m, n+m), symmetric, or without the batch, or one matrix for all stages. c: (T, batch, n+m), or
    without the batch, or one vector; None for zero.
    """

    C: Tensor | None = None
    c: Tensor | None = None


class LinDx(NamedTuple):
    """The dynamics x_{t+1} = F_t τ_t + f_t, τ = (x, u).

    F: (T-1, batch, n, n+m), or without the batch, or one matrix for all stages; an entry more is left aside. f:
    (T-1, batch, n), or without the batch, or one vector; None for zero.
    """

    F: Tensor | None = None
    f: Tensor | None = None


class GradMethods(Enum):
    """How `MPC.linearize_dynamics` differentiates. The solver has exact derivatives, whatever this says."""

    AUTO_DIFF = 1
    FINITE_DIFF = 2
    ANALYTIC = 3
    ANALYTIC_CHECK = 4
