"""How reliably problems with constraints are solved, beside IPOPT from the same starts.

    python tests/constrained_reliability.py                       # everything: minutes of compiling, minutes of IPOPT
    python tests/constrained_reliability.py --only beam rocket --starts 32 --ipopt 4

Each problem of tests/constrained_problems.py from zero controls and from random ones within their bounds, to 1e-8 in at
most 1,000 iterations: how many are solved, how many at the known optimum to 1e-7, how many are called INFEASIBLE;
iterations; and the same of IPOPT (of the baseline, at the same tolerance) from the first of these starts. Then what is
infeasible: a double integrator (convex), and a pendulum that is to stand sooner than it can (not convex). Then random
feasible instances: the states of every stage in a box about those of a random rollout, none of which may be called
INFEASIBLE. Exit status 1 where one is. Not a test of pytest's, which would pay for it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))  # so that it runs from anywhere

import mpcgen
from mpcgen import Status
from mpcgen.baseline import Baseline
from tests import constrained_problems as problems

MAX_ITERATIONS = 1000
DIGITS = 1e-7  # relative, of a known optimum
ITERATIONS = ("iterations: mean, most", "from zero", "IPOPT solved", "IPOPT's iterations: mean, most")
CONTROLS = {problems.rocket: 1.0}  # reach of random controls that have no bounds


def controller(make: Any) -> Any:
    return mpcgen.compile(make(), progress=False, dtypes=("float64",)).MPC(
        max_iterations=MAX_ITERATIONS, on_unconverged="ignore"
    )


def random_controls(make: Any, count: int, generator: np.random.Generator) -> np.ndarray:
    """(count, N, m) uniform within their bounds; the first are zero."""
    spec = make().spec()
    reach = CONTROLS.get(make)
    bounds = [(-reach, reach) if reach else (float(c.lower), float(c.upper)) for c in spec.controls]
    lower, upper = np.array(bounds).T
    u = generator.uniform(lower, upper, (count, spec.horizon, len(bounds)))
    u[0] = 0
    return u


def given(make: Any) -> dict[str, Any]:
    return problems.parameters_of(make, make().spec().horizon)


def solve(make: Any, x0: Any, u: np.ndarray) -> mpcgen.Solution:
    start = torch.tensor(x0, dtype=torch.float64).expand(len(u), -1)
    parameters = {name: torch.tensor(value) for name, value in given(make).items()}
    return controller(make)(start, u_init=torch.tensor(u), **parameters)


def ipopt(make: Any, x0: Any, u: np.ndarray) -> list[Any]:
    baseline = Baseline(make().spec(), tol=1e-8, max_iterations=MAX_ITERATIONS)
    return [baseline.solve(x0, given(make), controls) for controls in u]


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def iterations_of(values: Any) -> str:
    values = np.asarray(values, dtype=float)
    return f"{values.mean():.1f}, {values.max():.0f}" if len(values) else "-"


def share(hits: Tensor | np.ndarray) -> str:
    return f"{int(hits.sum())} of {len(hits)}"


def judge(make: Any, starts: int, others: int) -> int:
    """One row of the table; returns how many were called INFEASIBLE."""
    u = random_controls(make, starts, np.random.default_rng(0))
    sol = solve(make, problems.STARTS[make], u)
    good, lost = sol.status == Status.CONVERGED, sol.status == Status.INFEASIBLE
    best = problems.OPTIMA[make]
    error = (sol.cost - best) / abs(best)
    theirs = ipopt(make, problems.STARTS[make], u[:others])
    solved = [s for s in theirs if s.success]
    least = min((s.cost for s in solved), default=float("nan"))
    row(
        make.__name__,
        share(good),
        int(lost.sum()),
        share(error[good].abs() <= DIGITS),
        f"{float(sol.cost[good].min() - least) / abs(least):.1e}" if solved and good.any() else "-",
        iterations_of(sol.iterations[good]),
        int(sol.iterations[0]),
        f"{len(solved)} of {len(theirs)}",
        iterations_of([s.iterations for s in solved]),
    )
    return int(lost.sum())


def short_swing_up() -> mpcgen.Problem:
    """A pendulum that has no time to stand."""
    return problems.pendulum_swing_up(horizon=10)


def judge_infeasible(starts: int, others: int) -> int:
    """Rows of what no point satisfies; returns how many of the convex one were not reported."""
    missed = 0
    for make, x0 in ((problems.double_integrator, problems.INFEASIBLE_START), (short_swing_up, [0.0, 0.0])):
        u = random_controls(make, starts, np.random.default_rng(0))
        sol = solve(make, x0, u)
        reported = sol.status == Status.INFEASIBLE
        theirs = ipopt(make, x0, u[:others])
        named = sum(s.status == "Infeasible_Problem_Detected" for s in theirs)
        least, most = float(sol.violation.min()), float(sol.violation.max())
        row(
            make.__name__,
            share(reported),
            iterations_of(sol.iterations),
            f"{least:.4g} to {most:.4g}",
            f"{named} of {len(theirs)}",
            iterations_of([s.iterations for s in theirs]),
        )
        missed += int((~reported).sum()) if make is problems.double_integrator else 0
    return missed


def judge_feasible(linear: bool, count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> int:
    """A row of random feasible instances; returns how many were called INFEASIBLE."""
    problem = problems.corridor(linear)
    baseline, spec = Baseline(problem.spec()), problem.spec()
    generator = np.random.default_rng(seed)
    n, horizon = len(spec.states), spec.horizon
    reach = np.array([float(control.upper) for control in spec.controls])
    u = generator.uniform(-reach, reach, (count, horizon, len(reach)))
    x = [generator.standard_normal((count, n))]
    step = baseline.functions.f.map(count)
    theta = np.zeros((baseline.functions.n_theta, count))
    for t in range(horizon):
        x.append(np.array(step(x[-1].T, u[:, t].T, theta)).T)
    path = np.stack(x, axis=1)
    width = 10 ** generator.uniform(-3, 0, (count, 1, n))
    low, high = (path + sign * width * generator.uniform(0.02, 1, path.shape) for sign in (-1, 1))
    mpc = mpcgen.compile(problem, progress=False, dtypes=dtype).MPC(
        max_iterations=MAX_ITERATIONS, on_unconverged="ignore"
    )
    x0, low, high = (torch.tensor(v, dtype=dtype) for v in (path[:, 0], low, high))
    sol = mpc(x0, low=low, high=high)
    good, lost = sol.status == Status.CONVERGED, sol.status == Status.INFEASIBLE
    row(spec.name, count, share(good), int(lost.sum()), iterations_of(sol.iterations))
    return int(lost.sum())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", help="names of problems, or 'infeasible' and 'feasible'")
    parser.add_argument("--starts", type=int, default=128)
    parser.add_argument("--ipopt", type=int, default=16, help="of these starts, those that IPOPT gets too")
    parser.add_argument("--instances", type=int, default=10_000, help="feasible instances of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the feasible instances")
    options = parser.parse_args()

    def wanted(name: str) -> bool:
        return not options.only or name in options.only

    faults = 0
    chosen = [make for make in problems.OPTIMA if wanted(make.__name__)]
    if chosen:
        row("problem", "solved", "INFEASIBLE", "at the optimum", "best, relative to IPOPT's", *ITERATIONS)
    for make in chosen:
        faults += judge(make, options.starts, options.ipopt)
    if wanted("infeasible"):
        row("infeasible", "reported", "iterations", "violation", "IPOPT reported", "IPOPT's iterations")
        faults += judge_infeasible(options.starts, options.ipopt)
    if wanted("feasible"):
        row("feasible", "instances", "solved", "INFEASIBLE", "iterations: mean, most")
        faults += sum(judge_feasible(linear, options.instances, options.seed) for linear in (True, False))
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
