"""What a controller returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from mpcgen.autograd import summary
from mpcgen.autograd.examination import Examination, History, Rows, examine
from mpcgen.autograd.origin import ExaminationError, Origin, versions_of
from mpcgen.autograd.restarts import Restarts
from mpcgen.calls.arguments import Call
from mpcgen.runtime.controller import Controller
from mpcgen.runtime.outputs import OUTPUTS, Outputs
from mpcgen.runtime.status import Status


class Duals(dict[str, Tensor]):
    """Multipliers by name; see `Solution.duals`. A name that is none raises KeyError, which says those that are."""

    def __missing__(self, name: str) -> Tensor:
        raise KeyError(f"no constraint {name!r}; there are {', '.join(self)}")


def duals_by_name(controller: Controller, rows: Tensor) -> dict[str, Tensor]:
    """(..., N+1, rows) multipliers as a mapping from name to (..., stages, rows)."""
    horizon = rows.shape[-2] - 1
    found = {name: rows[..., :-1, i : i + 1] for i, name in enumerate(controller.controls)}
    for constraint in controller.constraints:
        stages = constraint.stages(horizon)
        columns = slice(constraint.first, constraint.first + constraint.rows)
        found[constraint.name] = rows[..., stages.start : stages.stop, columns]
    return found


class _Asked:
    """What is kept beside a solution's tensors, so that it can answer questions about itself."""

    __slots__ = ("_examined", "_history", "_origin", "_restarts", "_versions")
    _origin: Origin | None
    _history: History | None
    _restarts: Restarts | None
    _examined: Examination | None
    _versions: tuple[int, ...] | None


@dataclass(frozen=True)
class Solution(_Asked, Outputs):
    """Optimal trajectories of a batch of problems, leading dimensions ... as passed.

    x: (..., N+1, n) states, u: (..., N, m) controls, cost: (...); differentiable with respect to x0 and every
    parameter, and so are `duals` where there are constraints. status: (...) int32, see `mpcgen.Status`; iterations:
    (...) int32 passes; residual: (...) KKT residual max |u - clip(u - dL/du, lower, upper)|; costates: (..., N+1, n)
    multipliers dL/dx_t of the dynamics; gains: (..., N, m, n) du_t/dx_t of the optimal policy, zero for controls
    held at a bound. No control needs a derivative at x_0: where one is not finite there, costates and gains of
    stage 0 are not either. An INVALID_INPUT, DIVERGED or MODEL problem has NaN for numbers, but for what x, costates
    and gains say of where its model fails; and where box-DDP's rollout has a value and its derivatives have none, u and
    cost are the rollout's.

    With constraints, `duals` has their multipliers by name and `violation` the most that one is exceeded by; they are
    kept in row_duals, (..., N+1, rows), and row_violation, which are empty without.

    Computed when first asked for, from the solution and its parameters, and not differentiable: `multipliers`,
    `lower`, `upper`, `active`, `margins`, `margin`. They raise `ExaminationError` where the solution or a parameter
    was changed in place since the solve. See also `mpcgen.diagnose` and `mpcgen.plot`. A solution can be pickled;
    one returned from a function under torch.func.vmap or torch.compile answers as well.

    Problems without a solution (INVALID_INPUT, DIVERGED, MODEL) have NaN in u and cost as a rule, and so has every mean
    over them: take ``sol.u[sol.converged].mean()``, or let `where_converged` put a number in their place.
    """

    def __post_init__(self) -> None:
        _remember(self, None, None, None)

    def __repr__(self) -> str:
        """A line: sizes, statuses, iterations and residual; of tensors without numbers their shapes."""
        if not summary.has_numbers(*_tensors(self)[:_ALWAYS]) or not self.status.numel():
            return summary.shapes("Solution", zip(_FIELDS, _tensors(self), strict=True))
        known = self.residual[~self.residual.isnan()]
        residual = float(known.max()) if len(known) else torch.nan
        name = "" if self._origin is None else f" of {self._origin.key.partition(':')[0]}"
        return (
            f"<Solution{name}: {summary.problems(self.status.shape)}, N = {self.u.shape[-2]}, "
            f"{str(self.u.dtype).removeprefix('torch.')}; {summary.statuses(self.status)}; at most "
            f"{int(self.iterations.max())} iterations, residual {residual:.1e}>"
        )

    @staticmethod
    def of(
        outputs: tuple[Tensor, ...],
        origin: Origin | None,
        history: History | None = None,
        versions: tuple[int, ...] | None = None,
        restarts: Restarts | None = None,
    ) -> Solution:
        """A solution that knows where it comes from.

        versions: of x, u and status, if they are known.
        """
        solution = Solution(*outputs)
        if versions is None:
            versions = versions_of((solution.x, solution.u, solution.status))
        _remember(solution, origin, history, versions, restarts)
        return solution

    @staticmethod
    def fresh(outputs: tuple[Tensor, ...], origin: Origin) -> Solution:
        """`of` what the kernels have just written, in a third of the time, as torch.compile cannot follow it."""
        solution = object.__new__(Solution)
        solution.__dict__.update(zip(_FIELDS, outputs, strict=True))
        _remember(solution, origin, None, FRESH)
        return solution

    @property
    def converged(self) -> Tensor:
        """Whether each problem was solved, bool (...): ``status == 0``."""
        return self.status == Status.CONVERGED

    def where_converged(self, otherwise: float = 0.0) -> Solution:
        """The same solution with ``otherwise`` for every number of the problems that did not converge.

        Shapes, status and iterations stay, gradients too; those of the other problems end here. With constraints its
        `duals` are there. It cannot be examined, since the numbers put in solve nothing: ask this one.
        """
        kept = self.converged

        def masked(value: Tensor) -> Tensor:
            if not value.is_floating_point() or value.numel() == 0:
                return value
            return value.where(kept.reshape(kept.shape + (1,) * (value.ndim - kept.ndim)), otherwise)

        masks = [value if value is None else masked(value) for value in _tensors(self)]
        return Solution.of(tuple(masks), self._origin, None, MASKED)  # type: ignore[arg-type]

    @property
    def duals(self) -> Duals:
        """Multipliers of the constraints, by the names of controls, bounded states and constraints.

        Each is (..., stages, rows), over the stages at which the rows hold: 0..N-1 for controls and rows that read one,
        1..N for other rows, N at the end. Positive where the upper and negative where the lower bound pushes; dcost/d
        upper is their negative. With constraints they are differentiable, those of controls too. Those of controls
        without other constraints are made from `multipliers`, which are not.
        """
        controller = self.controller
        if controller.dual_count == 0 or self.row_duals is None:
            multipliers = self.multipliers.where(self.active != 0, 0.0)
            return Duals({name: -multipliers[..., i : i + 1] for i, name in enumerate(controller.controls)})
        return Duals(duals_by_name(controller, self.row_duals))

    @property
    def rows(self) -> dict[str, Rows]:
        """Values, bounds, multipliers and margins of the rows of bounded states and constraints, by name.

        Like `duals` (..., stages, rows) each, over the stages at which they hold; see `Rows`. Controls are in `lower`,
        `upper`, `active` and `margins`.
        """
        rows, horizon = self._examination().rows, self.u.shape[-2]
        return {
            c.name: rows.select(c.stages(horizon), slice(c.first, c.first + c.rows))
            for c in self.controller.constraints
        }

    @property
    def violation(self) -> Tensor:
        """The most that a hard row is exceeded by, or that the dynamics are off by, (...); 0 without constraints.

        In the units of the row or the state. Controls are inside their bounds always. Soft rows do not count: their
        excess is in `rows`, and its price in `cost`.
        """
        if self.row_violation is None or self.row_violation.shape[-1] == 0:
            return self.cost.detach().where(self.cost.isnan(), 0.0)
        return self.row_violation[..., 0]

    @property
    def origin(self) -> Origin | None:
        """The controller, options and parameters of the solve; None if a reference solver made it."""
        return self._origin

    @property
    def controller(self) -> Controller:
        """Names and sizes of the problem; raises ExaminationError where they are not known."""
        return self._known_origin().controller

    @property
    def history(self) -> History | None:
        """Cost and residual by pass, (..., max_iterations+1) each; None unless ``MPC(history=True)`` kept them."""
        return self._history

    @property
    def restarts(self) -> Restarts | None:
        """What became of the starts of ``MPC(restarts=k)``; None without, and behind `torch.compile` and `vmap`."""
        return self._restarts

    @property
    def multipliers(self) -> Tensor:
        """dL/du, (..., N, m): zero up to the residual for free controls, else the force on the active bound.

        Positive at a lower bound, negative at an upper one; dcost/dbound where the bound is active. Units of cost
        per control. NaN for problems without a trajectory.
        """
        return self._examination().multipliers

    @property
    def lower(self) -> Tensor:
        """Lower bounds, (..., N, m), -inf where there is none; NaN for problems without a trajectory."""
        return self._examination().lower

    @property
    def upper(self) -> Tensor:
        """Upper bounds, (..., N, m), inf where there is none; NaN for problems without a trajectory."""
        return self._examination().upper

    @property
    def active(self) -> Tensor:
        """Active set, int8 (..., N, m): -1 at the lower bound, +1 at the upper bound, 0 free.

        A bound is active where u lies on it, or within rounding of it and u - dL/du not strictly inside it. With other
        constraints, where the interior point keeps away from bounds, the distance as a share of half of the range,
        times a hundredth of the sizes of the cost's terms, must be at most dL/du times half of the range.
        """
        return self._examination().active

    @property
    def margins(self) -> Tensor:
        """How far each control is from a change of its bound's state, (..., N, m); see `margin`."""
        return self._examination().margins

    @property
    def margin(self) -> Tensor:
        """Margin of strict complementarity, (...): the least of two kinds of distance, over stages, controls and rows.

        |dL/du| of the active bounds, in units of cost per control: how little pulls a control off its bound. The
        distance to the nearest bound of the free controls, in units of the control: how little pushes it onto
        one. Of soft rows, too, how little is missing to the price at which they give way, or, where they are exceeded,
        the excess. Where it is zero, the solution has a kink: its gradient is that of one side. inf where nothing can
        switch (no bounds, or both bounds equal), NaN for problems without a trajectory.
        """
        least = self._examination().margins.amin((-2, -1))
        for rows in self.rows.values():
            least = torch.minimum(least, rows.margins.amin((-2, -1)))
        return least

    def detach(self) -> Solution:
        """The same numbers without their graph."""
        origin = None if self._origin is None else self._origin.detach()
        return Solution.of(
            tuple(t if t is None else t.detach() for t in _tensors(self)),  # type: ignore[misc]
            origin,
            self._history,
            self._versions,
            self._restarts,
        )

    def _examination(self) -> Examination:
        if self._examined is not None:
            return self._examined
        origin = self._known_origin()
        if self._versions == MASKED:
            raise ExaminationError(
                "where_converged has put numbers in that solve nothing; ask the solution that it was called on"
            )
        if self._versions is not None:
            for name, version in zip(("x", "u", "status"), self._versions, strict=True):
                if versions_of((getattr(self, name),)) not in (None, (version,)):
                    raise ExaminationError(
                        f"sol.{name} was changed in place after the solve, so that it is no solution any more; ask for "
                        f"sol.multipliers before, or change a copy, sol.{name}.clone()"
                    )
        found = examine(origin, self.x, self.u, self.status, self.row_duals)
        object.__setattr__(self, "_examined", found)
        return found

    def _known_origin(self) -> Origin:
        if self._origin is None:
            raise ExaminationError(
                "this solution does not know its controller, so its bounds are unknown; only solutions of a "
                "generated controller can be examined"
            )
        return self._origin

    def __reduce__(self) -> tuple[Any, ...]:
        origin = None if self._versions == MASKED else self._origin
        return Solution.of, (_tensors(self), origin, self._history, None, self._restarts)


def whole(found: Outputs | None, call: Call, origin: Origin) -> Outputs | None:
    """Outputs that an error carries, as the solution that its call would have returned."""
    if found is None or isinstance(found, Solution):
        return found
    outputs = tuple(getattr(found, name) for name in _FIELDS)
    if found.status.shape != call.batch_shape:
        outputs = tuple(
            None if out is None else out.reshape(call.batch_shape + out.shape[1:]) for out in outputs
        )
    return Solution.of(outputs, origin)


MASKED: tuple[int, ...] = ()
"""In the place of versions, of a solution with numbers put in."""
FRESH = (0, 0, 0)
"""Versions of x, u and status that nobody but the kernels has written."""


def _remember(
    solution: Solution,
    origin: Origin | None,
    history: History | None,
    versions: tuple[int, ...] | None,
    restarts: Restarts | None = None,
) -> None:
    # outside the instance's dictionary, so that the fields stay the tensors of the batch and nothing else
    object.__setattr__(solution, "_origin", origin)
    object.__setattr__(solution, "_history", history)
    object.__setattr__(solution, "_restarts", restarts)
    object.__setattr__(solution, "_examined", None)
    object.__setattr__(solution, "_versions", versions)


_FIELDS = tuple(output.name for output in OUTPUTS)
_ALWAYS = sum(not output.constrained for output in OUTPUTS)
"""So many of these are there of every solution."""
_Context = tuple[str, str, bool] | None


def _tensors(solution: Solution) -> tuple[Any, ...]:
    return tuple(getattr(solution, name) for name in _FIELDS)


def _flatten(solution: Solution) -> tuple[list[Any], _Context]:
    leaves: list[Any] = list(_tensors(solution))
    if solution.history is not None:
        leaves += (solution.history.cost, solution.history.residual)
    if solution.origin is None:
        return leaves, None
    origin = solution.origin
    if isinstance(solution.u, Tensor):  # not where the tree holds other things, such as mapped dimensions
        origin = origin.copy(solution.u.shape[:-2])
    leaves += origin.own
    return leaves, (origin.key, origin.options_text, solution.history is not None)


def _unflatten(leaves: Any, context: _Context) -> Solution:
    count, leaves = len(_FIELDS), list(leaves)
    if context is None:
        history = History(*leaves[count:]) if len(leaves) > count else None
        return Solution.of(tuple(leaves[:count]), None, history)
    key, options_text, has_history = context
    end = count + 2 * has_history
    origin = Origin(key, options_text, tuple(leaves[end:]), is_flat=False)
    return Solution.of(tuple(leaves[:count]), origin, History(*leaves[count:end]) if has_history else None)


_pytree.register_pytree_node(Solution, _flatten, _unflatten, serialized_type_name="mpcgen.Solution")
