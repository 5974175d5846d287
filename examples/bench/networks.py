"""Controllers with a network as the dynamics beside torch and the paper's package: `python -m examples.bench.networks`.

The model has two hidden tanh layers on four states and a control, at width 128 on eight and two. In one process and
thread, float64, least CPU time of some alternating runs: what a problem, stage and pass of the solver take; the values,
Jacobians and Hessians λ·∇²f that it needs by torch.func, batched over as many points; and, where `mpc` is installed,
its solve of the same problems by its own ten iterations, once. Before all that, the seconds that the first call takes,
in which the solver is compiled, and the size of its C text.

A pass is a rollout and a backward sweep. A problem has one more than it has iterations: the first, of the controls that
it begins with.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import mpcgen
from examples.bench.timing import load_average, machine_name
from mpcgen.compiler import Compilation

HORIZON, BATCH = 20, 128
SIZES = {32: (4, 1), 64: (4, 1), 128: (8, 2)}
"""States and controls by width."""
TOLERANCE = 1e-4


class Learned(nn.Module):
    """x + 0.2 net(x, u), for one problem or a batch; ``states`` (n) and ``controls`` (m) by width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.states, self.controls = SIZES.get(width, (4, 1))
        sizes = [self.states + self.controls, width, width]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.Tanh()]
        self.net = nn.Sequential(*layers, nn.Linear(width, self.states))

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """(..., n) from (..., n) and (..., m)."""
        return x + 0.2 * self.net(torch.cat([x, u], -1))


@dataclass(frozen=True)
class Row:
    """Of one width: µs per problem, stage and pass; µs per point of torch's derivatives; seconds of solves.

    text: of the C, in kB. build: seconds from the problem to the first solution. torch: what f, its Jacobian and λ·∇²f
    take together. paper: a solve of the batch by mpc.pytorch, NaN without it.
    """

    width: int
    text: float
    build: float
    passes: float
    own: float
    torch: float
    solve: float
    paper: float


def problem_of(model: Learned) -> mpcgen.Problem:
    """The control of a model: states to zero, controls within ±1."""
    problem = mpcgen.Problem("bench_network", HORIZON)
    states = problem.states([f"x_{i}" for i in range(model.states)])
    controls = problem.controls([f"u_{i}" for i in range(model.controls)], lower=-1, upper=1)
    problem.dynamics = mpcgen.torch_model(problem, model)
    cost = sum(state**2 for state in states) / 2
    problem.stage_cost = cost + sum(u**2 for u in controls) / 20
    problem.terminal_cost = cost
    return problem


def controller(problem: mpcgen.Problem) -> Any:
    """The controller of a problem."""
    package = mpcgen.compile(problem, dtypes=(torch.float64,))
    return package.MPC(tol=TOLERANCE, on_unconverged="ignore")


def derivatives(model: Learned, x: Tensor, u: Tensor) -> Callable[[], Any]:
    """A task: f, its Jacobian and λ·∇²f at points x (P, n), u (P, m), batched."""
    tau, costate = torch.cat([x, u], -1), torch.ones(model.states, dtype=x.dtype)

    def f(point: Tensor) -> Tensor:
        return model(point[: model.states], point[model.states :])

    jacobian = torch.func.vmap(torch.func.jacrev(f))
    hessian = torch.func.vmap(torch.func.hessian(lambda point: f(point) @ costate))

    def run() -> Any:
        with torch.no_grad():
            return model(x, u), jacobian(tau), hessian(tau)

    return run


def paper_seconds(model: Learned, x0: Tensor) -> float:
    """CPU seconds of a solve of the batch by mpc.pytorch; NaN where it is not installed."""
    if importlib.util.find_spec("mpc") is None:
        return math.nan
    from mpc import mpc

    weights = torch.tensor([1.0] * model.states + [0.1] * model.controls, dtype=x0.dtype)
    C = torch.diag(weights).repeat(HORIZON + 1, len(x0), 1, 1)
    bound = torch.ones(HORIZON + 1, len(x0), model.controls, dtype=x0.dtype)
    solver = mpc.MPC(
        model.states,
        model.controls,
        HORIZON + 1,
        -bound,
        bound,
        lqr_iter=10,
        eps=TOLERANCE,
        verbose=-1,
        exit_unconverged=False,
        grad_method=mpc.GradMethods.AUTO_DIFF,
    )
    start = time.process_time()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        solver(x0, mpc.QuadCost(C, torch.zeros_like(C[..., 0])), model)
    return time.process_time() - start


def seconds(task: Callable[[], Any]) -> float:
    """CPU seconds of a task."""
    start = time.process_time()
    task()
    return time.process_time() - start


def measure(width: int, rounds: int) -> Row:
    """All of one width."""
    torch.manual_seed(0)
    model = Learned(width).double()
    start = time.perf_counter()
    problem = problem_of(model)
    mpc, given = controller(problem), mpcgen.torch_parameters(model)
    x0 = torch.randn(BATCH, model.states, dtype=torch.float64)

    def solve() -> Any:
        with torch.no_grad():
            return mpc(x0, **given)

    solution = solve()
    build = time.perf_counter() - start
    x, u = solution.x[:, :-1].reshape(-1, model.states), solution.u.reshape(-1, model.controls)
    tasks = (solve, derivatives(model, x, u))
    own, beside = (min(times) for times in zip(*(map(seconds, tasks) for _ in range(rounds)), strict=True))
    passes = 1 + solution.iterations.double().mean().item()
    points = BATCH * HORIZON
    return Row(
        width,
        len(Compilation(problem.spec()).rendered.c_text) / 1e3,
        build,
        passes,
        1e6 * own / (points * passes),
        1e6 * beside / points,
        own,
        paper_seconds(model, x0),
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, action="append", help=f"default: {', '.join(map(str, SIZES))}")
    parser.add_argument("--rounds", type=int, default=21)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine_name()}, {load_average()}, torch {torch.__version__}; {BATCH} problems, N = {HORIZON}")
    print(
        "| width | C text | first call | passes | µs a stage and pass | torch's derivatives, µs | times | solve | "
        "mpc.pytorch | times |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for width in given.width or SIZES:
        row = measure(width, given.rounds)
        print(
            f"| {row.width} | {row.text:.0f} kB | {row.build:.1f} s | {row.passes:.1f} | {row.own:.2f} | "
            f"{row.torch:.1f} | {row.torch / row.own:.0f} | {1e3 * row.solve:.2f} ms | {row.paper:.1f} s | "
            f"{row.paper / row.solve:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
