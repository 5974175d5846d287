"""`mpcgen export`: writes a controller and prints what it takes."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mpcgen.baseline.problems import Problems, random_problems
from mpcgen.build.toolchain import find_compiler, split_command
from mpcgen.codegen.export import MAX_ITERATIONS
from mpcgen.errors import BuildError
from mpcgen.export.check import check as compare_with_package
from mpcgen.export.check import require_comparable, solve_exported
from mpcgen.export.library import export_library
from mpcgen.export.report import Footprint, measure
from mpcgen.export.writing import Exported, export, export_options
from mpcgen.problem.loading import load_problem
from mpcgen.runtime.status import Status

STATES = 1024
"""Random initial states that passes are counted over."""
CHECKED = 1000
EXPECTED = 0.95
"""The share of random states below which a hint says what to try."""


def main_export(
    spec: Path,
    *,
    output: Path,
    dtype: str,
    horizon: int | None,
    method: str | None,
    hessian: str,
    constants: str,
    small: bool,
    gradient: bool,
    prefix: str | None,
    max_iterations: int | None,
    cc: str | None,
    check: bool,
    seed: int,
    say: Callable[[str], Any],
) -> Exported:
    """Export the specification file ``spec``, print what it takes and how it solves; the options are `export`'s.

    Raises BuildError where ``check`` finds a solve that differs from the package's.
    """
    problem = load_problem(spec)
    problems = random_problems(spec, STATES, seed, horizon)
    names = [name.strip() for name in constants.split(",") if name.strip()]
    chosen = export_options(problem.spec(), dtype, horizon, method, hessian, names, prefix)
    if check:
        require_comparable(chosen, problem.spec())
    exported = export(
        problem,
        output,
        dtype=dtype,
        horizon=horizon,
        method=method,
        hessian=hessian,
        constants=names,
        small=small,
        gradient=gradient,
        prefix=prefix,
        max_iterations=MAX_ITERATIONS if max_iterations is None else max_iterations,
        start=problems.x0[0].tolist(),
    )
    say(f"{len(exported.files)} files in {exported.path}")
    command = split_command("--cc", cc) if cc else [*find_compiler().command, "-Os"]
    for line in _footprint_lines(measure(exported, command, ()), shlex.join(command)):
        say(f"  {line}")
    values = {name: value for name, value in problems.parameters.items() if name not in names}
    for line in _solve_lines(exported, problems, values, spec):
        say(f"  {line}")
    if check:
        found = compare_with_package(exported, problems.spec, problems.x0[:CHECKED], values)
        say(f"  {found.count - found.differing} of {found.count} solves are those of the package, to the bit")
        if found.differing:
            raise BuildError(
                f"{found.differing} of {found.count} solves of the export differ from the package's on this machine"
            )
    return exported


def main_library(spec: Path, output: Path, seed: int, say: Callable[[str], Any]) -> None:
    """Export the specification file ``spec`` as a CMake package, and say how to build it."""
    start = random_problems(spec, 1, seed).x0[0].tolist()
    files = export_library(load_problem(spec), output, start=start)
    say(f"{len(files)} files in {output}")
    say(f"  cmake -S {output} -B build && cmake --build build && cmake --install build --prefix PLACE")


def _footprint_lines(footprint: Footprint, command: str) -> list[str]:
    outside = f", and what these take: {', '.join(footprint.outside)}" if footprint.outside else ""
    stack = (
        "not reported by this compiler" if footprint.stack is None else f"{footprint.stack} bytes{outside}"
    )
    return [
        f"compiled by {command}:",
        f"  flash   {footprint.code} bytes, and the C library's functions",
        f"  memory  {footprint.memory} bytes, the struct",
        f"  stack   {stack}",
    ]


def _solve_lines(exported: Exported, problems: Problems, values: dict[str, Any], spec: Path) -> list[str]:
    """Operations, and passes over random states of the specification file ``spec``."""
    starts = np.ascontiguousarray(problems.x0, dtype=exported.options.dtype)
    _, _, statuses, passes = solve_exported(exported, starts, values)
    ended = {str(Status(code).name): int((statuses == code).sum()) for code in np.unique(statuses)}
    limit = exported.options.max_iterations
    kind = (
        "random states"
        if problems.own_states
        else "states from N(0, 1), SPEC having no initial_states(count, seed)"
    )
    return [
        f"about {exported.operations} operations a pass of the stage functions over N = {exported.options.horizon}; "
        f"at most {exported.most_operations(limit)} a solve, by the bounds of all loops, of max_iterations = {limit} "
        "passes",
        f"over {len(starts)} {kind}: {', '.join(f'{count} {name}' for name, count in ended.items())}",
        f"passes: {passes.mean():.1f} in the mean, {np.percentile(passes, 99):.0f} for 99 %, {passes.max()} at most",
        *_hints(ended, exported.options.dtype, problems.own_states),
    ]


def _hints(ended: dict[str, int], dtype: str, own_states: bool) -> list[str]:
    """What to try where less than most of the random states are solved.

    ended: how many end with which status. own_states: whether they are the specification's.
    """
    converged = ended.get("CONVERGED", 0) / sum(ended.values())
    tries = ["--dtype float64"] if dtype == "float32" else []
    if not own_states:
        tries.append("initial_states(count, seed) in SPEC, with states that the controller will see")
    if "MAX_ITERATIONS" in ended:
        tries.append("a larger --max-iterations")
    return [f"{converged:.1%} CONVERGED: try {', or '.join(tries)}"] if tries and converged < EXPECTED else []
