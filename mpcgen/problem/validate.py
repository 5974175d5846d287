"""From a filled-in draft to a specification that every later stage can trust."""

from dataclasses import replace

import sympy as sp

from mpcgen.errors import SpecError
from mpcgen.problem import constraints
from mpcgen.problem.continuity import check_continuous
from mpcgen.problem.expressions import check_supported, rewritten, symbols_in, unique_nodes
from mpcgen.problem.freedom import check_freedom
from mpcgen.problem.names import near_name
from mpcgen.problem.spec import ControlSpec, DynamicsSpec, ParameterSpec, Spec


def validated(draft: Spec) -> Spec:
    """Return the checked specification, parameter uses filled in.

    Raises:
        SpecError: missing parts, undefined symbols, bounds that cross, a control without effect on the cost.
        UnsupportedExpressionError: no real value, no derivative, or no counterpart in C.

    """
    if not draft.states:
        raise SpecError(f"problem {draft.name!r} has no states: call problem.states('x v ...')")
    if not draft.controls:
        raise SpecError(f"problem {draft.name!r} has no controls: call problem.controls('u ...')")
    reader = _Reader(draft)
    checked = replace(
        draft,
        dynamics=_dynamics(draft, reader),
        stage_cost=reader.read(draft.stage_cost, "the stage cost", ("state", "control", "parameter")),
        terminal_cost=reader.read(draft.terminal_cost, "the terminal cost", ("state", "parameter")),
        controls=tuple(_bounded(control, reader) for control in draft.controls),
    )
    checked = replace(
        checked, constraints=tuple(constraints.checked(c, draft, reader.read) for c in draft.constraints)
    )
    checked = replace(checked, parameters=_with_uses(checked))
    _check_defaults(checked)
    _check_controls_matter(checked)
    check_continuous(checked)
    check_freedom(checked)
    return checked


class _Reader:
    """Checks the expressions of one draft; what several of them share is checked once."""

    def __init__(self, draft: Spec) -> None:
        self._kinds: dict[sp.Symbol, str] = dict.fromkeys(draft.states, "state")
        self._kinds.update((control.symbol, "control") for control in draft.controls)
        for parameter in draft.parameters:
            self._kinds.update((symbol, "parameter") for symbol in parameter.symbols)
        self._supported: set[sp.Basic] = set()

    def read(self, expression: sp.Expr, place: str, kinds: tuple[str, ...]) -> sp.Expr:
        """Return the expression, rewritten where needed; typed error if it may not stand in ``place``."""
        nodes = unique_nodes(expression)
        check_supported([node for node in nodes if node not in self._supported], place)
        self._supported.update(nodes)
        for node in nodes:
            if isinstance(node, sp.Symbol):
                self._check_symbol(node, place, kinds)
        return rewritten(expression, nodes)

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
        raise SpecError(
            f"{place} uses the undefined symbol {symbol.name!r}: declare it as a state, control or "
            f"parameter{near_name(symbol.name, known)}"
        )


def _dynamics(draft: Spec, reader: _Reader) -> DynamicsSpec:
    dynamics = draft.dynamics
    if len(dynamics.expressions) != len(draft.states):
        raise SpecError(
            f"the dynamics have {len(dynamics.expressions)} rows for {len(draft.states)} states "
            f"({', '.join(map(str, draft.states))}): states were declared after problem.dynamics was set; "
            "set it again with one row per state"
        )
    rows = tuple(
        reader.read(row, f"dynamics row {index} (state {state})", ("state", "control", "parameter"))
        for index, (row, state) in enumerate(zip(dynamics.expressions, draft.states, strict=True))
    )
    dt = dynamics.dt
    if dt is not None:
        dt = reader.read(dt, f"dt of {dynamics.scheme}", ("parameter",))
        value = _at_defaults(dt, draft)
        if value is not None and not value > 0:
            raise SpecError(
                f"dt of {dynamics.scheme} is {dt}, which is {value} at the parameters' defaults; "
                "expected a positive duration"
            )
    return replace(dynamics, expressions=rows, dt=dt)


def _bounded(control: ControlSpec, reader: _Reader) -> ControlSpec:
    name = control.symbol.name
    lower, upper = (
        constraints.checked_bound(bound, word, repr(name), reader.read)
        for bound, word in ((control.lower, "lower"), (control.upper, "upper"))
    )
    return replace(control, lower=lower, upper=upper)


def _with_uses(spec: Spec) -> tuple[ParameterSpec, ...]:
    """Return the parameters with ``in_terminal`` and ``only_bounds`` filled in from the expressions."""
    rows = [row for c in spec.constraints for row in (*c.rows, *c.soft, *c.soft_quadratic)]
    functions = [*spec.dynamics.expressions, spec.stage_cost, spec.terminal_cost, *rows]
    if spec.dynamics.dt is not None:
        functions.append(spec.dynamics.dt)
    in_functions = symbols_in(*functions)
    at_end = [c for c in spec.constraints if c.group != "mixed"]
    in_terminal = symbols_in(
        spec.terminal_cost,
        *(part for c in at_end for part in (*c.rows, *c.lower, *c.upper, *c.soft, *c.soft_quadratic)),
    )
    in_bounds = symbols_in(
        *(bound for control in spec.controls for bound in (control.lower, control.upper)),
        *(bound for c in spec.constraints for bound in (*c.lower, *c.upper)),
    )
    return tuple(
        replace(
            parameter,
            in_terminal=not in_terminal.isdisjoint(parameter.symbols),
            only_bounds=not in_bounds.isdisjoint(parameter.symbols)
            and in_functions.isdisjoint(parameter.symbols),
        )
        for parameter in spec.parameters
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
    """Each control must reach the cost, at once or through states: else its optimum is arbitrary."""
    rows = dict(zip(spec.states, spec.dynamics.expressions, strict=True))
    reached = symbols_in(spec.stage_cost, spec.terminal_cost)
    pending = [state for state in spec.states if state in reached]
    while pending:
        fresh = symbols_in(rows[pending.pop()]) - reached
        reached |= fresh
        pending.extend(state for state in spec.states if state in fresh)
    idle = [control.symbol.name for control in spec.controls if control.symbol not in reached]
    if len(idle) == len(spec.controls):
        raise SpecError(
            f"the cost does not depend on any control ({', '.join(idle)}), neither directly nor through the "
            "dynamics: add a control term to problem.stage_cost"
        )
    if idle:
        raise SpecError(
            f"the cost does not depend on control {idle[0]!r}, neither directly nor through the dynamics: "
            f"add a term such as {idle[0]}**2 to problem.stage_cost, or remove the control"
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
    return float(value) if value.is_extended_real else None


def _is_infinite(number: float) -> bool:
    return number in (float("inf"), float("-inf"))
