"""Equations of motion from sympy.physics.mechanics: a Kane or Lagrange object becomes dynamics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sympy as sp
from sympy.core.function import AppliedUndef

from mpcgen.errors import SpecError
from mpcgen.problem.integrators import discrete_rows, dynamics_of
from mpcgen.problem.solve import solve, solve_symmetric
from mpcgen.problem.spec import SCHEMES, DynamicsSpec
from mpcgen.problem.values import as_expression, as_mapping
from mpcgen.problem.walks import symbols_in

if TYPE_CHECKING:
    from mpcgen.problem.problem import Problem


def mechanics(
    problem: Problem,
    method: Any,
    q: Mapping[Any, Any],
    v: Mapping[Any, Any],
    inputs: Mapping[Any, Any] | None = None,
    constants: Mapping[Any, Any] | None = None,
    rates: Mapping[Any, Any] | None = None,
    scheme: str = "rk4",
    dt: Any = None,
    substeps: int = 1,
    discrete: Mapping[Any, Any] | None = None,
) -> DynamicsSpec:
    """Dynamics from a `KanesMethod` or `LagrangesMethod` of sympy.physics.mechanics, whose equations have been formed.

    The equations are formed anew from mass matrix, Jacobian of the constraints and forces: with constraints J q'' = g
    of a Lagrange object, M q'' = f - J'm and (J M^-1 J') m = J M^-1 f - g. M has to be positive definite and J of full
    rank. A trajectory keeps what x_0 obeys up to the error of integration.

    Args:
        problem: whose states are the coordinates and speeds, each once, in any order.
        method: the object.
        q: states by coordinate, ``{q1: angle}``: all that the object has.
        v: states by speed: ``{q1.diff(t): rate}`` of a Lagrange object, ``{u1: rate}`` of a Kane object.
        inputs: for other functions of time, such as forces: ``{F: force}``; values are expressions of the problem.
        constants: expressions or numbers by symbol, ``{m: mass, g: 9.81}``. A symbol that is not named is the parameter
            of its name. States, controls and parameters of the problem may be in the equations as they are.
        rates: dx/dt of states that are not the mechanism's, such as a motor's current.
        scheme: "rk4", "midpoint", "euler", "implicit_midpoint", "radau3" or "radau5".
        dt: duration of a stage.
        substeps: as for `mpcgen.rk4`.
        discrete: the next value of states that are neither the mechanism's nor have rates, ``{torque_last: torque}``.

    Returns:
        A value to assign to ``problem.dynamics``.

    Raises:
        SpecError: anything in the equations that nothing is given for, states that are left over, another object.

    """
    if scheme not in SCHEMES[1:]:
        raise SpecError(
            f"the scheme of mechanics is {scheme!r}; expected one of {', '.join(SCHEMES[1:])}: a mechanism moves in "
            "continuous time"
        )
    mechanism = _mechanism(method)
    words = _Words(problem, mechanism, *_mappings(q=q, v=v, inputs=inputs, constants=constants))
    held = discrete_rows(problem, discrete, "discrete= of mechanics")
    rows = dict(zip((q[key] for key in mechanism.coordinates), words.read(mechanism.velocities), strict=True))
    rows |= dict(zip((v[key] for key in mechanism.speeds), words.accelerations(), strict=True))
    for state, rate in _mappings(rates=rates)[0].items():
        if state in rows:
            raise SpecError(f"rates= has state {state}, which is one of the mechanism's")
        if isinstance(state, str) or state not in problem.state_symbols:
            raise SpecError(f"rates= has {state!r}; expected states of the problem, the symbols themselves")
        rows[state] = as_expression(rate, f"the rate of {state}")
    twice = [state.name for state in held if state in rows]
    if twice:
        raise SpecError(
            f"discrete= of mechanics has {', '.join(twice)}, whose rates are given already; choose one"
        )
    left = [state.name for state in problem.state_symbols if state not in rows and state not in held]
    if left:
        raise SpecError(
            f"nothing says how {', '.join(left)} change: map them in q= or v=, or give rates={{{left[0]}: ...}} or "
            f"discrete={{{left[0]}: ...}}"
        )
    moving = [rows[state] for state in problem.state_symbols if state not in held]
    return dynamics_of(problem, moving, scheme, dt, substeps, "mechanics", held)


_EXAMPLES = {
    "q": "{q1: angle}, a state by coordinate",
    "v": "{q1.diff(): rate}, a state by speed",
    "inputs": "{F: force}, an expression by function of time",
    "constants": "{g: 9.81}, an expression by symbol",
    "rates": "{current: ...}, dx/dt by state",
}
_OPTIONAL = ("inputs", "constants", "rates")


def _mappings(**given: Any) -> list[Mapping[Any, Any]]:
    """What users give by name, checked to be mappings; what may be left out is {} where it is None."""
    return [
        {}
        if value is None and name in _OPTIONAL
        else as_mapping(value, f"{name}= of mechanics", _EXAMPLES[name])
        for name, value in given.items()
    ]


class _Mechanism:
    """M a = f - J'm, J a = g, for the rates a of the speeds; coordinates change by ``velocities``."""

    def __init__(
        self,
        coordinates: Any,
        speeds: Any,
        velocities: Any,
        mass: sp.Matrix,
        force: sp.Matrix,
        constraints: tuple[sp.Matrix, sp.Matrix] | None = None,
    ) -> None:
        self.coordinates = list(coordinates)
        self.speeds = list(speeds)
        self.velocities = list(velocities)
        self.mass = mass
        self.force = force
        self.constraints = constraints

    @property
    def symbols(self) -> set[sp.Symbol]:
        """Constants of the equations of motion."""
        parts = (self.mass, self.force, self.velocities, *(self.constraints or ()))
        return set(symbols_in(*(entry for part in parts for entry in part)))


def _mechanism(method: Any) -> _Mechanism:
    from sympy.physics.mechanics import KanesMethod, LagrangesMethod

    if isinstance(method, LagrangesMethod):
        return _of_lagrange(method)
    if isinstance(method, KanesMethod):
        return _of_kane(method)
    raise SpecError(
        f"mechanics was given {type(method).__name__}; expected a KanesMethod or LagrangesMethod of "
        "sympy.physics.mechanics"
    )


def _of_lagrange(method: Any) -> _Mechanism:
    if method.eom is None:
        raise SpecError("the LagrangesMethod has no equations yet: call its form_lagranges_equations() first")
    n = len(method.q)
    speeds = [coordinate.diff() for coordinate in method.q]
    mass, force = method.mass_matrix[:, :n], method.forcing
    count = method.mass_matrix.cols - n
    constraints = None
    if count:
        # mass_matrix_full has opposite signs above and below its diagonal; these rows are J q'' = g.
        constraints = method.mass_matrix_full[-count:, n : 2 * n], method.forcing_full[-count:, :]
    return _Mechanism(method.q, speeds, speeds, mass, force, constraints)


def _of_kane(method: Any) -> _Mechanism:
    try:
        mass, force = method.mass_matrix, method.forcing
    except (ValueError, AttributeError):
        raise SpecError(
            "the KanesMethod has no equations yet: call its kanes_equations(bodies, loads) first"
        ) from None
    if len(method._udep) > 0:
        raise SpecError(
            "the KanesMethod has dependent speeds; choose as many independent ones as it has degrees of freedom, or "
            "use a LagrangesMethod with hol_coneqs or nonhol_coneqs"
        )
    by_speeds = method.kindiffdict()
    return _Mechanism(method.q, method.u, [by_speeds[c.diff()] for c in method.q], mass, force)


class _Words:
    """What the problem calls the things in a mechanism's equations."""

    def __init__(
        self,
        problem: Problem,
        mechanism: _Mechanism,
        q: Mapping[Any, Any],
        v: Mapping[Any, Any],
        inputs: Mapping[Any, Any],
        constants: Mapping[Any, Any],
    ) -> None:
        self.problem = problem
        self.mechanism = mechanism
        from sympy.physics.vector import dynamicsymbols

        self.time = dynamicsymbols._t
        self.own = {
            *problem.state_symbols,
            *problem.control_symbols,
            *(symbol for parameter in problem.parameter_specs for symbol in parameter.symbols),
        }
        for name, given, wanted in (("q", q, mechanism.coordinates), ("v", v, mechanism.speeds)):
            _check_states(problem, name, given, wanted)
        _check_distinct([*q.values(), *v.values()])
        self.rule: dict[sp.Basic, sp.Expr] = {}
        for name, part in (("q", q), ("v", v), ("inputs", inputs), ("constants", constants)):
            for key, value in part.items():
                place = self._place(name, key)
                if place in self.rule:
                    raise SpecError(
                        f"{name}= has {key}, and another of q=, v=, inputs=, constants= has it already"
                    )
                self.rule[place] = as_expression(value, f"what stands for {key}")
        for coordinate, velocity in zip(mechanism.coordinates, mechanism.velocities, strict=True):
            if coordinate.diff() not in self.rule:
                (self.rule[coordinate.diff()],) = self.read([velocity])

    def _place(self, name: str, key: Any) -> sp.Basic:
        """What a key of a mapping stands for in the equations: itself, or the symbol that is called so."""
        symbols = {symbol.name: symbol for symbol in self.mechanism.symbols}
        if isinstance(key, str):
            if key not in symbols:
                raise SpecError(
                    f"{name}= has {key!r}, and no symbol of the equations of motion is called so; expected of "
                    f"{', '.join(sorted(symbols)) or 'none'}, or the symbol itself"
                )
            return symbols[key]
        if isinstance(key, sp.Symbol) and symbols.get(key.name, key) != key:
            raise SpecError(
                f"{name}= has a symbol {key} that is not the {key} of the equations of motion: they were made with "
                f"other assumptions; pass the symbol that is in them, or its name {key.name!r}"
            )
        return sp.sympify(key)

    def read(self, expressions: Any) -> list[sp.Expr]:
        """The expressions in the problem's words, all replaced at once: a velocity before its position."""
        return [self._read_one(sp.sympify(expression)) for expression in expressions]

    def _read_one(self, expression: sp.Expr) -> sp.Expr:
        strange = [
            part for part in self._leaves(expression) if part not in self.rule and part not in self.own
        ]
        moving = sorted(str(part) for part in strange if not isinstance(part, sp.Symbol))
        if moving:
            raise SpecError(
                f"the equations of motion contain {', '.join(moving)}, for which nothing is given: say what stands for "
                "it in inputs={...}, or in q= and v= if it is a coordinate or speed"
            )
        if self.time in strange:
            raise SpecError(
                "the equations of motion depend on time itself; make what depends on it a parameter per stage, or a "
                "state"
            )
        return expression.xreplace(self.rule | {symbol: self._parameter(symbol) for symbol in strange})

    def _leaves(self, expression: sp.Expr) -> list[sp.Basic]:
        """What has to be replaced: functions of time, their derivatives as a whole, symbols; in a fixed order."""
        found: dict[sp.Basic, None] = {}
        pending, seen = [expression], {expression}
        while pending:
            node = pending.pop()
            if node in self.rule or isinstance(node, sp.Derivative | AppliedUndef | sp.Symbol):
                found[node] = None
                continue
            fresh = [argument for argument in node.args if argument not in seen]
            seen.update(fresh)
            pending.extend(reversed(fresh))
        return list(found)

    def _parameter(self, symbol: sp.Symbol) -> sp.Expr:
        """A constant that is not named: the parameter that is called so."""
        known = self.problem.find_parameter(symbol.name)
        if known is None or known.shape != ():
            if symbol.name in {own.name for own in self.own}:
                raise SpecError(
                    f"the equations of motion contain a symbol {symbol} that is not the problem's {symbol}: they were "
                    f"made with other assumptions; use the symbol that the problem returned, or name it in "
                    f"constants={{{symbol.name!r}: ...}}"
                )
            raise SpecError(
                f"the equations of motion contain the constant {symbol}, for which nothing is given: name it in "
                f"constants={{{symbol}: ...}}, or declare a parameter {symbol.name!r}"
            )
        return known.symbols[0]

    def accelerations(self) -> list[sp.Expr]:
        """Rates of the speeds."""
        mechanism = self.mechanism
        mass, force = self._matrix(mechanism.mass), self._matrix(mechanism.force)
        if mechanism.constraints is None:
            return list(solve(mass, force))
        J, bias = (self._matrix(part) for part in mechanism.constraints)
        free, along = solve(mass, force), solve(mass, J.T)
        multipliers = solve_symmetric(J * along, J * free - bias)
        return list(free - along * multipliers)

    def _matrix(self, matrix: sp.Matrix) -> sp.Matrix:
        return sp.Matrix(*matrix.shape, self.read(matrix))


def _check_states(problem: Problem, name: str, given: Mapping[Any, Any], wanted: list[Any]) -> None:
    missing = [str(key) for key in wanted if key not in given]
    extra = [str(key) for key in given if key not in wanted]
    if missing or extra:
        said = (
            f"lacks {', '.join(missing)}" if missing else f"has {', '.join(extra)}, which the object has not"
        )
        raise SpecError(f"{name}= {said}; expected a state for each of {', '.join(map(str, wanted))}")
    for key, value in given.items():
        if value not in problem.state_symbols:
            raise SpecError(f"{name}= maps {key} to {value}; expected a state of the problem")


def _check_distinct(states: list[Any]) -> None:
    for index, state in enumerate(states):
        if state in states[:index]:
            raise SpecError(f"q= and v= name state {state} twice; expected a state of its own for each")
