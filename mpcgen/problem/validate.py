"""What makes a specification one that every later stage can trust."""

from collections.abc import Sequence
from dataclasses import replace

import sympy as sp

from mpcgen.errors import SpecError, UnsupportedExpressionError
from mpcgen.problem import constraints
from mpcgen.problem.continuity import check_continuous
from mpcgen.problem.expressions import LOST_VELOCITY, check_supported, is_partial, short_text
from mpcgen.problem.freedom import check_freedom
from mpcgen.problem.names import near_name
from mpcgen.problem.rates import is_rate, rate, rates_of, undetermined
from mpcgen.problem.running import RunningCost, running_costs
from mpcgen.problem.spec import Constraint, ControlSpec, DynamicsSpec, ParameterSpec, Spec
from mpcgen.problem.structure import check_structure
from mpcgen.problem.walks import symbols_in, unique_nodes

STAGE_COST = "the stage cost"


def check(spec: Spec) -> None:
    """Raise a typed error for the first thing that is wrong with a specification.

    Raises:
        SpecError: missing parts, undefined symbols, bounds that cross, a control without effect on the cost.
        UnsupportedExpressionError: no real value, no derivative, or no counterpart in C.

    """
    check_structure(spec)
    if not spec.states:
        raise SpecError(f"problem {spec.name!r} has no states: call problem.states('x v ...')")
    if not spec.controls:
        raise SpecError(f"problem {spec.name!r} has no controls: call problem.controls('u ...')")
    reader = _Reader(spec)
    _check_dynamics(spec, reader)
    reader.read(spec.stage_cost, STAGE_COST, ("state", "control", "parameter"))
    _check_running(spec)
    reader.read(spec.terminal_cost, "the terminal cost", ("state", "parameter"))
    for control in spec.controls:
        for bound, word in ((control.lower, "lower"), (control.upper, "upper")):
            constraints.check_bound(bound, word, repr(control.symbol.name), reader.read)
    for constraint in spec.constraints:
        constraints.check(constraint, spec, reader.read)
    _check_uses(spec)
    _check_defaults(spec)
    _check_controls_matter(spec)
    _check_velocities(spec)
    check_continuous(spec)
    check_freedom(spec)


class _Reader:
    """Checks the expressions of one specification; what several of them share is checked once."""

    def __init__(self, spec: Spec) -> None:
        self._kinds: dict[sp.Symbol, str] = dict.fromkeys(spec.states, "state")
        self._kinds.update((control.symbol, "control") for control in spec.controls)
        for parameter in spec.parameters:
            self._kinds.update((symbol, "parameter") for symbol in parameter.symbols)
        self._kinds.update(dict.fromkeys(rates_of(spec.states), "rate"))
        self._supported: set[sp.Basic] = set()
        self._read: dict[tuple[tuple[str, ...], bool], set[sp.Basic]] = {}
        """What may stand where symbols of some kinds are read, and whether running costs are."""

    def read(self, expression: sp.Expr, place: str, kinds: tuple[str, ...]) -> None:
        """Raise a typed error if the expression may not stand in ``place``, which reads symbols of ``kinds``."""
        nodes = unique_nodes(expression, self._read.setdefault((kinds, place == STAGE_COST), set()))
        for node in nodes:
            if isinstance(node, RunningCost) and place != STAGE_COST:
                raise SpecError(
                    f"{place} contains {short_text(node)}; a running cost is a term of the stage cost"
                )
            if isinstance(node, sp.Derivative) and not is_partial(node, self._kinds):
                raise UnsupportedExpressionError(f"{place} contains {short_text(node)}, {LOST_VELOCITY}")
        check_supported([node for node in nodes if node not in self._supported], place)
        self._supported.update(nodes)
        for node in nodes:
            if isinstance(node, sp.Symbol):
                self._check_symbol(node, place, kinds)

    def _check_symbol(self, symbol: sp.Symbol, place: str, kinds: tuple[str, ...]) -> None:
        kind = self._kinds.get(symbol)
        if kind in kinds:
            return
        if kind is not None:
            allowed = " and ".join(f"{name}s" for name in kinds)
            raise SpecError(f"{place} depends on the {kind} {symbol.name!r}; it may depend on {allowed} only")
        known = {declared.name: declared for declared in self._kinds}
        if symbol.name in known:
            raise SpecError(
                f"{place} uses a symbol {symbol.name!r} that is not the one declared (its assumptions "
                f"differ): use the symbol that the problem returned, sp.Symbol({symbol.name!r}, real=True)"
            )
        if is_rate(symbol):
            states = ", ".join(declared.name for declared, kind in self._kinds.items() if kind == "state")
            raise SpecError(
                f"{place} uses {symbol.name}, the rate of no state: only states have rates, which are {states}"
            )
        raise SpecError(
            f"{place} uses the undefined symbol {symbol.name!r}: declare it as a state, control or "
            f"parameter{near_name(symbol.name, known)}"
        )


def _check_dynamics(spec: Spec, reader: _Reader) -> None:
    dynamics = spec.dynamics
    if len(dynamics.expressions) != len(spec.states):
        raise SpecError(
            f"the dynamics have {len(dynamics.expressions)} rows for {len(spec.states)} states "
            f"({', '.join(map(str, spec.states))}): states were declared after problem.dynamics was set; "
            "set it again with one row per state"
        )
    for index, (row, state) in enumerate(zip(dynamics.expressions, spec.states, strict=True)):
        kinds = ("state", "control", "parameter") + (("rate",) if dynamics.is_algebraic[index] else ())
        reader.read(row, f"dynamics row {index} (state {state})", kinds)
    _check_residuals(spec)
    dt = dynamics.dt
    if dt is not None:
        reader.read(dt, f"dt of {dynamics.scheme}", ("state", "parameter"))
        still = _still(spec)
        for state in spec.states:
            if state in symbols_in(dt) and state not in still:
                raise SpecError(
                    f"dt of {dynamics.scheme} reads state {state.name!r}, which changes; it may read parameters and "
                    "states whose dynamics keep them as they are"
                )
        value = _at_defaults(dt, spec)
        if value is not None and not value > 0:
            raise SpecError(
                f"dt of {dynamics.scheme} is {dt}, which is {value} at the parameters' defaults; "
                "expected a positive duration"
            )


def _check_residuals(spec: Spec) -> None:
    """Residuals read rates of states that are integrated, and may determine what they have to."""
    dynamics = spec.dynamics
    read = symbols_in(*dynamics.expressions)
    for state, discrete in zip(spec.states, dynamics.is_discrete, strict=True):
        if discrete and rate(state) in read:
            raise SpecError(
                f"a residual reads {rate(state)}, and {state} has a discrete row: it is not integrated, and has no rate"
            )
    state = undetermined(spec.states, dynamics)
    if state is not None:
        raise SpecError(
            f"the residuals do not determine state {state.name!r} beside the others: there are as many residuals as "
            "states that have one, and each is to determine one of them or its rate; write a residual that reads "
            f"{state.name} or mpcgen.rate({state.name})"
        )


def _check_running(spec: Spec) -> None:
    """A running cost has something to be integrated with, and is none of another."""
    found = running_costs(spec.stage_cost)
    if found and spec.dynamics.dt is None:
        raise SpecError(
            f"the stage cost contains {short_text(found[0])}, and the dynamics are discrete: there is no time to "
            "integrate it over; give the dynamics by rk4, radau or another scheme, or the cost per stage"
        )
    for node in found:
        if running_costs(node.args[0]):
            raise SpecError(f"{short_text(node)} is the running cost of a running cost; integrate once")


def _still(spec: Spec) -> list[sp.Symbol]:
    """States that stay as they are."""
    dynamics = spec.dynamics
    rows = zip(spec.states, dynamics.expressions, dynamics.is_discrete, dynamics.is_algebraic, strict=True)
    differences = (
        (state, row - (state if discrete else 0)) for state, row, discrete, zero in rows if not zero
    )
    return [state for state, difference in differences if difference.is_Number and difference.is_zero]


def with_uses(
    parameters: Sequence[ParameterSpec],
    *,
    controls: Sequence[ControlSpec],
    dynamics: DynamicsSpec,
    stage_cost: sp.Expr,
    terminal_cost: sp.Expr,
    constraints: Sequence[Constraint],
) -> tuple[ParameterSpec, ...]:
    """Return the parameters with ``in_terminal`` and ``only_bounds`` as the expressions use them."""
    rows = [row for c in constraints for row in (*c.rows, *c.soft, *c.soft_quadratic)]
    functions = [*dynamics.expressions, stage_cost, terminal_cost, *rows]
    if dynamics.dt is not None:
        functions.append(dynamics.dt)
    in_functions = symbols_in(*functions)
    at_end = [c for c in constraints if c.group != "mixed"]
    in_terminal = symbols_in(
        terminal_cost,
        *(part for c in at_end for part in (*c.rows, *c.lower, *c.upper, *c.soft, *c.soft_quadratic)),
    )
    in_bounds = symbols_in(
        *(bound for control in controls for bound in (control.lower, control.upper)),
        *(bound for c in constraints for bound in (*c.lower, *c.upper)),
    )
    return tuple(
        replace(
            parameter,
            in_terminal=not in_terminal.isdisjoint(parameter.symbols),
            only_bounds=not in_bounds.isdisjoint(parameter.symbols)
            and in_functions.isdisjoint(parameter.symbols),
        )
        for parameter in parameters
    )


def _check_uses(spec: Spec) -> None:
    used = with_uses(
        spec.parameters,
        controls=spec.controls,
        dynamics=spec.dynamics,
        stage_cost=spec.stage_cost,
        terminal_cost=spec.terminal_cost,
        constraints=spec.constraints,
    )
    for given, right in zip(spec.parameters, used, strict=True):
        for flag in ("in_terminal", "only_bounds"):
            if getattr(given, flag) != getattr(right, flag):
                raise SpecError(
                    f"{flag} of parameter {given.name!r} is {getattr(given, flag)}, but the expressions say "
                    f"{getattr(right, flag)}; leave it to mpcgen.Problem, or set it so"
                )


def _check_defaults(spec: Spec) -> None:
    """Infinite defaults are for bounds alone, and bounds may not cross at the defaults."""
    for parameter in spec.parameters:
        if not parameter.only_bounds and any(map(_is_infinite, parameter.default or ())):
            raise SpecError(
                f"parameter {parameter.name!r} has an infinite default; only a parameter that nothing but "
                "bounds use may be infinite: give a finite default"
            )
    for control in spec.controls:
        _check_order(f"control {control.symbol.name!r}", control.lower, control.upper, spec)
    for constraint in spec.constraints:
        for label, low, high in zip(constraint.labels, constraint.lower, constraint.upper, strict=True):
            _check_order(f"constraint {label!r}", low, high, spec)


def _check_order(what: str, low: sp.Expr, high: sp.Expr, spec: Spec) -> None:
    lower, upper = _at_defaults(low, spec), _at_defaults(high, spec)
    if lower is not None and upper is not None and lower > upper:
        defaults = " (at the parameters' defaults)" if symbols_in(low, high) else ""
        raise SpecError(
            f"{what} has lower bound {lower} > upper bound {upper}{defaults}; expected lower <= upper"
        )


def _check_controls_matter(spec: Spec) -> None:
    """Each control must reach the cost or a constraint, at once or through states: else its optimum is arbitrary."""
    rows = dict(zip(spec.states, spec.dynamics.expressions, strict=True))
    constrained = [row for constraint in spec.constraints for row in constraint.rows]
    reached = symbols_in(spec.stage_cost, spec.terminal_cost, *constrained)
    pending = [state for state in spec.states if state in reached]
    while pending:
        fresh = _read(rows[pending.pop()], spec) - reached
        reached |= fresh
        pending.extend(state for state in spec.states if state in fresh)
    idle = [control.symbol.name for control in spec.controls if control.symbol not in reached]
    if len(idle) == len(spec.controls):
        raise SpecError(
            f"no cost or constraint depends on any control ({', '.join(idle)}), neither directly nor through the "
            "dynamics: add a control term to problem.stage_cost"
        )
    if idle:
        raise SpecError(
            f"no cost or constraint depends on control {idle[0]!r}, neither directly nor through the dynamics: "
            f"add a term such as {idle[0]}**2 to problem.stage_cost, or remove the control"
        )


def _read(row: sp.Expr, spec: Spec) -> set[sp.Symbol]:
    """What a row of the dynamics reads; who reads a state's rate reads what the state does."""
    states = rates_of(spec.states)
    return {states.get(symbol, symbol) for symbol in symbols_in(row)}


def _check_velocities(spec: Spec) -> None:
    """A state that stays as it is beside one that nothing reads: what a velocity leaves that was evaluated to 0."""
    rows = dict(zip(spec.states, spec.dynamics.expressions, strict=True))
    still = _still(spec)
    dt = symbols_in(*(() if spec.dynamics.dt is None else (spec.dynamics.dt,)))
    read = dt | symbols_in(
        spec.stage_cost,
        spec.terminal_cost,
        *(row for constraint in spec.constraints for row in constraint.rows),
    )
    by = {state: _read(row, spec) - {state} for state, row in rows.items()}
    read = read.union(*by.values())
    moving = [state for state in spec.states if state not in still]
    unread = [state for state in moving if state not in read]
    # what the others' rates read is a constant of the model, such as a duration that is free
    constants = dt.union(*(by[state] for state in moving if state in read))
    kept = [state for state in still if state not in constants]
    if kept and unread:
        raise SpecError(
            f"the dynamics keep state {kept[0].name!r} as it is, and nothing reads state {unread[0].name!r}: is that "
            f"its velocity? A Derivative evaluated once its function is a state is 0: substitute velocities first, as "
            "in expression.subs(q(t).diff(t), velocity).subs(q(t), position). Otherwise remove the state that nothing "
            "reads"
        )


def _at_defaults(expression: sp.Expr, spec: Spec) -> float | None:
    """Return the value of an expression in parameters at their defaults; None where one has no default."""
    used = symbols_in(expression)
    values: dict[sp.Symbol, float] = {}
    for parameter in spec.parameters:
        if not used.isdisjoint(parameter.symbols):
            if parameter.default is None:
                return None
            values.update(zip(parameter.symbols, parameter.default, strict=True))
    value = expression.subs(values) if values else expression
    return float(value) if value.is_extended_real and not value.free_symbols else None


def _is_infinite(number: float) -> bool:
    return number in (float("inf"), float("-inf"))
