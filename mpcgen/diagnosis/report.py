"""The findings about a batch, and how they are printed."""

from __future__ import annotations

from dataclasses import dataclass

from mpcgen.runtime.status import Status

Index = tuple[int, ...]


@dataclass(frozen=True)
class StatusCount:
    """How many problems ended so."""

    status: Status
    count: int


@dataclass(frozen=True)
class Quantiles:
    """Of a number per problem, those without a number left out; NaN where none has one."""

    least: float
    median: float
    nine_tenths: float
    most: float


@dataclass(frozen=True)
class Outcome:
    """How the problem at ``index`` of the batch ended.

    failure: what of an INVALID_INPUT one is invalid; what of a DIVERGED one is not finite, and where; of a MODEL one
        the step; of others the row that is exceeded most.
    """

    index: Index
    status: Status
    residual: float
    iterations: int
    failure: str = ""


@dataclass(frozen=True)
class Lack:
    """What so many problems lack that did not converge, and what to try first."""

    what: str
    count: int
    advice: str


@dataclass(frozen=True)
class Activity:
    """Shares, 0 to 1, of all stages of all problems at which a control or a row is at its lower and its upper bound."""

    control: str
    at_lower: float
    at_upper: float


@dataclass(frozen=True)
class Exceeded:
    """A soft row that gives way, in how many problems, and where most: excess in the row's units."""

    row: str
    problems: int
    most: float
    index: Index
    stage: int


@dataclass(frozen=True)
class Margin:
    """The least margin of a problem, and the stage and control or row it belongs to.

    active: -1, 0 or +1. exceeded: the row is soft, and beyond the bound that pushes it.
    """

    index: Index
    stage: int
    control: str
    active: int
    value: float
    exceeded: bool = False


@dataclass(frozen=True, repr=False)
class Report:
    """What `mpcgen.diagnose` found; ``str(report)`` is made for reading.

    tolerance: KKT residual asked for, None where unknown. worst: the largest residuals among the problems that
    did not converge, those without a residual first. activity: by control. exceeded: soft rows that give way, the most
    often exceeded first. margins: the smallest of the problems
    that converged, one for each problem, smallest first. lacking: what unconverged problems lack, each counted once.
    unexamined: why activity and margins are not known, else
    None. hints: what to look at, most important first.
    """

    problem: str
    batch_shape: tuple[int, ...]
    horizon: int
    dtype: str
    tolerance: float | None
    statuses: tuple[StatusCount, ...]
    residual: Quantiles
    iterations: Quantiles
    worst: tuple[Outcome, ...]
    lacking: tuple[Lack, ...]
    activity: tuple[Activity, ...]
    exceeded: tuple[Exceeded, ...]
    margins: tuple[Margin, ...]
    unexamined: str | None
    hints: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"<{self._head()[0]}>"  # one line, since an interactive session shows it below the printed report
        )

    def __str__(self) -> str:
        sections = (
            self._head(),
            self._statuses(),
            self._numbers(),
            self._worst(),
            self._lacking(),
            self._bounds(),
            self._exceeded(),
            self._margins(),
            self._hints(),
        )
        return "\n\n".join("\n".join(lines) for lines in sections if lines)

    def _head(self) -> list[str]:
        total = sum(entry.count for entry in self.statuses)
        batch = f"{total} problems" if total != 1 else "1 problem"
        if len(self.batch_shape) > 1:
            batch += f", batch {' x '.join(map(str, self.batch_shape))}"
        title = f"{self.problem}: {batch}, N = {self.horizon}, {self.dtype}"
        return [title, "-" * len(title)]

    def _statuses(self) -> list[str]:
        lines = []
        for entry in self.statuses:
            lines.append(f"{entry.count:>7} {entry.status.name:<15} {entry.status.meaning}")
            if entry.status != Status.CONVERGED:
                lines.append(f"{'':>23} -> {entry.status.advice}")
        return lines

    def _numbers(self) -> list[str]:
        if not self.statuses:
            return []
        residual, passes = self.residual, self.iterations
        tolerance = "" if self.tolerance is None else f"   (tol {self.tolerance:.0e})"
        return [
            f"{'':<12}{'least':>10}{'median':>10}{'90 %':>10}{'most':>10}",
            f"{'residual':<12}{residual.least:>10.1e}{residual.median:>10.1e}{residual.nine_tenths:>10.1e}"
            f"{residual.most:>10.1e}{tolerance}",
            f"{'iterations':<12}{passes.least:>10.0f}{passes.median:>10.0f}{passes.nine_tenths:>10.0f}"
            f"{passes.most:>10.0f}",
        ]

    def _worst(self) -> list[str]:
        if not self.worst:
            return []
        rows = [
            f"  {_place(o.index):<14}{o.status.name:<16}residual {o.residual:.1e} after {o.iterations} iterations"
            + (f": {o.failure}" if o.failure else "")
            for o in self.worst
        ]
        return ["worst problems", *rows]

    def _lacking(self) -> list[str]:
        if not self.lacking:
            return []
        lines = ["what the unconverged problems lack"]
        for lack in self.lacking:
            lines += [f"{lack.count:>7} {lack.what}", f"{'':>7} -> {lack.advice}"]
        return lines

    def _bounds(self) -> list[str]:
        if self.unexamined is not None:
            return [f"bounds: not examined, because {self.unexamined}"]
        if not self.activity:
            return []
        width = max(len("at a bound"), *(len(a.control) for a in self.activity)) + 2
        lines = [f"{'at a bound':<{width}}{'lower':>8}{'upper':>8}   (share of all stages)"]
        lines += [f"{a.control:<{width}}{a.at_lower:>8.1%}{a.at_upper:>8.1%}" for a in self.activity]
        return lines

    def _exceeded(self) -> list[str]:
        if not self.exceeded:
            return []
        title = "soft rows exceeded"
        width = max(len(title), *(len(e.row) for e in self.exceeded)) + 2
        lines = [f"{title:<{width}}{'problems':>8}      most"]
        for e in self.exceeded:
            lines.append(
                f"{e.row:<{width}}{e.problems:>8}      {e.most:.2g} at stage {e.stage} of {_place(e.index)}"
            )
        return lines

    def _margins(self) -> list[str]:
        if self.unexamined is not None or not self.activity or not self.margins:
            return []
        lines = ["smallest margins (of a bound from letting go of a control or a row, or from catching one)"]
        return lines + [f"  {_place(m.index):<14}{m.value:.1e}  {_situation(m)}" for m in self.margins]

    def _hints(self) -> list[str]:
        return ["hints", *(f"  - {hint}" for hint in self.hints)] if self.hints else []


def _place(index: Index) -> str:
    return f"[{', '.join(map(str, index))}]" if index else "the problem"


def _situation(margin: Margin) -> str:
    if margin.active == 0:
        return f"{margin.control} at stage {margin.stage}, free"
    bound = "lower" if margin.active < 0 else "upper"
    where = "exceeds" if margin.exceeded else "held at"
    return f"{margin.control} at stage {margin.stage}, {where} its {bound} bound"
