"""What the kernels need of a model: the functions of design and paper, derived on the graph.

Names: x, u state and control; theta the parameters constant over the stages, theta_t those of one stage;
costate = lambda_{t+1} of the next stage; V the Hessian of the value function there; d_* differentials.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain

from mpcgen.derivative.bounds import bounds_forward, bounds_gradient, stage_bounds
from mpcgen.derivative.effort import Effort
from mpcgen.derivative.forward import tangents
from mpcgen.derivative.matrices import (
    Matrix,
    dot,
    hessian,
    jacobian,
    lower_triangle,
    matrix_sum,
    product_count,
    transposed_times,
    vector_sum,
)
from mpcgen.derivative.pullback import Pullback, PulledBack
from mpcgen.derivative.remembering import with_remembering
from mpcgen.derivative.reverse import gradient
from mpcgen.derivative.rows import row_functions, with_stiffness
from mpcgen.derivative.search import SEARCH_EFFORT, eliminations, rivals, shortest, shortest_with_jacobian
from mpcgen.derivative.symbols import Symbols
from mpcgen.ir import Expr, degree, flops, symbols_of
from mpcgen.ir.function import Function
from mpcgen.ir.model import Model
from mpcgen.stages.contract import (
    ADJOINT,
    DERIVE,
    DYNAMICS,
    END_PULLBACK,
    EXPAND,
    MATRICES,
    PULLBACK,
    SLOPES,
    STEP,
)

Outputs = dict[str, Sequence[Expr]]
"""What a stage function writes, by group of the contract."""

WORTH_KEEPING = 2
"""How many times as long as the product with known entries, and as these, F d has to be for them to be kept."""
WORTH_A_SEARCH = 1.25
"""How many times as long as what has been found something may be that is still searched for a shorter form."""


def _work(outputs: Outputs) -> int:
    """Operations of a function that writes ``outputs``."""
    return flops(list(chain(*outputs.values())))


class Derivation(Symbols):
    """One method per function."""

    def __init__(self, model: Model, fused_limit: int) -> None:
        super().__init__(model)
        self.effort = Effort(SEARCH_EFFORT)
        self.rivals: dict[Pullback, tuple[PulledBack, ...]] = {}
        model = self.model
        self.F = jacobian(model.next_state, self.tau)
        self.J = jacobian(self.path.rows.values, self.tau)
        self.FJ = (*self.F, *self.J)
        self.cost_gradient = tuple(gradient(model.stage_cost, self.tau))
        carried = self._carried_cost()
        self.carried_gradient = tuple(gradient(carried, self.tau))
        self.carried_hessian = hessian(carried, self.tau)
        self.fused = product_count(self.F) <= fused_limit
        curved = not set(symbols_of(list(chain(*self.FJ)))).isdisjoint(self.tau)
        self.kinds = ("gauss_newton", "exact") if curved else ("gauss_newton",)
        curvatures = len(self.kinds) - (not self.path.rows)
        self.kept: tuple[tuple[int, int], ...] = ()
        if model.constrained and self.fused and curved:
            self._keep_slopes()
        self.searches = int(model.constrained) + curvatures + (len(self.kinds) if self.fused else 0)

    def functions(self) -> tuple[Function, ...]:
        """All functions of the model, in the order of the text."""
        dynamics = self._stage_dynamics()
        return (
            dynamics,
            self._terminal_cost(),
            stage_bounds(self),
            self._terminal_expand(),
            *with_remembering(self, tuple(self._stage_models()), dynamics),
            self._stage_tangent(),
            *self._stage_step(),
            *self._pullbacks(),
            *self._stage_adjoint(),
            self._stage_gradient(),
            self._terminal_gradient(),
            bounds_gradient(self),
            self._stage_forward(),
            self._terminal_forward(),
            bounds_forward(self),
            *row_functions(self),
        )

    @property
    def is_linear_quadratic(self) -> bool:
        """Whether the dynamics are linear in states and controls, and the costs quadratic: no kinks, no jumps."""
        costs = (self.model.stage_cost, self.model.terminal_cost)
        if any(self.model.priced):
            return False
        return degree(self.model.next_state, self.tau) <= 1 and degree(costs, self.tau) <= 2

    @property
    def is_quadratic_program(self) -> bool:
        """Whether it is linear-quadratic but for hard, linear rows: what only accumulates cost is a cost."""
        model = self.model
        if not model.constrained or model.has_soft_rows or any(model.priced):
            return False
        reached = [row for i, row in enumerate(model.next_state) if i not in self.accumulators]
        rows = (*reached, *self.path.rows.values, *self.end.rows.values)
        costs = (model.terminal_cost, self._carried_cost())
        return degree(rows, self.tau) <= 1 and degree(costs, self.tau) <= 2

    def _carried_cost(self) -> Expr:
        """The stage cost, with what a stage adds to states that only accumulate cost, priced by their costates.

        So the Gauss-Newton model has the curvature of a cost that is posed as a state, as if it were a stage cost.
        """
        prices = [
            self.costate[i] if i in self.accumulators else self.graph.const(0)
            for i in range(len(self.x_names))
        ]
        return self.model.stage_cost + dot(self.graph, prices, self.model.next_state)

    @cached_property
    def accumulators(self) -> tuple[int, ...]:
        """States that only accumulate cost: nothing but the terminal cost reads them, and that linearly."""
        states, priced = set(self.model.states), self.model.read_by_prices
        slopes = gradient(self.model.terminal_cost, self.model.states)
        rows = (*self.FJ, self.cost_gradient, *jacobian(self.end.rows.values, self.model.states))
        one = self.graph.const(1)
        found = []
        for i, slope in enumerate(slopes):
            unread = (
                self.model.states[i] not in priced
                and all(row[i].is_zero for k, row in enumerate(rows) if k != i)
                and self.F[i][i] is one
            )
            if unread and not slope.is_zero and states.isdisjoint(symbols_of([slope])):
                found.append(i)
        return tuple(found)

    def _stage_dynamics(self) -> Function:
        return self.function(DYNAMICS, x_next=self.model.next_state, cost=(self.model.stage_cost,))

    def _terminal_cost(self) -> Function:
        return self.function("terminal_cost", cost=(self.model.terminal_cost,))

    def _terminal_expand(self) -> Function:
        cost, states, rows = self.model.terminal_cost, self.model.states, self.end
        if not self.model.constrained:
            triangle = lower_triangle(hessian(cost, states))
            return self.function("terminal_expand", hessian=triangle, costate=gradient(cost, states))
        stiffness = with_stiffness(self.graph, (), rows.stiffness)
        pullback = Pullback(rows.rows.values, states, stiffness, (rows.dual, rows.force), self.weight_d2f)
        pulled = shortest(self._ways(pullback))
        total = matrix_sum(hessian(cost, states), pulled.hessian)
        along_dual, along_force = pulled.gradients
        return self.function(
            "terminal_expand",
            hessian=lower_triangle(total),
            costate=vector_sum(gradient(cost, states), along_dual),
            offset=along_force,
        )

    def _stage_models(self) -> Iterable[Function]:
        """The quadratic model of the cost-to-go at a stage; of a linear-quadratic one matrices and gradients apart."""
        if not self.has_slopes:
            return (self._stage_expand(kind, self.fused) for kind in self.kinds)
        gradients = dict(self._fused_outputs(None))
        matrices = self.function(MATRICES, Q=gradients.pop("Q"))
        return (matrices, self.function(SLOPES, **gradients))

    def _keep_slopes(self) -> None:
        """Decide which entries of F, (row, column), the exact model keeps: all that are no constants, or none."""
        tau = (*self.x_names, *self.u_names)
        places = [(i, j) for i, row in enumerate(self.F) for j, slope in enumerate(row) if not slope.is_const]
        labels = tuple(f"{self.x_names[i]}, {tau[j]}" for i, j in places)
        self.groups["kept", "NKEPT"] = tuple(
            self.graph.symbol(f"F.{self.x_names[i]}.{tau[j]}") for i, j in places
        )
        self.kept, self.labels["NKEPT"] = tuple(places), labels
        if WORTH_KEEPING * (flops(self._kept_tangent()) + len(places)) > flops(self._next_along()):
            self.kept, self.labels["NKEPT"] = (), ()

    def _kept_tangent(self) -> tuple[Expr, ...]:
        known = dict(zip(self.kept, self.groups["kept", "NKEPT"], strict=True))
        along = (*self.d_x, *self.d_u)
        return tuple(
            dot(self.graph, [known.get((i, j), slope) for j, slope in enumerate(row)], along)
            for i, row in enumerate(self.F)
        )

    def _stage_step(self) -> Iterable[Function]:
        return (self.function(STEP, d_next=self._kept_tangent()),) if self.kept else ()

    def _stage_expand(self, kind: str, fused: bool) -> Function:
        """Quadratic model of the cost-to-go at a stage, with the exact or the Gauss-Newton Hessian."""
        weight = self.weight_d2f if kind == "exact" else None
        if fused:
            return self.function(EXPAND[kind], **self._fused_outputs(weight))
        return self.function(DERIVE[kind], **self._matrix_outputs(weight))

    @property
    def has_slopes(self) -> bool:
        """Whether a sweep may leave the model's matrices as they are: they depend on no state or control."""
        return self.fused and not self.model.constrained and self.is_linear_quadratic

    @property
    def images(self) -> tuple[Expr, ...]:
        """What a stage's multipliers multiply: f, then the rows."""
        return (*self.model.next_state, *self.path.rows.values)

    @property
    def multipliers(self) -> tuple[Expr, ...]:
        """Costate, then the rows' duals."""
        return (*self.costate, *self.path.dual)

    @property
    def uncarried(self) -> tuple[Expr, ...]:
        """The multipliers of what `_carried_cost` leaves to the images."""
        zero = self.graph.const(0)
        kept = (zero if i in self.accumulators else price for i, price in enumerate(self.costate))
        return (*kept, *self.path.dual)

    def _lagrangian_gradient(self) -> tuple[Expr, ...]:
        return vector_sum(self.carried_gradient, transposed_times(self.FJ, self.uncarried))

    @cached_property
    def _forward_FJ(self) -> Matrix:  # noqa: N802
        return jacobian(self.images, self.tau, "forward")

    def _ways(self, pullback: Pullback, search: bool = True) -> tuple[PulledBack, ...]:
        """What the search has found with its share of the effort, and its rivals."""
        self.searches -= search
        among = max(self.searches, 0) + 1
        found = self.effort.share(among, lambda effort: eliminations(pullback, effort, search))
        if pullback not in self.rivals:
            self.rivals[pullback] = rivals(pullback)
        return (*found, *self.rivals[pullback])

    def _curvature(self, weight: Expr | None, search: bool = True) -> tuple[Matrix, Matrix, tuple[Expr, ...]]:
        """(F, J), second derivatives of cost + weight lambda'f, plus J' stiffness J, and the Lagrangian's gradient."""
        if weight is None and not self.path.rows:
            return self.FJ, self.carried_hessian, self._lagrangian_gradient()
        pullback = Pullback(self.images, self.tau, self._row_stiffness(), (self.uncarried,), weight)
        jacobians = (self.FJ, self._forward_FJ)
        FJ, H, slopes = shortest_with_jacobian(self._ways(pullback, search), self.uncarried, jacobians)
        return FJ, matrix_sum(self.carried_hessian, H), vector_sum(self.carried_gradient, slopes)

    def _row_stiffness(self) -> Matrix | None:
        """Second derivatives by (f, rows), of which only the rows have any here; None without rows."""
        if not self.path.rows:
            return None
        zero = self.graph.const(0)
        nothing = tuple(tuple(zero for _ in self.V) for _ in self.V)
        return with_stiffness(self.graph, nothing, self.path.stiffness)

    def _gradients(self, total: Sequence[Expr]) -> Outputs:
        n = len(self.x_names)
        return {"costate": total[:n], "gradient_u": total[n:]}

    def _fused_outputs(self, weight: Expr | None) -> Outputs:
        """Q and the gradients by the way that needs fewer operations: products with F, or all pulled back."""
        multiplied, pulled = self._multiplied(weight, search=False), self._pulled_back(weight)
        if _work(multiplied) < WORTH_A_SEARCH * _work(pulled):
            multiplied = self._multiplied(weight)
        return min(multiplied, pulled, key=_work)

    def _multiplied(self, weight: Expr | None, search: bool = True) -> Outputs:
        FJ, H, total = self._curvature(weight, search)
        columns = tuple(zip(*FJ[: len(self.V)], strict=True))
        VF = [[dot(self.graph, row, column) for column in columns] for row in self.V]
        images = tuple(zip(*VF, strict=True))
        product = tuple(tuple(dot(self.graph, column, image) for image in images) for column in columns)
        offsets = transposed_times(FJ, (*self.offset, *self.path.force))
        return self._model_outputs(matrix_sum(H, product), total, offsets, FJ if weight else None)

    def _pulled_back(self, weight: Expr | None) -> Outputs:
        cotangents = (self.uncarried, (*self.offset, *self.path.force))
        second = with_stiffness(self.graph, self.V, self.path.stiffness)
        pulled = shortest(self._ways(Pullback(self.images, self.tau, second, cotangents, weight)))
        Q = matrix_sum(self.carried_hessian, pulled.hessian)
        along_costate, along_offset = pulled.gradients
        slopes = vector_sum(self.carried_gradient, along_costate)
        return self._model_outputs(Q, slopes, along_offset, self.F if weight else None)

    def _model_outputs(
        self, Q: Matrix, total: Sequence[Expr], offsets: Sequence[Expr], F: Matrix | None
    ) -> Outputs:
        n = len(self.x_names)
        outputs = {
            "Q": lower_triangle(Q),
            **self._gradients(total),
            "offset_x": offsets[:n],
            "offset_u": offsets[n:],
        }
        if F is None or not self.model.constrained:
            return outputs
        return {**outputs, "kept": [F[i][j] for i, j in self.kept]}

    def _matrix_outputs(self, weight: Expr | None) -> Outputs:
        FJ, H, total = self._curvature(weight)
        n = len(self.x_names)
        outputs = {"F": tuple(chain(*FJ[:n])), "H": lower_triangle(H), **self._gradients(total)}
        if not self.model.constrained:
            return outputs
        # J'force: what the rows add to the offsets, to which the products with V come later.
        none = (self.graph.const(0),) * len(self.tau)
        along = transposed_times(FJ[n:], self.path.force) if self.path.rows else none
        return {**outputs, "offset_x": along[:n], "offset_u": along[n:]}

    def _next_along(self) -> Sequence[Expr]:
        seeds = dict(zip(self.tau, (*self.d_x, *self.d_u), strict=True))
        return tangents(self.model.next_state, seeds)

    def _stage_tangent(self) -> Function:
        return self.function("stage_tangent", d_next=self._next_along())

    def _pullbacks(self) -> Iterable[Function]:
        """The gradients' share of forces and of the value function, where no matrix depends on the point."""
        if not self.is_quadratic_program:
            return ()
        n, zero = len(self.x_names), self.graph.const(0)
        offset = [zero if i in self.accumulators else entry for i, entry in enumerate(self.offset)]
        along = transposed_times(self.FJ, (*offset, *self.path.force))
        jacobian_at_end = jacobian(self.end.rows.values, self.model.states)
        at_end = transposed_times(jacobian_at_end, self.end.force) if self.end.rows else (zero,) * n
        return (
            self.function(PULLBACK, offset_x=along[:n], offset_u=along[n:]),
            self.function(END_PULLBACK, offset=at_end),
        )

    def _shortest_gradient(self) -> Sequence[Expr]:
        """The Lagrangian's, by products with Jacobians or all in reverse."""
        return min(self._lagrangian_gradient(), gradient(self._lagrangian(), self.tau), key=flops)

    def _stage_adjoint(self) -> Iterable[Function]:
        if not self.model.constrained:
            return ()
        return (self.function(ADJOINT, **self._gradients(self._shortest_gradient())),)

    def _lagrangian(self) -> Expr:
        return self.model.stage_cost + dot(self.graph, self.multipliers, self.images)

    def _end_lagrangian(self) -> Expr:
        if not self.end.rows:
            return self.model.terminal_cost
        return self.model.terminal_cost + dot(self.graph, self.end.dual, self.end.rows.values)

    def _stage_gradient(self) -> Function:
        lagrangian = self._lagrangian()
        seeds = dict(zip(self.tau, (*self.d_x, *self.d_u), strict=True))
        (along,) = tangents((lagrangian,), seeds)
        d_multipliers = (*self.d_costate, *self.path.d_dual)
        scalar = along + dot(self.graph, d_multipliers, self.images) + self.weight * lagrangian
        by_parameters = self.by_parameters(scalar)
        return self.function("stage_gradient", **by_parameters, g_u=gradient(scalar, self.model.controls))

    def _terminal_gradient(self) -> Function:
        lagrangian, rows = self._end_lagrangian(), self.end
        (along,) = tangents((lagrangian,), dict(zip(self.model.states, self.d_x, strict=True)))
        scalar = along + self.weight * lagrangian
        if rows.rows:
            scalar = scalar + dot(self.graph, rows.d_dual, rows.rows.values)
        return self.function("terminal_gradient", **self.by_parameters(scalar))

    def _stage_forward(self) -> Function:
        n, width = len(self.x_names), len(self.tau)
        lagrangian = self._lagrangian()
        ways = (
            self.parameter_tangents((*slopes, *self.images, lagrangian))
            for slopes in (self._lagrangian_gradient(), gradient(lagrangian, self.tau))
        )
        along = min(ways, key=flops)
        changes = {"r_x": along[:n], "r_u": along[n:width], "affine": along[width : width + n]}
        rows = self._row_changes(along[width + n : -1])
        return self.function("stage_forward", **changes, **rows, d_cost=along[-1:])

    def _row_changes(self, along: Sequence[Expr]) -> Outputs:
        return {"d_rows": along} if self.model.constrained else {}

    def _terminal_forward(self) -> Function:
        lagrangian, states, rows = self._end_lagrangian(), self.model.states, self.end
        n = len(states)
        along = self.parameter_tangents((*gradient(lagrangian, states), *rows.rows.values, lagrangian))
        changes = self._row_changes(along[n:-1])
        return self.function("terminal_forward", r_x=along[:n], **changes, d_cost=along[-1:])
