"""Bytes that a call of the kernels allocates, counted in a process whose allocator is watched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from examples.bench.cells import DTYPES, Selection
from mpcgen.build.toolchain import find_toolchain, run_compiler

SOURCE = Path(__file__).with_name("allocations.c")
CHECKOUT = Path(__file__).parents[2]
LARGEST_BATCH = 4096
"""Larger batches are left out: a batch this large has shown whether the workspace grows."""

Key = tuple[str, int, int, str, str]
"""Problem, batch, threads, dtype, "forward" or "backward"."""

_CHILD = "from examples.bench.workspace import child; child()"
_COUNTER = "MPCGEN_BENCH_COUNTER"


def measure_workspace(selection: Selection, examples: Path) -> dict[Key, int]:
    """Return the most bytes that a call holds at once, besides its arguments and results.

    Empty where the C library's allocator cannot be watched: elsewhere than on Linux with glibc.
    """
    with tempfile.TemporaryDirectory(prefix="mpcgen-bench-") as folder:
        counter = _compile(Path(folder))
        if counter is None:
            return {}
        request = {
            "examples": str(examples.resolve()),
            "problems": selection.problems,
            "batches": [batch for batch in selection.batches if batch <= LARGEST_BATCH],
            "threads": selection.threads,
            "tolerance": {dtype: selection.tol(dtype) for dtype in selection.dtypes},
        }
        done = subprocess.run(
            [sys.executable, "-c", _CHILD],
            input=json.dumps(request),
            env={**os.environ, "LD_PRELOAD": str(counter), _COUNTER: str(counter)},
            capture_output=True,
            text=True,
            check=False,
            cwd=CHECKOUT,
        )
    if done.returncode:
        return {}
    return {(p, b, t, d, w): size for p, b, t, d, w, size in json.loads(done.stdout)}


def _compile(folder: Path) -> Path | None:
    output = folder / "allocations.so"
    command = [*find_toolchain().compiler.command, "-O2", "-shared", "-fPIC", str(SOURCE), "-o", str(output)]
    return None if sys.platform != "linux" or run_compiler(command).returncode else output


def child() -> None:
    """Count for the request on standard input, and print rows of a `Key` and bytes."""
    from cffi import FFI

    from examples.bench.problems import load

    ffi = FFI()
    ffi.cdef("void allocations_begin(void); int64_t allocations_end(void);")
    counter = ffi.dlopen(os.environ[_COUNTER])
    request = json.load(sys.stdin)
    rows: list[tuple[Any, ...]] = []
    for problem in load(request["problems"], Path(request["examples"])):
        for batch in request["batches"]:
            for dtype, tol in request["tolerance"].items():
                rows += _rows(counter, problem, batch, dtype, tol, request["threads"])
    print(json.dumps(rows))


def _rows(counter: Any, problem: Any, batch: int, dtype: str, tol: float, threads: list[int]) -> list[Any]:
    from examples.bench.calls import Batch

    instances = problem.draw(batch, DTYPES[dtype], 0)
    laid_out = Batch(problem, instances.x0, instances.parameters)
    rows = []
    for count in threads:
        solve = laid_out.solve(tol, count)
        size = _held(counter, solve)
        rows.append((problem.name, batch, count, dtype, "forward", size))
        size = _held(counter, laid_out.differentiate(laid_out.solved, count))
        rows.append((problem.name, batch, count, dtype, "backward", size))
    return rows


def _held(counter: Any, run: Any) -> int:
    counter.allocations_begin()
    run()
    return int(counter.allocations_end())
