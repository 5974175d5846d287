"""The tour, run by `make demo`: a model, solutions beside CasADi's, a closed loop, an obstacle, a learned parameter.

Writes pictures/trajectories.png, families.png, closed_loop.png, closed_loop.gif, detour.png and learning.png.
"""

import importlib
import itertools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples import closed_loop, detour, learn_pendulum, pictures
from examples.bench.timing import load_average, machine_name, usable_cores
from mpcgen.baseline import Baseline
from mpcgen.baseline.compare import compare
from mpcgen.build import build
from mpcgen.compiler import Compilation

BATCH = 128
TOLERANCE = 1e-4
RUNS = 31  # of the generated solver, whose median is shown; CasADi's are summed over the batch
COMPARED = 16
FOLDER = Path("pictures")
PICTURES = (
    "trajectories.png",
    "families.png",
    "closed_loop.png",
    "closed_loop.gif",
    "detour.png",
    "learning.png",
)


def derive_and_render(example: str) -> Table:
    """Show what each stage of the pipeline makes of the specification, and how long it takes."""
    module = importlib.import_module(f"examples.{example}")
    clock = [time.perf_counter()]
    spec = module.problem.spec()
    steps = Compilation(spec)
    for step in ("graph", "derived", "rendered"):
        getattr(steps, step)
        clock.append(time.perf_counter())
    rendered = steps.rendered
    built = build(spec)
    lower, differentiate, render = (after - before for before, after in itertools.pairwise(clock))
    sizes = dict(rendered.sizes)
    files = ", ".join(f"{file} {text.count(chr(10))} lines" for file, text in rendered.files)
    lanes = ", ".join(f"{count} problems per {kind} vector" for kind, count in built.manifest.lanes.items())

    title = f"{example}: from sympy to machine code"
    table = Table("stage", "what it is", title=title, title_justify="left")
    table.add_column("seconds", justify="right")
    n, m = len(spec.states), len(spec.controls)
    table.add_row("specification", f"{n} states, {m} control, {spec.horizon} stages", "")
    operations = f"{sizes['operations of stage_dynamics']} operations for next state and stage cost"
    table.add_row("graph", operations, f"{lower:.2f}")
    nonzero = f"Jacobian with {sizes['nonzero entries of F']} of {sizes['entries of F']} entries nonzero"
    table.add_row("derived", nonzero, f"{differentiate:.2f}")
    fused = f"{sizes['operations of stage_expand_exact']} operations for a stage's second-order model"
    table.add_row("", fused, "")
    table.add_row("rendered", files, f"{render:.2f}")
    known = "unchanged since it was built" if built.up_to_date else "built"
    table.add_row("compiled", f"{built.manifest.target}, {lanes}; {known}", f"{built.seconds:.2f}")
    return table


def solve(example: str) -> Table:
    """Solve a batch with the generated controller and with CasADi, whose CPU times are its solvers' own clocks'."""
    package, module = _load(example)
    x0 = module.initial_states(BATCH)
    mpc = package.MPC(tol=TOLERANCE, on_unconverged="ignore", threads=1)
    witnesses = {
        name: Baseline(module.problem.spec(), solver=name, tol=TOLERANCE) for name in ("fatrop", "ipopt")
    }
    solution = mpc(x0)
    own = [_cpu_seconds(lambda: mpc(x0)) for _ in range(RUNS)]
    others = {name: witness.solve_batch(x0.numpy()) for name, witness in witnesses.items()}
    title = (
        f"{example}: {BATCH} problems from zero controls to {TOLERANCE:g}, float64; CasADi by its own clocks"
    )
    table = Table("solver", title=title, title_justify="left", min_width=len(title))
    for header in ("converged", "mean iterations", "CPU time", "per problem", "ratio"):
        table.add_column(header, justify="right")
    base = statistics.median(own)

    def add(name: str, converged: float, iterations: float, seconds: float) -> None:
        per_problem = f"{1e6 * seconds / BATCH:.1f} µs"
        figures = [f"{converged:.1%}", f"{iterations:.1f}", f"{1e3 * seconds:.2f} ms", per_problem]
        table.add_row(name, *figures, f"{seconds / base:.0f}")

    converged = float((solution.status == 0).double().mean())
    add("mpcgen", converged, float(solution.iterations.double().mean()), base)
    for name, run in others.items():
        figures = float(run.success.mean()), float(run.iterations.mean()), run.cpu_seconds
        add(f"CasADi with {name}", *figures)
    return table


def differentiate(example: str) -> Table:
    """Differentiate a loss of the whole batch by the initial states and every parameter."""
    package, module = _load(example)
    x0 = module.initial_states(BATCH).requires_grad_()
    parameters = {
        p.name: torch.tensor(p.default, dtype=x0.dtype).reshape(p.shape).requires_grad_()
        for p in package.CONTROLLER.parameters
    }
    mpc = package.MPC(tol=TOLERANCE, threads=1)
    loss = mpc(x0, **parameters).u.square().mean()
    gradients = torch.autograd.grad(loss, [x0, *parameters.values()], retain_graph=True)
    inputs = [x0, *parameters.values()]
    seconds = [
        _cpu_seconds(lambda: torch.autograd.grad(loss, inputs, retain_graph=True)) for _ in range(RUNS)
    ]
    title = f"{example}: gradient of mean u², {BATCH} problems, {1e3 * statistics.median(seconds):.2f} ms"
    table = Table("with respect to", "gradient", title=title, title_justify="left", min_width=len(title))
    for name, gradient in zip(("x0", *parameters), gradients, strict=True):
        if name == "x0":
            table.add_row(f"x0 {tuple(gradient.shape)}", f"Euclidean norm {gradient.norm():.4g}")
        else:
            table.add_row(name, ", ".join(f"{value:.4g}" for value in gradient.flatten().tolist()))
    return table


def compare_with_casadi(example: str) -> Table:
    """Compare trajectories, costs and gradients with CasADi's at tight tolerances."""
    package, _ = _load(example)
    result = compare(package, count=COMPARED, tol=1e-8)
    title = f"{example}: largest differences from CasADi, {COMPARED} problems to 1e-8"
    table = Table("what", title=title, title_justify="left", min_width=len(title))
    table.add_column("difference", justify="right")
    for row in result.rows:
        table.add_row(
            f"states, {row.solver} ({row.same} of {row.solved} in one basin)", f"{row.x_difference:.1e}"
        )
        table.add_row(f"controls, {row.solver}", f"{row.u_difference:.1e}")
        table.add_row(f"optimal cost, {row.solver}, relative", f"{row.cost_difference:.1e}")
    for name, difference in result.gradients.items():
        table.add_row(f"gradient by {name}, KKT system, relative", f"{difference:.1e}")
    return table


def learn(on_step: Callable[[], Any]) -> Table:
    """Learn the pendulum's mass and length from an expert's controls."""
    curve = learn_pendulum.learn(on_step)
    learn_pendulum.plot(curve, FOLDER / "learning.png")
    title = f"pendulum: learned from the controls of an expert in {learn_pendulum.STEPS} steps"
    table = Table("", title=title, title_justify="left", min_width=len(title))
    for header in ("start", "learned", "expert"):
        table.add_column(header, justify="right")
    for name, values in curve.parameters.items():
        table.add_row(name, f"{values[0]:.3f}", f"{values[-1]:.6f}", f"{learn_pendulum.EXPERT[name]:.6f}")
    table.add_row("imitation loss", f"{curve.loss[0]:.2g}", f"{curve.loss[-1]:.2g}", "0")
    return table


def close_the_loop() -> Table:
    """Swing up four poles in closed loop, push them, and draw what becomes of them."""
    package, module = _load("cartpole")
    loop = closed_loop.swing_up(package.MPC())
    closed_loop.plot(loop, FOLDER / "closed_loop.png")
    closed_loop.animate(loop, FOLDER / "closed_loop.gif")
    title = (
        f"cartpole: {closed_loop.STEPS} steps in closed loop, a push of {closed_loop.PUSH:g} rad/s on the way"
    )
    table = Table("from", title=title, title_justify="left", min_width=len(title))
    for header in (
        "upright after",
        "largest force",
        "farthest from upright at the end",
        "solves that failed",
    ):
        table.add_column(header, justify="right")
    lean = torch.remainder(closed_loop.angles(loop) + torch.pi, 2 * torch.pi) - torch.pi
    for number, start in enumerate(closed_loop.ANGLES):
        last = int((lean[number, : closed_loop.PUSHED_AT].abs() > 0.1).nonzero().max())
        figures = [f"{module.DT * (last + 1):.2f} s", f"{float(loop.u[number].abs().max()):.1f} N"]
        end = float(lean[number, -10:].abs().max())
        table.add_row(
            f"{start:g} rad", *figures, f"{end:.3f} rad", str(int((loop.status[number] != 0).sum()))
        )
    return table


def go_around() -> Table:
    """Differentiate the length of a detour by the places of the discs that it goes around, and draw it."""
    package, _ = _load("obstacle")
    mpc = package.MPC()
    found = detour.detour(mpc)
    detour.plot(mpc, FOLDER / "detour.png")
    title = f"obstacle: a path of {found.length:.3f} m past two discs, which are constraints"
    table = Table("disc", title=title, title_justify="left", min_width=len(title))
    for header in ("holds the path at", "d length / dx", "d length / dy"):
        table.add_column(header, justify="right")
    for number, slope in enumerate(found.gradient.tolist()):
        stages = int((found.duals[:, number] > 1e-6).sum())
        table.add_row(f"{number}", f"{stages} stages", *(f"{value:+.3f}" for value in slope))
    return table


def _cpu_seconds(task: Callable[[], Any]) -> float:
    """Seconds on a core, which other processes do not lengthen as they do those on the clock."""
    began = time.process_time()
    task()
    return time.process_time() - began


def _warn_if_busy(console: Console) -> None:
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5 * usable_cores():
        console.print(
            f"[yellow]This machine is busy ({load_average()}, {usable_cores()} cores): times are of the CPU, but other "
            "processes take caches and clock rate all the same, and ratios may be off by tens of percent.[/yellow]"
        )


def _load(example: str) -> tuple[ModuleType, ModuleType]:
    return importlib.import_module(f"generated.{example}"), importlib.import_module(f"examples.{example}")


def draw_plans() -> str:
    """Draw plans of many starts, and of many values of a parameter."""
    pictures.trajectories(FOLDER / "trajectories.png")
    pictures.families(FOLDER / "families.png")
    return "Plans are drawn; what becomes of a plan that is made anew at every step is next."


PARTS: tuple[tuple[str, str, Callable[[], Any]], ...] = (
    ("1. A model becomes C", "derive: cartpole", lambda: derive_and_render("cartpole")),
    ("2. Solve", "solve: pendulum", lambda: solve("pendulum")),
    ("", "solve: cartpole", lambda: solve("cartpole")),
    ("", "differentiate: cartpole", lambda: differentiate("cartpole")),
    ("3. The same as CasADi's?", "compare with CasADi: cartpole", lambda: compare_with_casadi("cartpole")),
    ("", "draw: plans", draw_plans),
    ("4. Close the loop", "close the loop: cartpole", close_the_loop),
    ("5. Go around obstacles", "go around: obstacle", go_around),
)
"""Heading, what is being done, and what does it, in order; learning comes last."""


def main() -> None:
    """Run the tour with a progress bar."""
    console = Console(highlight=False, width=None if Console().is_terminal else 120)
    console.rule("mpcgen")
    console.print(machine_name())
    _warn_if_busy(console)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=10 * len(PARTS) + learn_pendulum.STEPS / 10)
        for heading, description, part in PARTS:
            progress.update(task, description=description)
            if heading:
                console.print(f"\n[bold]{heading}[/bold]\n")
            console.print(part())
            progress.advance(task, 10)
        progress.update(task, description="learn: pendulum")
        console.print("\n[bold]6. Learn[/bold]\n")
        console.print(learn(lambda: progress.advance(task, 0.1)))
    console.print(
        f"Pictures, of plans and of a closed loop: {', '.join(f'{FOLDER}/{name}' for name in PICTURES)}"
    )


if __name__ == "__main__":
    main()
