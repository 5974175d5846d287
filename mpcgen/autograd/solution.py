"""What a controller returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Solution:
    """Optimal trajectories of a batch of problems, leading dimensions ... as passed.

    x: (..., N+1, n) states, u: (..., N, m) controls, cost: (...); differentiable with respect to x0 and every
    parameter. status: (...) int32, see `mpcgen.Status`; iterations: (...) int32 passes; residual: (...) KKT
    residual max |u - clip(u - dL/du, lower, upper)|; costates: (..., N+1, n) multipliers dL/dx_t of the
    dynamics; gains: (..., N, m, n) du_t/dx_t of the optimal policy, zero for controls held at a bound.
    """

    x: Tensor
    u: Tensor
    cost: Tensor
    status: Tensor
    iterations: Tensor
    residual: Tensor
    costates: Tensor
    gains: Tensor
