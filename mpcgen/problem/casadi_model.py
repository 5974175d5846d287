"""Models from CasADi: a `casadi.Function` as dynamics, cost or constraint of a problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sympy as sp

from mpcgen.errors import SpecError
from mpcgen.problem.casadi_import import CasadiUnavailableError, expressions_of
from mpcgen.problem.imported import Call, Imported
from mpcgen.problem.integrators import dynamics_of
from mpcgen.problem.names import near_name
from mpcgen.problem.spec import DynamicsSpec
from mpcgen.problem.walks import symbols_in

if TYPE_CHECKING:
    from mpcgen.problem.problem import Problem

Place = int | str
"""An input or output of a CasADi function, by number or name."""


def casadi_model(
    problem: Problem,
    function: Any,
    x: Place = 0,
    u: Place | None = 1,
    parameters: Mapping[str, Place] | None = None,
    scheme: str = "discrete",
    dt: Any = None,
    substeps: int = 1,
    output: Place = 0,
) -> DynamicsSpec:
    """Dynamics from a CasADi function of SX expressions, or of MX expressions that expand to scalar operations.

    Args:
        problem: its states and controls are the function's, in order.
        function: a `casadi.Function`.
        x: the input that is the state (n), by number or name.
        u: the input that is the control (m); None for a function without.
        parameters: the other inputs by parameter: ``{"mass": 2}``. A parameter that the problem does not have yet is
            declared in the input's shape: a symbol, a vector or a matrix.
        scheme: "discrete" if the output is the next state; "rk4", "midpoint" or "euler" if it is dx/dt.
        dt: duration of a stage, for all but "discrete".
        substeps: as for `mpcgen.rk4`.
        output: the output (n), by number or name.

    Returns:
        A value to assign to ``problem.dynamics``.

    Raises:
        SpecError: inputs of other sizes or without a meaning, constants that are not finite.
        UnsupportedExpressionError: an operation or callee without a counterpart, by name.

    """
    rows = casadi_expressions(problem, function, x, u, parameters, output)
    return dynamics_of(problem, rows, scheme, dt, substeps, f"CasADi function {function.name()!r}")


def casadi_cost(
    problem: Problem,
    function: Any,
    x: Place = 0,
    u: Place | None = 1,
    parameters: Mapping[str, Place] | None = None,
    output: Place = 0,
) -> sp.Expr:
    """Return the one number that a CasADi function gives, for a cost; of a terminal cost ``u`` is None.

    Arguments and errors as for `casadi_model`.
    """
    rows = casadi_expressions(problem, function, x, u, parameters, output)
    if len(rows) != 1:
        raise SpecError(
            f"output {output!r} of CasADi function {function.name()!r} has {len(rows)} entries; a cost is one number"
        )
    return rows[0]


def casadi_expressions(
    problem: Problem,
    function: Any,
    x: Place = 0,
    u: Place | None = 1,
    parameters: Mapping[str, Place] | None = None,
    output: Place = 0,
) -> list[sp.Expr]:
    """Return an output's entries, column by column, as expressions: for a constraint, or to go on with in sympy.

    Arguments and errors as for `casadi_model`.
    """
    reader = _Inputs(problem, _checked(function))
    reader.assign(x, problem.state_symbols, "the states")
    if u is not None:
        reader.assign(u, problem.control_symbols, "the controls")
    for name, place in (parameters or {}).items():
        reader.assign_parameter(name, place)
    call = Call(function, reader.arguments())
    index = _position(place=output, names=function.name_out(), what=f"output of {function.name()!r}")
    entries = expressions_of(function, call.arguments, problem.imported_nodes)[index]
    rows, columns = function.sparsity_out(index).shape
    dense: list[sp.Expr] = [sp.S.Zero] * (rows * columns)
    for k, (row, column) in enumerate(zip(*function.sparsity_out(index).get_triplet(), strict=True)):
        plain = isinstance(entries[k], sp.Symbol) or not symbols_in(entries[k])
        dense[column * rows + row] = entries[k] if plain else Imported(entries[k], call, index, k)
    return dense


def _checked(function: Any) -> Any:
    try:
        import casadi
    except ImportError as error:
        raise CasadiUnavailableError(
            f"a CasADi model needs CasADi and it could not be imported ({error}); "
            "install it with: pip install 'mpcgen[baseline]'"
        ) from error
    if not isinstance(function, casadi.Function):
        raise SpecError(
            f"a CasADi model was given {type(function).__name__}; expected a casadi.Function, such as "
            "casadi.Function('f', [x, u], [x_next])"
        )
    return function


def _position(place: Place, names: Sequence[str], what: str) -> int:
    if isinstance(place, str):
        if place not in names:
            raise SpecError(f"there is no {what} called {place!r}: it has {', '.join(names)}")
        return list(names).index(place)
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(names):
        raise SpecError(f"there is no {what} at {place!r}: it has {len(names)}, {', '.join(names)}")
    return place


class _Inputs:
    """What stands for each input of a function."""

    def __init__(self, problem: Problem, function: Any) -> None:
        self.problem = problem
        self.function = function
        self.what = f"CasADi function {function.name()!r}"
        self.given: dict[int, tuple[str, tuple[sp.Expr, ...]]] = {}

    def _input(self, place: Place, who: str) -> int:
        index = _position(place, self.function.name_in(), f"input of {self.function.name()!r}")
        if index in self.given:
            raise SpecError(f"input {place!r} of {self.what} is {self.given[index][0]} and {who}; choose one")
        return index

    def assign(self, place: Place, symbols: Sequence[sp.Symbol], who: str) -> None:
        """Take the symbols for the entries of a vector."""
        index = self._input(place, who)
        sparsity = self.function.sparsity_in(index)
        rows, columns = sparsity.shape
        if 1 not in (rows, columns) or rows * columns != len(symbols):
            names = ", ".join(symbol.name for symbol in symbols)
            raise SpecError(
                f"input {place!r} of {self.what} has shape ({rows}, {columns}); expected a vector of "
                f"{len(symbols)}, for {who} {names}"
            )
        self._give(index, who, [[symbol] for symbol in symbols] if columns == 1 else [list(symbols)])

    def assign_parameter(self, name: str, place: Place) -> None:
        """Take a parameter, declared where the problem lacks it, for an input."""
        index = self._input(place, f"the parameter {name!r}")
        rows, columns = self.function.sparsity_in(index).shape
        if 0 in (rows, columns):
            raise SpecError(f"input {place!r} of {self.what} is empty; it cannot be the parameter {name!r}")
        shape = () if rows == columns == 1 else (rows,) if columns == 1 else (rows, columns)
        known = self.problem.find_parameter(name)
        if known is None:
            self.problem.parameter(name, shape=shape)
            known = self.problem.find_parameter(name)
        assert known is not None
        if known.shape not in (shape, (rows, columns)):
            raise SpecError(
                f"parameter {name!r} has shape {known.shape}; input {place!r} of {self.what} has {shape}"
            )
        entries = iter(known.symbols)
        self._give(
            index, f"the parameter {name!r}", [[next(entries) for _ in range(columns)] for _ in range(rows)]
        )

    def _give(self, index: int, who: str, entries: Sequence[Sequence[sp.Expr]]) -> None:
        """Keep a matrix's entries where the function has nonzeros: column by column."""
        places = zip(*self.function.sparsity_in(index).get_triplet(), strict=True)
        self.given[index] = who, tuple(entries[row][column] for row, column in places)

    def arguments(self) -> tuple[tuple[sp.Expr, ...], ...]:
        """Per input, the expressions of its nonzeros; SpecError for an input without a meaning."""
        names = self.function.name_in()
        left = [i for i in range(len(names)) if i not in self.given and self.function.nnz_in(i) > 0]
        if left:
            listed = ", ".join(f"{i} ({names[i]!r})" for i in left)
            raise SpecError(
                f"{self.what} has inputs that nothing is given for: {listed}; name them, as in "
                f"parameters={{{names[left[0]]!r}: {left[0]}}}{near_name(names[left[0]], self.problem.state_names)}"
            )
        return tuple(self.given[i][1] if i in self.given else () for i in range(len(names)))
