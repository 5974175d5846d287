"""Models from CasADi: a `casadi.Function` as dynamics, cost or constraint of a problem."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sympy as sp

from mpcgen.errors import SpecError, pip_install
from mpcgen.problem.casadi_import import CasadiUnavailableError, expressions_of
from mpcgen.problem.imported import Call, Imported
from mpcgen.problem.integrators import discrete_rows, dynamics_of
from mpcgen.problem.names import check_parameter_name, near_name
from mpcgen.problem.parameters import parameter_spec
from mpcgen.problem.spec import DynamicsSpec, ParameterSpec
from mpcgen.problem.values import as_mapping
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
    discrete: Mapping[Any, Any] | None = None,
) -> DynamicsSpec:
    """Dynamics from a CasADi function of SX expressions, or of MX expressions that expand to scalar operations.

    Args:
        problem: its states and controls are the function's, in order.
        function: a `casadi.Function`.
        x: the input that is the state (n), by number or name.
        u: the input that is the control (m); None for a function without.
        parameters: the other inputs by parameter: ``{"mass": 2}``. A parameter that the problem does not have yet is
            declared in the input's shape: a symbol, a vector or a matrix.
        scheme: "discrete" if the output is the next state; "rk4" or another of `mpcgen.mechanics` if it is dx/dt.
        dt: duration of a stage, for all but "discrete".
        substeps: as for `mpcgen.rk4`.
        output: the output (n), by number or name.
        discrete: the next value of states that the output has no rows for, ``{u_last: u}``. The state input may have
            them too, or leave them out.

    Returns:
        A value to assign to ``problem.dynamics``.

    Raises:
        SpecError: inputs of other sizes or without a meaning, constants that are not finite.
        UnsupportedExpressionError: an operation or callee without a counterpart, by name.

    """
    reader = _Inputs(problem, _checked(function))
    held = discrete_rows(problem, discrete, f"discrete= of {reader.what}")
    rows = reader.rows(x, u, parameters, output, [s for s in problem.state_symbols if s not in held])
    what = f"output {output!r} of {reader.what}"
    dynamics = dynamics_of(problem, rows, scheme, dt, substeps, what, held)
    reader.declare()
    return dynamics


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
    reader = _Inputs(problem, _checked(function))
    rows = reader.rows(x, u, parameters, output)
    if len(rows) != 1:
        raise SpecError(f"output {output!r} of {reader.what} has {len(rows)} entries; a cost is one number")
    reader.declare()
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
    rows = reader.rows(x, u, parameters, output)
    reader.declare()
    return rows


def _checked(function: Any) -> Any:
    try:
        import casadi
    except ImportError as error:
        raise CasadiUnavailableError(
            f"a CasADi model needs CasADi and it could not be imported ({error}); "
            f"install it with: {pip_install('baseline')}"
        ) from error
    if not isinstance(function, casadi.Function):
        raise SpecError(
            f"a CasADi model was given {type(function).__name__}; expected a casadi.Function, such as "
            "casadi.Function('f', [x, u], [x_next])"
        )
    return function


def _without_controls(*who: str) -> str:
    return "; u=None is for a function without controls" if "the controls" in who else ""


def _position(place: Place, names: Sequence[str], what: str, hint: str = "") -> int:
    """The number of an input or output. ``hint``: what else there is to do, for a message."""
    if isinstance(place, str):
        if place not in names:
            raise SpecError(f"there is no {what} called {place!r}: it has {', '.join(names)}{hint}")
        return list(names).index(place)
    try:
        index = -1 if isinstance(place, bool) else operator.index(place)
    except TypeError:
        index = -1
    if not 0 <= index < len(names):
        raise SpecError(f"there is no {what} at {place!r}: it has {len(names)}, {', '.join(names)}{hint}")
    return index


class _Inputs:
    """What stands for each input of a function."""

    def __init__(self, problem: Problem, function: Any) -> None:
        self.problem = problem
        self.function = function
        self.what = f"CasADi function {function.name()!r}"
        self.given: dict[int, tuple[str, tuple[sp.Expr, ...]]] = {}
        self.added: list[ParameterSpec] = []

    def rows(
        self,
        x: Place,
        u: Place | None,
        parameters: Mapping[str, Place] | None,
        output: Place,
        moving: Sequence[sp.Symbol] | None = None,
    ) -> list[sp.Expr]:
        """The entries of an output, column by column. ``moving``: states that may be the only ones of the input."""
        function, states = self.function, self.problem.state_symbols
        alone = moving is not None and self._count(x) == len(moving)
        self.assign(x, moving if alone and moving is not None else states, "the states")
        if u is not None:
            self.assign(u, self.problem.control_symbols, "the controls")
        if parameters is not None:
            as_mapping(parameters, f"parameters= of {self.what}", '{"mass": 2}, the input by parameter')
            for name, place in parameters.items():
                self.assign_parameter(name, place)
        call = Call(function, self.arguments())
        index = _position(place=output, names=function.name_out(), what=f"output of {function.name()!r}")
        entries = expressions_of(function, call.arguments, self.problem.imported_nodes)[index]
        rows, columns = function.sparsity_out(index).shape
        dense: list[sp.Expr] = [sp.S.Zero] * (rows * columns)
        for k, (row, column) in enumerate(zip(*function.sparsity_out(index).get_triplet(), strict=True)):
            plain = isinstance(entries[k], sp.Symbol) or not symbols_in(entries[k])
            dense[column * rows + row] = entries[k] if plain else Imported(entries[k], call, index, k)
        return dense

    def declare(self) -> None:
        """Give the problem the parameters that it lacks, last: what failed before has changed nothing."""
        self.problem.add_parameters(self.added)

    def _count(self, place: Place) -> int:
        index = _position(place, self.function.name_in(), f"input of {self.function.name()!r}")
        return int(self.function.numel_in(index))

    def _input(self, place: Place, who: str) -> int:
        inputs, what = self.function.name_in(), f"input of {self.function.name()!r}"
        index = _position(place, inputs, what, _without_controls(who))
        if index in self.given:
            other = self.given[index][0]
            raise SpecError(
                f"input {place!r} of {self.what} is {other} and {who}; choose one{_without_controls(other, who)}"
            )
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
                f"{len(symbols)}, for {who} {names}{_without_controls(who)}"
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
            check_parameter_name(name)
            known = parameter_spec(name, shape)
            self.added.append(known)
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
