"""The CUDA kernels on a GPU: equal to the CPU's, deterministic, usable in a graph and on every device.

python -m examples.check_cuda                    # exit code 1 where something required is not met
compute-sanitizer --tool memcheck python -m examples.check_cuda pendulum
compute-sanitizer --tool racecheck python -m examples.check_cuda pendulum --cuda-kernel warp
compute-sanitizer --tool synccheck python -m examples.check_cuda pendulum --cuda-kernel warp
ncu --set full --kernel-name solve_kernel --launch-count 1 python -m examples.check_cuda cartpole

How fast they are: mpcgen bench --device cuda. Where there is no GPU, --device cuda-host checks them over their shim.
"""

import dataclasses
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import mpcgen
from examples.bench.cells import CUDA_PROBLEMS
from examples.bench.device import require_device
from examples.bench.packages import Packages
from examples.bench.problems import Instances, Problem, load
from mpcgen import Status
from mpcgen.build.cuda_kernel import CHOICES

EXAMPLES = Path(__file__).parent
COST = {torch.float64: 1e-9, torch.float32: 1e-4}
GRADIENT = {torch.float64: 1e-7, torch.float32: 1e-3}
SAME_MINIMUM = 0.98
"""Of the problems, from a cold start: rounding decides which of two optima a start on the ridge between them finds."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure beside its limit; ``met`` is None where nothing is required."""

    what: str
    measured: str
    required: str
    met: bool | None


@dataclasses.dataclass(frozen=True)
class Solved:
    """A solution and the gradients of a loss by x0 and the parameters, all on the CPU."""

    solution: object
    gradients: list[Tensor]


def at_most(what: str, measured: float, limit: float) -> Row:
    return Row(what, f"{measured:.3g}", f"at most {limit:g}", measured <= limit)


def equal(what: str, met: bool) -> Row:
    return Row(what, "equal" if met else "differ", "equal", met)


def controller(problem: Problem, kind: str, **options) -> torch.nn.Module:
    return problem.package_for(kind).MPC(**{"on_unconverged": "ignore", "threads": 1, **options})


def on(device: str, drawn: Instances) -> tuple[Tensor, dict[str, Tensor]]:
    return drawn.x0.to(device), {k: v.to(device) for k, v in drawn.parameters.items()}


def solve(problem: Problem, kind: str, drawn: Instances, u_init: Tensor | None = None) -> Solved:
    """Solve and differentiate on a kind of device; from ``u_init`` where it is given."""
    device = "cuda" if kind == "cuda" else "cpu"
    x0, parameters = on(device, drawn)
    inputs = [x0.requires_grad_(), *(p.requires_grad_() for p in parameters.values())]
    start = None if u_init is None else u_init.to(device)
    solution = controller(problem, kind)(x0, u_init=start, **parameters)
    gradients = torch.autograd.grad(solution.u.square().sum() + solution.cost.sum(), inputs)
    return Solved(solution, [g.cpu() for g in gradients])


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def check(problem: Problem, kind: str, count: int) -> Iterator[Row]:
    """Equality with the CPU and between runs in both precisions; and, on a GPU, what only one can do."""
    for dtype in COST:
        label = f"{problem.name}, {str(dtype).removeprefix('torch.')}"
        yield from agreement(problem, kind, problem.draw(count, dtype, 0), dtype, label)
    if kind == "cuda":
        yield captured(problem, problem.draw(count, torch.float32, 1))
        yield warned(problem)
        yield on_the_last_device(problem)


def agreement(problem: Problem, kind: str, drawn: Instances, dtype: torch.dtype, label: str) -> Iterator[Row]:
    here, there, again = (solve(problem, k, drawn) for k in ("cpu", kind, kind))
    cost, own_cost = here.solution.cost.detach(), there.solution.cost.detach().cpu()
    status = there.solution.status.cpu()
    solved = (here.solution.status == Status.CONVERGED) & (status == Status.CONVERGED)
    same = solved & ((here.solution.u - there.solution.u.cpu()).abs().amax((-2, -1)) < 1e-3)
    share = float(same.sum() / solved.sum().clamp(min=1))
    yield Row(
        f"{label}: share in the CPU's local minimum",
        f"{share:.4f}",
        f"at least {SAME_MINIMUM:g}",
        share >= SAME_MINIMUM,
    )
    error = (cost - own_cost).abs() / cost.abs().clamp(min=1e-3)
    yield at_most(f"{label}: cost there, worst", float(error[same].max()), COST[dtype])
    # The same solution to start from: there the optimum is not a question of rounding.
    warm = solve(problem, kind, drawn, here.solution.u.detach())
    done = here.solution.status == Status.CONVERGED
    error = (cost - warm.solution.cost.detach().cpu()).abs() / cost.abs().clamp(min=1e-3)
    yield at_most(f"{label}: cost from the CPU's solution, worst", float(error[done].max()), COST[dtype])
    gradient = relative(warm.gradients[0][done], here.gradients[0][done])
    yield at_most(f"{label}: gradient by x0 there", gradient, GRADIENT[dtype])
    bits = torch.equal(there.solution.u, again.solution.u)
    yield equal(
        f"{label}: two runs, bit for bit", bits and all(map(torch.equal, there.gradients, again.gradients))
    )
    yield Row(f"{label}: solved on both", f"{solved.float().mean():.4f}", "", None)


def captured(problem: Problem, drawn: Instances) -> Row:
    """A graph with one solve, replayed for other problems."""
    mpc = controller(problem, "cuda")
    x0, parameters = on("cuda", drawn)
    with torch.no_grad():
        expected = mpc(x0, **parameters).u
        held = x0.flip(0).clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            mpc(held, **parameters)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            solution = mpc(held, **parameters)
        held.copy_(x0)
        graph.replay()
    return equal(f"{problem.name}: replay of a CUDA graph", torch.equal(solution.u, expected))


def warned(problem: Problem) -> Row:
    """A warning about unsolved problems comes with the first call after they were computed."""
    mpc = controller(problem, "cuda", on_unconverged="warn", max_iterations=0)
    x0, parameters = on("cuda", problem.draw(64, torch.float32, 0))
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        mpc(x0, **parameters)
        torch.cuda.synchronize()
        mpc(x0, **parameters)
    came = any(issubclass(w.category, mpcgen.UnconvergedWarning) for w in caught)
    return Row(f"{problem.name}: the warning of an earlier call", "came" if came else "missing", "came", came)


def on_the_last_device(problem: Problem) -> Row:
    """The last GPU solves while the first is current."""
    drawn = problem.draw(256, torch.float32, 0)
    device, mpc = f"cuda:{torch.cuda.device_count() - 1}", controller(problem, "cuda")
    with torch.no_grad():
        first, last = (mpc(x0, **parameters).u for x0, parameters in (on("cuda:0", drawn), on(device, drawn)))
    return equal(
        f"{problem.name}: on {device}", str(last.device) == device and torch.equal(first.cpu(), last.cpu())
    )


@click.command()
@click.argument("names", nargs=-1)
@click.option("--count", default=2048, show_default=True, help="Problems of a check.")
@click.option("--device", default="cuda", type=click.Choice(["cuda", "cuda-host"]), show_default=True)
@click.option("--packages", type=click.Path(path_type=Path), help="As mpcgen bench --prepare made them.")
@click.option("--cuda-kernel", default="auto", type=click.Choice(CHOICES), show_default=True)
def main(names: tuple[str, ...], count: int, device: str, packages: Path | None, cuda_kernel: str) -> None:
    """Check the problems NAMES of the benchmark; all that `mpcgen bench --device cuda` measures if none is named."""
    try:
        require_device(device)
        problems = load(names or CUDA_PROBLEMS, EXAMPLES, Packages(packages, cuda_kernel=cuda_kernel))
    except mpcgen.MpcgenError as error:
        raise click.ClickException(str(error)) from error
    rows = [row for problem in problems for row in check(problem, device, count)]
    table = Table("what", "measured", "required", "")
    for row in rows:
        verdict = {True: "met", False: "NOT MET", None: ""}[row.met]
        table.add_row(row.what, row.measured, row.required, verdict)
    Console(width=120).print(table)
    sys.exit(any(row.met is False for row in rows))


if __name__ == "__main__":
    main()
