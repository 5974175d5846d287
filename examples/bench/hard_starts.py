"""Hard starts: how many of many random x0, far from any solution, end solved, and how the others end.

    python -m examples.bench.hard_starts --count 10000
    python -m examples.bench.hard_starts --problem quadrotor --count 1000

All start from zero controls, inside their bounds, with default options but for the most iterations. Of the starts that
are left, IPOPT gets a sample: where it fails too, there may be no solution. Each problem's row is printed as it ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
import torch

import mpcgen
from examples.bench.gallery import EXAMPLES, Draw, chosen
from examples.bench.problems import from_file
from mpcgen import Status
from mpcgen.baseline import Baseline
from mpcgen.errors import ParameterError
from mpcgen.problem.spec import Spec

MAX_ITERATIONS = 500
HEADER = "| problem | solved | iterations: mean, most | the others | IPOPT, of a sample of those |"


def _uniform(lower: list[float], upper: list[float]) -> Draw:
    def draw(count: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).uniform(lower, upper, (count, len(lower)))

    return draw


def _with_angle(inner: Draw, place: int) -> Draw:
    """Draws that have cosine and sine where ``inner`` has an angle."""

    def draw(count: int, seed: int) -> np.ndarray:
        x = inner(count, seed)
        angle = x[:, place]
        return np.column_stack([x[:, :place], np.cos(angle), np.sin(angle), x[:, place + 1 :]])

    return draw


def _quadrotor(count: int, seed: int) -> np.ndarray:
    """Any attitude, body rates up to 10 rad/s, up to 2 m and 2 m/s off."""
    generator = np.random.default_rng(seed)
    quaternion = generator.normal(size=(count, 4))
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    place, velocity, rates = generator.uniform(-1, 1, (3, count, 3))
    return np.column_stack([2 * place, quaternion, 2 * velocity, 10 * rates])


def _of_example(name: str) -> Draw:
    """The example's own starts."""
    problem = from_file(EXAMPLES / f"{name}.py")
    return lambda count, seed: np.asarray(problem.draw(count, torch.float64, seed).x0)


def _of_gallery(name: str) -> Draw:
    draw: Any = chosen([name])[0].x0
    return draw


@dataclass(frozen=True)
class Hard:
    """A problem and its starts; ``spec`` returns the one, ``draw`` (count, n) of the others from a seed."""

    spec: Callable[[], Spec]
    draw: Callable[[], Draw]


def _example(name: str, draw: Draw | None = None) -> Hard:
    return Hard(lambda: from_file(EXAMPLES / f"{name}.py").spec, lambda: draw or _of_example(name))


def _gallery(name: str, draw: Draw | None = None) -> Hard:
    return Hard(lambda: chosen([name])[0].make(), lambda: draw or _of_gallery(name))


PROBLEMS = {
    "pendulum": _example("pendulum", _with_angle(_uniform([-np.pi, -10], [np.pi, 10]), 0)),
    "cartpole": _example("cartpole", _with_angle(_uniform([-2, -5, -np.pi, -10], [2, 5, np.pi, 10]), 2)),
    "car": _example("car", _uniform([-5, -5, -np.pi, -2], [5, 5, np.pi, 2])),
    "quadrotor": _example("quadrotor", _quadrotor),
    "acrobot": _gallery("acrobot"),
    "rocket": _gallery("rocket_landing"),
    "cstr": _example("cstr", _uniform([0, 280], [1, 380])),
    "crane": _gallery("crane_sum", _uniform([-5, -2, 1, -1, -1, -1], [5, 2, 4, 1, 1, 1])),
    "landing": _example("landing"),
    "chain": _example("chain"),
}


@dataclass(frozen=True)
class Row:
    """What became of ``count`` starts; ``peer`` are IPOPT's solved of ``sample`` that were left."""

    problem: str
    count: int
    solved: int
    mean: float
    most: int
    others: dict[str, int]
    sample: int
    peer: int

    def __str__(self) -> str:
        left = ", ".join(f"{count} {name}" for name, count in sorted(self.others.items()))
        peer = f"{self.peer} of {self.sample}" if self.sample else ""
        share = f"{self.solved} of {self.count}"
        return f"| {self.problem} | {share} | {self.mean:.1f}, {self.most} | {left} | {peer} |"


def measure(name: str, count: int, sample: int, seed: int = 0) -> Row:
    """Solve ``count`` hard starts of a problem, and by IPOPT at most ``sample`` of those that are left."""
    hard = PROBLEMS[name]
    spec, x0 = hard.spec(), hard.draw()(count, seed)
    mpc = mpcgen.compile(spec, dtypes=("float64",), progress=False).MPC(
        max_iterations=MAX_ITERATIONS, on_unconverged="ignore"
    )
    sol = mpc(torch.as_tensor(x0))
    solved = (sol.status == Status.CONVERGED).numpy()
    others = Counter(Status(int(status)).name for status in sol.status[~torch.as_tensor(solved)])
    left = x0[~solved][:sample]
    peer = Baseline(spec, max_iterations=MAX_ITERATIONS).solve_batch(left).success.sum() if len(left) else 0
    its = sol.iterations.numpy()[solved] if solved.any() else np.zeros(1, dtype=int)
    counts = (int(solved.sum()), float(its.mean()), int(its.max()))
    return Row(name, count, *counts, dict(others), len(left), int(peer))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--problem", "problems", multiple=True, help=f"Of {', '.join(PROBLEMS)}; default: all.")
@click.option("--count", default=1000, show_default=True, type=click.IntRange(1), help="Starts of each.")
@click.option("--sample", default=8, show_default=True, type=click.IntRange(0), help="For IPOPT.")
@click.option("--seed", default=0, show_default=True)
def main(problems: tuple[str, ...], count: int, sample: int, seed: int) -> None:
    """Print how many hard starts of each problem are solved, how the others end, and whether IPOPT solves those."""
    for name in problems:
        if name not in PROBLEMS:
            raise ParameterError(f"no problem {name!r} has hard starts; those are {', '.join(PROBLEMS)}")
    click.echo(HEADER)
    click.echo("|---|---|---|---|---|")
    for name in problems or PROBLEMS:
        click.echo(str(measure(name, count, sample, seed)))


if __name__ == "__main__":
    main()
