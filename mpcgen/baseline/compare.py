"""A built controller beside CasADi: trajectories, costs, gradients and time on the same random problems."""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mpcgen.baseline.functions import Functions
from mpcgen.baseline.parameters import Array
from mpcgen.baseline.problems import Problems, random_problems
from mpcgen.baseline.sensitivity import KktGradient, kkt_gradient
from mpcgen.baseline.solver import SOLVERS, Baseline, BatchSolution
from mpcgen.errors import BuildError, SpecError
from mpcgen.problem.spec import Spec
from mpcgen.runtime.importing import execute_folder
from mpcgen.runtime.status import Status

# Two solutions are of one basin when no state or control differs by more than this, relative to the largest
# of its trajectory: far above any converged solver's error, far below the distance of two local minima.
BASIN = 1e-3


@dataclass(frozen=True)
class SolverRow:
    """One CasADi solver against the generated one.

    ``same`` counts the problems that both solved in one basin. Over these: the largest difference of a state
    and of a control, and of the cost relative to max(1, |cost|). ``mean_cost`` and ``own_mean_cost`` are
    CasADi's and the generated solver's over the problems that both solved. Seconds are for all problems, those that it
    gives up on included; ``failures`` counts these by what the solver says of them.
    """

    solver: str
    solved: int
    same: int
    x_difference: float
    u_difference: float
    cost_difference: float
    mean_cost: float
    own_mean_cost: float
    mean_iterations: float
    seconds: float
    failures: dict[str, int]


@dataclass(frozen=True)
class Comparison:
    """What `compare` measured.

    ``gradients``: name -> largest relative difference of a gradient from CasADi's KKT system at the same
    solution, over the ``differentiable`` problems of those solved: second-order conditions hold and no
    bound or constraint is weakly active. ``seconds``: of the generated solver for all problems at once, the best of
    three. ``failures``: its problems that did not converge, by status. ``own_states``: the starts are the
    specification's, not from N(0, 1).
    """

    name: str
    count: int
    tol: float
    threads: int
    solved: int
    mean_iterations: float
    seconds: float
    rows: tuple[SolverRow, ...]
    differentiable: int
    gradients: dict[str, float]
    failures: dict[str, int]
    own_states: bool


def compare(
    module_or_path: ModuleType | str | os.PathLike[str],
    count: int = 16,
    seed: int = 0,
    tol: float = 1e-8,
    spec: str | os.PathLike[str] | None = None,
) -> Comparison:
    """Solve ``count`` random problems with a generated package and with CasADi, in float64.

    ``spec`` is the specification file; by default ``<name>.py`` or ``examples/<name>.py`` beside the folder that
    holds the package, or in the current one. Its ``initial_states(count, seed)`` gives the starts where it has one,
    else they are drawn from N(0, 1); its ``parameter_values(seed)`` gives a dict of values where parameters
    have no default. CasADi is timed at ``tol``; the trajectories compared are its solutions at ``tol / 100``.
    Raises `SpecError`, `BuildError` or `ParameterError` for what cannot be found.
    """
    module = module_or_path if isinstance(module_or_path, ModuleType) else _import_package(module_or_path)
    problems = random_problems(_find_spec(module, spec), count, seed)
    mpc = module.MPC(tol=tol, on_unconverged="ignore")
    solution, seconds = _timed(mpc, problems)
    own = _detached(solution)
    differentiable, gradients = _compare_gradients(mpc, problems, seed)
    return Comparison(
        name=problems.spec.name,
        count=count,
        tol=tol,
        threads=_torch().get_num_threads(),
        solved=int(own["converged"].sum()),
        mean_iterations=float(own["iterations"].mean()),
        seconds=seconds,
        rows=tuple(_compare_solver(name, problems, own, tol) for name in SOLVERS),
        differentiable=differentiable,
        gradients=gradients,
        failures=dict(Counter(Status(s).name for s in solution.status.flatten().tolist() if s)),
        own_states=problems.own_states,
    )


def _torch() -> Any:
    import torch

    return torch


def _import_package(path: str | os.PathLike[str]) -> ModuleType:
    folder = Path(path).resolve()
    if not (folder / "__init__.py").is_file():
        raise BuildError(
            f"{str(path)!r} is not a generated package (no __init__.py); "
            "run mpcgen build on the specification first"
        )
    return execute_folder(folder, f"_mpcgen_compared_{folder.name}")


def _find_spec(module: ModuleType, spec: str | os.PathLike[str] | None) -> Path:
    if spec is not None:
        return Path(spec)
    folder = Path(module.__file__ or "").resolve().parent
    bases = dict.fromkeys((folder.parent.parent, Path.cwd()))
    tried = [base / within / f"{folder.name}.py" for base in bases for within in ("", "examples")]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    raise SpecError(
        f"no specification of {folder.name!r} at {', '.join(map(str, tried))}; name it with --spec FILE"
    )


def _tensors(problems: Problems) -> tuple[Any, dict[str, Any]]:
    """x0 and parameters as float64 leaves with one value per problem, so that each has its own gradient."""
    torch = _torch()
    x0 = torch.tensor(problems.x0, requires_grad=True)
    repeated = {
        name: torch.tensor(np.repeat(value[None], len(problems.x0), axis=0), requires_grad=True)
        for name, value in problems.parameters.items()
    }
    return x0, repeated


def _timed(mpc: Callable[..., Any], problems: Problems) -> tuple[Any, float]:
    torch = _torch()
    x0 = torch.tensor(problems.x0)
    parameters = {name: torch.tensor(value) for name, value in problems.parameters.items()}
    seconds = []
    with torch.no_grad():
        solution = mpc(x0, **parameters)
        for _ in range(3):
            began = time.perf_counter()
            solution = mpc(x0, **parameters)
            seconds.append(time.perf_counter() - began)
    return solution, min(seconds)


def _detached(solution: Any) -> dict[str, Array]:
    fields = {name: getattr(solution, name).detach().numpy() for name in ("x", "u", "cost", "iterations")}
    return {**fields, "converged": solution.status.numpy() == 0}


def _duals(solution: Any, spec: Spec) -> dict[str, Array]:
    """Multipliers of the constraints, (B, stages, rows) by name; none where there are no constraints."""
    if not spec.constraints:
        return {}
    return {c.name: solution.duals[c.name].detach().numpy() for c in spec.constraints}


def _compare_solver(solver: str, problems: Problems, own: Mapping[str, Array], tol: float) -> SolverRow:
    timed = Baseline(problems.spec, solver=solver, tol=tol).solve_batch(problems.x0, problems.parameters)
    tight = Baseline(problems.spec, solver=solver, tol=tol / 100)
    exact = tight.solve_batch(problems.x0, problems.parameters)
    both = own["converged"] & exact.success
    x, u = (_distance(own[name], getattr(exact, name)) for name in ("x", "u"))
    same = both & _one_basin(own, exact)
    cost = np.abs(own["cost"] - exact.cost) / np.maximum(1.0, np.abs(exact.cost))
    return SolverRow(
        solver=solver,
        solved=int(timed.success.sum()),
        same=int(same.sum()),
        x_difference=_largest(x[same]),
        u_difference=_largest(u[same]),
        cost_difference=_largest(cost[same]),
        mean_cost=_mean(exact.cost[both]),
        own_mean_cost=_mean(own["cost"][both]),
        mean_iterations=_mean(timed.iterations),
        seconds=timed.seconds,
        failures=dict(
            Counter(said for said, good in zip(timed.status, timed.success, strict=True) if not good)
        ),
    )


def _distance(a: Array, b: Array) -> Array:
    """Largest absolute difference of each problem, (B,)."""
    return np.abs(a - b).max(axis=(1, 2))


def _one_basin(own: Mapping[str, Array], other: BatchSolution) -> np.ndarray:
    near = np.ones(len(other.cost), dtype=bool)
    for name in ("x", "u"):
        trajectory = getattr(other, name)
        scale = np.maximum(1.0, np.abs(trajectory).max(axis=(1, 2)))
        near &= _distance(own[name], trajectory) <= BASIN * scale
    return near


def _largest(values: Array) -> float:
    return float(values.max()) if values.size else float("nan")


def _mean(values: Array) -> float:
    return float(values.mean()) if values.size else float("nan")


def _compare_gradients(
    mpc: Callable[..., Any], problems: Problems, seed: int
) -> tuple[int, dict[str, float]]:
    """Largest relative gradient differences by name, for a random linear loss in x, u and the cost."""
    torch = _torch()
    x0, parameters = _tensors(problems)
    solution = mpc(x0, **parameters)
    rng = np.random.default_rng(seed)
    cotangents = [rng.standard_normal(tuple(part.shape)) for part in (solution.x, solution.u, solution.cost)]
    outputs = (solution.x, solution.u, solution.cost)
    torch.autograd.backward(outputs, [torch.tensor(cotangent) for cotangent in cotangents])
    own = {"x0": x0.grad.numpy(), **{name: value.grad.numpy() for name, value in parameters.items()}}
    state = _detached(solution)
    duals = _duals(solution, problems.spec)
    functions = Functions(problems.spec)
    largest = dict.fromkeys(own, 0.0)
    counted = 0
    for b in np.flatnonzero(state["converged"]):
        own_duals = {name: value[b] for name, value in duals.items()}
        witness = _witness(functions, state, own_duals, problems.parameters, cotangents, int(b))
        if witness is None:
            continue
        counted += 1
        for name, difference in gradient_differences({n: g[b] for n, g in own.items()}, witness).items():
            largest[name] = max(largest[name], difference)
    return counted, largest if counted else dict.fromkeys(own, float("nan"))


def _witness(
    functions: Functions,
    state: Mapping[str, Array],
    duals: Mapping[str, Array],
    parameters: Mapping[str, Array],
    cotangents: list[Array],
    b: int,
) -> KktGradient | None:
    """CasADi's gradient of problem b, or None where the solution has none."""
    try:
        gradient = kkt_gradient(
            functions,
            state["x"][b],
            state["u"][b],
            parameters,
            grad_x=cotangents[0][b],
            grad_u=cotangents[1][b],
            grad_cost=float(cotangents[2][b]),
            duals=duals,
        )
    except np.linalg.LinAlgError:
        return None
    # below ten residuals, which bounds are active is the residual's choice
    distinct = gradient.complementarity > 10 * gradient.residual
    return gradient if distinct and gradient.second_order else None


def gradient_differences(own: Mapping[str, Array], witness: KktGradient) -> dict[str, float]:
    """Relative Euclidean difference by name of one problem's gradients, given by name as in the witness.

    Relative to the witness's norm, though at least to sqrt(eps) times that of all its gradients together: a
    gradient that cancels to zero has no digits to compare.
    """
    expected = {"x0": witness.x0, **witness.parameters}
    whole = np.sqrt(sum(float(np.sum(value**2)) for value in expected.values()))
    floor = np.sqrt(np.finfo(float).eps) * whole or 1.0
    return {
        name: float(np.linalg.norm(own[name] - value) / max(float(np.linalg.norm(value)), floor))
        for name, value in expected.items()
    }
