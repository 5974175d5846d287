"""What the kernels need of a model: the functions of design and paper, derived on the graph.

Names: x, u state and control; theta the parameters constant over the stages, theta_t those of one stage;
costate = lambda_{t+1} of the next stage; V the Hessian of the value function there; d_* differentials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mpcgen.derivative.elimination import Elimination, fewest_operations
from mpcgen.derivative.forward import tangents
from mpcgen.derivative.matrices import Matrix, hessian, jacobian, lower_triangle
from mpcgen.derivative.reverse import gradient
from mpcgen.ir import Expr, Graph, flops, symbols_of
from mpcgen.ir.function import Function, Input, Output
from mpcgen.ir.model import Model
from mpcgen.passes.reciprocals import split_reciprocals

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


def product_count(F: Matrix) -> int:
    """Number of products in F'VF with V symmetric, zeros and ones of F skipped; F: (n, n+m)."""
    n, width = len(F), len(F[0])
    entries = [sum(not row[j].is_const for row in F) for j in range(width)]
    nonzero = [sum(not row[j].is_zero for row in F) for j in range(width)]
    return sum(entries) * n + sum(entries[j] * (j + 1) + nonzero[j] for j in range(width))


def _dot(graph: Graph, a: Sequence[Expr], b: Sequence[Expr]) -> Expr:
    total = graph.const(0)
    for left, right in zip(a, b, strict=True):
        total = total + left * right
    return total


def _sum(a: Sequence[Expr], b: Sequence[Expr]) -> tuple[Expr, ...]:
    return tuple(left + right for left, right in zip(a, b, strict=True))


def _matrix_sum(a: Matrix, b: Matrix) -> Matrix:
    return tuple(_sum(*rows) for rows in zip(a, b, strict=True))


def _with_split_reciprocals(model: Model, fixed: Sequence[Expr]) -> Model:
    *following, stage, terminal = split_reciprocals(
        (*model.next_state, model.stage_cost, model.terminal_cost), fixed
    )
    return replace(model, next_state=tuple(following), stage_cost=stage, terminal_cost=terminal)


class _Derivation:
    """The symbols that the functions share, and one method per function."""

    def __init__(self, model: Model, fused_limit: int) -> None:
        spec = model.spec
        per_stage = [p.per_stage for p in spec.parameters for _ in p.symbols]
        self.static = tuple(s for s, staged in zip(model.parameters, per_stage, strict=True) if not staged)
        self.per_stage = tuple(s for s, staged in zip(model.parameters, per_stage, strict=True) if staged)
        self.model = model = _with_split_reciprocals(model, self.static)
        self.graph = model.graph
        self.fused_limit = fused_limit
        self.x_names = tuple(str(s.value) for s in model.states)
        self.u_names = tuple(str(s.value) for s in model.controls)
        # A dot cannot occur in a user's name, so these symbols are new.
        self.costate = self._symbols("lambda", self.x_names)
        self.weight_d2f = self.graph.symbol("weight.d2f")
        self.offset = self._symbols("v_offset", self.x_names)
        self.d_x = self._symbols("d", self.x_names)
        self.d_u = self._symbols("d", self.u_names)
        self.d_costate = self._symbols("d_lambda", self.x_names)
        self.weight = self.graph.symbol("loss.cost")
        self.d_static = self._symbols("d", [str(symbol.value) for symbol in self.static])
        self.d_per_stage = self._symbols("d", [str(symbol.value) for symbol in self.per_stage])
        self.V = self._symmetric_symbols()
        self.x = Input("x", model.states)
        self.u = Input("u", model.controls)
        self.theta = Input("theta", self.static)
        self.theta_t = Input("theta_t", self.per_stage)

    def _symbols(self, prefix: str, names: Sequence[str]) -> tuple[Expr, ...]:
        return tuple(self.graph.symbol(f"{prefix}.{name}") for name in names)

    def _symmetric_symbols(self) -> Matrix:
        names = self.x_names
        n = len(names)
        return tuple(
            tuple(self.graph.symbol(f"V.{names[max(i, j)]}.{names[min(i, j)]}") for j in range(n))
            for i in range(n)
        )

    def kernels(self) -> Kernels:
        model = self.model
        self.tau = (*model.states, *model.controls)
        self.F = jacobian(model.next_state, self.tau)
        self.cost_gradient = tuple(gradient(model.stage_cost, self.tau))
        self.cost_hessian = hessian(model.stage_cost, self.tau)
        fused = product_count(self.F) <= self.fused_limit
        functions = (
            self.stage_dynamics(),
            self.terminal_cost(),
            self.stage_bounds(),
            self.terminal_expand(),
            *self.stage_expansions(fused),
            self.stage_tangent(),
            self.stage_gradient(),
            self.terminal_gradient(),
            self.bounds_gradient(),
            self.stage_forward(),
            self.terminal_forward(),
            self.bounds_forward(),
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

    def stage_bounds(self) -> Function:
        outputs = (
            Output("lower", self.model.lower, self.u_names),
            Output("upper", self.model.upper, self.u_names),
        )
        return Function("stage_bounds", "bounds of the controls", (self.theta, self.theta_t), outputs)

    def terminal_expand(self) -> Function:
        cost, states = self.model.terminal_cost, self.model.states
        outputs = (
            Output("hessian", lower_triangle(hessian(cost, states)), triangle_labels(self.x_names)),
            Output("costate", tuple(gradient(cost, states)), self.x_names),
        )
        purpose = (
            "value function of the last stage: Hessian (lower triangle) and gradient of the terminal cost"
        )
        return Function("terminal_expand", purpose, (self.x, self.theta, self.theta_t), outputs)

    def stage_expansions(self, fused: bool) -> tuple[Function, ...]:
        slopes = symbols_of([entry for row in self.F for entry in row])
        kinds = ("gauss_newton", "exact") if set(slopes) & set(self.tau) else ("gauss_newton",)
        return tuple(self.stage_expand(kind, fused) for kind in kinds)

    def stage_expand(self, kind: str, fused: bool) -> Function:
        """Quadratic model of the cost-to-go at a stage, with the exact or the Gauss-Newton Hessian."""
        weight = self.weight_d2f if kind == "exact" else None
        inputs: tuple[Input, ...] = (self.x, self.u, self.theta, self.theta_t)
        inputs += (Input("weight", (weight,)),) if weight is not None else ()
        inputs += (Input("costate", self.costate),)
        of = "the cost" if weight is None else "cost + weight lambda'f"
        if fused:
            inputs += (Input("V", lower_triangle(self.V)), Input("offset", self.offset))
            purpose = f"quadratic model of the cost-to-go: Q = H + F'VF, with H the Hessian of {of}"
            return Function(f"stage_expand_{kind}", purpose, inputs, self._fused_outputs(weight))
        purpose = (
            f"matrices F = df/d(x, u), H = Hessian of {of} (lower triangle), and gradients of the Lagrangian"
        )
        return Function(f"stage_derivatives_{kind}", purpose, inputs, self._matrix_outputs(weight))

    def _by_columns(self, cotangent: Sequence[Expr]) -> tuple[Expr, ...]:
        """F' times a vector, with F as it stands."""
        return tuple(_dot(self.graph, column, cotangent) for column in zip(*self.F, strict=True))

    def _lagrangian_gradient(self) -> tuple[Expr, ...]:
        return _sum(self.cost_gradient, self._by_columns(self.costate))

    def _curvature(self, weight: Expr | None) -> tuple[Matrix, tuple[Expr, ...]]:
        """Second derivatives of cost + weight lambda'f, and the gradient of cost + lambda'f."""
        if weight is None:
            return self.cost_hessian, self._lagrangian_gradient()
        pulled = fewest_operations(
            Elimination(self.model.next_state, self.tau, None, (self.costate,), weight)
        )
        return (
            _matrix_sum(self.cost_hessian, pulled.hessian),
            _sum(self.cost_gradient, pulled.gradients[0]),
        )

    def _gradient_outputs(self, total: Sequence[Expr]) -> tuple[Output, ...]:
        n = len(self.x_names)
        return (
            Output("costate", tuple(total[:n]), self.x_names),
            Output("gradient_u", tuple(total[n:]), self.u_names),
        )

    def _fused_outputs(self, weight: Expr | None) -> tuple[Output, ...]:
        """Q and the gradients by the way that needs fewer operations: products with F, or elimination."""
        ways = (self._multiplied(weight), self._eliminated(weight))
        return min(ways, key=lambda outputs: flops([e for out in outputs for e in out.expressions]))

    def _multiplied(self, weight: Expr | None) -> tuple[Output, ...]:
        H, total = self._curvature(weight)
        columns = tuple(zip(*self.F, strict=True))
        VF = [[_dot(self.graph, row, column) for column in columns] for row in self.V]
        images = tuple(zip(*VF, strict=True))
        product = tuple(tuple(_dot(self.graph, column, image) for image in images) for column in columns)
        return self._model_outputs(_matrix_sum(H, product), total, self._by_columns(self.offset))

    def _eliminated(self, weight: Expr | None) -> tuple[Output, ...]:
        cotangents = (self.costate, self.offset)
        pulled = fewest_operations(Elimination(self.model.next_state, self.tau, self.V, cotangents, weight))
        Q = _matrix_sum(self.cost_hessian, pulled.hessian)
        along_costate, along_offset = pulled.gradients
        return self._model_outputs(Q, _sum(self.cost_gradient, along_costate), along_offset)

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
        H, total = self._curvature(weight)
        names = (*self.x_names, *self.u_names)
        labels = tuple(f"{x}, {tau}" for x in self.x_names for tau in names)
        return (
            Output("F", tuple(entry for row in self.F for entry in row), labels),
            Output("H", lower_triangle(H), triangle_labels(names)),
            *self._gradient_outputs(total),
        )

    def stage_tangent(self) -> Function:
        seeds = dict(zip(self.tau, (*self.d_x, *self.d_u), strict=True))
        outputs = (Output("d_next", tuple(tangents(self.model.next_state, seeds)), self.x_names),)
        inputs = (self.x, self.u, self.theta, self.theta_t, Input("d_x", self.d_x), Input("d_u", self.d_u))
        return Function("stage_tangent", "directional derivative of the dynamics, F d", inputs, outputs)

    def _lagrangian(self) -> Expr:
        return self.model.stage_cost + _dot(self.graph, self.costate, self.model.next_state)

    def _parameter_outputs(self, scalar: Expr) -> tuple[Output, Output]:
        symbols = (*self.static, *self.per_stage)
        entries = tuple(gradient(scalar, symbols))
        split = len(self.static)
        names = tuple(str(symbol.value) for symbol in symbols)
        return (
            Output("g_theta", entries[:split], names[:split], accumulate=True),
            Output("g_theta_t", entries[split:], names[split:], accumulate=True),
        )

    def stage_gradient(self) -> Function:
        lagrangian = self._lagrangian()
        seeds = dict(zip(self.tau, (*self.d_x, *self.d_u), strict=True))
        (along,) = tangents((lagrangian,), seeds)
        scalar = along + _dot(self.graph, self.d_costate, self.model.next_state) + self.weight * lagrangian
        inputs = (
            self.x, self.u, self.theta, self.theta_t, Input("costate", self.costate), Input("d_x", self.d_x),
            Input("d_u", self.d_u), Input("d_costate", self.d_costate), Input("loss_cost", (self.weight,)),
        )  # fmt: skip
        outputs = (
            *self._parameter_outputs(scalar),
            Output("g_u", tuple(gradient(scalar, self.model.controls)), self.u_names),
        )
        purpose = (
            "gradient with respect to theta and u of d'grad(cost + lambda'f) + d_lambda'f"
            " + loss_cost (cost + lambda'f)"
        )
        return Function("stage_gradient", purpose, inputs, outputs)

    def terminal_gradient(self) -> Function:
        cost = self.model.terminal_cost
        (along,) = tangents((cost,), dict(zip(self.model.states, self.d_x, strict=True)))
        inputs = (
            self.x, self.theta, self.theta_t, Input("d_x", self.d_x), Input("loss_cost", (self.weight,)),
        )  # fmt: skip
        outputs = self._parameter_outputs(along + self.weight * cost)
        purpose = "gradient with respect to theta of d'grad(terminal cost) + loss_cost terminal cost"
        return Function("terminal_gradient", purpose, inputs, outputs)

    def bounds_gradient(self) -> Function:
        g_lower = self._symbols("g_lower", self.u_names)
        g_upper = self._symbols("g_upper", self.u_names)
        model = self.model
        pairs = [*zip(g_lower, model.lower, strict=True), *zip(g_upper, model.upper, strict=True)]
        scalar = self.graph.const(0)
        for g, bound in pairs:
            if not bound.is_const:
                scalar = scalar + g * bound
        inputs = (self.theta, self.theta_t, Input("g_lower", g_lower), Input("g_upper", g_upper))
        outputs = self._parameter_outputs(scalar)
        purpose = "gradient with respect to theta of g_lower'lower + g_upper'upper"
        return Function("bounds_gradient", purpose, inputs, outputs)

    def _parameter_tangents(self, outputs: Sequence[Expr]) -> list[Expr]:
        """Directional derivatives of ``outputs`` along a change of the parameters."""
        seeds = dict(zip((*self.static, *self.per_stage), (*self.d_static, *self.d_per_stage), strict=True))
        return tangents(outputs, seeds)

    def _parameter_inputs(self) -> tuple[Input, Input]:
        return Input("d_theta", self.d_static), Input("d_theta_t", self.d_per_stage)

    def stage_forward(self) -> Function:
        n, width = len(self.x_names), len(self.tau)
        lagrangian = self._lagrangian()
        ways = (
            self._parameter_tangents((*slopes, *self.model.next_state, lagrangian))
            for slopes in (self._lagrangian_gradient(), gradient(lagrangian, self.tau))
        )
        along = min(ways, key=flops)
        costate = Input("costate", self.costate)
        inputs = (self.x, self.u, self.theta, self.theta_t, costate, *self._parameter_inputs())
        outputs = (
            Output("r_x", tuple(along[:n]), self.x_names),
            Output("r_u", tuple(along[n:width]), self.u_names),
            Output("affine", tuple(along[width : width + n]), self.x_names),
            Output("d_cost", (along[-1],), ("cost + lambda'f",)),
        )
        purpose = "change along d_theta of grad(cost + lambda'f), of f, and of cost + lambda'f itself"
        return Function("stage_forward", purpose, inputs, outputs)

    def terminal_forward(self) -> Function:
        cost, states = self.model.terminal_cost, self.model.states
        along = self._parameter_tangents((*gradient(cost, states), cost))
        outputs = (
            Output("r_x", tuple(along[:-1]), self.x_names),
            Output("d_cost", (along[-1],), ("terminal cost",)),
        )
        purpose = "change along d_theta of the terminal cost's gradient and of the terminal cost"
        inputs = (self.x, self.theta, self.theta_t, *self._parameter_inputs())
        return Function("terminal_forward", purpose, inputs, outputs)

    def bounds_forward(self) -> Function:
        bounds = [self.graph.const(0) if b.is_const else b for b in (*self.model.lower, *self.model.upper)]
        along = self._parameter_tangents(bounds)
        m = len(self.u_names)
        outputs = (
            Output("d_lower", tuple(along[:m]), self.u_names),
            Output("d_upper", tuple(along[m:]), self.u_names),
        )
        inputs = (self.theta, self.theta_t, *self._parameter_inputs())
        return Function("bounds_forward", "change of the bounds along d_theta", inputs, outputs)
