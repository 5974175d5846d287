"""Draw one problem of a solution: states, controls with their bounds, convergence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mpcgen.autograd.solution import Solution
from mpcgen.diagnosis.diagnose import refuse_loops
from mpcgen.errors import MpcgenError, ShapeError, pip_install
from mpcgen.runtime.controller import Constraint
from mpcgen.runtime.status import Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINE, _BOUND, _AT_LOWER, _AT_UPPER = "#1f4e79", "#444444", "#7fb3d5", "#f0a868"
_HELD = ("at its lower bound", "at its upper bound")
_PANEL = (3.6, 1.75)  # inches


class PlotUnavailableError(MpcgenError, ImportError):
    """matplotlib, which `mpcgen.plot` needs, is not installed."""


def plot(solution: Solution, index: int | tuple[int, ...] = 0) -> Figure:
    """Draw states, controls with bounds and active spans, and the convergence of one problem.

    index: of the problem in the batch, an int or one int for each batch dimension; of no consequence for a single
    problem. Returns a matplotlib Figure (``figure.savefig("solution.png")``); convergence is drawn where
    ``MPC(history=True)`` recorded it.

    Raises PlotUnavailableError without matplotlib, ShapeError for an index outside the batch, ExaminationError
    for a solution that does not know its bounds, ParameterError for a closed loop.
    """
    refuse_loops(solution)
    figure_class = _figure_class()
    place = _place(index, solution.status.shape)
    controller = solution.controller
    states, controls = controller.states, controller.controls
    columns = 4 if len(states) + len(controls) > 9 else 3 if len(states) == 3 else 2
    limited = _limited(solution)
    counts = (len(states), len(limited), len(controls), 0 if solution.history is None else 2)
    rows = sum(-(-count // columns) for count in counts)
    figure = figure_class(figsize=(columns * _PANEL[0], 0.5 + rows * _PANEL[1]), layout="constrained")
    of_states, of_rows, of_controls, of_convergence = _panels(figure, columns, counts)
    _draw_states(of_states, states, solution.x[place])
    _draw_limits(of_states, solution, place)
    _draw_rows(of_rows, limited, solution, place)
    _draw_controls(of_controls, solution, place)
    if solution.history is not None:
        _draw_convergence(of_convergence, solution, place)
    figure.suptitle(_title(solution, place), fontsize="medium", x=0.01, ha="left")
    return figure


def _figure_class() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotUnavailableError(
            f"mpcgen.plot needs matplotlib and it could not be imported ({error}); "
            f"install it with: {pip_install('plot')}"
        ) from error
    return Figure


def _place(index: int | tuple[int, ...], shape: torch.Size) -> tuple[int, ...]:
    place = index if isinstance(index, tuple) else (index,)
    if not shape and place in ((), (0,)):
        return ()
    if len(place) != len(shape) or not all(-n <= i < n for i, n in zip(place, shape, strict=True)):
        raise ShapeError(
            f"index={index!r} names no problem of a batch of shape {tuple(shape)}; one whole number for each batch "
            "dimension, within it, is expected"
        )
    return place


def _title(solution: Solution, place: tuple[int, ...]) -> str:
    status = Status(int(solution.status[place]))
    where = f"[{', '.join(map(str, place))}]" if place else ""
    title = (
        f"{solution.controller.name}{where}: {status.name} after {int(solution.iterations[place])} iterations, "
        f"cost {solution.cost[place].item():.6g}, residual {solution.residual[place].item():.1e}"
    )
    if solution.history is None:
        title += "\nconvergence not recorded: MPC(history=True) does"
    return title


def _panels(figure: Figure, columns: int, counts: tuple[int, ...]) -> list[list[Axes]]:
    """Axes for each section, which begins on a row of its own; those at the bottom of a column are labelled."""
    from matplotlib.ticker import MaxNLocator

    rows = [-(-count // columns) for count in counts]
    grid = figure.subplots(sum(rows), columns, squeeze=False)
    sections, top = [], 0
    for count, height in zip(counts, rows, strict=True):
        axes = grid[top : top + height].flatten().tolist()
        top += height
        for unused in axes[count:]:
            unused.remove()
        for number, one in enumerate(axes[:count]):
            one.grid(alpha=0.3)
            one.spines[["top", "right"]].set_visible(False)
            one.margins(x=0.02)
            one.tick_params(labelsize="small")
            one.xaxis.set_major_locator(MaxNLocator(integer=True))
            if number + columns >= count:
                one.set_xlabel("stage", fontsize="small")
        sections.append(axes[:count])
    return sections


def _name(axes: Axes, name: str) -> None:
    axes.set_title(name, loc="left", fontsize="medium")


def _draw_states(panels: list[Axes], names: tuple[str, ...], x: Tensor) -> None:
    stages = list(range(x.shape[0]))
    for axes, name, values in zip(panels, names, x.detach().T, strict=True):
        axes.plot(stages, values.tolist(), color=_LINE, marker=".", markersize=3, linewidth=1.4)
        _name(axes, name)


def _limited(solution: Solution) -> list[tuple[Constraint, int]]:
    """Rows that get a panel of their own: those along the path that are no bounds of states."""
    controller = solution.controller
    return [
        (constraint, row)
        for constraint in controller.constraints
        if constraint.name not in controller.states and constraint.group != "terminal"
        for row in range(constraint.rows)
    ]


def _draw_limits(panels: list[Axes], solution: Solution, place: tuple[int, ...]) -> None:
    """Bounds of states as lines, and the stages at which they hold the state shaded."""
    controller = solution.controller
    for constraint in controller.constraints:
        if constraint.name in controller.states:
            axes = panels[controller.states.index(constraint.name)]
            _limits(axes, constraint, 0, solution, place)


def _draw_rows(
    panels: list[Axes], limited: list[tuple[Constraint, int]], solution: Solution, place: tuple[int, ...]
) -> None:
    """Values of constrained expressions over the stages, with their limits."""
    for axes, (constraint, row) in zip(panels, limited, strict=True):
        values = solution.rows[constraint.name].values[place][:, row]
        stages = list(constraint.stages(solution.u.shape[-2]))
        axes.plot(stages, values.tolist(), color=_LINE, marker=".", markersize=3, linewidth=1.4)
        _limits(axes, constraint, row, solution, place)
        _name(axes, constraint.labels[row])


def _limits(axes: Axes, constraint: Constraint, row: int, solution: Solution, place: tuple[int, ...]) -> None:
    rows = solution.rows[constraint.name]
    stages = constraint.stages(solution.u.shape[-2])
    middle = stages.start - 0.5  # a row at stage t holds the point there
    words = ("at or below its lower bound", "at or above its upper bound") if constraint.soft else _HELD
    _shade(axes, rows.active[place][:, row], middle, words)
    for bound in (rows.lower, rows.upper):
        limit = bound[place][:, row]
        if bool(limit.isfinite().any()):
            axes.plot(list(stages), limit.tolist(), color=_BOUND, linestyle="--", linewidth=1)


def _draw_controls(panels: list[Axes], solution: Solution, place: tuple[int, ...]) -> None:
    u, lower, upper = (t[place].detach() for t in (solution.u, solution.lower, solution.upper))
    active = solution.active[place]
    for i, (axes, name) in enumerate(zip(panels, solution.controller.controls, strict=True)):
        _shade(axes, active[:, i])
        axes.stairs(u[:, i].tolist(), baseline=None, color=_LINE, linewidth=1.6)
        hidden = _bounds(axes, u[:, i], lower[:, i], upper[:, i], bool(active[:, i].any()))
        _name(axes, f"{name}   ({hidden} not shown)" if hidden else name)


def _shade(axes: Axes, active: Tensor, begin: float = 0.0, words: tuple[str, str] = _HELD) -> None:
    """Shade the stages at which a bound pushes a control or a row: [t, t+1) is stage t, from ``begin`` on."""
    labels = {-1: (_AT_LOWER, words[0]), 1: (_AT_UPPER, words[1])}
    for first, last, side in _spans(active.tolist()):
        colour, label = labels.pop(side, (_AT_LOWER if side < 0 else _AT_UPPER, ""))
        axes.axvspan(begin + first, begin + last, color=colour, alpha=0.35, linewidth=0, label=label or None)
    if len(labels) < 2:
        axes.legend(fontsize="x-small", loc="best", framealpha=0.85)


def _spans(active: list[int]) -> list[tuple[int, int, int]]:
    """Runs of the same bound: (first stage, stage after the last, -1 or +1)."""
    spans: list[tuple[int, int, int]] = []
    for t, side in enumerate(active):
        if side and spans and spans[-1][1:] == (t, side):
            spans[-1] = (spans[-1][0], t + 1, side)
        elif side:
            spans.append((t, t + 1, side))
    return spans


def _bounds(axes: Axes, u: Tensor, lower: Tensor, upper: Tensor, touched: bool) -> str:
    """Draw the bounds unless they are so far that the control would shrink to a line; name those left out."""
    reach = 2 * float(u.max() - u.min())
    hidden = []
    for bound, distance, sign in ((lower, u - lower, "≥"), (upper, upper - u, "≤")):
        if not bound.isfinite().any():
            continue
        if touched or float(distance.min()) <= reach:
            axes.stairs(bound.tolist(), baseline=None, color=_BOUND, linestyle="--", linewidth=1)
        else:
            hidden.append(f"{sign} {float(bound[distance.argmin()]):g}")
    return ", ".join(hidden)


def _draw_convergence(panels: list[Axes], solution: Solution, place: tuple[int, ...]) -> None:
    history = solution.history
    if history is None:
        return
    left, right = panels
    cost, residual = history.cost[place].detach(), history.residual[place].detach()
    passes = [i for i in range(len(cost)) if bool(residual[i].isfinite())]
    for axes, values in ((left, cost), (right, residual)):
        axes.plot(passes, values[passes].tolist(), color=_LINE, marker=".", markersize=5, linewidth=1.4)
    if passes and float(residual[passes].max()) > 0:
        right.set_yscale("log")
    tolerance = solution.origin.options.tolerance(solution.u.dtype) if solution.origin else None
    if tolerance is not None:
        right.axhline(tolerance, color=_BOUND, linestyle="--", linewidth=1, label=f"tol {tolerance:.0e}")
        right.legend(fontsize="x-small", loc="best")
    for axes, name in ((left, "cost"), (right, "KKT residual")):
        _name(axes, name)
        axes.set_xlabel("pass", fontsize="small")
