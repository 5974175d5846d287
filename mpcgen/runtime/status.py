"""How a problem ended."""

from enum import IntEnum


class Status(IntEnum):
    """Outcome of one problem of a batch; ``sol.status`` holds these numbers. Zero is success.

    ``str(status)`` says what happened, ``status.advice`` what to do about it.
    """

    CONVERGED = 0
    MAX_ITERATIONS = 1
    STALLED = 2
    INVALID_INPUT = 3
    DIVERGED = 4
    NOT_A_MINIMUM = 5
    INFEASIBLE = 6
    MODEL = 7

    @property
    def meaning(self) -> str:
        """What happened, in a sentence."""
        return _TABLE[self][0]

    @property
    def advice(self) -> str:
        """What a user can do about it."""
        return _TABLE[self][1]


WITHOUT_VALUE = (Status.INVALID_INPUT, Status.DIVERGED, Status.MODEL)
"""Of problems whose results are NaN."""
_TABLE = {
    Status.CONVERGED: (
        "the KKT residual is at most tol, or as small as the precision allows, and the solution is a strict local "
        "minimum",
        "nothing to do",
    ),
    Status.MAX_ITERATIONS: (
        "max_iterations passes were not enough to bring the KKT residual down to tol",
        "raise max_iterations, warm-start with u_init, or loosen tol",
    ),
    Status.STALLED: (
        "no step lowers the cost, or the little that constraints are violated by, at the working precision, but the "
        "KKT residual is above tol",
        "use float64, loosen tol, scale states, controls and cost nearer to one, or start from other controls (u_init)",
    ),
    Status.INVALID_INPUT: (
        "x0, u0, u_init or a parameter is NaN or infinite, u0 is outside its bounds, "
        "or a lower bound exceeds its upper bound (with "
        "smooth='solve': or leaves no room below it), or the price of a soft constraint is negative",
        "mend the input of this problem; its outputs are NaN",
    ),
    Status.DIVERGED: (
        "the rollout of the initial controls, or a derivative along the trajectory, is NaN or infinite",
        "start from other controls (u_init), shorten the horizon, give an explicit integrator (euler, midpoint, rk4) "
        "more substeps or a smaller dt, a stiff model an implicit one (radau), or keep the model away from its "
        "singularities",
    ),
    Status.NOT_A_MINIMUM: (
        "the KKT conditions hold, but the Hessian of the Lagrangian is not positive definite on the free controls: "
        "a saddle, or a direction of zero curvature; no gradient exists but that of the cost",
        "start from other controls (u_init), or add a small cost on what the cost does not see",
    ),
    Status.INFEASIBLE: (
        "no point was found that obeys the dynamics and the constraints, and no step from it "
        "lowers the violation",
        "loosen a constraint, make it soft, start from other controls (u_init), or a nearer x0",
    ),
    Status.MODEL: (
        "an implicit step of the model has no solution that Newton's method finds",
        "start from other controls (u_init), give the integrator more substeps or a smaller dt, or keep the model away "
        "from its singularities",
    ),
}


class UnconvergedWarning(UserWarning):
    """Some problems of a batch did not converge."""
