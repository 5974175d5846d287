"""Saying aloud that problems did not converge: warning, error, or silence, as asked."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mpcgen.errors import UnconvergedError
from mpcgen.runtime.status import Status, UnconvergedWarning

_PACKAGE, _TORCH = Path(__file__).parents[1], Path(torch.__file__).parent
_NOT_THE_USERS = (f"{_PACKAGE}{os.sep}", f"{_TORCH}{os.sep}", "<eval_with_key>")
"""How the file names of this package, of torch and of code that torch generates begin."""


def report_statuses(
    name: str, status: Tensor, on_unconverged: str, failure: Callable[[int], str] | None = None
) -> None:
    """Warn or raise if any entry of ``status`` is not zero.

    failure: what of a problem without a solution, by its place in the flat batch, is not as it should be, and where; ""
        where nothing is known of it.
    """

    def first(place: int) -> str:
        where = "" if status.numel() == 1 else f" of problem {place}"
        said = "" if failure is None else failure(place)
        return f"{where}: {said}" if said else ""

    _report(name, status, on_unconverged, "problems", first, "mpcgen.diagnose(sol) tells which")


def report_steps(
    name: str, status: Tensor, on_unconverged: str, failure: Callable[[int, int], str] | None = None
) -> None:
    """Warn or raise if any solve of closed loops, status (..., steps), has a status other than zero.

    failure: what is invalid of a problem, by its place in the flat batch, at a step; "" where nothing is.
    """
    steps = status.shape[-1]

    def first(solve: int) -> str:
        problem, step = divmod(solve, steps)
        where = "" if status.numel() == steps else f" of problem {problem}"
        said = "" if failure is None else failure(problem, step)
        return f"{where}: at step {step}" + (f", {said}" if said else "")

    what = f"solves, {steps} for each problem,"
    more = "mpcgen.diagnose looks at one step solved by itself, mpc(loop.x[..., step, :])"
    _report(name, status, on_unconverged, what, first, more)


def _report(name: str, status: Tensor, how: str, what: str, first: Callable[[int], str], more: str) -> None:
    """Say how many of ``what`` failed, why, and where the first of those is that have no solution."""
    if how == "ignore":
        return
    failed = int((status != 0).sum())
    if not failed:
        return
    counts = [(Status(s), int((status == s).sum())) for s in Status if s != Status.CONVERGED]
    parts = [f"{count} {s.name}: {s.meaning}; {s.advice}" for s, count in counts if count]
    flat = status.flatten()
    for statuses in _TOLD_TOGETHER:
        broken = torch.stack([flat == status for status in statuses]).any(0)
        if bool(broken.any()):
            place = int(broken.nonzero()[0])
            if said := first(place):
                parts.append(f"First to {_VERBS[Status(int(flat[place]))]}{said}")
    _say(
        f"{name}: {failed} of {status.numel()} {what} did not converge. {'. '.join(parts)}. {more}, "
        "on_unconverged='ignore' silences this",
        how,
    )


_VERBS = {
    Status.DIVERGED: "diverge",
    Status.MODEL: "fail",
    Status.INVALID_INPUT: "be invalid",
    Status.STALLED: "stall",
    Status.MAX_ITERATIONS: "run out of passes",
}
_TOLD_TOGETHER = (
    (Status.DIVERGED, Status.MODEL),
    (Status.INVALID_INPUT,),
    (Status.STALLED, Status.MAX_ITERATIONS),
)
"""Statuses of which the first problem is looked at."""


def report_singular(name: str, singular: Tensor, on_unconverged: str) -> None:
    """Warn or raise if the backward pass met a solution that is not differentiable."""
    if on_unconverged == "ignore":
        return
    count = int((singular != 0).sum())
    if count:
        _say(
            f"{name}: {count} of {singular.numel()} solutions are not differentiable, because their second-order "
            f"condition fails or a derivative of the problem is not finite there; their gradient is zero, but for that "
            f"of the cost where it exists. {Status.NOT_A_MINIMUM.advice}",
            on_unconverged,
        )


Report = Callable[[str, Tensor, str], None]
"""`report_statuses` or `report_steps`, without its last argument, or `report_singular`."""


def copy_to_host(flags: Tensor) -> tuple[Callable[[], bool], Tensor]:
    """Start a copy of a CUDA tensor; returns whether it has arrived, as a question, and where."""
    host = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True)
    host.copy_(flags, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(flags.device))
    return event.query, host


class Deferred:
    """Warnings about what a device has not computed yet: each comes with the first call after its flags arrived."""

    def __init__(
        self, name: str, copy: Callable[[Tensor], tuple[Callable[[], bool], Tensor]] = copy_to_host
    ) -> None:
        self._name, self._copy, self._lock = name, copy, threading.Lock()
        self._waiting: deque[tuple[Callable[[], bool], Tensor, Report]] = deque()

    def note(self, flags: Tensor, report: Report) -> None:
        """Copy flags to the host when the device gets there; warn of those that have arrived.

        Where warnings are errors, the first of them ends the call; the others wait for the next one.
        """
        self._waiting.append((*self._copy(flags), report))
        while (arrived := self._next()) is not None:
            earlier_flags, earlier_report = arrived
            earlier_report(self._name, earlier_flags, "warn")

    def _next(self) -> tuple[Tensor, Report] | None:
        """Take the earliest flags, if they have arrived."""
        with self._lock:
            if self._waiting and self._waiting[0][0]():
                return self._waiting.popleft()[1:]
            return None


def _say(message: str, how: str) -> None:
    if how == "raise":
        raise UnconvergedError(message)
    warnings.warn(message, UnconvergedWarning, stacklevel=_depth_of_user())


def _depth_of_user() -> int:
    """Stack level, as `warnings.warn` in the caller counts, of the nearest frame in the user's code."""
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        frame, depth = frame.f_back, depth + 1
    return depth
