"""What the kernels need of a model: the functions of design and paper, derived on the graph.

Names: x, u state and control; theta the parameters constant over the stages, theta_t those of one stage;
costate = lambda_{t+1} of the next stage; V the Hessian of the value function there; d_* differentials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from mpcgen.derivative.reverse import gradient
from mpcgen.derivative.rows import (
    d_dual_inputs,
    dual_inputs,
    model_inputs,
    row_functions,
    with_stiffness,
)
from mpcgen.derivative.search import SEARCH_EFFORT, shortest, shortest_with_jacobian, ways
from mpcgen.derivative.symbols import RowSymbols, Symbols
from mpcgen.ir import Expr, flops, symbols_of
from mpcgen.ir.function import Function, Input, Output
from mpcgen.ir.model import Model

FUSED_LIMIT = 2000
"""Largest number of products in F'VF that is unrolled into the stage functions; above it, loops over register tiles.

Unrolled, zeros and ones of F cost nothing, but each product is an instruction that the compiler must place, in the
Gauss-Newton and in the exact model. Loops take every product of a dense F, at a good share of the machine's peak.
Measured with gcc 12 -O3 and AVX-512 in float64 (microseconds of a core per problem and iteration, with the exact
Hessian, batches of 256 and 512; the compiler's seconds for one of the four variants, on a machine that others used):

    problem          products   if dense   unrolled          loops
    chain, 1 mass       1,194      1,674   12.8 us, 3.7 s    12.7 us, 3.2 s
    lqr(8, 4)           1,488      1,392    8.1 us, 3.5 s     8.4 us, 3.2 s
    quadrotor           3,337      4,862   39.0 us, 9.0 s    34.1 us, 5.3 s
    lqr(13, 4)          5,083      4,862   22.8 us, 4.9 s    25.9 us, 5.0 s

The quadrotor's unrolled stage, 13,939 operations, is five times what the instruction cache holds. That does not decide
alone: lqr(13, 4) would gain 12 % unrolled, with 11,968. The limit serves the problems whose F is computed.
"""


@dataclass(frozen=True)
class Kernels:
    """All functions of a problem. ``fused`` says that the Riccati products are part of the stage functions.

    Fused, `stage_expand_*` gives Q directly from V. Otherwise it gives F and H, and loops form Q. Of dynamics
    without second derivatives there is no exact model beside the Gauss-Newton one: it is the same.
    """

    model: Model
    static: tuple[Expr, ...]
    per_stage: tuple[Expr, ...]
    fused: bool
    F: Matrix
    cost_gradient: tuple[Expr, ...]
    functions: tuple[Function, ...]

    def __str__(self) -> str:
        return "\n\n".join(str(function) for function in self.functions)


def derive(model: Model, fused_limit: int = FUSED_LIMIT) -> Kernels:
    """Derive every function that the solver and the sensitivities of ``model`` need."""
    return _Derivation(model, fused_limit).kernels()


def triangle_labels(names: Sequence[str]) -> tuple[str, ...]:
    """Labels of a `lower_triangle`."""
    return tuple(f"{names[i]}, {names[j]}" for i in range(len(names)) for j in range(i + 1))


class _Derivation(Symbols):
    """One method per function."""

    def __init__(self, model: Model, fused_limit: int) -> None:
        super().__init__(model)
        self.fused_limit = fused_limit
        self.effort = Effort(SEARCH_EFFORT)

    def kernels(self) -> Kernels:
        model = self.model
        self.F = jacobian(model.next_state, self.tau)
        self.J = jacobian(self.path.rows.values, self.tau)
        self.FJ = (*self.F, *self.J)
        self.cost_gradient = tuple(gradient(model.stage_cost, self.tau))
        self.cost_hessian = hessian(model.stage_cost, self.tau)
        fused = product_count(self.F) <= self.fused_limit
        curved = not set(symbols_of(list(chain(*self.FJ)))).isdisjoint(self.tau)
        self.kinds = ("gauss_newton", "exact") if curved else ("gauss_newton",)
        self.searches = self._count_searches(fused)
        functions = (
            self.stage_dynamics(),
            self.terminal_cost(),
            stage_bounds(self),
            self.terminal_expand(),
            *(self.stage_expand(kind, fused) for kind in self.kinds),
            self.stage_tangent(),
            self.stage_gradient(),
            self.terminal_gradient(),
            bounds_gradient(self),
            self.stage_forward(),
            self.terminal_forward(),
            bounds_forward(self),
            *row_functions(self),
        )
        return Kernels(model, self.static, self.per_stage, fused, self.F, self.cost_gradient, functions)

    def stage_dynamics(self) -> Function:
        outputs = (
            Output("x_next", self.model.next_state, self.x_names),
            Output("cost", (self.model.stage_cost,), ("stage cost",)),
        )
        inputs = (self.x, self.u, self.theta, self.theta_t)
        return Function(
            "stage_dynamics", "next state f(x_t, u_t, theta_t) and cost of a stage", inputs, outputs
        )

    def terminal_cost(self) -> Function:
        outputs = (Output("cost", (self.model.terminal_cost,), ("terminal cost",)),)
        return Function(
            "terminal_cost", "cost of the last state", (self.x, self.theta, self.theta_t), outputs
        )

    def terminal_expand(self) -> Function:
        cost, states = self.model.terminal_cost, self.model.states
        if self.model.constrained:
            return self._constrained_terminal_expand()
        outputs = (
            Output("hessian", lower_triangle(hessian(cost, states)), triangle_labels(self.x_names)),
            Output("costate", tuple(gradient(cost, states)), self.x_names),
        )
        purpose = (
            "value function of the last stage: Hessian (lower triangle) and gradient of the terminal cost"
        )
        return Function("terminal_expand", purpose, (self.x, self.theta, self.theta_t), outputs)

    def _constrained_terminal_expand(self) -> Function:
        cost, states, rows = self.model.terminal_cost, self.model.states, self.end
        stiffness = with_stiffness(self.graph, (), rows.stiffness)
        pullback = Pullback(rows.rows.values, states, stiffness, (rows.dual, rows.force), self.weight_d2f)
        pulled = shortest(self._ways(pullback))
        total = matrix_sum(hessian(cost, states), pulled.hessian)
        along_dual, along_force = pulled.gradients
        outputs = (
            Output("hessian", lower_triangle(total), triangle_labels(self.x_names)),
            Output("costate", vector_sum(gradient(cost, states), along_dual), self.x_names),
            Output("offset", along_force, self.x_names),
        )
        purpose = (
            "value function of the last stage: Hessian of terminal cost + weight dual'rows, plus J' stiffness J "
            "(lower triangle), gradient of terminal cost + dual'rows, and J'force"
        )
        weight = Input("weight", (self.weight_d2f,))
        inputs = (self.x, self.theta, self.theta_t, weight, *model_inputs(rows))
        return Function("terminal_expand", purpose, inputs, outputs)

    def stage_expand(self, kind: str, fused: bool) -> Function:
        """Quadratic model of the cost-to-go at a stage, with the exact or the Gauss-Newton Hessian."""
        weight = self.weight_d2f if kind == "exact" else None
        inputs: tuple[Input, ...] = (self.x, self.u, self.theta, self.theta_t)
        inputs += (Input("weight", (weight,)),) if weight is not None else ()
        inputs += (Input("costate", self.costate),)
        inputs += (Input("V", lower_triangle(self.V)), Input("offset", self.offset)) if fused else ()
        inputs += model_inputs(self.path)
        of = "the cost" if weight is None else f"cost + weight {self._multiplied_terms()}"
        of += ", plus J' stiffness J of the rows" if self.path.rows else ""
        if fused:
            purpose = f"quadratic model of the cost-to-go: Q = H + F'VF, with H the Hessian of {of}"
            return Function(f"stage_expand_{kind}", purpose, inputs, self._fused_outputs(weight))
        purpose = (
            f"matrices F = df/d(x, u), H = Hessian of {of} (lower triangle), and gradients of the Lagrangian"
        )
        return Function(f"stage_derivatives_{kind}", purpose, inputs, self._matrix_outputs(weight))

    def _multiplied_terms(self) -> str:
        """What the multipliers of a stage multiply, in words."""
        return "(lambda'f + dual'rows)" if self.path.rows else "lambda'f"

    @property
    def images(self) -> tuple[Expr, ...]:
        """What a stage's multipliers multiply: f, then the rows."""
        return (*self.model.next_state, *self.path.rows.values)

    @property
    def multipliers(self) -> tuple[Expr, ...]:
        """Costate, then the rows' duals."""
        return (*self.costate, *self.path.dual)

    def _lagrangian_gradient(self) -> tuple[Expr, ...]:
        return vector_sum(self.cost_gradient, transposed_times(self.FJ, self.multipliers))

    def _count_searches(self, fused: bool) -> int:
        """How many pullbacks share the effort."""
        curvatures = len(self.kinds) if self.path.rows else len(self.kinds) - 1
        return int(self.model.constrained) + curvatures + (len(self.kinds) if fused else 0)

    def _ways(self, pullback: Pullback) -> tuple[PulledBack, ...]:
        """What the search has found with its share of the effort, and its rivals."""
        self.searches -= 1
        return self.effort.share(self.searches + 1, lambda effort: ways(pullback, effort))

    def _curvature(self, weight: Expr | None) -> tuple[Matrix, Matrix, tuple[Expr, ...]]:
        """(F, J), second derivatives of cost + weight lambda'f, plus J' stiffness J, and the Lagrangian's gradient."""
        if weight is None and not self.path.rows:
            return self.FJ, self.cost_hessian, self._lagrangian_gradient()
        found = self._ways(
            Pullback(self.images, self.tau, self._row_stiffness(), (self.multipliers,), weight)
        )
        jacobians = (self.FJ, jacobian(self.images, self.tau, "forward"))
        FJ, H, slopes = shortest_with_jacobian(found, self.multipliers, jacobians)
        return FJ, matrix_sum(self.cost_hessian, H), vector_sum(self.cost_gradient, slopes)

    def _row_stiffness(self) -> Matrix | None:
        """Second derivatives by (f, rows), of which only the rows have any here; None without rows."""
        if not self.path.rows:
            return None
        zero = self.graph.const(0)
        nothing = tuple(tuple(zero for _ in self.V) for _ in self.V)
        return with_stiffness(self.graph, nothing, self.path.stiffness)

    def _gradient_outputs(self, total: Sequence[Expr]) -> tuple[Output, ...]:
        n = len(self.x_names)
        return (
            Output("costate", tuple(total[:n]), self.x_names),
            Output("gradient_u", tuple(total[n:]), self.u_names),
        )

    def _fused_outputs(self, weight: Expr | None) -> tuple[Output, ...]:
        """Q and the gradients by the way that needs fewer operations: products with F, or all pulled back."""
        candidates = (self._multiplied(weight), self._pulled_back(weight))
        return min(candidates, key=lambda outputs: flops([e for out in outputs for e in out.expressions]))

    def _multiplied(self, weight: Expr | None) -> tuple[Output, ...]:
        FJ, H, total = self._curvature(weight)
        columns = tuple(zip(*FJ[: len(self.V)], strict=True))
        VF = [[dot(self.graph, row, column) for column in columns] for row in self.V]
        images = tuple(zip(*VF, strict=True))
        product = tuple(tuple(dot(self.graph, column, image) for image in images) for column in columns)
        offsets = transposed_times(FJ, (*self.offset, *self.path.force))
        return self._model_outputs(matrix_sum(H, product), total, offsets)

    def _pulled_back(self, weight: Expr | None) -> tuple[Output, ...]:
        cotangents = (self.multipliers, (*self.offset, *self.path.force))
        second = with_stiffness(self.graph, self.V, self.path.stiffness)
        pulled = shortest(self._ways(Pullback(self.images, self.tau, second, cotangents, weight)))
        Q = matrix_sum(self.cost_hessian, pulled.hessian)
        along_costate, along_offset = pulled.gradients
        return self._model_outputs(Q, vector_sum(self.cost_gradient, along_costate), along_offset)

    def _model_outputs(
        self, Q: Matrix, total: Sequence[Expr], offsets: tuple[Expr, ...]
    ) -> tuple[Output, ...]:
        n = len(self.x_names)
        return (
            Output("Q", lower_triangle(Q), triangle_labels((*self.x_names, *self.u_names))),
            *self._gradient_outputs(total),
            Output("offset_x", offsets[:n], self.x_names),
            Output("offset_u", offsets[n:], self.u_names),
        )

    def _matrix_outputs(self, weight: Expr | None) -> tuple[Output, ...]:
        FJ, H, total = self._curvature(weight)
        n = len(self.x_names)
        names = (*self.x_names, *self.u_names)
        labels = tuple(f"{x}, {tau}" for x in self.x_names for tau in names)
        return (
            Output("F", tuple(chain(*FJ[:n])), labels),
            Output("H", lower_triangle(H), triangle_labels(names)),
            *self._gradient_outputs(total),
            *self._force_outputs(FJ[n:]),
        )

    def _force_outputs(self, J: Matrix) -> tuple[Output, ...]:
        """J'force: what the rows add to the offsets, to which the products with V come later."""
        if not self.path.rows:
            return ()
        n = len(self.x_names)
        along = transposed_times(J, self.path.force)
        return (
            Output("offset_x", along[:n], self.x_names),
            Output("offset_u", along[n:], self.u_names),
        )

    def stage_tangent(self) -> Function:
        seeds = dict(zip(self.tau, (*self.d_x, *self.d_u), strict=True))
        outputs = (Output("d_next", tuple(tangents(self.model.next_state, seeds)), self.x_names),)
        inputs = (self.x, self.u, self.theta, self.theta_t, Input("d_x", self.d_x), Input("d_u", self.d_u))
        return Function("stage_tangent", "directional derivative of the dynamics, F d", inputs, outputs)

    def _lagrangian(self) -> Expr:
        return self.model.stage_cost + dot(self.graph, self.multipliers, self.images)

    def _end_lagrangian(self) -> Expr:
        if not self.end.rows:
            return self.model.terminal_cost
        return self.model.terminal_cost + dot(self.graph, self.end.dual, self.end.rows.values)

    def stage_gradient(self) -> Function:
        lagrangian = self._lagrangian()
        seeds = dict(zip(self.tau, (*self.d_x, *self.d_u), strict=True))
        (along,) = tangents((lagrangian,), seeds)
        d_multipliers = (*self.d_costate, *self.path.d_dual)
        scalar = along + dot(self.graph, d_multipliers, self.images) + self.weight * lagrangian
        inputs = (
            self.x, self.u, self.theta, self.theta_t, Input("costate", self.costate), *dual_inputs(self.path),
            Input("d_x", self.d_x), Input("d_u", self.d_u), Input("d_costate", self.d_costate),
            *d_dual_inputs(self.path), Input("loss_cost", (self.weight,)),
        )  # fmt: skip
        outputs = (
            *self.parameter_outputs(scalar),
            Output("g_u", tuple(gradient(scalar, self.model.controls)), self.u_names),
        )
        terms = "lambda'f + dual'rows" if self.path.rows else "lambda'f"
        more = " + d_dual'rows" if self.path.rows else ""
        purpose = (
            f"gradient with respect to theta and u of d'grad(cost + {terms}) + d_lambda'f{more}"
            f" + loss_cost (cost + {terms})"
        )
        return Function("stage_gradient", purpose, inputs, outputs)

    def terminal_gradient(self) -> Function:
        lagrangian, rows = self._end_lagrangian(), self.end
        (along,) = tangents((lagrangian,), dict(zip(self.model.states, self.d_x, strict=True)))
        scalar = along + self.weight * lagrangian
        of, more = "terminal cost", ""
        if rows.rows:
            scalar = scalar + dot(self.graph, rows.d_dual, rows.rows.values)
            of, more = "(terminal cost + dual'rows)", " + d_dual'rows"
        inputs = (
            self.x, self.theta, self.theta_t, *dual_inputs(rows), Input("d_x", self.d_x), *d_dual_inputs(rows),
            Input("loss_cost", (self.weight,)),
        )  # fmt: skip
        gradient_of = of if rows.rows else f"({of})"
        purpose = f"gradient with respect to theta of d'grad{gradient_of}{more} + loss_cost {of}"
        return Function("terminal_gradient", purpose, inputs, self.parameter_outputs(scalar))

    def stage_forward(self) -> Function:
        n, width = len(self.x_names), len(self.tau)
        lagrangian = self._lagrangian()
        ways = (
            self.parameter_tangents((*slopes, *self.images, lagrangian))
            for slopes in (self._lagrangian_gradient(), gradient(lagrangian, self.tau))
        )
        along = min(ways, key=flops)
        terms = "lambda'f + dual'rows" if self.path.rows else "lambda'f"
        inputs = (
            self.x, self.u, self.theta, self.theta_t, Input("costate", self.costate), *dual_inputs(self.path),
            *self.parameter_inputs(),
        )  # fmt: skip
        outputs = (
            Output("r_x", tuple(along[:n]), self.x_names),
            Output("r_u", tuple(along[n:width]), self.u_names),
            Output("affine", tuple(along[width : width + n]), self.x_names),
            *self._row_changes(self.path, along[width + n : -1]),
            Output("d_cost", (along[-1],), (f"cost + {terms}",)),
        )
        of_f = "of f and the rows" if self.path.rows else "of f"
        purpose = f"change along d_theta of grad(cost + {terms}), {of_f}, and of cost + {terms} itself"
        return Function("stage_forward", purpose, inputs, outputs)

    def _row_changes(self, rows: RowSymbols, along: Sequence[Expr]) -> tuple[Output, ...]:
        return (Output("d_rows", tuple(along), rows.rows.labels),) if rows.rows else ()

    def terminal_forward(self) -> Function:
        lagrangian, states, rows = self._end_lagrangian(), self.model.states, self.end
        n = len(states)
        along = self.parameter_tangents((*gradient(lagrangian, states), *rows.rows.values, lagrangian))
        of = "terminal cost + dual'rows" if rows.rows else "terminal cost"
        outputs = (
            Output("r_x", tuple(along[:n]), self.x_names),
            *self._row_changes(rows, along[n:-1]),
            Output("d_cost", (along[-1],), (of,)),
        )
        purpose = "change along d_theta of the terminal cost's gradient and of the terminal cost"
        if rows.rows:
            purpose = f"change along d_theta of grad({of}), of the rows, and of {of}"
        inputs = (self.x, self.theta, self.theta_t, *dual_inputs(rows), *self.parameter_inputs())
        return Function("terminal_forward", purpose, inputs, outputs)
