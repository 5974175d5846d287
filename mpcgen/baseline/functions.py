"""CasADi functions of one stage: the model, the costs, the bounds, and CasADi's derivatives of them."""

from collections.abc import Sequence
from functools import cached_property

import casadi as ca
import numpy as np

from mpcgen.baseline.collocation import Collocation, ImplicitSteps
from mpcgen.baseline.parameters import Array, parameter_size
from mpcgen.baseline.rows import Rows
from mpcgen.baseline.translate import Translator, discretise
from mpcgen.problem.rates import rates_of
from mpcgen.problem.running import running_costs
from mpcgen.problem.spec import IMPLICIT, Spec, SupportsSpec, spec_of


class Functions:
    """Every function of a stage of a problem, or of its `Spec`, as CasADi sees it.

    Arguments, in this order where a function takes them: x (n,), u (m,), theta (n_theta,) with all
    parameters flat and row-major, lam (n,) the costate of the next stage. Derivatives with respect to
    tau = (x, u) have n + m entries. Derivatives are made on first use.
    """

    def __init__(self, problem: SupportsSpec | Spec) -> None:
        self.spec = spec = spec_of(problem)
        self.n, self.m = len(spec.states), len(spec.controls)
        self.n_theta = parameter_size(spec)
        self._x, self._u = ca.SX.sym("x", self.n), ca.SX.sym("u", self.m)
        self._theta, self._lam = ca.SX.sym("theta", self.n_theta), ca.SX.sym("lam", self.n)
        self._tau = ca.vertcat(self._x, self._u)
        self._rates = ca.SX.sym("rates", self.n)
        translate = Translator(self._symbols())
        self._implicit: ImplicitSteps | None = None
        self._end, self._ending = self._integrated(translate)
        self._next, self._stage = self._ending(self._end, self._x, self._u, self._theta)
        self._terminal = translate(spec.terminal_cost)
        self._lower = translate.vector([control.lower for control in spec.controls])
        self._upper = translate.vector([control.upper for control in spec.controls])
        symbols = self._x, self._u, self._theta
        self.path_rows = Rows("path", self, symbols, translate)
        self.end_rows = Rows("end", self, symbols, translate)

    def _symbols(self) -> dict:
        names = [*self.spec.states, *(control.symbol for control in self.spec.controls)]
        names += [symbol for parameter in self.spec.parameters for symbol in parameter.symbols]
        names += rates_of(self.spec.states)
        return dict(zip(names, ca.vertsplit(ca.vertcat(self._tau, self._theta, self._rates)), strict=True))

    def _integrated(self, translate: Translator) -> tuple[ca.SX, ca.Function]:
        """Where the integration ends, and (end, x, u, theta) -> next state and stage cost."""
        dynamics = self.spec.dynamics
        symbols = self._x, self._u, self._theta
        rows = translate.vector(dynamics.expressions)
        running = running_costs(self.spec.stage_cost)
        flags = dynamics.is_discrete
        end = ca.SX.sym("end", self.n + len(running))
        for i, node in enumerate(running):
            translate.know(node, end[self.n + i])
        following = ca.vertcat(*(rows[i] if flag else end[i] for i, flag in enumerate(flags)))
        if dynamics.scheme == "discrete":
            following = rows
        cost = translate(self.spec.stage_cost)
        ending = ca.Function("ending", [end, *symbols], [following, cost])
        start = ca.vertcat(self._x, ca.DM.zeros(len(running)))
        if dynamics.scheme == "discrete":
            return start, ending
        held = [0 if flag else rows[i] for i, flag in enumerate(flags)]
        rates = ca.vertcat(*held, translate.vector([node.args[0] for node in running]))
        sums = ca.SX.sym("sums", len(running))
        arguments = [ca.vertcat(self._x, sums), self._u, self._theta]
        dt, substeps = translate(dynamics.dt), dynamics.substeps
        if dynamics.scheme in IMPLICIT:
            algebraic = [i for i, flag in enumerate(dynamics.is_algebraic) if flag]
            changes = ca.vertcat(self._rates, ca.SX.sym("costs", len(running)))
            rate = ca.Function("rate", [*arguments, changes], [rates])
            step = Collocation(rate, dynamics.scheme, algebraic)
            self._implicit = ImplicitSteps(step, substeps, start, dt / substeps, symbols)
            return self._implicit.exact_end, ending
        rate = ca.Function("rate", arguments, [rates])
        return discretise(rate, dynamics.scheme, start, self._u, self._theta, dt, substeps), ending

    @cached_property
    def unknowns(self) -> ca.Function:
        """(x, u, theta) -> what an implicit scheme solves for in a stage, (k, 1); of others (0, 1)."""
        if self._implicit is not None:
            return self._implicit.solution
        return ca.Function("unknowns", [self._x, self._u, self._theta], [ca.SX(0, 1)])

    @cached_property
    def lifted(self) -> ca.Function:
        """(x, u, theta, unknowns) -> next state, stage cost, what is zero (k, 1), for a program that has unknowns."""
        end, unknowns, residual = self._end, ca.SX(0, 1), ca.SX(0, 1)
        if self._implicit is not None:
            end, unknowns, residual = (
                self._implicit.end,
                self._implicit.unknowns,
                self._implicit.residual,
            )
        following, cost = self._ending(end, self._x, self._u, self._theta)
        arguments = [self._x, self._u, self._theta, unknowns]
        return ca.Function("lifted", arguments, [following, cost, residual])

    def _stage_function(self, name: str, *results: ca.SX, more: Sequence[ca.SX] = ()) -> ca.Function:
        """(x, u, theta, *more) -> results, at the solution of an implicit scheme."""
        arguments = [self._x, self._u, self._theta]
        if self._implicit is None:
            return ca.Function(name, [*arguments, *more], list(results))
        inner = ca.Function(name, [*arguments, self._implicit.unknowns, *more], list(results))
        given = [ca.MX.sym(f"given_{i}", symbol.sparsity()) for i, symbol in enumerate((*arguments, *more))]
        x, u, theta, *rest = given
        return ca.Function(name, given, inner.call([x, u, theta, self.unknowns(x, u, theta), *rest]))

    @property
    def _lagrangian(self) -> ca.SX:
        return self._stage + ca.dot(self._lam, self._next)

    @cached_property
    def f(self) -> ca.Function:
        """Discrete dynamics: (x, u, theta) -> (n, 1) next state."""
        return self._stage_function("f", self._next)

    @cached_property
    def stage_cost(self) -> ca.Function:
        """(x, u, theta) -> scalar."""
        return self._stage_function("stage_cost", self._stage)

    @cached_property
    def terminal_cost(self) -> ca.Function:
        """(x, theta) -> scalar."""
        return ca.Function("terminal_cost", [self._x, self._theta], [self._terminal])

    @cached_property
    def bounds(self) -> ca.Function:
        """(theta) -> lower (m, 1), upper (m, 1)."""
        return ca.Function("bounds", [self._theta], [self._lower, self._upper])

    @cached_property
    def bounds_D_theta(self) -> ca.Function:  # noqa: N802
        """(theta) -> jacobians of lower and of upper, each (m, n_theta)."""
        jacobians = [ca.jacobian(bound, self._theta) for bound in (self._lower, self._upper)]
        return ca.Function("bounds_D_theta", [self._theta], jacobians)

    @cached_property
    def f_D_tau(self) -> ca.Function:  # noqa: N802
        """(x, u, theta) -> (n, n+m) jacobian of the dynamics."""
        return self._stage_function("f_D_tau", ca.jacobian(self._next, self._tau))

    @cached_property
    def f_D_theta(self) -> ca.Function:  # noqa: N802
        """(x, u, theta) -> (n, n_theta) jacobian of the dynamics."""
        return self._stage_function("f_D_theta", ca.jacobian(self._next, self._theta))

    @cached_property
    def stage_cost_D_tau(self) -> ca.Function:  # noqa: N802
        """(x, u, theta) -> (n+m, 1) gradient of the stage cost."""
        return self._stage_function("stage_cost_D_tau", ca.gradient(self._stage, self._tau))

    @cached_property
    def stage_cost_D_theta(self) -> ca.Function:  # noqa: N802
        """(x, u, theta) -> (n_theta, 1) gradient of the stage cost."""
        return self._stage_function("stage_cost_D_theta", ca.gradient(self._stage, self._theta))

    @cached_property
    def stage_cost_hessian(self) -> ca.Function:
        """(x, u, theta) -> (n+m, n+m) Hessian of the stage cost."""
        return self._stage_function("stage_cost_hessian", ca.hessian(self._stage, self._tau)[0])

    @cached_property
    def lagrangian_hessian(self) -> ca.Function:
        """(x, u, theta, lam) -> (n+m, n+m) Hessian of stage cost + lam . f."""
        hessian = ca.hessian(self._lagrangian, self._tau)[0]
        return self._stage_function("lagrangian_hessian", hessian, more=[self._lam])

    @cached_property
    def lagrangian_D_tau_theta(self) -> ca.Function:  # noqa: N802
        """(x, u, theta, lam) -> (n+m, n_theta) mixed second derivative of stage cost + lam . f."""
        mixed = ca.jacobian(ca.gradient(self._lagrangian, self._tau), self._theta)
        return self._stage_function("lagrangian_D_tau_theta", mixed, more=[self._lam])

    @cached_property
    def terminal_cost_D_x(self) -> ca.Function:  # noqa: N802
        """(x, theta) -> (n, 1) gradient of the terminal cost."""
        gradient = ca.gradient(self._terminal, self._x)
        return ca.Function("terminal_cost_D_x", [self._x, self._theta], [gradient])

    @cached_property
    def terminal_cost_D_theta(self) -> ca.Function:  # noqa: N802
        """(x, theta) -> (n_theta, 1) gradient of the terminal cost."""
        gradient = ca.gradient(self._terminal, self._theta)
        return ca.Function("terminal_cost_D_theta", [self._x, self._theta], [gradient])

    @cached_property
    def terminal_cost_hessian(self) -> ca.Function:
        """(x, theta) -> (n, n) Hessian of the terminal cost."""
        hessian = ca.hessian(self._terminal, self._x)[0]
        return ca.Function("terminal_cost_hessian", [self._x, self._theta], [hessian])

    @cached_property
    def terminal_cost_D_x_theta(self) -> ca.Function:  # noqa: N802
        """(x, theta) -> (n, n_theta) mixed second derivative of the terminal cost."""
        mixed = ca.jacobian(ca.gradient(self._terminal, self._x), self._theta)
        return ca.Function("terminal_cost_D_x_theta", [self._x, self._theta], [mixed])

    def stage_bounds(self, theta: Array) -> tuple[Array, Array]:
        """Lower and upper bounds of all stages, each (N, m), from theta (n_theta, N+1)."""
        columns = [self.bounds(theta[:, t]) for t in range(theta.shape[1] - 1)]
        lower, upper = (np.array([np.asarray(pair[i]).ravel() for pair in columns]) for i in (0, 1))
        return lower, upper

    def rollout(self, x0: Array, u: Array, theta: Array) -> Array:
        """States (N+1, n) under the controls u (N, m) from x0 (n,), with theta (n_theta, N+1)."""
        states = [np.asarray(x0, dtype=float)]
        for t, control in enumerate(u):
            states.append(np.asarray(self.f(states[-1], control, theta[:, t])).ravel())
        return np.array(states)

    def total_cost(self, x: Array, u: Array, theta: Array) -> float:
        """Cost of a trajectory: x (N+1, n), u (N, m), theta (n_theta, N+1)."""
        stages = sum(float(self.stage_cost(x[t], u[t], theta[:, t])) for t in range(len(u)))
        return stages + float(self.terminal_cost(x[-1], theta[:, -1]))

    def is_finite(self, x: Array, u: Array, theta: Array) -> bool:
        """Whether a trajectory, its costs and their first derivatives are free of NaN and infinity."""
        terminal = x[-1], theta[:, -1]
        values = [x, self.terminal_cost(*terminal), self.terminal_cost_D_x(*terminal)]
        for t in range(len(u)):
            stage = x[t], u[t], theta[:, t]
            values += [
                function(*stage) for function in (self.stage_cost, self.stage_cost_D_tau, self.f_D_tau)
            ]
        return all(bool(np.all(np.isfinite(np.asarray(value)))) for value in values)
