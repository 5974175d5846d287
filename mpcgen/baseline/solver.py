"""CasADi's solvers on the same problem: direct multiple shooting through IPOPT or fatrop."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import ArrayLike

from mpcgen.baseline.functions import Functions
from mpcgen.baseline.parameters import Array, pack_parameters
from mpcgen.errors import ParameterError, ShapeError, SpecError
from mpcgen.problem.spec import ParameterSpec, Spec, require_unconstrained

SOLVERS = ("ipopt", "fatrop")

# fatrop solves with bounds relaxed by this times max(1, |bound|) and has no option to stop it (1.1.8)
_FATROP_RELAXATION = 1e-8


@dataclass(frozen=True)
class Solution:
    """One solved problem.

    x: (N+1, n), u: (N, m), cost, costates: (N+1, n) with costates[0] the derivative of the optimal cost
    by x0, status in the solver's own words, seconds of wall time by the solver's own clock.
    """

    x: Array
    u: Array
    cost: float
    costates: Array
    status: str
    success: bool
    iterations: int
    seconds: float


@dataclass(frozen=True)
class BatchSolution:
    """Solved problems along a leading batch axis B, as in `Solution`; seconds are summed over the batch."""

    x: Array
    u: Array
    cost: Array
    costates: Array
    status: tuple[str, ...]
    success: np.ndarray
    iterations: np.ndarray
    seconds: float


class Baseline:
    """One CasADi solver object for a specification and a horizon, built once and used for many problems.

    Variables run x_0, u_0, x_1, u_1, ..., x_N and constraints stage by stage, as fatrop wants them; x_0 is an
    equality constraint. Hessians are exact unless ``hessian="limited-memory"`` (IPOPT only). ``tol`` bounds
    the unscaled optimality error. ``options`` go to `casadi.nlpsol` last, under its own names. Raises
    `ParameterError` for unknown options.
    """

    def __init__(
        self,
        spec: Spec,
        horizon: int | None = None,
        solver: str = "ipopt",
        *,
        tol: float = 1e-10,
        max_iterations: int = 500,
        hessian: str = "exact",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        _check_options(solver, tol, hessian)
        require_unconstrained(spec, "the baseline")
        self.spec = spec
        self.solver = solver
        self.functions = Functions(spec)
        self.horizon = spec.horizon if horizon is None else horizon
        if self.horizon < 1:
            raise SpecError(f"the horizon is {self.horizon}, expected at least one control")
        if solver == "ipopt":
            chosen = _ipopt_options(tol, max_iterations, hessian)
        else:
            chosen = self._fatrop_options(tol, max_iterations)
        quiet = {"print_time": False, "show_eval_warnings": False}
        fast = {"record_time": True, "expand": True, "calc_lam_p": False}
        self._solver = ca.nlpsol(
            spec.name, solver, self._problem(), {**quiet, **fast, **chosen, **(options or {})}
        )

    def _problem(self) -> dict[str, ca.MX]:
        functions, N = self.functions, self.horizon
        x = [ca.MX.sym(f"x_{t}", functions.n) for t in range(N + 1)]
        u = [ca.MX.sym(f"u_{t}", functions.m) for t in range(N)]
        x_init = ca.MX.sym("x_init", functions.n)
        theta = ca.MX.sym("theta", functions.n_theta, N + 1)
        cost = functions.terminal_cost(x[N], theta[:, N])
        defects = []
        for t in range(N):
            cost += functions.stage_cost(x[t], u[t], theta[:, t])
            defects.append(x[t + 1] - functions.f(x[t], u[t], theta[:, t]))
        variables = [part for pair in zip(x[:N], u, strict=True) for part in pair] + [x[N]]
        constraints = [defects[0], x[0] - x_init, *defects[1:]]
        return {
            "x": ca.vertcat(*variables),
            "p": ca.vertcat(x_init, ca.vec(theta)),
            "f": cost,
            "g": ca.vertcat(*constraints),
        }

    def _fatrop_options(self, tol: float, max_iterations: int) -> dict[str, Any]:
        n, m, N = self.functions.n, self.functions.m, self.horizon
        return {
            "structure_detection": "manual",
            "N": N,
            "nx": [n] * (N + 1),
            "nu": [m] * N + [0],
            "ng": [n] + [0] * N,
            "equality": [True] * (n * (N + 1)),
            "fatrop": {"tolerance": tol, "max_iter": max_iterations, "print_level": 0},
        }

    def solve(
        self,
        x0: ArrayLike,
        parameters: Mapping[str, ArrayLike] | None = None,
        u_init: ArrayLike | None = None,
    ) -> Solution:
        """Solve from x0 (n,), started at the rollout of u_init (N, m; default zeros) clipped to the bounds.

        ``parameters``: name -> its shape, behind a stage axis if per stage; omitted ones take their defaults.
        A problem that the solver gives up on has ``success`` false, and one whose start is not finite is not
        given to it (fatrop would never return). Raises `ShapeError`, `ParameterError`.
        """
        n, m, N = self.functions.n, self.functions.m, self.horizon
        start = _shaped("x0", x0, (n,))
        theta = pack_parameters(self.spec, parameters or {}, N)
        lower, upper = self.functions.stage_bounds(theta)
        u = np.clip(_shaped("u_init", np.zeros((N, m)) if u_init is None else u_init, (N, m)), lower, upper)
        x = self.functions.rollout(start, u, theta)
        if not self.functions.is_finite(x, u, theta):
            return _refused(x, u)
        if self.solver == "fatrop":
            lower, upper = _tightened(lower, upper)
        began = time.perf_counter()
        result = self._solver(
            x0=_interleave(x, u),
            p=np.concatenate([start, theta.ravel(order="F")]),
            lbx=_interleave(np.full_like(x, -np.inf), lower),
            ubx=_interleave(np.full_like(x, np.inf), upper),
            lbg=0,
            ubg=0,
        )
        return self._solution(result, time.perf_counter() - began)

    def _solution(self, result: dict[str, ca.DM], elapsed: float) -> Solution:
        n, m, N = self.functions.n, self.functions.m, self.horizon
        flat = np.asarray(result["x"]).ravel()
        stages = flat[: N * (n + m)].reshape(N, n + m)
        multipliers = -np.asarray(result["lam_g"]).reshape(N + 1, n)
        stats = self._solver.stats()
        return Solution(
            x=np.vstack([stages[:, :n], flat[N * (n + m) :]]),
            u=stages[:, n:].copy(),
            cost=float(result["f"]),
            # the constraint of x_0 stands after the first defect, where fatrop wants it
            costates=multipliers[[1, 0, *range(2, N + 1)]],
            status=str(stats["unified_return_status" if self.solver == "fatrop" else "return_status"]),
            success=bool(stats["success"]),
            iterations=int(stats["iter_count"]),
            seconds=float(stats.get("t_wall_total", elapsed)),
        )

    def solve_batch(
        self,
        x0: ArrayLike,
        parameters: Mapping[str, ArrayLike] | None = None,
        u_init: ArrayLike | None = None,
    ) -> BatchSolution:
        """Solve from every row of x0 (B, n), one after the other; u_init (B, N, m) or (N, m).

        A parameter with one more leading axis than its own (stage axis included) has one value per problem.
        """
        starts = np.asarray(x0, dtype=float)
        if starts.ndim != 2 or starts.shape[1] != self.functions.n:
            raise ShapeError(f"x0 has shape {starts.shape}, expected (batch, {self.functions.n})")
        batched = {p.name for p in self.spec.parameters if _is_batched(p, (parameters or {}).get(p.name))}
        guesses = None if u_init is None else np.asarray(u_init, dtype=float)
        solutions = []
        for b, start in enumerate(starts):
            values = {
                name: np.asarray(value)[b] if name in batched else value
                for name, value in (parameters or {}).items()
            }
            guess = guesses[b] if guesses is not None and guesses.ndim == 3 else guesses
            solutions.append(self.solve(start, values, guess))
        return _stack(solutions)


def _refused(x: Array, u: Array) -> Solution:
    costates = np.full_like(x, np.nan)
    return Solution(x, u, float("nan"), costates, "start is not finite", False, 0, 0.0)


def _stack(solutions: list[Solution]) -> BatchSolution:
    return BatchSolution(
        x=np.array([s.x for s in solutions]),
        u=np.array([s.u for s in solutions]),
        cost=np.array([s.cost for s in solutions]),
        costates=np.array([s.costates for s in solutions]),
        status=tuple(s.status for s in solutions),
        success=np.array([s.success for s in solutions], dtype=bool),
        iterations=np.array([s.iterations for s in solutions], dtype=int),
        seconds=sum(s.seconds for s in solutions),
    )


def _is_batched(parameter: ParameterSpec, value: ArrayLike | None) -> bool:
    own = len(parameter.shape) + parameter.per_stage
    return value is not None and np.ndim(value) == own + 1


def _tightened(lower: Array, upper: Array) -> tuple[Array, Array]:
    """Bounds that fatrop's own relaxation brings back to the given ones, unless nothing would lie between."""
    with np.errstate(invalid="ignore"):
        inner = [
            np.where(
                np.isfinite(bound), bound + sign * _FATROP_RELAXATION * np.maximum(1.0, abs(bound)), bound
            )
            for bound, sign in ((lower, 1.0), (upper, -1.0))
        ]
    room = inner[0] < inner[1]
    return np.where(room, inner[0], lower), np.where(room, inner[1], upper)


def _interleave(x: Array, u: Array) -> Array:
    """(N+1, n) and (N, m) to the solver's order x_0, u_0, x_1, ..., x_N."""
    return np.concatenate([np.hstack([x[:-1], u]).ravel(), x[-1]])


def _shaped(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Array:
    array = np.asarray(value, dtype=float)
    if array.shape != shape:
        raise ShapeError(f"{name} has shape {array.shape}, expected {shape}")
    return array


def _check_options(solver: str, tol: float, hessian: str) -> None:
    if solver not in SOLVERS:
        raise ParameterError(f"unknown baseline solver {solver!r}; expected one of {', '.join(SOLVERS)}")
    if not 0 < tol < 1:
        raise ParameterError(f"tol is {tol}, expected a number between 0 and 1")
    allowed = ("exact", "limited-memory") if solver == "ipopt" else ("exact",)
    if hessian not in allowed:
        raise ParameterError(f"hessian is {hessian!r}, expected one of {', '.join(allowed)} with {solver}")


def _ipopt_options(tol: float, max_iterations: int, hessian: str) -> dict[str, Any]:
    return {
        "ipopt": {
            "print_level": 0,
            "sb": "yes",
            "tol": tol,
            "constr_viol_tol": tol,
            "dual_inf_tol": tol,
            "compl_inf_tol": tol,
            "acceptable_iter": 0,
            "max_iter": max_iterations,
            "hessian_approximation": hessian,
            # the tolerances are to mean what they say, and the bounds to hold exactly
            "nlp_scaling_method": "none",
            "bound_relax_factor": 0.0,
        }
    }
