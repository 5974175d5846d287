"""Figure 2: forward and backward time over the number of box-iLQR iterations, and memory.

Three ways to differentiate the same iterations on the same problems: mpcgen at the fixed point, unrolled PyTorch
(`mpcgen.reference`), and mpcgen's solver with its iterations unrolled (``gradient="unrolled"``). The paper gives
neither system nor sizes; here these are its pendulum and cartpole, from starts that use every iteration allowed.
"""

import importlib
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from torch import Tensor

import mpcgen
from examples.measure_torch import reset_peak, resident
from examples.paper.common import Claim, Results, progress, tidy

METHODS = {
    "fixed point": "mpcgen, fixed point",
    "unrolled PyTorch": "PyTorch, unrolled",
    "unrolled mpcgen": "mpcgen, unrolled",
}
ITERATIONS = (1, 2, 4, 8)
MOST = 16  # iterations that the initial states would use if they could
REPEATS = 10
UNREACHABLE = 1e-300  # a KKT residual at which no solver stops early


@dataclass(frozen=True)
class Case:
    """One point of the figure."""

    system: str
    batch: int
    method: str
    iterations: int

    @property
    def name(self) -> str:
        """The trial's name."""
        return f"{self.system}_{self.batch}_{self.method}_{self.iterations}".replace(" ", "_")

    def controller(self) -> Callable[[Tensor], Any]:
        """Solve by so many iterations of iLQR, differentiable in the case's way."""
        problem = importlib.import_module(f"examples.{self.system}").problem
        common: dict[str, Any] = {
            "hessian": "gauss_newton",  # iLQR, as in the paper
            "tol": UNREACHABLE,
            "max_iterations": self.iterations,
            "on_unconverged": "ignore",
        }
        if self.method == "unrolled PyTorch":
            return mpcgen.reference.MPC(problem, differentiable="unroll", **common)
        package = mpcgen.compile(problem, dtypes=("float64",))
        if self.method == "unrolled mpcgen":
            return package.MPC(gradient="unrolled", unroll=self.iterations, problem=problem, **common)
        return package.MPC(unconverged_gradient="keep", **common)

    def initial_states(self) -> Tensor:
        """(batch, n) states from which the solver is still under way after `MOST` iterations."""
        candidates = importlib.import_module(f"examples.{self.system}").initial_states(64 * self.batch + 1024)
        solver = replace(self, method="fixed point", iterations=MOST).controller()
        busy = candidates[solver(candidates).iterations == MOST]
        if len(busy) < self.batch:
            raise SystemExit(f"{self.system}: only {len(busy)} of {len(candidates)} use {MOST} iterations")
        return busy[: self.batch]


def timings(case: Case, repeats: int) -> dict[str, Any]:
    """Processor seconds of ``repeats`` forward and backward passes, in one thread, after one that is not counted.

    One thread's processor time is its wall time on a machine that does nothing else.
    """
    mpc, x0 = case.controller(), case.initial_states()
    forward, backward = [], []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(repeats + 1):
            leaf = x0.clone().requires_grad_()
            began = time.process_time()
            solution = mpc(leaf)
            solved = time.process_time()
            solution.u.square().mean().backward()
            forward.append(solved - began)
            backward.append(time.process_time() - solved)
    finally:
        torch.set_num_threads(threads)
    used = solution.iterations.double().mean().item()
    return {"forward": forward[1:], "backward": backward[1:], "iterations": used}


def peak_memory(case: Case, initial_states: list[list[float]]) -> float:
    """MiB at the peak of one forward and backward pass above what was resident before it; Linux only."""
    torch.set_num_threads(1)
    mpc, x0 = case.controller(), torch.tensor(initial_states, dtype=torch.float64)
    mpc(x0[:1].clone().requires_grad_()).u.square().mean().backward()  # what is allocated once
    leaf = x0.clone().requires_grad_()
    before = reset_peak()
    mpc(leaf).u.square().mean().backward()
    return resident("VmHWM") - before


def in_new_process(case: Case) -> float:
    """Peak memory in a fresh process, where nothing else has left memory to be used again."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_memory, case, case.initial_states().tolist()).result()


def run(results: Results) -> list[Claim]:
    """Measure, draw and write. The short version has one system, and no memory of the third way."""
    systems, batches, counts, repeats = ("pendulum", "cartpole"), (1, 64), ITERATIONS, REPEATS
    if results.quick:
        systems, batches, counts, repeats = ("pendulum",), (16,), (2, 6), 3
    cases = [Case(s, b, m, i) for s in systems for b in batches for m in METHODS for i in counts]
    rows = []
    with progress() as bar:
        task = bar.add_task("", total=len(cases))
        for case in cases:
            what = f"{case.batch} x {case.system}, {METHODS[case.method]}, {case.iterations}"
            bar.update(task, description=what)
            seconds = results.trial(case.name, {"repeats": repeats, "most": MOST}, timings, case, repeats)
            row = {**asdict(case), "iterations_used": seconds.value["iterations"]}
            for part in ("forward", "backward"):
                row[f"{part}_mean_ms"] = 1e3 * sum(seconds.value[part]) / repeats
                row[f"{part}_fastest_ms"] = 1e3 * min(seconds.value[part])
            if case.batch == max(batches) and not (results.quick and case.method == "unrolled mpcgen"):
                row["memory_mib"] = memory(results, case)
            rows.append(row)
            bar.advance(task)
    claims = [claim for s in systems for claim in claims_of(s, max(batches), rows)]
    results.save_figure(draw(rows, systems, batches))
    results.save_numbers(rows, claims, repeats=repeats, threads=1)
    return claims


def memory(results: Results, case: Case) -> float | None:
    """MiB of a case; None on systems that do not let a process reset its peak."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    return results.trial(f"memory_{case.name}", {"most": MOST}, in_new_process, case).value


def claims_of(system: str, batch: int, rows: list[dict[str, Any]]) -> list[Claim]:
    """What the paper says of figure 2, between the smallest number of iterations above one and the largest.

    On the fastest runs, which a busy machine spoils least.
    """
    counts = [row["iterations"] for row in rows if row["iterations"] > 1]
    low, high = min(counts), max(counts)

    def at(method: str, iterations: int, column: str) -> Any:
        wanted = {"system": system, "batch": batch, "method": method, "iterations": iterations}
        return next(row[column] for row in rows if wanted.items() <= row.items())

    def ends(method: str, column: str) -> tuple[Any, Any]:
        return at(method, low, column), at(method, high, column)

    fixed, unrolled = (ends(m, "backward_fastest_ms") for m in ("fixed point", "unrolled PyTorch"))
    growth = unrolled[1] / unrolled[0]
    where = f"{batch} x {system}, {low} to {high} iterations: "
    claims = [
        Claim(
            f"{where}the backward pass of unrolled PyTorch takes {growth:.3g} times as long",
            high / low / 2 < growth < high / low * 2,
        ),
        Claim(
            f"{where}that of the fixed point {fixed[1] / fixed[0]:.3g} times, {fixed[1] - fixed[0]:+.2f} ms where "
            f"unrolling adds {unrolled[1] - unrolled[0]:.0f} ms",
            abs(fixed[1] - fixed[0]) < 0.05 * (unrolled[1] - unrolled[0]),
        ),
        Claim(
            f"{where}in the end it is {unrolled[1] / fixed[1]:.3g} times faster than unrolled",
            unrolled[1] > 10 * fixed[1],
        ),
    ]
    if at("fixed point", low, "memory_mib") is None:
        return claims
    fixed, unrolled = (ends(m, "memory_mib") for m in ("fixed point", "unrolled PyTorch"))
    text = (
        f"memory {fixed[0]:.2g} to {fixed[1]:.2g} MiB at the fixed point, "
        f"{unrolled[0]:.3g} to {unrolled[1]:.3g} MiB unrolled"
    )
    return [*claims, Claim(where + text, unrolled[1] - unrolled[0] > 10 * abs(fixed[1] - fixed[0]))]


def draw(rows: list[dict[str, Any]], systems: tuple[str, ...], batches: tuple[int, ...]) -> Figure:
    """Draw forward time, backward time and memory, a row of panels for each system, a line style for each batch."""
    panels = {
        "forward_mean_ms": "forward (ms)",
        "backward_mean_ms": "backward (ms)",
        "memory_mib": "memory (MiB)",
    }
    figure = Figure(figsize=(12, 3.4 * len(systems) + 0.4), layout="constrained")
    grid = figure.subplots(len(systems), len(panels), squeeze=False, sharex=True)
    widths = dict(zip(batches, (1.0, 2.0), strict=False))
    styles = dict(zip(batches, (":", "-"), strict=False))
    for system, line in zip(systems, grid, strict=True):
        for axes, (column, label) in zip(line, panels.items(), strict=True):
            for colour, (method, name) in enumerate(METHODS.items()):
                for batch in batches:
                    own = [
                        r for r in rows if (r["system"], r["batch"], r["method"]) == (system, batch, method)
                    ]
                    axes.loglog(
                        [r["iterations"] for r in own],
                        [r.get(column) or float("nan") for r in own],
                        styles[batch],
                        color=f"C{colour}",
                        linewidth=widths[batch],
                        marker="o",
                        markersize=3,
                        label=f"{name}, {batch} problem{'s' if batch > 1 else ''}",
                    )
            axes.set(ylabel=label, title=system)
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.set_xticks(sorted({r["iterations"] for r in rows}), minor=False)
            axes.minorticks_off()
            tidy(axes)
        line[0].figure.align_ylabels()
    for axes in grid[-1]:
        axes.set_xlabel("box-iLQR iterations")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
