"""What constraints cost: `python -m examples.bench.constrained`, a minute or two and the builds before.

A pass of the interior point beside one of box-DDP on the same system without constraints on its states; Safe-PDP's
cart-pole beside CasADi with fatrop and compiled functions, and its backward pass. Batches of 128 in float64 on one
core, by the calling thread's time on it, in turns; medians. `--build` adds text and compiler's time.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sympy as sp
import torch

import mpcgen
from examples.bench.calls import Batch
from examples.bench.problems import Problem, from_file
from examples.bench.run import compiler_time
from examples.bench.timing import alternate, load_average, machine_name
from mpcgen.baseline import Baseline

EXAMPLES = Path(__file__).parent.parent
BATCH = 128
REPETITIONS = 15
TOLERANCE = 1e-6
PASSES = 8
"""Iterations after which a solve is cut off: all lanes are at work until then."""
NEARNESS = 0.2
"""How near to hovering the quadrotors start, as a share of their own starts."""
MOST_RATIO = {"cartpole": 2.2, "quadrotor": 1.4}
"""A pass of the interior point over one of box-DDP, at most."""
PEER_PROBLEMS = 4
LEAST_SPEEDUP = 100
"""Safe-PDP's cart-pole in a batch beside CasADi with fatrop, per problem."""
MOST_BACKWARD = 2
"""The backward pass, in passes of the solver."""


@dataclass(frozen=True)
class Figure:
    """A measured figure; ``target`` says what it should be, and ``met`` whether it is."""

    name: str
    value: str
    target: str = ""
    met: bool = True

    def __str__(self) -> str:
        verdict = f"  {self.target}: {'met' if self.met else 'MISSED'}" if self.target else ""
        return f"{self.name:<62}{self.value:>12}{verdict}"


@dataclass(frozen=True)
class Pair:
    """A system with bounds of its controls alone, and with constraints besides; (B, n) starts near where it rests."""

    free: Problem
    constrained: Problem
    x0: torch.Tensor


def cartpole() -> Pair:
    """Safe-PDP's cart-pole (n = 4, m = 1), its force bounded, and all its states besides."""
    walled = from_file(EXAMPLES / "safe_cartpole.py")
    others = tuple(p for p in walled.spec.parameters if p.name != "wall")
    free = dataclasses.replace(walled.spec, name="safe_cartpole_free", constraints=(), parameters=others)
    problem = mpcgen.load_problem(EXAMPLES / "safe_cartpole.py")
    for state in problem.spec().states[1:]:
        problem.constraint(f"most_{state.name}", state, lower=-8, upper=8)
    boxed = dataclasses.replace(problem.spec(), name="safe_cartpole_boxed")
    x0 = walled.draw(BATCH, torch.float64, 0).x0 + torch.tensor([0, torch.pi, 0, 0], dtype=torch.float64)
    return Pair(_with(walled, free), _with(walled, boxed), x0)


def quadrotor() -> Pair:
    """The quadrotor (n = 13, m = 4), thrusts in a box, and two rows besides: an altitude, a sum of thrusts."""
    free = from_file(EXAMPLES / "quadrotor.py")
    problem = mpcgen.load_problem(EXAMPLES / "quadrotor.py")
    spec = problem.spec()
    named = {str(symbol): symbol for symbol in (*spec.states, *(c.symbol for c in spec.controls))}
    problem.constraint("altitude", named["p_z"], lower=-4)
    problem.constraint("pair", named["thrust_front"] + named["thrust_back"], upper=sp.Rational(11, 2))
    rest = torch.tensor([0, 0, 0, 1] + 9 * [0], dtype=torch.float64)
    x0 = rest + NEARNESS * (free.draw(BATCH, torch.float64, 0).x0 - rest)
    return Pair(free, _with(free, dataclasses.replace(problem.spec(), name="quadrotor_rows")), x0)


def _with(problem: Problem, spec: mpcgen.Spec) -> Problem:
    return Problem(spec.name, spec, problem.draw)


def passes(name: str, pair: Pair) -> Figure:
    """A pass of the interior point over one of box-DDP: both cut off after `PASSES` iterations.

    Near its rest a system is convex enough for each pass to be a sweep and a step that is taken.
    """
    batches = [Batch(problem, pair.x0, {}) for problem in (pair.free, pair.constrained)]
    # No residual is below zero: no problem ends before.
    tasks = [batch.solve(0.0, 1, max_iterations=PASSES) for batch in batches]
    timings = alternate(tasks, REPETITIONS, "cpu")
    ddp, barrier = (
        timing.median / float((batch.iterations + 1).sum())
        for timing, batch in zip(timings, batches, strict=True)
    )
    what = f"{name}: interior point {1e6 * barrier:.2f} us, box-DDP {1e6 * ddp:.2f} us a pass"
    most = MOST_RATIO[name]
    return Figure(what, f"{barrier / ddp:.2f} x", f"at most {most} x", barrier <= most * ddp)


def peer_and_backward() -> Iterator[Figure]:
    """Safe-PDP's cart-pole from its own starts: beside CasADi with fatrop, and its backward pass."""
    problem = from_file(EXAMPLES / "safe_cartpole.py")
    instances = problem.draw(BATCH, torch.float64, 0)
    batch = Batch(problem, instances.x0, {})
    solve = batch.solve(TOLERANCE, 1)
    solve()
    solved = batch.solved
    # CasADi takes a minute or two to compile its functions, more than the benchmark's other problems are worth.
    peer = Baseline(problem.spec, solver="fatrop", tol=TOLERANCE, compiled=True)
    starts = instances.x0[:PEER_PROBLEMS].numpy()
    peer.solve(starts[0])
    # Its own clock is the wall's, which others spoil, and a core's has our call in it: whichever says less.
    others = [min(_peer_seconds(peer, start) for _ in range(REPETITIONS)) for start in starts]
    forward, backward = alternate([solve, batch.differentiate(solved, 1)], REPETITIONS, "cpu")
    own, other = forward.median / BATCH, sum(others) / len(others)
    a_pass = forward.median / float((solved.iterations + 1).sum())
    yield Figure("safe_cartpole: solved of 128", f"{int((solved.status == 0).sum())}")
    yield Figure("safe_cartpole: mean iterations", f"{solved.iterations.double().mean():.1f}")
    yield Figure(
        f"safe_cartpole: {1e6 * own:.0f} us a problem, CasADi with fatrop {1e6 * other:.0f} us",
        f"{other / own:.0f} x",
        f"at least {LEAST_SPEEDUP} x",
        other >= LEAST_SPEEDUP * own,
    )
    ratio = backward.median / float((solved.status == 0).sum()) / a_pass
    yield Figure(
        "safe_cartpole: backward", f"{ratio:.2f} passes", f"at most {MOST_BACKWARD}", ratio <= MOST_BACKWARD
    )


def _peer_seconds(peer: Baseline, start: Any) -> float:
    began = time.thread_time()
    done = peer.solve(start)
    return min(time.thread_time() - began, done.seconds)


def builds(name: str, pair: Pair) -> Figure:
    """Lines of text and compiler's time of a constrained problem beside those of the free one."""
    before, after = compiler_time(pair.free), compiler_time(pair.constrained)
    what = f"{name}: {after.lines} lines beside {before.lines}; build {after.seconds:.1f} s beside"
    return Figure(f"{what} {before.seconds:.1f} s", f"{after.seconds / before.seconds:.2f} x")


def main(arguments: list[str]) -> int:
    """Print the figures; return 1 if a target is missed."""
    torch.set_num_threads(1)
    print(f"{machine_name()}, {load_average()}; batches of {BATCH}, float64, one core")
    pairs = {"cartpole": cartpole(), "quadrotor": quadrotor()}
    met = True
    for name, pair in pairs.items():
        figure = passes(name, pair)
        met &= figure.met
        print(figure, flush=True)
    for figure in peer_and_backward():
        met &= figure.met
        print(figure, flush=True)
    if "--build" in arguments:
        for name, pair in pairs.items():
            print(builds(name, pair), flush=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
