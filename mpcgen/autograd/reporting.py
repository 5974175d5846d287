"""Saying aloud that problems did not converge: warning, error, or silence, as asked."""

from __future__ import annotations

import warnings

from torch import Tensor

from mpcgen.errors import UnconvergedError
from mpcgen.runtime.status import Status, UnconvergedWarning

_USER_FRAME = 5
"""Stack depth from `_say` to the call of the module in the user's code."""


def report_statuses(name: str, status: Tensor, on_unconverged: str) -> None:
    """Warn or raise if any entry of ``status`` is not zero."""
    if on_unconverged == "ignore":
        return
    failed = int((status != 0).sum())
    if failed:
        counts = [(Status(s), int((status == s).sum())) for s in Status if s != Status.CONVERGED]
        parts = [f"{count} {s.name}: {s.meaning}; {s.advice}" for s, count in counts if count]
        _say(
            f"{name}: {failed} of {status.numel()} problems did not converge. " + ". ".join(parts),
            on_unconverged,
        )


def report_singular(name: str, singular: Tensor, on_unconverged: str) -> None:
    """Warn or raise if the backward pass met a solution that is not differentiable."""
    if on_unconverged == "ignore":
        return
    count = int(singular.sum())
    if count:
        _say(
            f"{name}: {count} of {singular.numel()} solutions are not differentiable, their second-order condition "
            f"fails; their gradient is zero. {Status.NOT_A_MINIMUM.advice}",
            on_unconverged,
        )


def _say(message: str, how: str) -> None:
    if how == "raise":
        raise UnconvergedError(message)
    warnings.warn(message, UnconvergedWarning, stacklevel=_USER_FRAME)
