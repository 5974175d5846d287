"""Whether the fields of a specification are what their types say, and its names fit to stand in generated text.

`Problem` makes no others, but a `Spec` may be made by hand, and its names and defaults become Python and C.
"""

import math
from operator import and_
from typing import TYPE_CHECKING, Any

import sympy as sp

from mpcgen.errors import SpecError
from mpcgen.problem.names import NameTable, check_identifier, check_parameter_name, check_problem_name
from mpcgen.problem.values import as_integer

if TYPE_CHECKING:
    from mpcgen.problem.spec import Constraint, ControlSpec, DynamicsSpec, ParameterSpec, Spec


def check_structure(spec: "Spec") -> None:
    """Raise SpecError for a field of another type or size, and for a name that is no identifier or used twice."""
    check_problem_name(spec.name)
    as_integer(spec.horizon, f"the horizon of problem {spec.name!r}", 1)
    table = NameTable()
    for field in ("states", "controls", "parameters"):
        _expect(isinstance(getattr(spec, field), tuple), field, getattr(spec, field), "a tuple")
    for state in spec.states:
        table.claim([(_symbol_name(state, "state"), "a state")])
    for control in spec.controls:
        _check_control(control)
        table.claim([(control.symbol.name, "a control")])
    for parameter in spec.parameters:
        _check_parameter(parameter)
        entries = {symbol.name for symbol in parameter.symbols} - {parameter.name}
        table.claim([(parameter.name, "a parameter")])
        table.claim([(name, f"an entry of parameter {parameter.name!r}") for name in sorted(entries)])
    _check_dynamics(spec.dynamics)
    _check_expression(spec.stage_cost, "the stage cost")
    _check_expression(spec.terminal_cost, "the terminal cost")
    _expect(isinstance(spec.constraints, tuple), "constraints", spec.constraints, "a tuple")
    for constraint in spec.constraints:
        _check_constraint(constraint)
        if constraint.rows != (sp.Symbol(constraint.name, real=True),):  # the bounds of a state have its name
            table.claim([(constraint.name, "a constraint")])


def _expect(holds: bool, what: str, value: Any, expected: str) -> None:
    if not holds:
        raise SpecError(f"{what} of the specification is {value!r}; expected {expected}")


def _symbol_name(symbol: Any, role: str) -> str:
    _expect(isinstance(symbol, sp.Symbol), f"a {role}", symbol, "a sympy Symbol")
    return check_identifier(symbol.name, role)


def _check_expression(value: Any, what: str) -> None:
    _expect(isinstance(value, sp.Expr), what, value, "a sympy expression")


def _check_control(control: "ControlSpec") -> None:
    name = _symbol_name(control.symbol, "control")
    _check_expression(control.lower, f"the lower bound of {name!r}")
    _check_expression(control.upper, f"the upper bound of {name!r}")


def _check_parameter(parameter: "ParameterSpec") -> None:
    name = check_parameter_name(parameter.name)
    what = f"parameter {name!r}"
    shape, symbols, default = parameter.shape, parameter.symbols, parameter.default
    sizes = isinstance(shape, tuple) and all(type(size) is int and size >= 1 for size in shape)
    _expect(
        sizes and len(shape) <= 3,
        f"the shape of {what}",
        shape,
        "(), (k,), (rows, columns) or (k, rows, columns)",
    )
    count = math.prod(shape)
    whole = isinstance(symbols, tuple) and len(symbols) == len(set(symbols)) == count
    _expect(whole, f"symbols of {what}", symbols, f"a tuple of {count} different symbols, one for each entry")
    for symbol in symbols:
        _symbol_name(symbol, "parameter")
    numbers = isinstance(default, tuple) and all(
        type(value) is float and not math.isnan(value) for value in default
    )
    _expect(
        default is None or (numbers and len(default) == count),
        f"the default of {what}",
        default,
        f"None or a tuple of {count} floats",
    )
    for flag in ("per_stage", "in_terminal", "only_bounds"):
        _expect(
            isinstance(getattr(parameter, flag), bool),
            f"{flag} of {what}",
            getattr(parameter, flag),
            "True or False",
        )


def _check_constraint(constraint: "Constraint") -> None:
    name = check_identifier(constraint.name, "constraint")
    count = len(constraint.rows)
    for field in ("rows", "lower", "upper", "soft", "soft_quadratic"):
        entries, what = getattr(constraint, field), f"{field} of constraint {name!r}"
        _expect(isinstance(entries, tuple) and len(entries) == count, what, entries, f"a tuple of {count}")
        for entry in entries:
            _check_expression(entry, what)
    for flag in ("terminal", "vector", "reads_control"):
        value = getattr(constraint, flag)
        _expect(isinstance(value, bool), f"{flag} of constraint {name!r}", value, "True or False")


def _check_dynamics(dynamics: "DynamicsSpec") -> None:
    from mpcgen.problem.spec import IMPLICIT, SCHEMES

    rows = dynamics.expressions
    _expect(isinstance(rows, tuple), "the dynamics", rows, "a tuple of expressions")
    for index, row in enumerate(rows):
        _check_expression(row, f"dynamics row {index}")
    _expect(dynamics.scheme in SCHEMES, "the scheme", dynamics.scheme, f"one of {', '.join(SCHEMES)}")
    if dynamics.scheme == "discrete":
        _expect(dynamics.dt is None, "dt of discrete dynamics", dynamics.dt, "None")
    else:
        _check_expression(dynamics.dt, f"dt of {dynamics.scheme}")
    as_integer(dynamics.substeps, f"substeps of {dynamics.scheme}", 1)
    as_integer(dynamics.newton, f"newton of {dynamics.scheme}", 1)
    for field, having, kind in (
        ("discrete", SCHEMES[1:], "a scheme that integrates"),
        ("algebraic", IMPLICIT, "an implicit scheme"),
    ):
        flags = getattr(dynamics, field)
        _expect(
            isinstance(flags, tuple)
            and all(isinstance(flag, bool) for flag in flags)
            and (not flags or (len(flags) == len(rows) and dynamics.scheme in having)),
            f"{field} of the dynamics",
            flags,
            f"() or, for {kind}, a tuple of a bool per row",
        )
    both = any(map(and_, dynamics.is_discrete, dynamics.algebraic))
    _expect(not both, "algebraic of the dynamics", dynamics.algebraic, "no row that is discrete, too")
