"""The gallery: problems from many starts, solved by each method and by IPOPT, and how reliably.

`entries` has its problems: those of `gallery_problems`, `_end_time`, `_robots` and `_plants`, of the examples at
several horizons, and of tests/constrained_problems.py. A problem whose x0 is given starts from zero controls and from
random ones within their bounds; one whose x0 is drawn, from zero controls. A new problem is one entry.
"""

from __future__ import annotations

import functools
import importlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mpcgen
from examples.bench import gallery_end_time as end_time
from examples.bench import gallery_plants as plants
from examples.bench import gallery_problems as problems
from examples.bench import gallery_robots as robots
from examples.bench.problems import Problem, from_file
from mpcgen import Status
from mpcgen.baseline import Baseline
from mpcgen.errors import ParameterError
from mpcgen.problem.spec import Spec

EXAMPLES = Path(__file__).parent.parent
SAME_MINIMUM = 1e-6
"""Relative difference of costs below which two solutions are one minimum's."""
REACH = 1.0
"""Half the range of random controls that have no bounds."""
PEER = "IPOPT"
METHODS = ("auto", "ddp", "interior_point")

Draw = Callable[[int, int], np.ndarray]
Guess = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Entry:
    """One problem: ``make`` returns it; ``x0`` is one start, or draws (count, n) of them from a seed.

    ``optimum``: the least cost that is known. ``horizon``: other than the problem's own. ``guess``: draws states
    (count, N+1, n) and controls (count, N, m) to begin at from a seed.
    """

    name: str
    make: Callable[[], Spec]
    x0: Sequence[float] | Draw
    optimum: float | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    horizon: int | None = None
    guess: Guess | None = None

    def starts(self, spec: Spec, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return x0 (count, n) and initial controls (count, N, m)."""
        horizon = self.horizon or spec.horizon
        bounds = np.array([[_bound(c.lower, -REACH), _bound(c.upper, REACH)] for c in spec.controls])
        lower, upper = bounds.T
        u = np.clip(np.zeros((count, horizon, len(lower))), lower, upper)
        if callable(self.x0):
            return self.x0(count, seed), u
        generator = np.random.default_rng(seed)
        u[1:] = generator.uniform(lower, upper, (count - 1, *u.shape[1:]))
        return np.tile(np.array(self.x0, dtype=float), (count, 1)), u


@dataclass(frozen=True)
class Outcome:
    """What a solver made of one problem's starts: arrays of (count,); ``seconds`` for all of them."""

    problem: str
    solver: str
    solved: np.ndarray
    iterations: np.ndarray
    cost: np.ndarray
    statuses: dict[str, int]
    seconds: float


def _bound(value: Any, otherwise: float) -> float:
    """A control's bound as a number: `otherwise` where it is infinite; 0 where it is a parameter's."""
    if getattr(value, "free_symbols", None):
        return 0.0
    number = float(value)
    return number if np.isfinite(number) else otherwise


def _rocket_starts(count: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed).uniform(0, 1, (count, 5))
    x = np.zeros((count, 7))
    x[:, :5] = [-200, 600, -10, -60, -0.1] + draw * [400, 300, 20, -20, 0.2]
    x[:, 6] = 1500
    return x


def _acrobot_starts(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 4)) * [np.pi, np.pi, 2, 2]


def _literature() -> Iterator[Entry]:
    def entry(make: Callable[[], mpcgen.Problem], x0: Any, optimum: float | None = None) -> Entry:
        return Entry(make().name, functools.partial(_posed, make), x0, optimum)

    partial = functools.partial
    yield entry(partial(problems.van_der_pol, "integral"), [0, 1, 0], 2.8693656311)
    yield entry(partial(problems.van_der_pol, "sum"), [0, 1], 2.9193743196)
    yield entry(partial(problems.rayleigh, "integral"), [-5, -5, 0], 44.6197419299)
    yield entry(partial(problems.rayleigh, "sum"), [-5, -5], 45.2289110794)
    yield entry(problems.luus_reactor, [0.09, 0.09, 0], 0.1331659095)
    yield entry(problems.catalyst, [1, 0], -0.0480556158)
    yield entry(partial(problems.catalyst, 1e-5), [1, 0], -0.0478933170)
    jensen = [0.1883, 0.2507, 0.0467, 0.0899, 0.1804, 0.1394, 0.1046, 0]
    yield entry(problems.jensen_reactor, jensen, -21.7976331067)
    yield entry(partial(problems.crane, "sum"), [-2, 0, 2, 0, 0, 0], 32.8436538600)
    yield entry(partial(problems.crane, "integral"), [-2, 0, 2, 0, 0, 0, 0], 32.0295026835)
    yield entry(problems.ball_on_plate, [0.1, 0.01, 0], 5.5118352942)
    yield entry(problems.acrobot, _acrobot_starts)
    yield entry(problems.rocket_landing, _rocket_starts)


def _examples() -> Iterator[Entry]:
    for name, horizons in {
        "pendulum": (None, 100, 200),
        "cartpole": (None, 100, 200),
        "car": (None,),
        "quadrotor": (None,),
    }.items():
        problem = from_file(EXAMPLES / f"{name}.py")

        def draw(count: int, seed: int, problem: Problem = problem) -> np.ndarray:
            return np.asarray(problem.draw(count, torch.float64, seed).x0)

        for horizon in horizons:
            title = name if horizon is None else f"{name}_{horizon}"
            yield Entry(title, functools.partial(_spec_of, problem), draw, horizon=horizon)


def _spec_of(problem: Problem) -> Spec:
    return problem.spec


def _posed(make: Callable[[], mpcgen.Problem]) -> Spec:
    return make().spec()


def _known(problems: Any) -> Iterator[Entry]:
    """Those of a module that has their ``STARTS``, ``OPTIMA`` where these are known, and ``parameters_of``."""
    for make, x0 in problems.STARTS.items():
        parameters = problems.parameters_of(make, make().horizon)
        posed, optimum = functools.partial(_posed, make), problems.OPTIMA.get(make)
        guess = getattr(problems, "GUESSES", {}).get(make)
        yield Entry(make.__name__, posed, x0, optimum, parameters, guess=guess)


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Every problem of the gallery, in the order of its table."""
    constrained = importlib.import_module(
        "tests.constrained_problems"
    )  # which a checkout has beside the examples
    return (
        *_examples(),
        *_literature(),
        *_known(constrained),
        *_known(end_time),
        *_known(robots),
        *_known(plants),
    )


def chosen(names: Sequence[str]) -> list[Entry]:
    """Return the entries of these names, all if there are none; raises ParameterError for an unknown one."""
    known = [entry.name for entry in entries()]
    for name in names:
        if name not in known:
            raise ParameterError(f"the gallery has no problem {name!r}; its problems are {', '.join(known)}")
    return [entry for entry in entries() if not names or entry.name in names]


@dataclass(frozen=True)
class Settings:
    """starts: of each problem, and of those how many IPOPT gets. Methods are those of `mpcgen.autograd.MPC`."""

    starts: int = 128
    peer_starts: int = 128
    methods: tuple[str, ...] = ("auto",)
    tol: float = 1e-8
    max_iterations: int = 1500
    seed: int = 0


def measure(entry: Entry, settings: Settings) -> list[Outcome]:
    """Solve an entry's starts by each method, and by IPOPT as many of them as it gets."""
    spec = entry.make()
    begins = _begin(entry, spec, settings)
    methods = [m for m in settings.methods if not (spec.constraints and m == "ddp")]
    found = [_ours(entry, spec, begins, method, settings) for method in methods]
    if settings.peer_starts:
        few = min(settings.peer_starts, settings.starts)
        found.append(_theirs(entry, spec, {name: each[:few] for name, each in begins.items()}, settings))
    return found


def _begin(entry: Entry, spec: Spec, settings: Settings) -> dict[str, np.ndarray]:
    """What each start's solve begins with, by the names of the call's arguments."""
    x0, u = entry.starts(spec, settings.starts, settings.seed)
    if entry.guess is None:
        return {"x0": x0, "u_init": u}
    x, u = entry.guess(settings.starts, settings.seed)
    return {"x0": x0, "u_init": u, "x_init": x}


def _ours(
    entry: Entry, spec: Spec, begins: dict[str, np.ndarray], method: str, settings: Settings
) -> Outcome:
    options = {"method": method, "tol": settings.tol, "max_iterations": settings.max_iterations}
    mpc = mpcgen.compile(spec, dtypes=("float64",), progress=False).MPC(on_unconverged="ignore", **options)
    parameters = {name: torch.as_tensor(value) for name, value in entry.parameters.items()}
    given = {name: torch.as_tensor(value) for name, value in begins.items()}
    first = {name: value[:1] for name, value in given.items()}
    mpc(**first, horizon=entry.horizon, **parameters)  # what is lazy
    began = time.perf_counter()
    sol = mpc(**given, horizon=entry.horizon, **parameters)
    seconds = time.perf_counter() - began
    names = Counter(Status(int(status)).name for status in sol.status)
    solved = (sol.status == Status.CONVERGED).numpy()
    return Outcome(entry.name, method, solved, sol.iterations.numpy(), sol.cost.numpy(), dict(names), seconds)


def _theirs(entry: Entry, spec: Spec, begins: dict[str, np.ndarray], settings: Settings) -> Outcome:
    peer = Baseline(spec, entry.horizon, tol=settings.tol, max_iterations=settings.max_iterations)
    sol = peer.solve_batch(parameters=entry.parameters, **begins)
    names = Counter(sol.status)
    return Outcome(entry.name, PEER, sol.success, sol.iterations, sol.cost, dict(names), sol.seconds)


@dataclass(frozen=True)
class Comparison:
    """Where a method and IPOPT both solve: starts in the same, a cheaper, a dearer minimum.

    ``above``: mean cost above IPOPT's, relative; ``above_same``: where the minimum is the same.
    """

    both: int
    same: int
    cheaper: int
    dearer: int
    above: float
    above_same: float


def compare(ours: Outcome, theirs: Outcome) -> Comparison:
    """Compare costs over the starts that IPOPT got."""
    count = len(theirs.solved)
    both = ours.solved[:count] & theirs.solved
    mine, peer = ours.cost[:count][both], theirs.cost[both]
    error = (mine - peer) / np.maximum(np.abs(peer), 1e-12)
    same = np.abs(error) <= SAME_MINIMUM
    size = max(abs(float(peer.mean())), 1e-12) if both.any() else 1.0
    return Comparison(
        int(both.sum()),
        int(same.sum()),
        int((error < -SAME_MINIMUM).sum()),
        int((error > SAME_MINIMUM).sum()),
        float((mine - peer).mean()) / size if both.any() else float("nan"),
        float(error[same].mean()) if same.any() else float("nan"),
    )
