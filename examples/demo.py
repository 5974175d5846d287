"""The tour: derive, render, compile, solve, differentiate, compare with CasADi and learn. Run by `make demo`.

Writes pictures/trajectories.png, pictures/families.png, pictures/learning.png and pictures/detour.png.
"""

import importlib
import itertools
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

from examples import detour, learn_pendulum, pictures
from examples.bench.timing import machine_name
from mpcgen.baseline import Baseline
from mpcgen.baseline.compare import compare
from mpcgen.build import build
from mpcgen.compiler import Compilation

EXAMPLES = ("pendulum", "cartpole")
BATCH = 128
TOLERANCE = 1e-4
ROUNDS = 3  # CasADi's; the generated solver runs OWN_PER_ROUND times in each
OWN_PER_ROUND = 11
COMPARED = 16
FOLDER = Path("pictures")
PICTURES = ("trajectories", "families", "learning", "detour")


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
    """Solve a batch with the generated controller and with CasADi; median times of alternating rounds."""
    package, module = _load(example)
    x0 = module.initial_states(BATCH)
    mpc = package.MPC(tol=TOLERANCE, on_unconverged="ignore", threads=1)
    witnesses = {
        name: Baseline(module.problem.spec(), solver=name, tol=TOLERANCE) for name in ("fatrop", "ipopt")
    }
    solution = mpc(x0)
    own: list[float] = []
    others: dict[str, list[Any]] = {name: [] for name in witnesses}
    for _ in range(ROUNDS):
        for _ in range(OWN_PER_ROUND):
            began = time.perf_counter()
            mpc(x0)
            own.append(time.perf_counter() - began)
        for name, witness in witnesses.items():
            others[name].append(witness.solve_batch(x0.numpy()))
    title = f"{example}: {BATCH} problems from zero controls to {TOLERANCE:g}, float64, one thread"
    table = Table("solver", title=title, title_justify="left", min_width=len(title))
    for header in ("converged", "mean iterations", "time", "per problem", "ratio"):
        table.add_column(header, justify="right")
    base = statistics.median(own)

    def add(name: str, converged: float, iterations: float, seconds: float) -> None:
        per_problem = f"{1e6 * seconds / BATCH:.1f} µs"
        figures = [f"{converged:.1%}", f"{iterations:.1f}", f"{1e3 * seconds:.2f} ms", per_problem]
        table.add_row(name, *figures, f"{seconds / base:.0f}")

    converged = float((solution.status == 0).double().mean())
    add("mpcgen", converged, float(solution.iterations.double().mean()), base)
    for name, runs in others.items():
        seconds = statistics.median(run.seconds for run in runs)
        add(f"CasADi with {name}", float(runs[0].success.mean()), float(runs[0].iterations.mean()), seconds)
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
    seconds = []
    for _ in range(OWN_PER_ROUND):
        began = time.perf_counter()
        torch.autograd.grad(loss, [x0, *parameters.values()], retain_graph=True)
        seconds.append(time.perf_counter() - began)
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


def _load(example: str) -> tuple[ModuleType, ModuleType]:
    return importlib.import_module(f"generated.{example}"), importlib.import_module(f"examples.{example}")


def main() -> None:
    """Run the tour with a progress bar."""
    console = Console(highlight=False, width=None if Console().is_terminal else 120)
    console.rule("mpcgen")
    console.print(machine_name())
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(EXAMPLES) * 4 * 10 + learn_pendulum.STEPS / 10 + 30)
        for step in (derive_and_render, solve, differentiate, compare_with_casadi):
            for example in EXAMPLES:
                progress.update(task, description=f"{step.__name__.replace('_', ' ')}: {example}")
                console.print(step(example))
                progress.advance(task, 10)
            if step is solve:
                console.print("CasADi's times are its solvers' own clocks; it interprets its functions.\n")
        progress.update(task, description="learn: pendulum")
        console.print(learn(lambda: progress.advance(task, 0.1)))
        progress.update(task, description="go around: obstacle")
        console.print(go_around())
        progress.advance(task, 10)
        for draw, name in ((pictures.trajectories, "trajectories"), (pictures.families, "families")):
            progress.update(task, description=f"draw: {name}")
            draw(FOLDER / f"{name}.png")
            progress.advance(task, 10)
    console.print(f"Pictures: {', '.join(f'{FOLDER}/{name}.png' for name in PICTURES)}")


if __name__ == "__main__":
    main()
