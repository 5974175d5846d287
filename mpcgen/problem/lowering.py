"""From sympy to the graph: the front end of what is written in sympy.

The sympy expression is walked as a graph, so that what it shares stays shared; nothing is expanded.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sympy as sp
from sympy.logic.boolalg import BooleanFalse, BooleanTrue

from mpcgen.errors import SpecError, UnsupportedExpressionError
from mpcgen.ir.expr import Expr, Graph
from mpcgen.ir.model import Model, Rows
from mpcgen.problem.schemes import integrate
from mpcgen.problem.spec import Constraint, Spec

Handler = Callable[[Graph, sp.Basic, Sequence[Expr]], Expr]


def lower(expressions: Sequence[sp.Expr], graph: Graph, symbols: Mapping[sp.Symbol, Expr]) -> list[Expr]:
    """Return the sympy ``expressions`` as nodes of ``graph``, each sympy symbol standing for its node.

    Raises `SpecError` for a symbol that is not in ``symbols`` and `UnsupportedExpressionError` for what
    has no real value, no derivative or no counterpart in C.
    """
    lowered: dict[sp.Basic, Expr] = {}
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
    stage_cost, terminal_cost = lower([spec.stage_cost, spec.terminal_cost], graph, table)
    return Model(
        graph=graph,
        states=states,
        controls=controls,
        parameters=parameters,
        next_state=_lower_dynamics(spec, graph, table, states),
        stage_cost=stage_cost,
        terminal_cost=terminal_cost,
        lower=tuple(lower([control.lower for control in spec.controls], graph, table)),
        upper=tuple(lower([control.upper for control in spec.controls], graph, table)),
        spec=spec,
        mixed=_lower_rows(spec.group("mixed"), graph, table),
        state_rows=_lower_rows(spec.group("state"), graph, table),
        terminal=_lower_rows(spec.group("terminal"), graph, table),
    )


def _lower_rows(constraints: Sequence[Constraint], graph: Graph, table: Mapping[sp.Symbol, Expr]) -> Rows:
    def flat(tuples: Iterable[Sequence[sp.Expr]]) -> tuple[Expr, ...]:
        return tuple(lower([entry for entries in tuples for entry in entries], graph, table))

    return Rows(
        labels=tuple(label for c in constraints for label in c.labels),
        values=flat(c.rows for c in constraints),
        lower=flat(c.lower for c in constraints),
        upper=flat(c.upper for c in constraints),
        linear=flat(c.soft for c in constraints),
        quadratic=flat(c.soft_quadratic for c in constraints),
    )


def _lower_dynamics(
    spec: Spec, graph: Graph, table: Mapping[sp.Symbol, Expr], states: Sequence[Expr]
) -> tuple[Expr, ...]:
    dynamics = spec.dynamics
    rows = lower(dynamics.expressions, graph, table)
    if len(rows) != len(states):
        raise SpecError(f"{len(rows)} dynamics rows for {len(states)} states; give one row per state")
    if dynamics.scheme == "discrete":
        return tuple(rows)
    if dynamics.dt is None:
        raise SpecError(f"the integrator {dynamics.scheme} was given no dt; give the length of a stage")
    (dt,) = lower([dynamics.dt], graph, table)
    return tuple(integrate(dynamics.scheme, rows, states, dt, dynamics.substeps))


def _children(node: Any) -> tuple[sp.Basic, ...]:
    """Return the subexpressions to lower first: denominators come as their bases, pairs flattened."""
    if isinstance(node, sp.Piecewise):
        return tuple(part for pair in node.args for part in (pair.expr, pair.cond))
    if isinstance(node, sp.Mul):
        return tuple(_below(factor) if _is_divisor(factor) else factor for factor in node.args)
    return node.args if type(node) in _HANDLERS else ()


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
    handler = _HANDLERS.get(type(node))
    if handler is None:
        raise _unsupported(node)
    _check_conditions(node, args)
    result = handler(graph, node, args)
    if not result.is_const and args and all(arg.is_const for arg in args):
        raise UnsupportedExpressionError(f"{node} has no finite real value; use a real constant")
    return result


def _check_conditions(node: sp.Basic, args: Sequence[Expr]) -> None:
    if isinstance(node, sp.Piecewise):
        args = args[1::2]
    elif not isinstance(node, sp.And | sp.Or | sp.Not | sp.ITE):
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


_REMEDY = "write it with powers, exp, log, (hyperbolic) trigonometry, Abs, Min, Max, Piecewise"
_REMEDIES = {
    "sign": "it jumps at 0; use a smooth step such as tanh(k*x), or x*Abs(x) for x**2*sign(x)",
    "Heaviside": "it jumps at 0; use a smooth step such as (1 + tanh(k*x))/2",
    "floor": "its derivative is zero wherever it exists; remove the rounding",
    "ceiling": "its derivative is zero wherever it exists; remove the rounding",
    "frac": "it jumps at every integer; use sin and cos of the angle instead",
    "Mod": "it jumps at every multiple; use sin and cos of the angle instead",
    "DiracDelta": "it has no value at 0; use a narrow smooth bump such as exp(-(k*x)**2)",
    "ImaginaryUnit": "values must be real; separate the real and imaginary parts",
    "re": "values must be real; declare the symbols as real or remove re()",
    "im": "values must be real; remove im()",
    "conjugate": "values must be real; remove conjugate()",
    "arg": "values must be real; use atan2(y, x)",
    "Derivative": "evaluate it with .doit() first",
    "Integral": "evaluate it with .doit() first, or make it a state",
    "Sum": "evaluate it with .doit() first",
    "Product": "evaluate it with .doit() first",
    "MatrixElement": "use the matrix that problem.parameter() returns, not a MatrixSymbol",
    "ComplexInfinity": "the expression divides by zero",
}


def _unsupported(node: sp.Basic) -> UnsupportedExpressionError:
    name = type(node).__name__
    remedy = _REMEDIES.get(name, _REMEDY)
    text = str(node)
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    return UnsupportedExpressionError(f"{name} in {shown!r} is not supported: {remedy}")


def _add(graph: Graph, node: sp.Basic, args: Sequence[Expr]) -> Expr:
    return _fold("add", graph, args)


def _mul(graph: Graph, node: sp.Basic, args: Sequence[Expr]) -> Expr:
    """Coefficient * (numerator / denominator): the sign and the constants stay outside, 1/d is shared."""
    coefficient = graph.const(1.0)
    numerator: list[Expr] = []
    denominator: list[Expr] = []
    for factor, arg in zip(node.args, args, strict=True):
        if arg.is_const:
            coefficient = graph.apply("div" if _is_divisor(factor) else "mul", coefficient, arg)
        else:
            (denominator if _is_divisor(factor) else numerator).append(arg)
    product = _fold("mul", graph, numerator) if numerator else graph.const(1.0)
    if denominator:
        product = graph.div(product, _fold("mul", graph, denominator))
    return graph.mul(coefficient, product)


def _fold(op: str, graph: Graph, args: Sequence[Expr]) -> Expr:
    result = args[0]
    for arg in args[1:]:
        result = graph.apply(op, result, arg)
    return result


def _pow(graph: Graph, node: sp.Basic, args: Sequence[Expr]) -> Expr:
    if node.args[0] is sp.S.Exp1:
        return graph.exp(args[1])
    return graph.pow(*args)


def _piecewise(graph: Graph, node: sp.Basic, args: Sequence[Expr]) -> Expr:
    values, conditions = args[0::2], args[1::2]
    if node.args[-1].cond != sp.true:
        raise SpecError(f"{node} has no value outside its conditions; end it with a branch (value, True)")
    result = values[-1]
    for value, condition in zip(reversed(values[:-1]), reversed(conditions[:-1]), strict=True):
        result = graph.select(condition, value, result)
    return result


def _ite(graph: Graph, node: sp.Basic, args: Sequence[Expr]) -> Expr:
    condition, then, other = args
    otherwise = graph.logical_and(graph.logical_not(condition), other)
    return graph.logical_or(graph.logical_and(condition, then), otherwise)


def _nary(op: str) -> Handler:
    return lambda graph, node, args: _fold(op, graph, args)


def _direct(op: str) -> Handler:
    return lambda graph, node, args: graph.apply(op, *args)


def _of_reciprocal(op: str) -> Handler:
    return lambda graph, node, args: graph.apply(op, graph.div(1.0, args[0]))


def _reciprocal_of(op: str) -> Handler:
    return lambda graph, node, args: graph.div(1.0, graph.apply(op, args[0]))


_HANDLERS: dict[type, Handler] = {
    sp.Add: _add,
    sp.Mul: _mul,
    sp.Pow: _pow,
    sp.Piecewise: _piecewise,
    sp.ITE: _ite,
    sp.Min: _nary("min"),
    sp.Max: _nary("max"),
    sp.And: _nary("and"),
    sp.Or: _nary("or"),
    sp.Not: _direct("not"),
    sp.StrictLessThan: _direct("lt"),
    sp.LessThan: _direct("le"),
    sp.StrictGreaterThan: lambda graph, node, args: graph.lt(args[1], args[0]),
    sp.GreaterThan: lambda graph, node, args: graph.le(args[1], args[0]),
    sp.Equality: _direct("eq"),
    sp.Unequality: lambda graph, node, args: graph.logical_not(graph.eq(*args)),
    sp.UnevaluatedExpr: lambda graph, node, args: args[0],
    sp.Abs: _direct("abs"),
    sp.exp: _direct("exp"),
    sp.erfc: lambda graph, node, args: graph.sub(1.0, graph.erf(args[0])),
    sp.sec: _reciprocal_of("cos"),
    sp.csc: _reciprocal_of("sin"),
    sp.cot: _reciprocal_of("tan"),
    sp.sech: _reciprocal_of("cosh"),
    sp.csch: _reciprocal_of("sinh"),
    sp.coth: _reciprocal_of("tanh"),
    sp.asec: _of_reciprocal("acos"),
    sp.acsc: _of_reciprocal("asin"),
    sp.acot: _of_reciprocal("atan"),
    sp.asech: _of_reciprocal("acosh"),
    sp.acsch: _of_reciprocal("asinh"),
    sp.acoth: _of_reciprocal("atanh"),
}
_SAME_NAME = "log sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh erf"
_HANDLERS |= {getattr(sp, name): _direct(name) for name in _SAME_NAME.split()}
