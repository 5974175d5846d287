"""Where instructions go: `python -m examples.bench.instructions`, a minute; needs valgrind and gcc.

The cart-poles of `examples.bench.constrained`, a batch of each cut off after the same passes, by box-DDP without
bounds of states and by the interior point with them: instructions by function, for each vector of problems and stage
of a pass.
Counted by `valgrind --tool=callgrind`, which has AVX2 (4 lanes), whatever the machine has; functions that the compiler
inlines count as those that they are in. Counts do not depend on who else works.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from examples.bench.constrained import BATCH, PASSES, cartpole
from examples.bench.problems import Problem
from mpcgen.build.extension import HEADER_FOLDER
from mpcgen.build.target import select_target
from mpcgen.build.toolchain import find_toolchain
from mpcgen.compiler import render_spec
from mpcgen.runtime.naming import c_stem

SOURCE = Path(__file__).with_name("instructions.c")
MARCH = "x86-64-v3"
LANES = 4
LEAST_SHARE = 0.01
"""Of all instructions: functions with less are summed up."""


def count(problem: Problem, x0: np.ndarray, folder: Path) -> Counter[str]:
    """Return the instructions of a solve from x0 (BATCH, n) by function, of a program built in ``folder``."""
    spec = problem.spec
    for name, text in render_spec(spec).files:
        (folder / name).write_text(text, encoding="utf-8")
    defaults = [np.ravel(np.asarray(p.default, dtype=float)) for p in spec.parameters]
    np.concatenate([x0.ravel(), *defaults]).tofile(folder / "inputs.bin")
    program, stem = folder / "solve", c_stem(spec.name)
    _build(folder, stem, program, _definitions(problem, stem, [len(d) for d in defaults]))
    log = folder / "callgrind.out"
    entry = f"--toggle-collect={stem}_solve_f64_batch"
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={log}", entry]
    subprocess.run([*valgrind, program, folder / "inputs.bin"], check=True, capture_output=True)
    report = subprocess.run(
        ["callgrind_annotate", "--threshold=100", log], check=True, capture_output=True, text=True
    )
    return by_function(report.stdout)


def _definitions(problem: Problem, stem: str, sizes: list[int]) -> list[str]:
    spec = problem.spec
    values = {
        "HEADER": f'"{stem}.h"',
        "NAME": stem,
        "BATCH": BATCH,
        "HORIZON": spec.horizon,
        "PASSES": PASSES,
    }
    values["SIZES"] = ",".join(map(str, sizes))
    constrained = ["-DCONSTRAINED"] if spec.constraints else []
    return [*(f"-D{name}={value}" for name, value in values.items()), *constrained]


def _build(folder: Path, stem: str, program: Path, definitions: list[str]) -> None:
    toolchain = replace(find_toolchain(), target=select_target(MARCH))
    compiler, flags = toolchain.compiler.command, toolchain.flags_for(small=True)
    variant = [
        "-DMPCGEN_PRECISION=64",
        "-DMPCGEN_BATCH=1",
        "-DMPCGEN_PART=1",
        f"-I{HEADER_FOLDER}",
        f"-I{folder}",
    ]
    subprocess.run([*compiler, *flags, *variant, "-c", f"{stem}.c"], cwd=folder, check=True)
    sources = [str(SOURCE), f"{stem}.o", "-o", str(program), *toolchain.libraries]
    subprocess.run([*compiler, f"-I{folder}", *definitions, *sources], cwd=folder, check=True)


def by_function(report: str) -> Counter[str]:
    """Sum what callgrind_annotate prints: a line for each file that instructions of a function are from."""
    found: Counter[str] = Counter()
    for number, name in re.findall(r"^ *([\d,]+) \([^)]*\)  \S*:([A-Za-z_]\w*)", report, re.MULTILINE):
        found[name] += int(number.replace(",", ""))
    return found


def table(name: str, counts: Counter[str], horizon: int) -> str:
    """A line for each function with a share worth one, in instructions by vector, stage and pass."""
    units = BATCH / LANES * horizon * (PASSES + 1)
    total = sum(counts.values())
    shown = [(f, n) for f, n in counts.most_common() if n >= LEAST_SHARE * total]
    rows = [("all", total), *shown, ("others", total - sum(n for _, n in shown))]
    return "\n".join([f"{name}: {total:,}", *(f"{function:>28} {n / units:7.0f}" for function, n in rows)])


def main() -> int:
    """Print a table for each method, and how many times the instructions of box-DDP the interior point takes."""
    pair, totals = cartpole(), []
    for name, problem in (("box-DDP", pair.free), ("interior point", pair.constrained)):
        with tempfile.TemporaryDirectory(prefix="mpcgen-bench-") as folder:
            counts = count(problem, pair.x0.numpy(), Path(folder))
        print(table(name, counts, problem.spec.horizon), flush=True)
        totals.append(sum(counts.values()))
    print(f"{totals[1] / totals[0]:.2f} times")
    return 0


if __name__ == "__main__":
    sys.exit(main())
