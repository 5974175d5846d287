"""The frozen specification: the first typed value of the pipeline, plain sympy, validated.

`Problem.spec()` makes it; the graph's lowering and the CasADi baseline read it, each on its own. A `Spec` checks
itself, so that one made by hand is as good as any.
"""

from dataclasses import dataclass
from typing import NoReturn, Protocol, runtime_checkable

import sympy as sp

from mpcgen.errors import SpecError
from mpcgen.problem.pickling import Unevaluated

EXPLICIT = ("euler", "midpoint", "rk4")
IMPLICIT = ("radau3", "radau5", "implicit_midpoint")
SCHEMES = ("discrete", *EXPLICIT, *IMPLICIT)
MOST_NEWTON_STEPS = 16


@dataclass(frozen=True)
class ControlSpec:
    """One control with its bounds.

    ``lower`` and ``upper`` are numbers, ``±oo`` or expressions in the parameters.
    """

    symbol: sp.Symbol
    lower: sp.Expr
    upper: sp.Expr


@dataclass(frozen=True)
class ParameterSpec:
    """A named parameter of shape (), (k,) or (r, c), of a torch module's weights (k, r, c), too.

    ``symbols`` and ``default`` are flat, row-major. ``in_terminal`` says that the terminal cost reads it: a per-stage
    parameter then has N+1 values instead of N. ``only_bounds`` says that nothing but bounds read it, so that
    ±inf is a legal value.
    """

    name: str
    shape: tuple[int, ...]
    symbols: tuple[sp.Symbol, ...]
    default: tuple[float, ...] | None
    per_stage: bool
    in_terminal: bool
    only_bounds: bool

    def stages(self, horizon: int) -> int:
        """Number of values along the stage axis for a horizon of N controls (1 if not per stage)."""
        if not self.per_stage:
            return 1
        return horizon + 1 if self.in_terminal else horizon


@dataclass(frozen=True)
class DynamicsSpec:
    """Discrete map x[t+1] = f(x, u, theta), or the right-hand side of an ODE and how to integrate it.

    For ``scheme != "discrete"``, ``expressions`` are dx/dt; one stage spans ``dt`` (a number or an
    expression in parameters and states that stay) in ``substeps`` equal steps of the scheme, with the control held.
    ``discrete`` marks rows that are the next state all the same, of the stage's first state; () marks none.
    ``algebraic`` marks rows that are zero at every stage of an implicit scheme, in place of a rate; () marks none.
    They may read rates, the symbols that `mpcgen.rate` gives.
    ``newton``: most Newton steps of an implicit scheme's step.
    """

    expressions: tuple[sp.Expr, ...]
    scheme: str = "discrete"
    dt: sp.Expr | None = None
    substeps: int = 1
    discrete: tuple[bool, ...] = ()
    algebraic: tuple[bool, ...] = ()
    newton: int = MOST_NEWTON_STEPS

    @property
    def is_algebraic(self) -> tuple[bool, ...]:
        """Whether each row is an equation, which the scheme's stages obey."""
        return self.algebraic or (False,) * len(self.expressions)

    @property
    def is_discrete(self) -> tuple[bool, ...]:
        """Whether each row is the next state; others are its rate."""
        if self.scheme == "discrete":
            return (True,) * len(self.expressions)
        return self.discrete or (False,) * len(self.expressions)

    def __iter__(self) -> NoReturn:
        """Refuse to be taken apart: a step is no list of expressions."""
        raise SpecError(
            f"what mpcgen makes of rates (here by the scheme {self.scheme!r}) stands for whole steps, and is "
            "assigned to problem.dynamics as it is; add to rates what is to be added to states, noise w "
            "as w / dt, and make rows that are not integrated discrete={state: next state}"
        )

    def __getitem__(self, row: int) -> NoReturn:
        """Refuse likewise."""
        iter(self)


@dataclass(frozen=True)
class Constraint:
    """Rows lower_i <= rows_i <= upper_i under one name, each tuple with an entry per row.

    ``lower`` and ``upper`` are numbers, ``±oo`` or expressions in the parameters; an equality has the same expression
    on both sides. A row may be exceeded by e >= 0 at the price of soft e + soft_quadratic e²/2; ``soft`` of a hard row
    is oo. ``vector`` says that it was given as a list. The bounds of a state are a constraint that has its name.
    ``reads_control`` decides at which stages the rows hold, see `group`.
    """

    name: str
    rows: tuple[sp.Expr, ...]
    lower: tuple[sp.Expr, ...]
    upper: tuple[sp.Expr, ...]
    soft: tuple[sp.Expr, ...]
    soft_quadratic: tuple[sp.Expr, ...]
    terminal: bool = False
    vector: bool = False
    reads_control: bool = False

    @property
    def group(self) -> str:
        """Where the rows hold: "mixed" at stages 0..N-1, "state" at stages 1..N, "terminal" at stage N."""
        if self.terminal:
            return "terminal"
        return "mixed" if self.reads_control else "state"

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each row: the constraint's, with an index if it is a vector."""
        if not self.vector:
            return (self.name,)
        return tuple(f"{self.name}[{index}]" for index in range(len(self.rows)))

    @property
    def is_soft(self) -> tuple[bool, ...]:
        """Whether each row may be exceeded."""
        return tuple(weight is not sp.oo for weight in self.soft)

    @property
    def is_equality(self) -> tuple[bool, ...]:
        """Whether each row has one value on both sides."""
        return tuple(low == high for low, high in zip(self.lower, self.upper, strict=True))


@dataclass(frozen=True)
class Spec(Unevaluated):
    """A validated optimal control problem: N = ``horizon`` controls, N+1 states.

    minimise  sum_{t<N} stage_cost(x_t, u_t, theta_t) + terminal_cost(x_N, theta_N)
    subject to x_{t+1} = f(x_t, u_t, theta_t), lower <= u_t <= upper, x_0 given, and the rows of ``constraints``, of
    which the bounds of states come first.

    Making one raises `SpecError`, or its `UnsupportedExpressionError`, where something is wrong with it.
    """

    name: str
    horizon: int
    states: tuple[sp.Symbol, ...]
    controls: tuple[ControlSpec, ...]
    parameters: tuple[ParameterSpec, ...]
    dynamics: DynamicsSpec
    stage_cost: sp.Expr
    terminal_cost: sp.Expr
    constraints: tuple[Constraint, ...] = ()

    def __deepcopy__(self, memo: dict[int, object]) -> "Spec":
        """Itself: nothing changes it, and sympy would evaluate copies of its expressions anew."""
        return self

    def __post_init__(self) -> None:
        from mpcgen.problem.validate import check  # which reads this type

        check(self)

    def group(self, name: str) -> tuple[Constraint, ...]:
        """The constraints of a group, "mixed", "state" or "terminal", in order."""
        return tuple(constraint for constraint in self.constraints if constraint.group == name)

    def __str__(self) -> str:
        lines = [f"problem {self.name}: horizon {self.horizon}"]
        lines += [f"  states      {', '.join(map(str, self.states))}"]
        for control in self.controls:
            lines.append(f"  control     {control.lower} <= {control.symbol} <= {control.upper}")
        for constraint in self.constraints:
            lines += [f"  constraint  {text}" for text in row_texts(constraint)]
        for parameter in self.parameters:
            stage = ", per stage" if parameter.per_stage else ""
            lines.append(
                f"  parameter   {parameter.name} {parameter.shape}{stage}, default {parameter.default}"
            )
        dynamics = self.dynamics
        if dynamics.scheme != "discrete":
            lines.append(f"  {dynamics.scheme}, dt = {dynamics.dt}, substeps = {dynamics.substeps}")
        kinds = zip(dynamics.is_discrete, dynamics.is_algebraic, strict=True)
        heads = ("x[t+1]" if discrete else "0 for" if algebraic else "dx/dt" for discrete, algebraic in kinds)
        rows = zip(heads, self.states, dynamics.expressions, strict=True)
        lines += [f"  {head}[{state}] = {row}" for head, state, row in rows]
        lines += [f"  stage cost     {self.stage_cost}", f"  terminal cost  {self.terminal_cost}"]
        return "\n".join(lines)


def require_unconstrained(spec: Spec, what: str) -> None:
    """Raise SpecError for constraints that ``what`` would ignore."""
    if spec.constraints:
        names = ", ".join(repr(constraint.name) for constraint in spec.constraints)
        raise SpecError(
            f"problem {spec.name!r} has constraints ({names}), and {what} knows bounds of controls alone; "
            "`mpcgen inspect` shows what it would have to take"
        )


def require_explicit(spec: Spec, what: str) -> None:
    """Raise SpecError for an implicit integrator, whose steps ``what`` does not solve."""
    if spec.dynamics.scheme in IMPLICIT:
        raise SpecError(
            f"problem {spec.name!r} is integrated by {spec.dynamics.scheme}, and {what} knows explicit integrators "
            f"alone ({', '.join(EXPLICIT)})"
        )


_STAGES = {"mixed": "stages 0..N-1", "state": "stages 1..N", "terminal": "stage N"}


def row_texts(constraint: Constraint) -> list[str]:
    """A line for people about each row: its name, where it holds, and what has to hold."""
    lines = []
    for index, (label, row) in enumerate(zip(constraint.labels, constraint.rows, strict=True)):
        low, high = constraint.lower[index], constraint.upper[index]
        if constraint.is_equality[index]:
            relation = f"{row} = {bound_text(low)}"
        else:
            left = "" if low == -sp.oo else f"{bound_text(low)} <= "
            right = "" if high == sp.oo else f" <= {bound_text(high)}"
            relation = f"{left}{row}{right}"
        price = ""
        if constraint.is_soft[index]:
            price = f", soft {bound_text(constraint.soft[index])}"
            if constraint.soft_quadratic[index] != 0:
                price += f", quadratic {bound_text(constraint.soft_quadratic[index])}"
        lines.append(f"{label} ({_STAGES[constraint.group]}): {relation}{price}")
    return lines


def bound_text(value: sp.Expr) -> str:
    """A number without trailing zeros, or an expression as it is."""
    return f"{float(value):g}" if value.is_number else str(value)


@runtime_checkable
class SupportsSpec(Protocol):
    """What can be frozen: a `mpcgen.Problem`."""

    def spec(self) -> Spec:
        """The frozen specification."""


def spec_of(problem: SupportsSpec | Spec) -> Spec:
    """The specification of a problem, or the one that is given.

    Raises:
        SpecError: neither is given, or the problem cannot be frozen.

    """
    if isinstance(problem, Spec):
        return problem
    if not isinstance(problem, SupportsSpec):
        raise SpecError(
            f"{problem!r} is a {type(problem).__name__}; an mpcgen.Problem is expected, such as that of "
            "mpcgen.load_problem('examples/cartpole.py')"
        )
    return problem.spec()
