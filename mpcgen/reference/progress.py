"""Where each problem of a batch stands in the iteration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mpcgen.runtime.status import Status

FIRST_REGULARISATION = 1e-3
LARGEST_REGULARISATION = 1e10
PATIENCE = 6


@dataclass
class Progress:
    """One entry per problem, (B,).

    regularisation: of Q_uu. curvature: weight of the dynamics' curvature in the Hessian, in the next iteration.
    unproductive: iterations in a row whose expected gain was below rounding and that did not halve the best
    residual; past PATIENCE the problem is at its precision's limit.
    """

    running: Tensor
    status: Tensor
    iterations: Tensor
    regularisation: Tensor
    curvature: Tensor
    best_residual: Tensor
    unproductive: Tensor

    @staticmethod
    def start(like: Tensor) -> Progress:
        """All problems running; ``like``: (B,), of the working precision."""
        count = torch.zeros(len(like), dtype=torch.int32)
        return Progress(
            running=torch.ones(len(like), dtype=torch.bool),
            status=torch.full_like(count, Status.MAX_ITERATIONS),
            iterations=count,
            regularisation=torch.zeros_like(like),
            curvature=torch.zeros_like(like),
            best_residual=torch.full_like(like, torch.inf),
            unproductive=count.clone(),
        )

    def review(
        self, index: Tensor, residual: Tensor, finite: Tensor, negligible: Tensor, tolerance: float
    ) -> Tensor:
        """End the problems of ``index`` (k,) that have ended; return which of them go on, (k,).

        residual: (k,), KKT. finite: (k,), whether all derivatives are. negligible: (k,), whether the saving
        that the next step promises is below rounding.
        """
        improved = residual < 0.5 * self.best_residual[index]
        self.best_residual[index] = torch.where(improved, residual, self.best_residual[index])
        unproductive = torch.where(improved, 0, self.unproductive[index] + negligible.int())
        self.unproductive[index] = unproductive
        stalled = (unproductive > PATIENCE) | (self.regularisation[index] > LARGEST_REGULARISATION)
        converged = residual <= tolerance
        for where, status in (
            (stalled, Status.STALLED),
            (converged, Status.CONVERGED),
            (~finite, Status.DIVERGED),
        ):
            self.status[index[where]] = int(status)
        going = finite & ~converged & ~stalled
        self.running[index] = going
        return going

    def record(self, index: Tensor, accepted: Tensor, length: Tensor) -> None:
        """Count an iteration; a refused line search raises the regularisation, a full step lowers it."""
        self.iterations[index] += 1
        now = self.regularisation[index]
        lowered = torch.where(0.1 * now < FIRST_REGULARISATION, 0.0, 0.1 * now)
        raised = torch.where(now > 0, 10 * now, FIRST_REGULARISATION)
        kept = torch.where(length == 1, lowered, now)
        self.regularisation[index] = torch.where(accepted, kept, raised)
