"""What the problems of a batch lack that did not converge, and what helps most of their kind.

The advice is measured: of the gallery's problems (`mpcgen bench --gallery`) that default options leave unsolved, each
option was tried on those that lack the same; docs/performance.md has the counts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mpcgen.autograd.origin import ExaminationError
from mpcgen.autograd.solution import Solution
from mpcgen.diagnosis.report import Lack
from mpcgen.errors import ParameterError
from mpcgen.runtime.status import Status

_PASSES = 5
"""So many times the iterations are worth a try."""


def lacking(solution: Solution, tolerance: float | None) -> tuple[Lack, ...]:
    """Sort the unconverged problems by what they lack; each counts once, where its first lack is."""
    status = solution.status.flatten()
    left = (status != Status.CONVERGED) & (status != Status.INVALID_INPUT)
    found = []
    for what, advice, where in _kinds(solution, status, math.sqrt(tolerance or 1e-8)):
        count = int((left & where).sum())
        left = left & ~where
        if count:
            found.append(Lack(what, count, advice))
    return tuple(found)


def _kinds(solution: Solution, status: Tensor, near: float) -> list[tuple[str, str, Tensor]]:
    """(what, advice, (B,) which problems), in the order in which they are asked.

    near: the residual below which a problem is nearly solved.
    """
    residual = solution.residual.detach().flatten().double().nan_to_num(torch.inf)
    violated = solution.violation.detach().flatten().double().nan_to_num(0.0) > near
    late, stalled = status == Status.MAX_ITERATIONS, status == Status.STALLED
    is_single = solution.u.dtype == torch.float32
    return [
        ("a finite trajectory", _DIVERGED, status == Status.DIVERGED),
        ("steps of the model that converge", Status.MODEL.advice, status == Status.MODEL),
        ("a stage that is regular", _SINGULAR, status == Status.NOT_A_MINIMUM),
        (
            "feasibility",
            _INFEASIBLE if _has_hard_rows(solution) else _OPEN,
            (status == Status.INFEASIBLE) | violated,
        ),
        ("precision", _SINGLE if is_single else _DOUBLE, stalled),
        ("a few iterations", _more(solution, 2), late & (residual < near)),
        ("progress in cost", _more(solution, _PASSES), late),
    ]


_DIVERGED = (
    "give u_init near a trajectory that stays finite, or x_init, whose states need not obey the dynamics"
)
_SINGULAR = "add a small cost on the control or state that the cost does not see, or try MPC(restarts=8)"
_INFEASIBLE = (
    "make the row that is violated soft, or try MPC(restarts=8): another start may find what this one did not"
)
_OPEN = "raise max_iterations: rows are all soft, and only the dynamics are not obeyed yet; or try MPC(restarts=8)"
_SINGLE = "pass x0.double(), or loosen tol to what residual says was reached"
_DOUBLE = "MPC(restarts=8), or loosen tol to what residual says was reached"


def _has_hard_rows(solution: Solution) -> bool:
    """Whether rows may be what is violated; a solution whose controller is not here does not say."""
    try:
        return solution.controller.has_hard_rows
    except (ExaminationError, ParameterError):
        return True


def _more(solution: Solution, factor: int) -> str:
    """Advice to iterate longer; other starts where that does not help."""
    origin = solution.origin
    if origin is None:
        return f"{factor} times the iterations"
    options = [f"max_iterations={factor * max(origin.options.max_iterations, 1)}"]
    if origin.options.method == "ddp":
        options.append('method="auto"')
    return f"MPC({', '.join(options)})" + ("" if factor < _PASSES else ", else MPC(restarts=8)")
