"""CasADi's scalar instructions as sympy expressions.

An SX function is a list of scalar instructions on a work vector; an MX function has to expand to one. Each instruction
becomes one sympy node that nothing evaluates, so that the expression shares what the instructions share. Inputs and
outputs are counted by nonzeros, column-major, as CasADi does; a structural zero of an output is never assigned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy as sp
from sympy.codegen import cfunctions
from sympy.logic.boolalg import Boolean

from mpcgen.errors import MpcgenError, UnsupportedExpressionError
from mpcgen.problem.nodes import Known, as_written, constant, extreme


class CasadiUnavailableError(MpcgenError, ImportError):
    """CasADi, whose functions are to be read, is not installed."""


_add, _mul, _pow = as_written(sp.Add), as_written(sp.Mul), as_written(sp.Pow)

NUMBERS: dict[str, Callable[..., sp.Expr]] = {
    "OP_ASSIGN": lambda a: a,
    "OP_LIFT": lambda a, guess: a,
    "OP_ADD": _add,
    "OP_SUB": lambda a, b: _add(a, _mul(sp.S.NegativeOne, b)),
    "OP_MUL": _mul,
    "OP_DIV": lambda a, b: _mul(a, _pow(b, sp.S.NegativeOne)),
    "OP_NEG": lambda a: _mul(sp.S.NegativeOne, a),
    "OP_INV": lambda a: _pow(a, sp.S.NegativeOne),
    "OP_SQ": lambda a: _pow(a, sp.S(2)),
    "OP_TWICE": lambda a: _mul(sp.S(2), a),
    "OP_POW": _pow,
    "OP_CONSTPOW": _pow,
    "OP_SQRT": lambda a: _pow(a, sp.S.Half),
    "OP_FABS": as_written(sp.Abs),
    "OP_FMIN": extreme(sp.Min),
    "OP_FMAX": extreme(sp.Max),
    "OP_LOG1P": as_written(cfunctions.log1p),
    "OP_EXPM1": as_written(cfunctions.expm1),
    "OP_HYPOT": as_written(cfunctions.hypot),
}
"""Instructions from numbers to a number, as sympy expressions."""
_SAME_NAME = "exp log sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh erf sign"
NUMBERS |= {f"OP_{name.upper()}": as_written(getattr(sp, name)) for name in _SAME_NAME.split()}

COMPARISONS: dict[str, Callable[..., Boolean]] = {"OP_LT": as_written(sp.Lt), "OP_LE": as_written(sp.Le)}
"""Instructions from numbers to a truth value."""

CONNECTIVES: dict[str, Callable[..., Boolean]] = {
    "OP_NOT": as_written(sp.Not),
    "OP_AND": lambda a, b: sp.ITE(a, b, sp.false, evaluate=False),
    "OP_OR": lambda a, b: sp.ITE(a, sp.true, b, evaluate=False),
}
"""Instructions from truth values to a truth value."""

REFUSED: dict[str, str] = {
    "OP_FLOOR": "floor jumps; smooth it, for example with tanh(k*x)",
    "OP_CEIL": "ceil jumps; smooth it, for example with tanh(k*x)",
    "OP_FMOD": "fmod jumps; an angle is better kept as its sine and cosine",
    "OP_REMAINDER": "remainder jumps; an angle is better kept as its sine and cosine",
    "OP_COPYSIGN": "copysign jumps; write it with fabs and if_else",
    "OP_EQ": "an equality holds at single points only, where its branch's derivatives are wrong; compare with < or <=",
    "OP_NE": "an inequality of this kind fails at single points only, where its branch's derivatives are wrong; "
    "compare with < or <=",
    "OP_ERFINV": "the inverse error function has no counterpart in C",
    "OP_PRINTME": "a compiled solver does not print; leave printme out",
    "OP_PARAMETER": "a free symbol; make it an input of the function",
    "OP_CALL": "a call that is no list of scalar operations; write the model without it",
}
"""Instructions without a counterpart, and what to say of each."""


def scalar_function(function: Any) -> Any:
    """Return a CasADi function as an SX function; UnsupportedExpressionError where it does not expand."""
    name, kind = function.name(), function.class_name()
    if function.has_free():
        free = ", ".join(function.get_free())
        raise UnsupportedExpressionError(
            f"CasADi function {name!r} has free symbols, {free}: make them inputs of the function"
        )
    if kind == "SXFunction":
        return function
    if kind != "MXFunction":
        raise UnsupportedExpressionError(
            f"CasADi function {name!r} is of the kind {kind}; expected one made of SX or MX expressions"
        )
    try:
        return function.expand()
    except RuntimeError as error:
        said = str(error).strip().splitlines()[-1].rsplit(": ", 1)[-1]
        raise UnsupportedExpressionError(
            f"CasADi function {name!r}, of MX expressions, has no expansion to scalar operations ({said}); it reads "
            f"{', '.join(_matrix_operations(function))}: write it with SX, or with a linear solver that expands, "
            "solve(A, b, 'symbolicqr')"
        ) from None


def _matrix_operations(function: Any) -> list[str]:
    """Names of what may keep an MX function from expanding: operations beyond the scalar ones, and callees."""
    names = _names_of_codes()
    known = {*NUMBERS, *COMPARISONS, *CONNECTIVES, "OP_INPUT", "OP_OUTPUT", "OP_CONST", "OP_IF_ELSE_ZERO"}
    found = (names[function.instruction_id(k)] for k in range(function.n_instructions()))
    callees = [f"{callee.name()} ({callee.class_name()})" for callee in function.find_functions(0)]
    return [*dict.fromkeys(code for code in found if code not in known), *callees]


def _names_of_codes() -> dict[int, str]:
    import casadi

    return {getattr(casadi, name): name for name in dir(casadi) if name.startswith("OP_")}


def expressions_of(
    function: Any, arguments: Sequence[Sequence[sp.Expr]], known: Known | None = None
) -> list[list[sp.Expr]]:
    """Return per output the expressions of its nonzeros, from those of the inputs' nonzeros, both column-major.

    known: what instructions have become so far, for several functions whose expressions meet: equal nodes have to be
    one object, or comparing them would take ages.

    Raises UnsupportedExpressionError for an instruction without a counterpart, by its name, and SpecError for a
    constant that is not a finite number.
    """
    return _Reader(scalar_function(function), arguments, {} if known is None else known).run()


class _Reader:
    """Runs the instructions of an SX function on expressions."""

    def __init__(self, function: Any, arguments: Sequence[Sequence[sp.Expr]], known: Known) -> None:
        self.function = function
        self.arguments = arguments
        self.names = _names_of_codes()
        self.known = known

    def run(self) -> list[list[sp.Expr]]:
        f = self.function
        outputs: list[list[sp.Expr]] = [[sp.S.Zero] * f.nnz_out(i) for i in range(f.n_out())]
        work: dict[int, sp.Basic] = {}
        for k in range(f.n_instructions()):
            code = self.names[f.instruction_id(k)]
            reads, writes = f.instruction_input(k), f.instruction_output(k)
            if code == "OP_OUTPUT":
                outputs[writes[0]][writes[1]] = self._number(work[reads[0]])
            elif code == "OP_INPUT":
                work[writes[0]] = self.arguments[reads[0]][reads[1]]
            elif code == "OP_CONST":
                work[writes[0]] = self._constant(f.instruction_constant(k))
            else:
                work[writes[0]] = self._applied(code, [work[i] for i in reads])
        return outputs

    def _constant(self, value: float) -> sp.Expr:
        return constant(value, f"CasADi function {self.function.name()!r}")

    def _applied(self, code: str, values: Sequence[sp.Basic]) -> sp.Basic:
        """The value of an instruction; equal ones are one object, so that comparing expressions stays quick."""
        key = (code, *values)
        if key not in self.known:
            self.known[key] = self._built(code, values)
        return self.known[key]

    def _built(self, code: str, values: Sequence[sp.Basic]) -> sp.Basic:
        if code in NUMBERS:
            return NUMBERS[code](*map(self._number, values))
        if code in COMPARISONS:
            return COMPARISONS[code](*map(self._number, values))
        if code in CONNECTIVES:
            return CONNECTIVES[code](*(self._condition(value, code) for value in values))
        if code == "OP_IF_ELSE_ZERO":
            condition, value = self._condition(values[0], code), self._number(values[1])
            return sp.Piecewise((value, condition), (sp.S.Zero, True), evaluate=False)
        raise self._refusal(code)

    def _refusal(self, code: str) -> UnsupportedExpressionError:
        said = REFUSED.get(code, "which has no counterpart in C")
        if code == "OP_CALL":
            callees = [f"{f.name()} ({f.class_name()})" for f in self.function.find_functions(0)]
            code = f"OP_CALL of {', '.join(callees)}"
        return UnsupportedExpressionError(f"CasADi function {self.function.name()!r} uses {code}: {said}")

    def _number(self, value: sp.Basic) -> sp.Expr:
        """A truth value counts as 1 or 0."""
        if not isinstance(value, Boolean) or isinstance(value, sp.Symbol):
            return value  # type: ignore[return-value]
        key = ("number", value)
        if key not in self.known:
            self.known[key] = sp.Piecewise((sp.S.One, value), (sp.S.Zero, True), evaluate=False)
        return self.known[key]  # type: ignore[return-value]

    def _condition(self, value: sp.Basic, code: str) -> Boolean:
        if isinstance(value, Boolean) and not isinstance(value, sp.Symbol):
            return value
        if isinstance(value, sp.Number):
            return sp.true if value != 0 else sp.false
        raise UnsupportedExpressionError(
            f"CasADi function {self.function.name()!r} uses a number as a condition, in {code}, where it stands for "
            "'is not 0': compare it, as in flag > 0.5"
        )
