"""From sympy to the graph: the front end of what is written in sympy.

The sympy expression is walked as a graph, so that what it shares stays shared; nothing is expanded.
"""

import difflib
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import mul

import sympy as sp
from sympy.logic.boolalg import BooleanFalse, BooleanTrue

from mpcgen.errors import SpecError, UnsupportedExpressionError
from mpcgen.ir.expr import Expr, Graph
from mpcgen.ir.model import Implicit, Model, Rows, Substeps
from mpcgen.ir.recognise import recognise
from mpcgen.ir.walk import substitute
from mpcgen.problem.expressions import objection, short_text
from mpcgen.problem.functions import CONNECTIVES, MEANINGS, arguments
from mpcgen.problem.linear_system import Solution, split
from mpcgen.problem.looping import Looping, one_slope, with_networks
from mpcgen.problem.rates import rate, unknown_rates
from mpcgen.problem.running import running_costs
from mpcgen.problem.schemes import STAGE_EQUATIONS, TABLEAUS, one_step, repeated
from mpcgen.problem.signature import signature
from mpcgen.problem.spec import IMPLICIT, Constraint, DynamicsSpec, Spec
from mpcgen.problem.walks import symbols_in

MOST_KEPT = 8192
"""Numbers that a stage's substeps may leave for derivatives to go back through: half a megabyte of a thread's stack."""
MOST_UNKNOWNS = 90
"""Unknowns of an implicit step: their matrix takes as much."""


def lower(
    expressions: Sequence[sp.Expr],
    graph: Graph,
    symbols: Mapping[sp.Symbol, Expr],
    known: Mapping[sp.Expr, Expr] | None = None,
) -> list[Expr]:
    """Return the sympy ``expressions`` as nodes of ``graph``, each sympy symbol standing for its node.

    known: nodes for expressions that are not to be looked into.

    Raises `SpecError` for a symbol that is not in ``symbols`` and `UnsupportedExpressionError` for what
    has no real value, no derivative or no counterpart in C.
    """
    lowered: dict[sp.Basic, Expr] = dict(known or {})
    stack = [sp.sympify(expression) for expression in reversed(expressions)]
    while stack:
        node = stack[-1]
        if node in lowered:
            stack.pop()
            continue
        pending = [child for child in _children(node) if child not in lowered]
        if pending:
            stack.extend(reversed(pending))
        else:
            stack.pop()
            lowered[node] = _lower_one(node, graph, symbols, [lowered[child] for child in _children(node)])
    return [lowered[sp.sympify(expression)] for expression in expressions]


def lower_spec(spec: Spec) -> Model:
    """Return the specification on a new graph: dynamics integrated, costs and bounds lowered.

    Symbols of the graph are named like those of the specification.
    """
    graph = Graph()
    table: dict[sp.Symbol, Expr] = {}

    def declare(symbols: Sequence[sp.Symbol]) -> tuple[Expr, ...]:
        table.update({symbol: graph.symbol(symbol.name) for symbol in symbols})
        return tuple(table[symbol] for symbol in symbols)

    states = declare(spec.states)
    controls = declare([control.symbol for control in spec.controls])
    parameters = declare([symbol for parameter in spec.parameters for symbol in parameter.symbols])
    running = {node: graph.symbol(f"running.{i}") for i, node in enumerate(running_costs(spec.stage_cost))}
    costs = lower([spec.stage_cost, spec.terminal_cost], graph, table, running)
    unknown_changes = _declare_rates(spec, graph, table)
    moving = [*spec.dynamics.expressions, *(node.args[0] for node in running)]
    rows = lower(moving, graph, table)
    loops = Looping(spec, graph, table, parameters, lambda e, known: lower(e, graph, table, known))
    by_outputs, networks = loops.by_outputs(moving)
    stage, end = loops.priced(running)
    for text in loops.written_out(moving):
        warnings.warn(text, stacklevel=2)
    stage_cost, terminal_cost, *rows = recognise([*costs, *rows], parameters)
    outside = stage.rest if stage else stage_cost
    next_state, substeps = rows, None
    if networks and spec.dynamics.dt is None:
        substeps = one_slope(networks, by_outputs, rows, states, outside)
    if spec.dynamics.dt is not None:
        (dt,) = lower([spec.dynamics.dt], graph, table)
        sums = tuple(running.values())
        known = _Known(states, sums, unknown_changes)
        next_state, substeps = _integrated(spec.dynamics, rows, known, outside, dt, bool(networks))
        if networks and substeps is not None:
            h = dt / float(spec.dynamics.substeps)
            substeps = with_networks(networks, substeps, by_outputs, h)
        integrals = substitute(next_state[len(states) :], dict.fromkeys(sums, graph.const(0.0)))
        stage_cost, outside = substitute((stage_cost, outside), dict(zip(sums, integrals, strict=True)))
    return Model(
        graph=graph,
        states=states,
        controls=controls,
        parameters=parameters,
        next_state=tuple(next_state[: len(states)]),
        stage_cost=stage_cost,
        terminal_cost=terminal_cost,
        lower=tuple(lower([control.lower for control in spec.controls], graph, table)),
        upper=tuple(lower([control.upper for control in spec.controls], graph, table)),
        signature=signature(spec),
        mixed=_lower_rows(spec.group("mixed"), graph, table, parameters),
        state_rows=_lower_rows(spec.group("state"), graph, table, parameters),
        terminal=_lower_rows(spec.group("terminal"), graph, table, parameters),
        substeps=substeps,
        priced=(stage and replace(stage, rest=outside), end),
    )


@dataclass(frozen=True)
class _Known:
    """Symbols of the states, of sums of costs, and of the changes of states whose rates residuals leave unknown."""

    states: tuple[Expr, ...]
    sums: tuple[Expr, ...]
    changes: Mapping[int, Expr]


def _declare_rates(spec: Spec, graph: Graph, table: dict[sp.Symbol, Expr]) -> dict[int, Expr]:
    """Say what stands for the rates that residuals read; return the changes in a step that are unknown, by state."""
    dynamics = spec.dynamics
    unknown = unknown_rates(spec.states, dynamics)
    changes = {i: graph.symbol(f"change.{spec.states[i].name}") for i in unknown}
    if unknown:
        (dt,) = lower([dynamics.dt], graph, table)
        h = dt / float(dynamics.substeps)
        table.update({rate(spec.states[i]): change / h for i, change in changes.items()})
    if any(dynamics.is_algebraic):
        read = symbols_in(*dynamics.expressions)
        given = [i for i, state in enumerate(spec.states) if rate(state) in read and i not in changes]
        rows = lower([dynamics.expressions[i] for i in given], graph, table)
        table.update({rate(spec.states[i]): row for i, row in zip(given, rows, strict=True)})
    return changes


def _integrated(
    dynamics: DynamicsSpec,
    rows: Sequence[Expr],
    known: _Known,
    cost: Expr,
    dt: Expr,
    looped: bool,
) -> tuple[list[Expr], Substeps | None]:
    """What becomes of the states, whose rates are the rows unless these are discrete, and of sums of costs.

    cost: the stage cost, which reads the sums. looped: whether loops are wanted of a single slope, too.
    """
    states, sums = known.states, known.sums
    symbols, n = (*states, *sums), len(states)
    flags = (*dynamics.is_discrete, *(False for _ in sums))
    moving = [i for i, discrete in enumerate(flags) if not discrete]
    rates, places = [rows[i] for i in moving], [symbols[i] for i in moving]
    _check_kept(dynamics, len(moving) + len(known.changes))
    if dynamics.scheme in IMPLICIT:
        return _implicitly(dynamics, rows, known, cost, dt)
    step = one_step(dynamics.scheme, rates, places, dt, dynamics.substeps)
    following = list(rows)
    for i, value in zip(moving, repeated(step, places, dynamics.substeps), strict=True):
        following[i] = value
    if dynamics.substeps == 1 and dynamics.scheme == "euler" and not looped:
        return following, None
    zero, h = cost.graph.const(0.0), dt / float(dynamics.substeps)
    changed = tuple(i for i in moving if i < n and not rows[i].is_zero)
    reach, share = TABLEAUS[dynamics.scheme]
    substeps = Substeps(
        count=dynamics.substeps,
        reach=reach,
        share=share,
        moving=changed,
        changes=tuple(h * rows[i] for i in changed),
        sums=sums,
        increments=tuple(h * rows[n + i] for i in range(len(sums))),
        cost=cost,
        others=tuple(zero if i in changed else following[i] for i in range(n)),
    )
    return following, substeps


def _check_kept(dynamics: DynamicsSpec, width: int) -> None:
    """Refuse what derivatives would have to go back through too much of. ``width``: numbers that a step changes."""
    kept = width * (len(STAGE_EQUATIONS[dynamics.scheme][1]) + 1 if dynamics.scheme in IMPLICIT else 1)
    if dynamics.substeps * kept > MOST_KEPT:
        raise SpecError(
            f"the dynamics have {dynamics.substeps} substeps of {kept} numbers in a stage; at most "
            f"{MOST_KEPT // kept} are possible: take more, shorter stages"
        )


def _check_unknowns(scheme: str, moving: int, hidden: int) -> None:
    """Refuse stage equations that would be too large, of states that move and of their unknown rates."""
    unknowns = (moving + hidden) * len(STAGE_EQUATIONS[scheme][1])
    if unknowns > MOST_UNKNOWNS:
        also = f" and {hidden} of their rates" if hidden else ""
        raise SpecError(
            f"a step of {scheme} has {unknowns} unknowns for {moving} states that move{also}; at most "
            f"{MOST_UNKNOWNS} are possible"
        )


def _implicitly(
    dynamics: DynamicsSpec,
    rows: Sequence[Expr],
    known: _Known,
    cost: Expr,
    dt: Expr,
) -> tuple[list[Expr], Substeps]:
    """The same of an implicit scheme: a symbol for each state that moves, and for each sum of costs."""
    states, sums, hidden = known.states, known.sums, known.changes
    graph, n = cost.graph, len(states)
    zero, h = graph.const(0.0), dt / float(dynamics.substeps)
    still = [row.is_zero and not zero_row for row, zero_row in zip(rows, dynamics.is_algebraic, strict=False)]
    moves = [i for i, discrete in enumerate(dynamics.is_discrete) if not discrete and not still[i]]
    moving = (*hidden, *(i for i in moves if i not in hidden))
    if not moving:
        raise SpecError(
            f"{dynamics.scheme} has nothing to integrate: all rates are zero; assign the next state to problem.dynamics"
        )
    matrix, share, final = STAGE_EQUATIONS[dynamics.scheme]
    _check_unknowns(dynamics.scheme, len(moving), len(hidden))
    moved = {i: graph.symbol(f"after.{states[i].value}") for i in moving}
    others = [rows[i] if dynamics.is_discrete[i] else state for i, state in enumerate(states)]
    following = [moved.get(i, others[i]) for i in range(n)]
    algebraic = tuple(dynamics.is_algebraic[i] and i not in hidden for i in moving)
    changes = (
        hidden[i] if i in hidden else rows[i] if zero_row else h * rows[i]
        for i, zero_row in zip(moving, algebraic, strict=True)
    )
    substeps = Substeps(
        count=dynamics.substeps,
        reach=(),
        share=share,
        moving=moving,
        changes=(*changes, *(rows[i] for i in hidden)),
        sums=sums,
        increments=tuple(h * rows[n + i] for i in range(len(sums))),
        cost=cost,
        others=tuple(zero if i in moved else others[i] for i in range(n)),
        implicit=Implicit(matrix, final, (*algebraic, *(True for _ in hidden)), dynamics.newton),
        hidden=tuple(hidden.values()),
    )
    return [*following, *(graph.symbol(f"after.{total.value}") for total in sums)], substeps


def _lower_rows(
    constraints: Sequence[Constraint],
    graph: Graph,
    table: Mapping[sp.Symbol, Expr],
    parameters: Sequence[Expr],
) -> Rows:
    def flat(tuples: Iterable[Sequence[sp.Expr]]) -> tuple[Expr, ...]:
        return tuple(lower([entry for entries in tuples for entry in entries], graph, table))

    return Rows(
        labels=tuple(label for c in constraints for label in c.labels),
        values=tuple(recognise(flat(c.rows for c in constraints), parameters)),
        lower=flat(c.lower for c in constraints),
        upper=flat(c.upper for c in constraints),
        linear=flat(c.soft for c in constraints),
        quadratic=flat(c.soft_quadratic for c in constraints),
    )


def _children(node: sp.Basic) -> tuple[sp.Basic, ...]:
    """Return the subexpressions to lower first: denominators come as their bases."""
    if isinstance(node, sp.Mul):
        return tuple(_below(factor) if _is_divisor(factor) else factor for factor in node.args)
    return arguments(node)


def _is_divisor(factor: sp.Expr) -> bool:
    return bool(isinstance(factor, sp.Pow) and factor.exp.is_number and factor.exp.is_negative)


def _below(divisor: sp.Pow) -> sp.Expr:
    """Return d of the factor 1/d, so that denominators are multiplied before they divide."""
    return sp.Pow(divisor.base, -divisor.exp)


def _lower_one(node: sp.Basic, graph: Graph, symbols: Mapping[sp.Symbol, Expr], args: Sequence[Expr]) -> Expr:
    if isinstance(node, sp.Symbol):
        return _lookup(node, symbols)
    if isinstance(node, sp.Number | sp.NumberSymbol):
        return graph.const(_number(node))
    if isinstance(node, BooleanTrue | BooleanFalse):
        return graph.const(float(bool(node)))
    meaning = MEANINGS.get(type(node))
    if meaning is None:
        raise UnsupportedExpressionError(f"{short_text(node)} cannot be lowered, {objection(node)}")
    _check_conditions(node, args)
    if isinstance(node, sp.Mul):
        result = _product(graph, node, args)
    elif isinstance(node, sp.Pow) and node.base is sp.S.Exp1:
        result = graph.exp(args[1])
    elif isinstance(node, Solution):
        n = len(split(args[1:])[1])
        result = graph.solve(args[1:-n], args[-n:])[int(node.args[0])]
    else:
        result = _as_node(graph, meaning(graph.apply, *args))
    if not result.is_const and args and all(arg.is_const for arg in args):
        raise UnsupportedExpressionError(f"{node} has no finite real value; use a real constant")
    return result


def _as_node(graph: Graph, value: Expr | float) -> Expr:
    return value if isinstance(value, Expr) else graph.const(value)


def _check_conditions(node: sp.Basic, args: Sequence[Expr]) -> None:
    if isinstance(node, sp.Piecewise):
        if node.args[-1].cond != sp.true:
            raise SpecError(f"{node} has no value outside its conditions; end it with a branch (value, True)")
        args = args[1::2]
    elif not isinstance(node, CONNECTIVES):
        return
    for arg in args:
        if not (arg.is_const or arg.is_boolean):
            raise SpecError(f"{arg} is a number where {node} needs a condition; compare it, as in {arg} > 0")


def _lookup(symbol: sp.Symbol, symbols: Mapping[sp.Symbol, Expr]) -> Expr:
    if symbol in symbols:
        return symbols[symbol]
    names = [known.name for known in symbols]
    if symbol.name in names:
        raise SpecError(
            f"symbol {symbol.name!r} is not the one that the problem declared: it has the same name but "
            f"other assumptions; use the symbol that the problem returned"
        )
    near = difflib.get_close_matches(symbol.name, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise SpecError(
        f"unknown symbol {symbol.name!r}{hint}; declare it as a state, control or parameter, "
        f"or put a number in its place"
    )


def _number(node: sp.Expr) -> float:
    try:
        value = float(node)
    except (TypeError, OverflowError):
        value = math.nan
    if math.isnan(value) or (math.isinf(value) and node.is_finite):
        raise UnsupportedExpressionError(f"the number {node} is not a real number in double precision")
    return value


def _product(graph: Graph, node: sp.Mul, args: Sequence[Expr]) -> Expr:
    """Coefficient * (numerator / denominator): the sign and the constants stay outside, 1/d is shared."""
    coefficient = graph.const(1.0)
    numerator: list[Expr] = []
    denominator: list[Expr] = []
    for factor, arg in zip(node.args, args, strict=True):
        if arg.is_const:
            coefficient = graph.apply("div" if _is_divisor(factor) else "mul", coefficient, arg)
        else:
            (denominator if _is_divisor(factor) else numerator).append(arg)
    product = reduce(mul, numerator) if numerator else graph.const(1.0)
    if denominator:
        product = graph.div(product, reduce(mul, denominator))
    return graph.mul(coefficient, product)
