"""The tables of a run, for a terminal or a text file."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from examples.bench.cells import Measurement
from examples.bench.results import Results
from examples.bench.targets import Verdict, judge

LEGEND = (
    "µs/it: time over passes; a solve of k iterations makes k + 1 passes of one rollout and one backward sweep.\n"
    "peak: share of the multiply-add rate measured in turn at the same width; sin, exp, ... count as one operation\n"
    "(in parentheses: as eight, and divisions as four). Times are medians, ± half the distance of the quartiles, and\n"
    "the fastest run; the workspace is what a call allocates besides its arguments and results."
)
_LEFT = ("problem", "dtype", "what", "start", "peer", "note", "target", "where", "kernel")


def show(results: Results, console: Console) -> None:
    """Print every table that has rows."""
    environment = results.environment
    time = "; CPU time of one thread, not wall time" if results.selection.clock == "cpu" else ""
    console.print(f"{environment.machine}; {environment.load} at the start{time}")
    console.print(f"{environment.compiler}, {environment.target}; {environment.date}")
    if results.device is not None:
        console.print(f"{results.device.name}; {results.device.target} with {results.device.compiler}")
    tables = (
        measurements(results.measurements),
        beside(results),
        kernels(results),
        sweeps(results),
        loops(results),
        peers(results),
        builds(results),
        targets(judge(results)),
    )
    for table in tables:
        if table.row_count:
            console.print()
            console.print(table)
            if table.title == "Solver":
                console.print(LEGEND, highlight=False)


def _table(title: str, headers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for header in headers:
        table.add_column(header, justify="left" if header in _LEFT else "right", overflow="fold")
    return table


def _number(value: float | None, digits: int = 3, scale: float = 1.0) -> str:
    return "" if value is None else f"{value * scale:#.{digits}g}".rstrip(".")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.3g} %"


def _bytes(value: int | None) -> str:
    return "" if value is None else f"{value / 1024:,.0f} KiB"


def measurements(rows: Sequence[Measurement]) -> Table:
    """Every cell: times, iterations, rates."""
    headers = (
        "problem",
        "batch",
        "thr",
        "dtype",
        "what",
        "start",
        "µs/problem",
        "±",
        "best",
        "it",
        "99 %",
        "max",
    )
    table = _table("Solver", (*headers, "µs/it", "GFLOP/s", "peak", "", "workspace", "solved"))
    previous = None
    for m in rows:
        c = m.cell
        if previous not in (None, c.problem):
            table.add_section()
        previous = c.problem
        what = c.what if c.through == "kernel" else f"{c.what}, torch call"
        start = "" if c.what == "backward" else c.start
        where = f"{c.threads}" if c.device == "cpu" else c.device
        head = (c.problem, f"{c.batch}", where, c.dtype, what, start)
        if m.skipped is not None:
            table.add_row(*head, m.skipped)
            continue
        it = m.iterations
        iterations = (
            ("", "", "") if it is None else (f"{it.mean:.1f}", f"{it.percentile_99:.0f}", f"{it.most}")
        )
        livermore = "" if m.livermore_share is None else f"({_percent(m.livermore_share)})"
        rates = (_number(m.microseconds_per_pass), _number(m.gflops), _percent(m.share_of_peak), livermore)
        solved = "" if it is None else f"{100 * it.converged:.2f} %"
        times = (_number(m.microseconds), _percent(m.spread), _number(m.fastest, scale=1e6))
        table.add_row(*head, *times, *iterations, *rates, _bytes(m.workspace), solved)
    return table


def beside(results: Results) -> Table:
    """A device beside one CPU core."""
    headers = (
        "problem",
        "dtype",
        "what",
        "batch",
        "ms",
        "µs/problem",
        "core µs/problem",
        "times",
        "times per it",
    )
    table = _table("Device beside one CPU core, from a cold start", headers)
    for pair in results.beside():
        m, c = pair.device, pair.device.cell
        milliseconds = None if m.seconds is None else 1e3 * m.seconds * c.batch
        times = (_number(milliseconds), _number(m.microseconds), _number(pair.core.microseconds))
        table.add_row(
            c.problem,
            c.dtype,
            c.what,
            f"{c.batch}",
            *times,
            _number(pair.times),
            _number(pair.times_per_pass),
        )
    return table


def kernels(results: Results) -> Table:
    """What each kernel takes of the device."""
    headers = (
        "problem",
        "kernel",
        "bits",
        "registers",
        "stack B",
        "spills B",
        "shared B",
        "threads/multiprocessor",
        "occupancy",
    )
    table = _table("Kernels on the device", headers)
    for k in results.device.kernels if results.device is not None else ():
        spills = f"{k.spill_stores} + {k.spill_loads}"
        sizes = (f"{k.precision}", f"{k.registers}", f"{k.stack}", spills, f"{k.shared}", f"{k.threads}")
        table.add_row(k.problem, k.kernel, *sizes, _percent(k.occupancy))
    return table


def sweeps(results: Results) -> Table:
    """Growth with horizon and state size."""
    table = _table("Growth, batch 128, one thread, float64", ("what", "problem", "N or n", "µs/it", "peak"))
    for point in results.sweeps:
        table.add_row(
            point.sweep,
            point.problem,
            f"{point.value}",
            _number(point.seconds, scale=1e6),
            _percent(point.share_of_peak),
        )
    return table


def loops(results: Results) -> Table:
    """Training steps with torch operations between the calls."""
    table = _table("Training step with torch operations in between", ("problem", "batch", "thr", "µs"))
    for point in results.loops:
        table.add_row(point.problem, f"{point.batch}", f"{point.threads}", _number(point.seconds, scale=1e6))
    return table


def peers(results: Results) -> Table:
    """Other solvers, with ratios to the generated one and how the costs compare."""
    headers = (
        "problem",
        "peer",
        "count",
        "µs/problem",
        "it",
        "solved",
        "both",
        "same cost",
        "cheaper",
        "dearer",
    )
    table = _table("Peers, float64, one thread", (*headers, "x one by one", "x batch 128"))
    for row in results.peers:
        if row.skipped is not None:
            table.add_row(row.problem, row.peer, "", row.skipped)
            continue
        counts = (row.converged, row.both, row.agree, row.cheaper, row.dearer)
        table.add_row(
            row.problem,
            row.peer,
            f"{row.count}",
            _number(row.seconds, scale=1e6),
            _number(row.iterations),
            *map(str, counts),
            _ratio(row.ratio_single),
            _ratio(row.ratio_batch),
        )
    notes = {row.peer: row.note for row in results.peers if row.note}
    table.caption = "; ".join(f"{peer}: {note}" for peer, note in notes.items())
    table.caption_justify = "left"
    return table


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def builds(results: Results) -> Table:
    """Compiler time."""
    table = _table("Build from an empty cache", ("problem", "compiler s per precision", "lines of C"))
    for build in results.builds:
        table.add_row(build.problem, f"{build.seconds:.1f}", f"{build.lines:,}")
    return table


def targets(verdicts: Sequence[Verdict]) -> Table:
    """Required beside measured."""
    table = _table("Targets", ("target", "problem", "measured", "required", "", "where"))
    words = {None: "not measured", True: "[green]met[/]", False: "[red]NOT MET[/]"}
    for v in verdicts:
        table.add_row(v.target, v.problem, _number(v.measured), v.required, words[v.met], v.where)
    return table
