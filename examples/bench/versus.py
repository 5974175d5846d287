"""This checkout beside an earlier revision, in alternating runs: `python -m examples.bench.versus REVISION`.

Both build the same problems with their own code, each in a process of its own that then waits. The two take turns of
some hundredths of a second each; a figure is the median over all pairs of turns of the one's time over the other's, so
that what other programs take from the machine meets both. CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from examples.bench.problems import linear_quadratic
from examples.bench.timing import load_average, machine_name

ROOT = Path(__file__).parent.parent.parent
PROBLEMS = ("pendulum", "cartpole", "car", "quadrotor")
MATRICES = {"box_lq": 1.0, "free_lq": None}
"""Random linear-quadratic problems by name (n = 8, m = 4, N = 40), and the bound of their controls."""
MOST_MATRICES = 4096
"""Batches of them that can be asked for."""
KINDS = ("kernel", "warm kernel", "solve", "warm", "step", "backward", "compiled", "vmap", "jacobian", "jvp")
WORKER = Path(__file__).parent / "versus_worker.py"


def prepare(root: Path, folder: Path, names: list[str]) -> None:
    """Build the examples of a checkout with its own mpcgen, and what `MATRICES` names."""
    for name in names:
        specification = root / "examples" / f"{name}.py"
        if name in MATRICES:
            specification = folder / f"specification_{name}.py"
            specification.write_text(f"import mpcgen\n\nproblem = mpcgen.lqr(8, 4, 40, name={name!r})\n")
            drawn = linear_quadratic(8, 4, 40, bound=MATRICES[name]).draw(MOST_MATRICES, torch.float64, 0)
            torch.save((drawn.x0, drawn.parameters), folder / f"{name}.pt")
        arguments = ["mpcgen", "build", str(specification), "-o", str(folder)]
        script = f"import sys; from mpcgen.cli import main; sys.argv = {arguments!r}; main()"
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=folder, env=environment(root), capture_output=True
        )
        if done.returncode:
            raise SystemExit(f"{root}: {name} is not built:\n{done.stdout.decode()}{done.stderr.decode()}")


def environment(root: Path) -> dict[str, str]:
    """Of a process that imports a checkout's mpcgen."""
    return {**os.environ, "PYTHONPATH": str(root)}


class Build:
    """A process with one checkout's packages, which runs what it is told, a turn at a time."""

    def __init__(self, root: Path, folder: Path) -> None:
        command = [sys.executable, str(WORKER), str(root), str(folder)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(root),
            cwd=folder,
        )

    def turn(self, case: dict[str, Any]) -> float:
        """Seconds of one run of a case, from a turn."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("a build's process has ended")
        return float(answer)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@contextmanager
def checkout(revision: str, folder: Path) -> Iterator[Path]:
    """A checkout of a revision in a folder of its own."""
    root = folder / "before"
    subprocess.run(
        ["git", "worktree", "add", "--detach", "-f", root, revision],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    templates = root / "mpcgen" / "templates"
    if not templates.exists():
        templates.symlink_to(root / "templates")  # where an installed package has them
    try:
        yield root
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", root], cwd=ROOT, check=True)


def main() -> None:
    """Print the ratio of this checkout's times to the revision's."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.bench.versus", description="This checkout beside a revision."
    )
    parser.add_argument("revision", help="what to compare with, as git names it")
    parser.add_argument("--problem", action="append", choices=(*PROBLEMS, *MATRICES))
    parser.add_argument("--batch", action="append", type=int)
    parser.add_argument("--dtype", action="append", choices=("float64", "float32"))
    parser.add_argument(
        "--what",
        action="append",
        choices=KINDS,
        help="the compiled solver alone, cold and warm; a cold call, a warm one, or a warm one with gradient; the "
        "gradient of mean u² by x0 and all parameters alone; a warm call with gradient under torch.compile; by "
        "torch.func vmap over grad, du/dx0 of the first 8 problems by jacrev, and jvp",
    )
    parser.add_argument("--turns", type=int, default=60)
    given = parser.parse_args()
    names = given.problem or list(PROBLEMS)
    with tempfile.TemporaryDirectory() as temporary, checkout(given.revision, Path(temporary)) as before:
        builds = []
        for root, name in ((ROOT, "now"), (before, "then")):
            folder = Path(temporary) / name
            folder.mkdir()
            prepare(root, folder, names)
            builds.append(Build(root, folder))
        print(f"{machine_name()}, {load_average()}; one thread; times over those of {given.revision}")
        for problem in names:
            for kind in given.what or KINDS:
                for dtype in given.dtype or ("float64", "float32"):
                    for batch in given.batch or (1, 128):
                        case = {"problem": problem, "batch": batch, "dtype": dtype, "kind": kind}
                        _print_ratio(builds, case, given.turns)
        for build in builds:
            build.close()


def _print_ratio(builds: list[Build], case: dict[str, Any], turns: int) -> None:
    pairs = [tuple(build.turn(case) for build in builds) for _ in range(turns)]
    ratio = statistics.median(now / then for now, then in pairs)
    least = [min(times) for times in zip(*pairs, strict=True)]
    what = f"{case['problem']:<10} {case['kind']:<11} {case['dtype']} batch {case['batch']:>4}"
    print(
        f"{what}  {ratio:5.3f} (least {least[0] / least[1]:5.3f})  {1e6 * least[0]:9.2f} us, was {1e6 * least[1]:9.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
