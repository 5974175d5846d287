"""Implicit integrators: for stiff models, algebraic equations, and mechanics over long times."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpcgen.errors import SpecError
from mpcgen.problem.integrators import integrated
from mpcgen.problem.spec import MOST_NEWTON_STEPS, DynamicsSpec

if TYPE_CHECKING:
    from mpcgen.problem.problem import Problem

_ORDERS = (3, 5)


def radau(
    problem: "Problem",
    rhs: Any,
    dt: Any,
    order: int = 5,
    substeps: int = 1,
    discrete: Mapping[Any, Any] | None = None,
    residual: Mapping[Any, Any] | Sequence[Any] | None = None,
    newton: int = MOST_NEWTON_STEPS,
) -> DynamicsSpec:
    """Radau IIA, L-stable: for stiff models, whose fast modes decay in much less than ``dt``, the control held.

    A step solves its stage equations by Newton's method down to rounding; derivatives are those of the solution. A
    trial with a step that finds none is refused. Where it is one of the initial controls, the problem's steps are gone
    through in 256 parts where that is needed, and the problem ends with `Status.MODEL` if they find none either. Hairer
    and Wanner 1996, Solving Ordinary Differential Equations II, IV.5.

    Args:
        problem: whose states ``rhs`` differentiates.
        rhs: (n) dx/dt, a row for each state without a residual, in order; None where there is none.
        dt: as for `mpcgen.rk4`.
        order: 5, with three stages, or 3, with two.
        substeps: equal integration steps in one stage, at least 1.
        discrete: as for `mpcgen.rk4`.
        residual: what is zero at every stage of a step and at its end, by state: ``{y: y**2 + y - x}``, or a list, of
            all states that are integrated. Residuals may read rates, ``mpcgen.rate(x)``: F(dx/dt, x, u) = 0. A state
            with a residual whose rate none of them reads is algebraic. Together they have to determine algebraic
            states and rates, or states in place of rates (index 1). What x_0 says of an algebraic state is where
            Newton's method starts.
        newton: most Newton steps of one integration step, and of each of its parts.

    Returns:
        A value to assign to ``problem.dynamics``.

    Raises:
        SpecError: another order, wrong number of rows, dt <= 0, substeps < 1, newton < 1, rows of what is no state.
            Where residuals cannot determine what they have to, the specification is refused.

    """
    if isinstance(order, bool) or order not in _ORDERS:
        raise SpecError(f"order of radau is {order!r}; expected one of {', '.join(map(str, _ORDERS))}")
    return integrated(problem, rhs, dt, substeps, f"radau{order}", discrete, residual=residual, newton=newton)


def implicit_midpoint(
    problem: "Problem",
    rhs: Any,
    dt: Any,
    substeps: int = 1,
    discrete: Mapping[Any, Any] | None = None,
    newton: int = MOST_NEWTON_STEPS,
) -> DynamicsSpec:
    """Implicit midpoint rule: x[t+1] = x + dt f((x + x[t+1]) / 2, u). Symplectic, second order.

    For mechanics: the energy of a conservative system does not drift. Stiff modes do not decay with it; take `radau`.
    Arguments as for `radau`.
    """
    return integrated(problem, rhs, dt, substeps, "implicit_midpoint", discrete, newton=newton)
