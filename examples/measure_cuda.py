"""The CUDA kernels on a GPU: equal to the CPU's, deterministic, usable in a graph, and how fast: needs a GPU.

python -m examples.measure_cuda                  # checks and timings, beside what is required
compute-sanitizer --tool memcheck python -m examples.measure_cuda --check pendulum
compute-sanitizer --tool racecheck python -m examples.measure_cuda --check pendulum
ncu --set full --kernel-name solve_kernel --launch-count 1 python -m examples.measure_cuda --check cartpole
"""

import dataclasses
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import mpcgen
from mpcgen import Status
from mpcgen.bench.problems import Instances, Problem, from_file, linear_quadratic

EXAMPLES = Path(__file__).parent
CHECKED = ("pendulum", "cartpole", "car", "quadrotor", "lq_8_4")
COST = {torch.float64: 1e-9, torch.float32: 1e-4}
GRADIENT = {torch.float64: 1e-7, torch.float32: 1e-3}
LARGE = 65_536
TIMES_A_CORE = 30.0
SMALL_MILLISECONDS = {"bounded": (0.6, 0.3), "unbounded": (0.2, 0.3)}
QUADROTOR_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure beside its limit; ``met`` is None where nothing is required."""

    what: str
    measured: str
    required: str
    met: bool | None


def limited(what: str, measured: float, limit: float, unit: str = "") -> Row:
    return Row(what, f"{measured:.3g}{unit}", f"at most {limit:g}{unit}", measured <= limit)


def problem_named(name: str) -> Problem:
    if name == "lq_8_4":
        return linear_quadratic(8, 4, 40, bound=1.0)
    return from_file(EXAMPLES / f"{name}.py")


def build(problem: Problem) -> torch.nn.Module:
    return mpcgen.compile(problem.spec, targets=("cpu", "cuda")).MPC(on_unconverged="ignore", threads=1)


def on(device: str, drawn: Instances) -> tuple[Tensor, dict[str, Tensor]]:
    """Leaves on a device."""
    x0 = drawn.x0.to(device).requires_grad_()
    return x0, {k: v.to(device).requires_grad_() for k, v in drawn.parameters.items()}


def differentiated(mpc: torch.nn.Module, drawn: Instances, device: str) -> tuple:
    x0, parameters = on(device, drawn)
    solution = mpc(x0, **parameters)
    loss = solution.u.square().sum() + solution.cost.sum()
    gradients = torch.autograd.grad(loss, [x0, *parameters.values()])
    return solution, [g.cpu() for g in gradients]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def check(name: str, count: int) -> Iterator[Row]:
    """Equality with the CPU and between runs, in both precisions, and capture in a CUDA graph."""
    problem = problem_named(name)
    mpc = build(problem)
    for dtype in COST:
        drawn = problem.draw(count, dtype, 0)
        here, g_here = differentiated(mpc, drawn, "cpu")
        there, g_there = differentiated(mpc, drawn, "cuda")
        again, g_again = differentiated(mpc, drawn, "cuda")
        label = f"{name}, {str(dtype).removeprefix('torch.')}"
        solved = (here.status == Status.CONVERGED) & (there.status.cpu() == Status.CONVERGED)
        error = (here.cost - there.cost.cpu()).abs() / here.cost.abs().clamp(min=1e-3)
        yield limited(f"{label}: cost, 98 % of problems", float(error[solved].quantile(0.98)), COST[dtype])
        same = (here.u - there.u.cpu()).abs().amax((-2, -1)) < 1e-3  # of one local minimum
        own = relative(g_there[0][solved & same], g_here[0][solved & same])
        yield limited(f"{label}: gradient by x0", own, GRADIENT[dtype])
        bits = torch.equal(there.u, again.u) and all(map(torch.equal, g_there, g_again))
        yield Row(f"{label}: two runs, bit for bit", "equal" if bits else "differ", "equal", bits)
        yield Row(f"{label}: solved here, there", f"{solved.float().mean():.4f}", "", None)
    yield captured(mpc, problem.draw(count, torch.float32, 1), name)
    yield warned(problem)
    yield on_the_last_device(problem, mpc)


def captured(mpc: torch.nn.Module, drawn: Instances, name: str) -> Row:
    """A graph with one solve, replayed for other problems."""
    x0 = drawn.x0.cuda()
    parameters = {k: v.cuda() for k, v in drawn.parameters.items()}
    with torch.no_grad():
        expected = mpc(x0, **parameters).u
        held = x0.flip(0).clone()
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            mpc(held, **parameters)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            solution = mpc(held, **parameters)
        held.copy_(x0)
        graph.replay()
    equal = torch.equal(solution.u, expected)
    return Row(f"{name}: replay of a CUDA graph", "equal" if equal else "differs", "equal", equal)


def warned(problem: Problem) -> Row:
    """A warning about unsolved problems comes with the first call after they were computed."""
    mpc = mpcgen.compile(problem.spec, targets=("cpu", "cuda")).MPC(max_iterations=0)
    drawn = problem.draw(64, torch.float32, 0)
    x0, parameters = on("cuda", drawn)
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        mpc(x0, **parameters)
        torch.cuda.synchronize()
        mpc(x0, **parameters)
    came = any(issubclass(w.category, mpcgen.UnconvergedWarning) for w in caught)
    return Row(f"{problem.name}: the warning of an earlier call", "came" if came else "missing", "came", came)


def on_the_last_device(problem: Problem, mpc: torch.nn.Module) -> Row:
    """The last GPU solves while the first is current."""
    drawn = problem.draw(256, torch.float32, 0)
    device = f"cuda:{torch.cuda.device_count() - 1}"
    with torch.no_grad():
        solution = [mpc(x0, **parameters) for x0, parameters in (on("cuda:0", drawn), on(device, drawn))]
    equal = torch.equal(solution[0].u.cpu(), solution[1].u.cpu()) and str(solution[1].u.device) == device
    return Row(f"{problem.name}: on {device}", "equal" if equal else "differs", "equal", equal)


def milliseconds(task: Callable[[], object], device: str, rounds: int = 11) -> float:
    """Median wall time, the device's work included."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        task()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - began))
    return sorted(times[1:])[rounds // 2]


def time_of(mpc: torch.nn.Module, drawn: Instances, device: str) -> tuple[float, float, float]:
    """Milliseconds of a forward and a backward pass, and the mean of the iterations."""
    x0, parameters = on(device, drawn)
    with torch.no_grad():
        forward = milliseconds(lambda: mpc(x0, **parameters), device)
    solution = mpc(x0, **parameters)
    loss = solution.u.square().sum()
    leaves = [x0, *parameters.values()]
    backward = milliseconds(lambda: torch.autograd.grad(loss, leaves, retain_graph=True), device)
    return forward, backward, float(solution.iterations.double().mean())


def throughput() -> Iterator[Row]:
    for name in ("pendulum", "cartpole"):
        problem = problem_named(name)
        mpc = build(problem)
        gpu = time_of(mpc, problem.draw(LARGE, torch.float32, 0), "cuda")
        core = time_of(mpc, problem.draw(4096, torch.float32, 0), "cpu")
        for what, ours, theirs in zip(("forward", "backward"), gpu, core, strict=False):
            times = theirs / 4096 / (ours / LARGE)
            label = f"{name}, {what}, batch {LARGE:,}, float32, beside one CPU core"
            yield Row(
                label,
                f"{times:.1f} times, {ours:.3g} ms",
                f"at least {TIMES_A_CORE:g} times",
                times >= TIMES_A_CORE,
            )
    for kind, (forward, backward) in SMALL_MILLISECONDS.items():
        problem = linear_quadratic(8, 4, 40, bound=1.0 if kind == "bounded" else None)
        found = time_of(build(problem), problem.draw(64, torch.float32, 0), "cuda")
        yield limited(f"LQ n=8, m=4, N=40, batch 64, {kind}, forward", found[0], forward, " ms")
        yield limited(f"LQ n=8, m=4, N=40, batch 64, {kind}, backward", found[1], backward, " ms")
    problem = problem_named("quadrotor")
    mpc = build(problem)
    gpu = time_of(mpc, problem.draw(4096, torch.float32, 0), "cuda")
    core = time_of(mpc, problem.draw(256, torch.float32, 0), "cpu")
    share = (gpu[0] / 4096 / gpu[2]) / (core[0] / 256 / core[2])
    yield limited(
        "quadrotor, batch 4,096: time by problem and iteration, share of a CPU core's", share, QUADROTOR_SHARE
    )


@click.command()
@click.option("--check", "only", help="Check this problem and measure nothing.")
@click.option("--count", default=2048, show_default=True, help="Problems of a check.")
def main(only: str | None, count: int) -> None:
    """Check and measure; the exit code is 1 where something required is not met."""
    if not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device here; this script checks and measures the kernels on one")
    rows = list(check(only, count)) if only else [row for name in CHECKED for row in check(name, count)]
    if not only:
        rows += throughput()
    table = Table("what", "measured", "required", "", title=torch.cuda.get_device_name())
    for row in rows:
        table.add_row(
            row.what, row.measured, row.required, {True: "met", False: "NOT MET", None: ""}[row.met]
        )
    Console(width=160).print(table)
    sys.exit(any(row.met is False for row in rows))


if __name__ == "__main__":
    main()
