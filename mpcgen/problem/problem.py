"""`Problem`: the object a model specification fills in."""

from copy import copy, deepcopy
from dataclasses import replace
from typing import Any

import sympy as sp

from mpcgen.errors import SpecError
from mpcgen.problem import names, validate, values
from mpcgen.problem.constraints import make_constraint, placed, state_bounds
from mpcgen.problem.expressions import completed
from mpcgen.problem.integrators import dynamics_rows
from mpcgen.problem.parameters import parameter_spec, real_symbol
from mpcgen.problem.pickling import Unevaluated
from mpcgen.problem.spec import Constraint, ControlSpec, DynamicsSpec, ParameterSpec, Spec

_SETTABLE = ("dynamics", "stage_cost", "terminal_cost")


class Problem(Unevaluated):
    """An optimal control problem in the making; `spec` checks and freezes it.

        minimise  sum_{t<N} stage_cost(x_t, u_t) + terminal_cost(x_N)
        subject to x_{t+1} = dynamics(x_t, u_t), lower <= u_t <= upper, x_0 given, bounds of states, constraints

    Args:
        name: a Python identifier; the generated package and its functions carry it.
        horizon: N >= 1, the number of controls; there are N+1 states. A call may use another.

    """

    def __init__(self, name: str, horizon: int) -> None:
        self._name = names.check_problem_name(name)
        self._horizon = values.as_integer(horizon, f"the horizon of problem {name!r}", 1)
        self._names = names.NameTable()
        self._states: list[sp.Symbol] = []
        self._controls: list[ControlSpec] = []
        self._parameters: list[ParameterSpec] = []
        self._state_bounds: list[Constraint] = []
        self._constraints: list[Constraint] = []
        self._dynamics: DynamicsSpec | None = None
        self._stage_cost: sp.Expr | None = None
        self._terminal_cost: sp.Expr | None = None
        self._imported_nodes: dict[tuple[Any, ...], sp.Basic] = {}
        self._modules: dict[str, Any] = {}
        self._spec: Spec | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in _SETTABLE:
            raise SpecError(
                f"problem {self._name!r}: {name!r} cannot be set{names.near_name(name, _SETTABLE)}; what can is "
                f"{', '.join(_SETTABLE)}, and states, controls, parameters and constraints are declared by methods"
            )
        super().__setattr__(name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Problem":
        """A problem of its own, with the same expressions: sympy would evaluate copies of these anew."""
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        own = {name: copy(part) for name, part in vars(self).items() if isinstance(part, list | dict)}
        made.__dict__.update(vars(self) | own, _names=deepcopy(self._names))
        return made

    def __repr__(self) -> str:
        return (
            f"Problem({self._name!r}, horizon={self._horizon}): {len(self._states)} states, "
            f"{len(self._controls)} controls, {len(self._parameters)} parameters, "
            f"{len(self._constraints)} constraints"
        )

    @property
    def name(self) -> str:
        """Name of the generated package."""
        return self._name

    @property
    def horizon(self) -> int:
        """Number of controls N."""
        return self._horizon

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the states declared so far, in order."""
        return tuple(symbol.name for symbol in self._states)

    @property
    def state_symbols(self) -> tuple[sp.Symbol, ...]:
        """The states declared so far, in order."""
        return tuple(self._states)

    @property
    def control_symbols(self) -> tuple[sp.Symbol, ...]:
        """The controls declared so far, in order."""
        return tuple(control.symbol for control in self._controls)

    @property
    def parameter_specs(self) -> tuple[ParameterSpec, ...]:
        """The parameters declared so far, in order."""
        return tuple(self._parameters)

    @property
    def imported_nodes(self) -> dict[tuple[Any, ...], sp.Basic]:
        """Expressions that imported functions have in common, by operation and arguments."""
        return self._imported_nodes

    @property
    def modules(self) -> dict[str, Any]:
        """The weights of imported modules that parameters stand for, by the parameter's name."""
        return self._modules

    def find_parameter(self, name: str) -> ParameterSpec | None:
        """Return the parameter of that name, if it has been declared."""
        return next((parameter for parameter in self._parameters if parameter.name == name), None)

    def states(
        self, state_names: str | list[str], lower: Any = -sp.oo, upper: Any = sp.oo
    ) -> tuple[sp.Symbol, ...]:
        """Declare states, ``"x v omega"``, and their bounds, and return their symbols. Later calls append.

        Args:
            state_names: ``"position velocity"``.
            lower: a number for all of these states or a list, one each; an entry is a number, ±oo, or a parameter
                (or an expression in parameters). It holds at stages 1..N; x_0 is given.
            upper: likewise.

        """
        found = [names.check_identifier(name, "state") for name in names.split_names(state_names, "state")]
        of_states = f"of {', '.join(found)}"
        lowers = values.one_each(lower, found, f"the lower bound {of_states}")
        uppers = values.one_each(upper, found, f"the upper bound {of_states}")
        self._names.claim((name, "a state") for name in found)
        self._spec = None
        symbols = tuple(real_symbol(name) for name in found)
        self._states.extend(symbols)
        for symbol, low, high in zip(symbols, lowers, uppers, strict=True):
            if not (low == -sp.oo and high == sp.oo):
                self._state_bounds.append(state_bounds(symbol, low, high))
        return symbols

    def state(self, name: str, lower: Any = -sp.oo, upper: Any = sp.oo) -> sp.Symbol:
        """Declare one state and its bounds, see `states`, and return its symbol."""
        (symbol,) = self.states([name], lower, upper)
        return symbol

    def controls(
        self, control_names: str | list[str], lower: Any = -sp.oo, upper: Any = sp.oo
    ) -> tuple[sp.Symbol, ...]:
        """Declare controls and their bounds, and return their symbols. Later calls append.

        Args:
            control_names: ``"force"`` or ``"steer throttle"``.
            lower: a number for all of these controls or a list, one each; an entry is a number, ±oo, or a
                parameter (or an expression in parameters).
            upper: likewise. Equal bounds fix the control.

        """
        found = [
            names.check_identifier(name, "control") for name in names.split_names(control_names, "control")
        ]
        of_controls = f"of {', '.join(found)}"
        lowers = values.one_each(lower, found, f"the lower bound {of_controls}")
        uppers = values.one_each(upper, found, f"the upper bound {of_controls}")
        self._names.claim((name, "a control") for name in found)
        self._spec = None
        symbols = tuple(real_symbol(name) for name in found)
        self._controls.extend(map(ControlSpec, symbols, lowers, uppers))
        return symbols

    def control(self, name: str, lower: Any = -sp.oo, upper: Any = sp.oo) -> sp.Symbol:
        """Declare one control and its bounds, see `controls`, and return its symbol."""
        (symbol,) = self.controls([name], lower, upper)
        return symbol

    def parameters(
        self, parameter_names: str | list[str], default: Any = None, per_stage: bool = False
    ) -> tuple[sp.Symbol, ...]:
        """Declare scalar parameters, ``"mass length"``, and return their symbols.

        ``default`` is a number for all or a list, one each; without one the call must give the values.
        With ``per_stage=True`` each has one value per stage, as `parameter` says.
        """
        found = names.split_names(parameter_names, "parameter")
        defaults: list[Any] = [None] * len(found)
        if default is not None:
            defaults = list(values.one_each(default, found, f"the default of parameters {', '.join(found)}"))
        for name in found:
            names.check_parameter_name(name)
        added = [
            parameter_spec(name, (), value, per_stage) for name, value in zip(found, defaults, strict=True)
        ]
        self.add_parameters(added)
        return tuple(parameter.symbols[0] for parameter in added)

    def parameter(
        self,
        name: str,
        shape: int | tuple[int, ...] = (),
        default: Any = None,
        per_stage: bool = False,
    ) -> Any:
        """Declare one parameter and return its symbol, or its sympy Matrix of symbols.

        Args:
            name: a keyword argument of the generated controller's call.
            shape: () for a symbol, k or (k,) for a column Matrix (k, 1), (r, c) for a Matrix (r, c).
            default: nested lists, an array, or one number for all entries. None: to be given at each call.
            per_stage: one value per stage: N, or N+1 where the terminal cost reads it. The default holds at
                every stage.

        """
        names.check_parameter_name(name)
        sizes = values.as_shape(shape, name)
        added = parameter_spec(name, sizes, default, per_stage)
        self.add_parameters([added])
        if not sizes:
            return added.symbols[0]
        rows, columns = sizes if len(sizes) == 2 else (sizes[0], 1)
        return sp.Matrix(rows, columns, added.symbols)

    def add_parameters(self, added: list[ParameterSpec]) -> None:
        """Declare parameters that have been made, all or, where a name is in use, none."""
        claims: list[tuple[str, str]] = []
        for parameter in added:
            claims.append((parameter.name, "a parameter"))
            if parameter.shape:
                entry = f"an entry of parameter {parameter.name!r}"
                claims.extend((symbol.name, entry) for symbol in parameter.symbols)
        self._names.claim(claims)
        self._spec = None
        self._parameters.extend(added)

    def constraint(
        self,
        name: str,
        expressions: Any,
        lower: Any = None,
        upper: Any = None,
        equals: Any = None,
        soft: Any = None,
        soft_quadratic: Any = None,
    ) -> None:
        """Constrain an expression, or a list of them, along the path.

        Expressions that read a control hold at stages 0..N-1, others at stages 1..N, since x_0 is given.

        Args:
            name: an identifier, under which the solution has its multipliers.
            expressions: in states, controls and parameters.
            lower: a number for all rows or a list, one each; an entry is a number, ±oo, or an expression in
                parameters, which may be per stage and infinite.
            upper: likewise.
            equals: in place of both: likewise, and finite.
            soft: w >= 0: a row may be exceeded by e >= 0 at the price w e per stage. A number or an expression in
                parameters, for all rows or a list. Left out: the rows are hard.
            soft_quadratic: w >= 0 adds w e²/2 to that price.

        """
        self._constrain(name, expressions, lower, upper, equals, soft, soft_quadratic, terminal=False)

    def terminal_constraint(
        self,
        name: str,
        expressions: Any,
        lower: Any = None,
        upper: Any = None,
        equals: Any = None,
        soft: Any = None,
        soft_quadratic: Any = None,
    ) -> None:
        """Constrain an expression in the last state and parameters, or a list of them; see `constraint`."""
        self._constrain(name, expressions, lower, upper, equals, soft, soft_quadratic, terminal=True)

    def _constrain(
        self,
        name: str,
        expressions: Any,
        lower: Any,
        upper: Any,
        equals: Any,
        soft: Any,
        soft_quadratic: Any,
        terminal: bool,
    ) -> None:
        names.check_identifier(name, "constraint")
        made = make_constraint(
            name,
            expressions,
            lower=lower,
            upper=upper,
            equals=equals,
            soft=soft,
            soft_quadratic=soft_quadratic,
            terminal=terminal,
        )
        self._names.claim([(name, "a constraint")])
        self._spec = None
        self._constraints.append(made)

    @property
    def dynamics(self) -> DynamicsSpec | None:
        """Next state, a row per state, or an ODE from `rk4`, `midpoint` or `euler`. States come first."""
        return self._dynamics

    @dynamics.setter
    def dynamics(self, rows: Any) -> None:
        if isinstance(rows, DynamicsSpec):
            dynamics_rows(list(rows.expressions), self.state_names, "the right-hand side of the dynamics")
            self._dynamics = rows
        else:
            self._dynamics = DynamicsSpec(dynamics_rows(rows, self.state_names, "the dynamics"))
        self._spec = None

    @property
    def stage_cost(self) -> sp.Expr | None:
        """Cost of one stage: an expression in states, controls and parameters (or a 1x1 matrix)."""
        return self._stage_cost

    @stage_cost.setter
    def stage_cost(self, cost: Any) -> None:
        self._stage_cost = values.as_expression(cost, "the stage cost")
        self._spec = None

    @property
    def terminal_cost(self) -> sp.Expr | None:
        """Cost of the last state: an expression in states and parameters; 0 if never set."""
        return self._terminal_cost

    @terminal_cost.setter
    def terminal_cost(self, cost: Any) -> None:
        self._terminal_cost = values.as_expression(cost, "the terminal cost")
        self._spec = None

    def spec(self) -> Spec:
        """Validate and freeze. Cached until the problem changes.

        Raises:
            SpecError: something is missing, inconsistent or undefined.
            UnsupportedExpressionError: an expression without a real value or a derivative.

        """
        if self._spec is None:
            if self._dynamics is None:
                raise SpecError(f"problem {self._name!r} has no dynamics: set problem.dynamics")
            if self._stage_cost is None:
                raise SpecError(f"problem {self._name!r} has no cost: set problem.stage_cost")
            dynamics = replace(self._dynamics, expressions=tuple(map(completed, self._dynamics.expressions)))
            terminal_cost = sp.S.Zero if self._terminal_cost is None else completed(self._terminal_cost)
            stage_cost = completed(self._stage_cost)
            controls = {control.symbol for control in self._controls}
            constraints = [placed(c, controls) for c in (*self._state_bounds, *self._constraints)]
            draft = {
                "controls": tuple(self._controls),
                "dynamics": dynamics,
                "stage_cost": stage_cost,
                "terminal_cost": terminal_cost,
                "constraints": tuple(constraints),
            }
            self._spec = Spec(
                name=self._name,
                horizon=self._horizon,
                states=tuple(self._states),
                parameters=validate.with_uses(self._parameters, **draft),
                **draft,
            )
        return self._spec
