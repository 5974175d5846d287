"""What became of the problems of a call: who is told, and whose gradients are kept."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from mpcgen.autograd.solution import Solution
from mpcgen.errors import UnconvergedError
from mpcgen.runtime.status import Status, UnconvergedWarning

_NEARLY = (Status.MAX_ITERATIONS, Status.STALLED)
"""How a problem ends that may be near enough to a solution."""

_ADVICE = {
    Status.INVALID_INPUT: (
        "INVALID_INPUT: x_init, u_init, a bound or a number of cost or dynamics is NaN or infinite, or u_lower is "
        "above u_upper"
    ),
    Status.NOT_A_MINIMUM: (
        "NOT_A_MINIMUM: the cost does not rise to all sides, as where C is not positive definite or a control costs "
        "nothing; add a small cost on the controls, or start from another u_init"
    ),
}
"""What to do about problems that more iterations do not help."""


def unsolved(solution: Solution, eps: float, held: Tensor | None) -> Tensor:
    """The problems (B,) without a solution: neither converged nor within ``eps`` of one, or ``held`` by delta_u."""
    lacking = solution.status != Status.CONVERGED
    if bool(lacking.any()):
        near = torch.zeros_like(lacking)
        for status in _NEARLY:
            near = near | (solution.status == status)
        lacking = lacking & ~(near & (solution.residual <= eps))
    return lacking if held is None else lacking | held


def report(lacking: Tensor, solution: Solution, held: Tensor | None, *, fails: bool, warns: bool) -> None:
    """Raise UnconvergedError, or warn, of problems without a solution."""
    if not (fails or warns) or not bool(lacking.any()):
        return
    statuses = solution.status[lacking].tolist()
    counts = [f"{statuses.count(code)} {Status(code).name}" for code in sorted(set(statuses)) if code]
    limited = 0 if held is None else int((held & (solution.status == Status.CONVERGED)).sum())
    if limited:
        counts.append(f"{limited} held back by delta_u")
    advice = [_ADVICE[code] for code in sorted(_ADVICE) if code in statuses]
    if limited or set(statuses) - {Status.CONVERGED, *_ADVICE}:
        advice.append("give them more lqr_iter, another u_init or a larger delta_u")
    text = (
        f"{int(lacking.sum())} of {len(lacking)} problems were not solved ({', '.join(counts)}), of which the first is "
        f"problem {int(lacking.nonzero()[0])}; "
        f"{'; '.join(advice)}"
    )
    if fails:
        error = UnconvergedError(f"{text}, or let them pass with exit_unconverged=False")
        error.solution = solution.detach()
        raise error
    warnings.warn(text, UnconvergedWarning, stacklevel=4)


def without_gradient(value: Tensor, lacking: Tensor) -> Tensor:
    """``value`` (..., B, k) or (B,) whose entries of the problems that lack a solution have no gradient."""
    mask = lacking if value.ndim == 1 else lacking[:, None]
    return torch.where(mask, value.detach(), value)


def progress(solution: Solution) -> str:
    """A line about a call."""
    iterations = solution.iterations.double()
    return (
        f"mpcgen: {int(solution.converged.sum())} of {solution.status.numel()} problems converged, "
        f"{iterations.mean():.1f} iterations in the mean, {int(iterations.max())} at most; mean cost "
        f"{solution.cost.detach().mean():.4e}, largest residual {solution.residual.max():.1e}"
    )
