"""CasADi's solvers on the same problem: direct multiple shooting through IPOPT or fatrop."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import ArrayLike

from mpcgen.baseline.functions import Functions
from mpcgen.baseline.parameters import Array, pack_parameters
from mpcgen.baseline.program import Bounds, Program
from mpcgen.baseline.rows import duals_by_name
from mpcgen.errors import ParameterError, ShapeError, SpecError
from mpcgen.problem.spec import ParameterSpec, Spec, SupportsSpec, spec_of

SOLVERS = ("ipopt", "fatrop")

# fatrop solves with bounds relaxed by this times max(1, |bound|) and has no option to stop it (1.1.8)
_FATROP_RELAXATION = 1e-8

# The functions of a stage are compiled once, and called from the program's.
_COMPILED = {"jit": True, "compiler": "shell", "jit_options": {"flags": ["-O2"], "verbose": False}}


@dataclass(frozen=True)
class Solution:
    """One solved problem.

    x: (N+1, n), u: (N, m), cost (the prices of soft rows included), costates: (N+1, n) with costates[0] the
    derivative of the optimal cost by x0, status in the solver's own words, seconds of wall time and of the CPU by the
    solver's own clocks. ``duals`` has (stages, rows) by constraint's name: positive where the upper and negative
    where the lower bound pushes.
    """

    x: Array
    u: Array
    cost: float
    costates: Array
    status: str
    success: bool
    iterations: int
    seconds: float
    duals: dict[str, Array] = field(default_factory=dict)
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class BatchSolution:
    """Solved problems along a leading batch axis B, as in `Solution`; times are summed over the batch."""

    x: Array
    u: Array
    cost: Array
    costates: Array
    status: tuple[str, ...]
    success: np.ndarray
    iterations: np.ndarray
    seconds: float
    duals: dict[str, Array] = field(default_factory=dict)
    cpu_seconds: float = 0.0


class Baseline:
    """One CasADi solver object for a problem, or its `Spec`, and a horizon, built once and used for many calls.

    The program is that of `mpcgen.baseline.program`. Hessians are exact unless ``hessian="limited-memory"`` (IPOPT
    only). ``tol`` bounds the unscaled optimality error. ``compiled``: the functions are compiled by the machine's C
    compiler, which takes a while, instead of interpreted. ``options`` go to `casadi.nlpsol` last, under its own
    names. Raises `ParameterError` for unknown options.
    """

    def __init__(
        self,
        problem: SupportsSpec | Spec,
        horizon: int | None = None,
        solver: str = "ipopt",
        *,
        tol: float = 1e-10,
        max_iterations: int = 500,
        hessian: str = "exact",
        compiled: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        _check_options(solver, tol, hessian)
        self.spec = spec = spec_of(problem)
        self.solver = solver
        self.functions = Functions(spec)
        self.horizon = spec.horizon if horizon is None else horizon
        if self.horizon < 1:
            raise SpecError(f"the horizon is {self.horizon}, expected at least one control")
        self.program = Program(self.functions, self.horizon)
        if solver == "ipopt":
            chosen = _ipopt_options(tol, max_iterations, hessian)
        else:
            limits = {"tolerance": tol, "max_iter": max_iterations, "print_level": 0}
            chosen = {**self.program.structure(), "fatrop": limits}
        quiet: dict[str, Any] = {"print_time": False, "show_eval_warnings": False}
        fast: dict[str, Any] = {
            "record_time": True,
            "calc_lam_p": False,
            **(_COMPILED if compiled else {"expand": True}),
        }
        # A name of its own: CasADi's may not begin with an underscore, among other things that a problem's may.
        self._solver = ca.nlpsol(
            "baseline", solver, self.program.problem, {**quiet, **fast, **chosen, **(options or {})}
        )

    def solve(
        self,
        x0: ArrayLike,
        parameters: Mapping[str, ArrayLike] | None = None,
        u_init: ArrayLike | None = None,
        x_init: ArrayLike | None = None,
    ) -> Solution:
        """Solve from x0 (n,), started at the rollout of u_init (N, m; default zeros) clipped to the bounds.

        Where that rollout is not finite, it starts at x0 in all stages.
        ``x_init``: states (N+1, n) to start at in place of the rollout; the first is x0 whatever it says.
        ``parameters``: name -> its shape, behind a stage axis if per stage; omitted ones take their defaults.
        A problem that the solver gives up on has ``success`` false, and one whose start is not finite is not
        given to it (fatrop would never return). Raises `ShapeError`, `ParameterError`.
        """
        n, m, N = self.functions.n, self.functions.m, self.horizon
        start = _shaped("x0", x0, (n,))
        theta = pack_parameters(self.spec, parameters or {}, N)
        lower, upper = self.functions.stage_bounds(theta)
        u = np.clip(_shaped("u_init", np.zeros((N, m)) if u_init is None else u_init, (N, m)), lower, upper)
        if x_init is None:
            x = self._rolled_out(start, u, theta)
        else:
            x = np.vstack([start, _shaped("x_init", x_init, (N + 1, n))[1:]])
        if not self.functions.is_finite(x, u, theta):
            return self._refused(x, u)
        rows = self.program.evaluated(theta, x, u)
        bounds = self.program.bounds(lower, upper, rows)
        if self.solver == "fatrop":
            bounds = _tightened(bounds)
        began = time.perf_counter()
        result = self._solver(
            x0=self.program.start(x, u, theta),
            p=np.concatenate([start, theta.ravel(order="F")]),
            lbx=bounds.lower_variables,
            ubx=bounds.upper_variables,
            lbg=bounds.lower_constraints,
            ubg=bounds.upper_constraints,
        )
        return self._solution(result, time.perf_counter() - began)

    def _rolled_out(self, x0: Array, u: Array, theta: Array) -> Array:
        x = self.functions.rollout(x0, u, theta)
        return x if self.functions.is_finite(x, u, theta) else np.tile(x0, (self.horizon + 1, 1))

    def _solution(self, result: dict[str, ca.DM], elapsed: float) -> Solution:
        x, u = self.program.trajectory(np.asarray(result["x"]).ravel())
        costates, duals = self.program.multipliers(np.asarray(result["lam_g"]).ravel())
        stats = self._solver.stats()
        return Solution(
            x=x,
            u=u,
            cost=float(result["f"]),
            costates=costates,
            status=str(stats["unified_return_status" if self.solver == "fatrop" else "return_status"]),
            success=bool(stats["success"]),
            iterations=int(stats["iter_count"]),
            seconds=float(stats.get("t_wall_total", elapsed)),
            duals=duals_by_name(self.spec, duals),
            cpu_seconds=float(stats.get("t_proc_total", elapsed)),
        )

    def _refused(self, x: Array, u: Array) -> Solution:
        nothing = float("nan")
        sizes = [self.program.rows(t).count for t in range(self.horizon + 1)]
        duals = duals_by_name(self.spec, [np.full(size, nothing) for size in sizes])
        status = "start is not finite"
        return Solution(x, u, nothing, np.full_like(x, nothing), status, False, 0, 0.0, duals)

    def solve_batch(
        self,
        x0: ArrayLike,
        parameters: Mapping[str, ArrayLike] | None = None,
        u_init: ArrayLike | None = None,
        x_init: ArrayLike | None = None,
    ) -> BatchSolution:
        """Solve from every row of x0 (B, n), one after the other; u_init (B, N, m) or (N, m), and so x_init.

        A parameter with one more leading axis than its own (stage axis included) has one value per problem.
        """
        starts = np.asarray(x0, dtype=float)
        if starts.ndim != 2 or starts.shape[1] != self.functions.n:
            raise ShapeError(f"x0 has shape {starts.shape}, expected (batch, {self.functions.n})")
        batched = {p.name for p in self.spec.parameters if _is_batched(p, (parameters or {}).get(p.name))}
        guesses = [None if guess is None else np.asarray(guess, dtype=float) for guess in (u_init, x_init)]
        solutions = []
        for b, start in enumerate(starts):
            values = {
                name: np.asarray(value)[b] if name in batched else value
                for name, value in (parameters or {}).items()
            }
            u, x = (guess[b] if guess is not None and guess.ndim == 3 else guess for guess in guesses)
            solutions.append(self.solve(start, values, u, x))
        return _stack(solutions)


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
        duals={name: np.array([s.duals[name] for s in solutions]) for name in solutions[0].duals}
        if solutions
        else {},
        cpu_seconds=sum(s.cpu_seconds for s in solutions),
    )


def _is_batched(parameter: ParameterSpec, value: ArrayLike | None) -> bool:
    own = len(parameter.shape) + parameter.per_stage
    return value is not None and np.ndim(value) == own + 1


def _tightened(bounds: Bounds) -> Bounds:
    """Bounds that fatrop's own relaxation brings back to the given ones, unless nothing would lie between."""
    lows, highs = _inner(bounds.lower_variables, bounds.upper_variables)
    return Bounds(lows, highs, *_inner(bounds.lower_constraints, bounds.upper_constraints))


def _inner(lower: Array, upper: Array) -> tuple[Array, Array]:
    with np.errstate(invalid="ignore"):
        inner = [
            np.where(
                np.isfinite(bound), bound + sign * _FATROP_RELAXATION * np.maximum(1.0, abs(bound)), bound
            )
            for bound, sign in ((lower, 1.0), (upper, -1.0))
        ]
    room = inner[0] < inner[1]
    return np.where(room, inner[0], lower), np.where(room, inner[1], upper)


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
