"""What a user waits for in a new process, beside a revision: `python -m examples.bench.versus_builds REVISION`.

Each figure is of processes of their own: from reading an example's file to the solution of a first batch, then to its
gradient, with an empty cache; and the same once more, unchanged. The two checkouts take turns. By the wall, with all
cores that the compiler takes, and in CPU seconds of the process and its children, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from examples.bench.timing import load_average, machine_name
from examples.bench.versus import PROBLEMS, ROOT, checkout, environment

STEPS = ("first solve", "first gradient", "solve again", "gradient again")
SCRIPT = """
import json, os, sys, time
def now():
    times = os.times()
    return time.perf_counter(), times.user + times.system + times.children_user + times.children_system
start = now()
import torch
imported = now()
import mpcgen
problem = mpcgen.load_problem(sys.argv[1])
module = mpcgen.compile(problem)
x0 = torch.zeros(16, len(module.CONTROLLER.states), dtype=torch.float64, requires_grad=True)
mpc = module.MPC(on_unconverged="ignore", unconverged_gradient="keep")
with torch.no_grad():
    mpc(x0)
solved = now()
mpc(x0).cost.sum().backward()
learned = now()
print(json.dumps([[b - a for a, b in zip(imported, at)] for at in (solved, learned)]))
"""


def measure(root: Path, name: str, bytecode: Path) -> list[tuple[float, float]]:
    """Seconds by the wall and of CPU up to each of `STEPS`, torch's import aside.

    bytecode: where Python keeps compiled modules, as installing does, which else would be compiled in each process.
    """
    with tempfile.TemporaryDirectory() as cache:
        surroundings = environment(root) | {
            "MPCGEN_CACHE_DIR": cache,
            "PYTHONPYCACHEPREFIX": str(bytecode),
            "PYTHONDONTWRITEBYTECODE": "",
        }
        command = [sys.executable, "-c", SCRIPT, str(root / "examples" / f"{name}.py")]
        times: list[tuple[float, float]] = []
        for _ in range(2):
            done = subprocess.run(command, cwd=cache, env=surroundings, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{root}: {name}:\n{done.stderr}")
            times += [(wall, cpu) for wall, cpu in json.loads(done.stdout)]
    return times


def main() -> None:
    """Print this checkout's times, the revision's, and their ratios."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.bench.versus_builds",
        description="Builds of this checkout beside a revision's.",
    )
    parser.add_argument("revision", help="what to compare with, as git names it")
    parser.add_argument("--problem", action="append", choices=PROBLEMS)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, checkout(given.revision, Path(temporary)) as before:
        print(f"{machine_name()}, {load_average()}; medians; seconds by the wall (of CPU)")
        for problem in given.problem or PROBLEMS:
            bytecode = Path(temporary) / "bytecode"
            turns = [
                [measure(root, problem, bytecode) for root in (ROOT, before)] for _ in range(given.turns)
            ]
            for step, name in enumerate(STEPS):
                (now, now_cpu), (then, then_cpu) = (
                    [statistics.median(turn[side][step][clock] for turn in turns) for clock in (0, 1)]
                    for side in (0, 1)
                )
                figures = f"{now:6.2f} ({now_cpu:6.2f}), was {then:6.2f} ({then_cpu:6.2f})"
                print(
                    f"{problem:<10} {name:<15} {figures}: {now / then:5.3f} ({now_cpu / then_cpu:5.3f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
