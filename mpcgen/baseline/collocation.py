"""Implicit integration schemes as collocation: a polynomial through the step's first state, whose slope is the rate.

What is unknown of a step are the polynomial's values at the points, one point after another. In a nonlinear program
they are variables, and their equations constraints. As functions of state and control they come from Newton's method,
and derivatives from two Newton steps at the solution, by which the first and the second ones are exact.
"""

from collections.abc import Sequence
from typing import Any

import casadi as ca
import numpy as np

SCHEMES = {"radau3": (2, "radau"), "radau5": (3, "radau"), "implicit_midpoint": (1, "legendre")}
"""How many points a step of a scheme has, and which."""
_NEWTON_STEPS = 12
_EXACT = 2
"""Newton steps at the solution by which first and second derivatives are those of the implicit function."""


class Collocation:
    """One step of ``scheme`` under dx/dt = rate(x, u, theta); rows in ``algebraic`` are zero in place of a rate.

    A rate with a fourth argument is given dx/dt, which these rows may read. x and values are (n,) and (n k,), h is the
    step's duration.
    """

    def __init__(self, rate: ca.Function, scheme: str, algebraic: Sequence[int] = ()) -> None:
        degree, points = SCHEMES[scheme]
        coefficients = ca.collocation_coeff(ca.collocation_points(degree, points))
        slopes, ends = np.asarray(coefficients[0]), np.asarray(coefficients[1]).ravel()
        n, self.degree = rate.numel_out(0), degree
        x, u, theta = (ca.SX.sym(name, rate.sparsity_in(i)) for i, name in enumerate(("x", "u", "theta")))
        h, values = ca.SX.sym("h"), ca.SX.sym("values", n, degree)
        path = ca.horzcat(x, values)
        columns = []
        for j in range(degree):
            left = path @ slopes[:, j]
            right = rate(*(values[:, j], u, theta, left / h)[: rate.n_in()])
            rows = (right[i] if i in algebraic else left[i] - h * right[i] for i in range(n))
            columns.append(ca.vertcat(*rows))
        residual, unknowns = ca.vertcat(*columns), ca.vec(values)
        change = ca.solve(ca.jacobian(residual, unknowns), residual)
        inputs = [unknowns, x, u, theta, h]
        self.size = n * degree
        self.residual = ca.Function("residual", inputs, [ca.densify(residual)])
        """(values, x, u, theta, h) -> what is zero, (n k,)."""
        self.newton = ca.Function("newton", inputs, [unknowns - change])
        """(values, x, u, theta, h) -> values after a Newton step."""
        self.end = ca.Function("end", [unknowns, x], [path @ ends])
        """(values, x) -> x at the end of the step."""

    def solved(self, x: Any, u: Any, theta: Any, h: Any) -> Any:
        """The values that obey the equations, by Newton's method from x."""
        return self.refined(ca.repmat(x, self.degree, 1), (x, u, theta, h), _NEWTON_STEPS)

    def refined(self, values: Any, at: tuple[Any, Any, Any, Any], steps: int = _EXACT) -> Any:
        """The values after so many Newton steps; at: (x, u, theta, h)."""
        for _ in range(steps):
            values = self.newton(values, *at)
        return values


class ImplicitSteps:
    """The steps of a stage, one after another, as SX expressions of symbols ``unknowns`` for all their values.

    start (n,) and h are expressions in the symbols, x, u and theta.
    """

    def __init__(
        self,
        step: Collocation,
        substeps: int,
        start: ca.SX,
        h: ca.SX,
        symbols: tuple[ca.SX, ca.SX, ca.SX],
    ) -> None:
        _, u, theta = symbols
        self.unknowns = ca.SX.sym("values", substeps * step.size)
        self.end = self.exact_end = start
        """The last state: linear in the unknowns, and with its derivatives at the solution."""
        residuals = []
        for values in ca.vertsplit(self.unknowns, step.size):
            residuals.append(step.residual(values, self.end, u, theta, h))
            self.end = step.end(values, self.end)
            self.exact_end = step.end(step.refined(values, (self.exact_end, u, theta, h)), self.exact_end)
        self.residual = ca.vertcat(*residuals)
        self.solution = self._solution(step, substeps, ca.Function("begin", list(symbols), [start, h]))
        """(x, u, theta) -> unknowns."""

    @staticmethod
    def _solution(step: Collocation, substeps: int, begin: ca.Function) -> ca.Function:
        x, u, theta = (ca.MX.sym(name, begin.sparsity_in(i)) for i, name in enumerate(("x", "u", "theta")))
        state, h = begin(x, u, theta)
        found = []
        for _ in range(substeps):
            found.append(step.solved(state, u, theta, h))
            state = step.end(found[-1], state)
        return ca.Function("solution", [x, u, theta], [ca.vertcat(*found)])
