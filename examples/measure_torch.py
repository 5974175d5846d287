"""Measure the torch face: `make measure-torch`.

The overhead of a call above the kernel's own time, by the ways into it; the memory of forward and backward
beside unrolled PyTorch, and with a learned model, to its weights; a parameter vector of 20,000 shared by 1,024
problems; Jacobians in either mode.
"""

import dataclasses
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import mpcgen
from examples.bench.timing import alternate, load_average, machine_name
from mpcgen.autograd import library

CALLS, ROUNDS = 5, 401  # in a row, and how often: short enough to lie between two turns of the scheduler
REPETITIONS = 41
OVERHEAD_LIMIT = 30.0  # µs, eager, without gradient
ITERATIONS = (5, 10, 20, 40)
MEMORY_BATCH = 128
SHARED_BATCH, SHARED_HORIZON, SHARED_WIDTH = 1024, 1000, 20
MEBIBYTE = 2**20
NETWORK_WIDTHS = (32, 64)
NETWORK_LIMIT = 50.0  # MiB, of a step to the weights of a model of width 64
UNREACHABLE = 1e-300  # a tolerance with which every iteration allowed is used
ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure of one measurement."""

    measurement: str
    what: str
    value: float
    unit: str
    note: str = ""


def repeated(task: Callable[[], Any]) -> Callable[[], None]:
    """Return a task that does another one `CALLS` times."""

    def run() -> None:
        for _ in range(CALLS):
            task()

    return run


def kernel_alone(package: Any, x0: Tensor, u_init: Tensor) -> Callable[[], int]:
    """Return a bare call of the C solver for one problem that starts at ``u_init``, its struct filled once."""
    controller = package.CONTROLLER
    ffi, lib = controller.library.ffi, controller.library.lib
    n, m, horizon = x0.shape[-1], u_init.shape[-1], u_init.shape[-2]
    parameters = [torch.tensor(p.default, dtype=torch.float64) for p in controller.parameters]
    sizes = {
        "states": (horizon + 1) * n,
        "controls": horizon * m,
        "costates": (horizon + 1) * n,
        "gains": horizon * m * n,
        "cost": 1,
        "residual": 1,
    }
    outputs = {name: torch.empty(size, dtype=torch.float64) for name, size in sizes.items()}
    counts = {name: torch.empty(1, dtype=torch.int32) for name in ("status", "iterations")}
    arguments = ffi.new(f"{controller.name}_solve_arguments *")
    arguments.batch, arguments.horizon, arguments.max_iterations = 1, horizon, 200
    arguments.exact_hessian, arguments.certify, arguments.threads = 1, 1, 1
    arguments.tolerance = 1e-8
    arguments.initial_state = ffi.cast("void *", x0.data_ptr())
    arguments.initial_controls = ffi.cast("void *", u_init.data_ptr())
    pointers = ffi.new("void *[]", [ffi.cast("void *", p.data_ptr()) for p in parameters])
    strides = ffi.new("int64_t[]", len(parameters))
    arguments.parameters, arguments.parameter_strides = pointers, strides
    for name, tensor in outputs.items():
        setattr(arguments, name, ffi.cast("void *", tensor.data_ptr()))
    for name, tensor in counts.items():
        setattr(arguments, name, ffi.cast("int32_t *", tensor.data_ptr()))
    function = getattr(lib, f"{controller.name}_solve_f64_single")
    # what the struct points into lives as long as the call
    kept = (x0, u_init, parameters, pointers, strides, outputs, counts)
    function(arguments)
    if int(counts["status"]) != 0:
        raise SystemExit(f"{controller.name}: the problem to be timed did not converge")
    return lambda: function(arguments) if kept else 1


def without_gradient(call: Callable[[], Any]) -> Callable[[], None]:
    """Return a task that does a call `CALLS` times under `torch.no_grad`."""

    def run() -> None:
        with torch.no_grad():
            for _ in range(CALLS):
                call()

    return run


def overhead(example: str) -> list[Figure]:
    """Microseconds of a call for one problem, by the ways into the kernel, above the kernel's own time.

    The problem starts at its solution where u_init is given, and at zero controls where it is not.
    """
    package = importlib.import_module(f"generated.{example}")
    x0 = importlib.import_module(f"examples.{example}").initial_states(1)[0]
    mpc = package.MPC(tol=1e-8)
    u_init = mpc(x0).u
    leaf = x0.clone().requires_grad_()
    parameters = {
        p.name: torch.tensor(p.default, dtype=x0.dtype).reshape(p.shape)
        for p in package.CONTROLLER.parameters
    }
    flat, start, horizon, q = x0[None], u_init[None], u_init.shape[0], parameters["q"]
    values = [value[None] for value in parameters.values()]
    compiled = torch.compile(lambda s, u: mpc(s, u_init=u).u, fullgraph=True, backend="aot_eager")

    def train() -> None:
        mpc(leaf, u_init=u_init).u.sum().backward()

    kernels = {
        "kernel alone, from zero controls": repeated(kernel_alone(package, x0, torch.zeros_like(u_init))),
        "kernel alone, from its solution": repeated(kernel_alone(package, x0, u_init)),
    }
    eager = {
        "eager, no gradient: x0": without_gradient(lambda: mpc(x0)),
        "eager, no gradient: x0, u_init": without_gradient(lambda: mpc(x0, u_init=u_init)),
        "eager, no gradient: x0, u_init, q": without_gradient(lambda: mpc(x0, u_init=u_init, q=q)),
    }
    others = {
        "eager, for a gradient": repeated(lambda: mpc(leaf, u_init=u_init)),
        "eager, forward and backward": repeated(train),
        "registered operator, no gradient": without_gradient(
            lambda: library.solve(mpc.key, mpc.options_text, horizon, flat, start, None, None, None, values)
        ),
        "torch.compile (aot_eager), no gradient": without_gradient(lambda: compiled(x0, u_init)),
    }
    ways = kernels | eager | others
    micro = [1e6 * timing.median / CALLS for timing in alternate(list(ways.values()), ROUNDS)]
    cold, warm, *rest = micro
    name = f"one problem of {example}"
    figures = [Figure(name, way, value, "µs") for way, value in zip(kernels, micro, strict=False)]
    for way, value in zip([*eager, *others], rest, strict=True):
        limit = f"<= {OVERHEAD_LIMIT:g}" if way in eager else ""
        kernel = warm if "u_init" in way or way in others else cold
        figures.append(Figure(name, f"{way}: above the kernel", value - kernel, "µs", limit))
    return figures


def resident(field: str) -> float:
    """Return MiB of this process: "VmRSS", now, or "VmHWM", the most since `reset_peak`."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def reset_peak() -> float:
    """Let the peak start again at what is resident now; returns that, MiB."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident("VmRSS")


def train_memory(solver: str, iterations: int) -> tuple[float, float]:
    """Peak MiB of forward and backward on cartpole above what was resident before, and iterations used."""
    from examples import cartpole

    options: dict[str, Any] = {"max_iterations": iterations, "on_unconverged": "ignore", "tol": UNREACHABLE}
    options["hessian"] = "gauss_newton"  # which converges slowly enough to use the iterations it may
    if solver == "generated":
        package = importlib.import_module("generated.cartpole")
        mpc = package.MPC(unconverged_gradient="keep", **options)
    else:
        from mpcgen import reference

        mpc = reference.MPC(cartpole.problem, differentiable="unroll", **options)
    mpc(cartpole.initial_states(1).requires_grad_()).u.sum().backward()
    x0 = cartpole.initial_states(MEMORY_BATCH).requires_grad_()
    before = reset_peak()
    solution = mpc(x0)
    solution.u.sum().backward()
    return resident("VmHWM") - before, float(solution.iterations.double().mean())


def network_memory(width: int) -> tuple[float, float]:
    """Peak MiB of forward and backward to the weights of a learned cartpole above what was resident, and iterations.

    The model has two hidden layers of ``width``, whose weights the batch shares.
    """
    from examples import learned_model

    torch.manual_seed(0)
    model = learned_model.Model(width).double()
    learned_model.fit(model, steps=300)
    mpc, weights = learned_model.controller(model), mpcgen.torch_parameters(model)
    mpc(learned_model.random_states(2, 0.4, seed=0), **weights).cost.sum().backward()
    model.zero_grad()
    x0 = learned_model.random_states(MEMORY_BATCH, 0.4, seed=1)
    before = reset_peak()
    solution = mpc(x0, **weights)
    solution.u.square().sum().backward()
    return resident("VmHWM") - before, float(solution.iterations.double().mean())


def follower() -> mpcgen.Problem:
    """Return a problem with 20 parameters at each of 1,000 stages."""
    problem = mpcgen.Problem("follower", horizon=SHARED_HORIZON)
    position, speed = problem.states("position speed")
    push = problem.control("push", lower=-1, upper=1)
    features = problem.parameter("features", shape=SHARED_WIDTH, default=0.1, per_stage=True)
    problem.dynamics = [position + speed / 10, speed + push / 10]
    half = SHARED_WIDTH // 2
    target = sum(features[i] for i in range(half))
    pull = sum(features[i] ** 2 for i in range(half, SHARED_WIDTH))
    problem.stage_cost = ((1 + pull) * (position - target) ** 2 + speed**2 + push**2) / 2
    problem.terminal_cost = position**2
    return problem


def shared_memory(kind: str) -> tuple[float, float]:
    """Peak MiB of the backward pass alone above what was resident, and of the gradient it leaves."""
    package = mpcgen.compile(follower())
    mpc = package.MPC(max_iterations=20, on_unconverged="ignore", unconverged_gradient="keep")
    leading = () if kind == "shared" else (SHARED_BATCH,)
    features = torch.full((*leading, SHARED_HORIZON, SHARED_WIDTH), 0.1, dtype=torch.float64)
    small = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    mpc(small, features=features[:2] if leading else features).u.sum().backward()
    features.requires_grad_()
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(SHARED_BATCH, 2, generator=generator, dtype=torch.float64)
    loss = mpc(x0, features=features).u.square().sum()
    before = reset_peak()
    loss.backward()
    assert features.grad is not None
    return resident("VmHWM") - before, features.grad.numel() * 8 / MEBIBYTE


def in_subprocess(task: str, *arguments: object) -> tuple[float, float]:
    """Run a memory measurement in a process of its own, so that nothing is already allocated."""
    command = [sys.executable, "-m", "examples.measure_torch", "--task", task, *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{result.stderr}")
    first, second = json.loads(result.stdout.splitlines()[-1])
    return first, second


def memory() -> list[Figure]:
    """Peaks of forward and backward by iterations, and of the backward pass with a shared vector."""
    if not Path("/proc/self/clear_refs").exists():
        return []
    figures = []
    for solver in ("generated", "reference, unrolled"):
        for iterations in ITERATIONS:
            peak, used = in_subprocess("train", solver, iterations)
            what = f"{solver}, {iterations} iterations"
            note = f"{used:.1f} used in the mean"
            figures.append(Figure(f"peak of a step, {MEMORY_BATCH} cartpoles", what, peak, "MiB", note))
    for width in NETWORK_WIDTHS:
        peak, used = in_subprocess("network", width)
        note = f"{used:.1f} iterations in the mean; <= {NETWORK_LIMIT:g} at width 64"
        what = f"{MEMORY_BATCH} problems, two hidden layers of {width}"
        figures.append(Figure("peak of a step to a model's weights", what, peak, "MiB", note))
    numbers = SHARED_HORIZON * SHARED_WIDTH
    for kind in ("shared", "own"):
        peak, gradient = in_subprocess("shared", kind)
        what = f"{kind} parameters, {numbers:,} numbers {'in all' if kind == 'shared' else 'each'}"
        note = f"the gradient itself takes {gradient:.3g} MiB"
        figures.append(Figure(f"peak of a backward pass, {SHARED_BATCH:,} problems", what, peak, "MiB", note))
    return figures


def jacobians(example: str) -> list[Figure]:
    """Milliseconds of Jacobians of the controls of one problem by x0 and by all parameters, in either mode."""
    package = importlib.import_module(f"generated.{example}")
    x0 = importlib.import_module(f"examples.{example}").initial_states(1)[0]
    mpc = package.MPC()
    defaults = {
        p.name: torch.tensor(p.default, dtype=x0.dtype).reshape(p.shape)
        for p in package.CONTROLLER.parameters
    }
    u_init = mpc(x0).u

    def first(start: Tensor, values: dict[str, Tensor]) -> Tensor:
        return mpc(start, u_init=u_init, **values).u[0]

    def every(start: Tensor, values: dict[str, Tensor]) -> Tensor:
        return mpc(start, u_init=u_init, **values).u

    modes = {"jacfwd": torch.func.jacfwd, "jacrev": torch.func.jacrev}
    tasks = {
        f"{what} by x0 and every parameter, {mode}": (lambda f=f, j=j: j(f, argnums=(0, 1))(x0, defaults))
        for what, f in (("first control", first), ("all controls", every))
        for mode, j in modes.items()
    }
    timings = alternate(list(tasks.values()), REPETITIONS // 2)
    size = x0.numel() + sum(value.numel() for value in defaults.values())
    name = f"Jacobians of one {example}: {u_init.numel()} controls by {size} numbers"
    return [
        Figure(name, what, 1e3 * timing.median, "ms") for what, timing in zip(tasks, timings, strict=True)
    ]


def table(figures: list[Figure]) -> Table:
    """All figures, a section for each measurement."""
    result = Table("measurement", "what", "value", "", "")
    previous = ""
    for figure in figures:
        if previous and figure.measurement != previous:
            result.add_section()
        title = "" if figure.measurement == previous else figure.measurement
        result.add_row(title, figure.what, f"{figure.value:.3g}", figure.unit, figure.note)
        previous = figure.measurement
    return result


@click.command(help=__doc__)
@click.option(
    "--task", type=click.Choice(["train", "shared", "network"]), help="One memory measurement, as JSON."
)
@click.argument("arguments", nargs=-1)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=ROOT / "pictures", help="Folder for the JSON."
)
def main(task: str | None, arguments: tuple[str, ...], output: Path) -> None:
    """Measure, print and write."""
    if task == "train":
        print(json.dumps(train_memory(arguments[0], int(arguments[1]))))
        return
    if task == "network":
        print(json.dumps(network_memory(int(arguments[0]))))
        return
    if task == "shared":
        print(json.dumps(shared_memory(arguments[0])))
        return
    console = Console()
    title = f"{machine_name()}, torch {torch.__version__}, {load_average()}, medians"
    console.print(title)
    figures = [
        *overhead("pendulum"),
        *overhead("cartpole"),
        *memory(),
        *jacobians("pendulum"),
        *jacobians("cartpole"),
    ]
    console.print(table(figures))
    output.mkdir(parents=True, exist_ok=True)
    record = {"machine": title, "figures": [dataclasses.asdict(figure) for figure in figures]}
    (output / "measure_torch.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
