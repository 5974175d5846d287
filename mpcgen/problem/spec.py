"""The frozen specification: the first typed value of the pipeline, plain sympy, validated.

`Problem.spec()` makes it; the graph's lowering and the CasADi baseline read it, each on its own.
"""

from dataclasses import dataclass

import sympy as sp

SCHEMES = ("discrete", "euler", "midpoint", "rk4")


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
    """A named parameter of shape (), (k,) or (r, c); ``symbols`` and ``default`` are flat, row-major.

    ``in_terminal`` says that the terminal cost reads it: a per-stage parameter then has N+1 values
    instead of N. ``only_bounds`` says that nothing but control bounds read it, so that ±inf is a legal value.
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
    expression in parameters) in ``substeps`` equal steps of the scheme, with the control held.
    """

    expressions: tuple[sp.Expr, ...]
    scheme: str = "discrete"
    dt: sp.Expr | None = None
    substeps: int = 1


@dataclass(frozen=True)
class Spec:
    """A validated optimal control problem: N = ``horizon`` controls, N+1 states.

    minimise  sum_{t<N} stage_cost(x_t, u_t, theta_t) + terminal_cost(x_N, theta_N)
    subject to x_{t+1} = f(x_t, u_t, theta_t), lower <= u_t <= upper, x_0 given.
    """

    name: str
    horizon: int
    states: tuple[sp.Symbol, ...]
    controls: tuple[ControlSpec, ...]
    parameters: tuple[ParameterSpec, ...]
    dynamics: DynamicsSpec
    stage_cost: sp.Expr
    terminal_cost: sp.Expr

    def __str__(self) -> str:
        lines = [f"problem {self.name}: horizon {self.horizon}"]
        lines += [f"  states      {', '.join(map(str, self.states))}"]
        for control in self.controls:
            lines.append(f"  control     {control.lower} <= {control.symbol} <= {control.upper}")
        for parameter in self.parameters:
            stage = ", per stage" if parameter.per_stage else ""
            lines.append(
                f"  parameter   {parameter.name} {parameter.shape}{stage}, default {parameter.default}"
            )
        dynamics = self.dynamics
        head = "x[t+1]" if dynamics.scheme == "discrete" else "dx/dt"
        if dynamics.scheme != "discrete":
            lines.append(f"  {dynamics.scheme}, dt = {dynamics.dt}, substeps = {dynamics.substeps}")
        lines += [
            f"  {head}[{state}] = {row}" for state, row in zip(self.states, dynamics.expressions, strict=True)
        ]
        lines += [f"  stage cost     {self.stage_cost}", f"  terminal cost  {self.terminal_cost}"]
        return "\n".join(lines)
