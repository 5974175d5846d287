"""What is measured: the grid of cells, and the figures of one cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from examples.bench.problems import NAMES
from examples.bench.timing import HOST_CLOCKS, usable_cores
from mpcgen.errors import ParameterError

BATCHES = (1, 8, 128, 512, 4096, 65536)
DTYPES = {"float64": torch.float64, "float32": torch.float32}
STARTS = ("cold", "warm")
PASSES = ("forward", "backward", "forward+backward")
DEFAULT_TOLERANCE = {"float64": 1e-6, "float32": 1e-4}
QUICK_BATCHES = (1, 128, 4096)
QUICK_PROBLEMS = ("pendulum", "cartpole", "car")
DEVICES = ("cpu", "cuda", "cuda-host")
CUDA_PROBLEMS = ("pendulum", "cartpole", "car", "box_lq", "free_lq", "quadrotor")
CUDA_BATCHES = (64, 4096, 65536)
QUICK_CUDA_BATCHES = (64, 4096)
CORE_BATCH = 4096
"""Of the problems that one CPU core solves beside a CUDA device: its time per problem grows no better with more."""


@dataclass(frozen=True)
class Selection:
    """What a run measures.

    ``tolerance``: KKT residual to reach, by dtype. ``seconds``: of measuring that a cell gets, in 3 to
    ``repetitions`` rounds. ``budget``: seconds; a cell whose three rounds would take longer is left out, and so
    is one whose arrays would take more than ``memory`` bytes. ``clock``: "wall", or "cpu" for the calling thread's
    time on a core, which can be trusted on a busy machine but says nothing of several threads. ``device``: "cuda",
    with one CPU core beside it, instead of the CPU; "cuda-host": CUDA's kernels on the CPU, to test the benchmark.
    """

    problems: tuple[str, ...] = NAMES
    batches: tuple[int, ...] = BATCHES
    threads: tuple[int, ...] = (1,)
    dtypes: tuple[str, ...] = ("float64", "float32")
    starts: tuple[str, ...] = STARTS
    passes: tuple[str, ...] = PASSES
    tolerance: tuple[tuple[str, float], ...] = tuple(DEFAULT_TOLERANCE.items())
    seconds: float = 1.0
    budget: float = 20.0
    memory: float = 4e9
    repetitions: int = 31
    seed: int = 0
    clock: str = "wall"
    device: str = "cpu"

    def __post_init__(self) -> None:
        _known("device", (self.device,), DEVICES)
        _known("problem", self.problems, NAMES)
        _known("dtype", self.dtypes, tuple(DTYPES))
        _known("start", self.starts, STARTS)
        _known("what", self.passes, PASSES)
        for what, counts in (("batch", self.batches), ("threads", self.threads)):
            if not counts or min(counts) < 1:
                raise ParameterError(f"{what}={counts}; whole numbers of at least 1 are expected")
        _known("clock", (self.clock,), HOST_CLOCKS)
        if self.clock == "cpu" and set(self.threads) != {1}:
            raise ParameterError(
                f"clock='cpu' with threads={self.threads}; it counts the calling thread only: use --threads 1"
            )
        if self.device != "cpu" and (self.clock, self.threads) != ("wall", (1,)):
            raise ParameterError(
                f"device={self.device!r} with clock={self.clock!r} and threads={self.threads}; a device has a clock of "
                "its own, and one CPU core stands beside it: leave --clock and --threads out"
            )
        for dtype, tol in self.tolerance:
            if not 0 < tol < 1:
                raise ParameterError(f"tol={tol!r} for {dtype}; a number between 0 and 1 is expected")
        if self.seconds <= 0 or self.budget <= 0 or self.repetitions < 2:
            raise ParameterError(
                f"seconds={self.seconds}, budget={self.budget}, repetitions={self.repetitions}; positive times "
                "and at least 2 repetitions are expected"
            )

    def tol(self, dtype: str) -> float:
        """KKT residual to reach in this precision."""
        return dict(self.tolerance)[dtype]


def _known(what: str, given: Sequence[str], known: tuple[str, ...]) -> None:
    if not given:
        raise ParameterError(f"no {what} is selected; expected some of {', '.join(known)}")
    for name in given:
        if name not in known:
            raise ParameterError(f"the benchmark knows no {what} {name!r}; expected {', '.join(known)}")


def select(
    *,
    quick: bool = False,
    problems: Sequence[str] = (),
    batches: Sequence[int] = (),
    threads: Sequence[int] = (),
    dtypes: Sequence[str] = (),
    starts: Sequence[str] = (),
    passes: Sequence[str] = (),
    tol: float | None = None,
    budget: float | None = None,
    repetitions: int | None = None,
    seed: int = 0,
    clock: str = "wall",
    device: str = "cpu",
) -> Selection:
    """Return the selection for the options of the command line; what is empty or None takes its default.

    Raises ParameterError for names and numbers out of range.
    """
    on_cpu = device == "cpu"
    every = (1, usable_cores()) if on_cpu and clock != "cpu" else (1,)
    given_threads = tuple(sorted(threads)) or tuple(dict.fromkeys(every))
    chosen = Selection(threads=given_threads, seed=seed, clock=clock, device=device)
    if not on_cpu:
        chosen = replace(chosen, problems=CUDA_PROBLEMS, batches=CUDA_BATCHES)
    if quick:
        chosen = replace(
            chosen,
            problems=QUICK_PROBLEMS,
            batches=QUICK_BATCHES if on_cpu else QUICK_CUDA_BATCHES,
            passes=("forward", "backward"),
            seconds=0.3,
            budget=5.0,
        )
    given: dict[str, Any] = {
        "problems": tuple(problems),
        "batches": tuple(sorted(batches)),
        "dtypes": tuple(dtypes),
        "starts": tuple(starts),
        "passes": tuple(passes),
        "tolerance": None if tol is None else tuple((dtype, tol) for dtype in DTYPES),
        "budget": budget,
        "repetitions": repetitions,
    }
    return replace(chosen, **{name: value for name, value in given.items() if value not in ((), None)})


@dataclass(frozen=True)
class Cell:
    """One thing to measure.

    ``start``: "cold", from zero controls, or "warm", from the solution moved on by one stage of a moving
    horizon; a backward pass has none. ``through``: "kernel", the C call, or "torch", the module's call. ``device``:
    whose kernels, one of `DEVICES`.
    """

    problem: str
    batch: int
    threads: int
    dtype: str
    what: str
    start: str
    through: str = "kernel"
    device: str = "cpu"


@dataclass(frozen=True)
class Iterations:
    """Of the solver over the instances of a cell; ``passes`` is the mean number of rollouts with their sweep.

    A solve of k iterations makes k + 1 passes: the initial controls are rolled out and swept as well.
    """

    mean: float
    percentile_99: float
    most: int
    converged: float

    @property
    def passes(self) -> float:
        """Mean number of passes."""
        return self.mean + 1.0


@dataclass(frozen=True)
class Measurement:
    """Figures of a cell; times in seconds per problem. ``skipped`` says why there are none.

    ``spread``: half the distance between the quartiles over the median. ``operations`` per problem, every
    operation as one, and ``livermore`` weighted as `examples.bench.flops` says. ``peak``: operations per second of
    the micro-kernel of the same width, precision and threads, measured in turn with the cell. ``ceiling``: how many
    times as fast as one of its threads that micro-kernel was in the same rounds.
    """

    cell: Cell
    seconds: float | None = None
    fastest: float | None = None
    spread: float | None = None
    repetitions: int = 0
    iterations: Iterations | None = None
    operations: float | None = None
    livermore: float | None = None
    peak: float | None = None
    ceiling: float | None = None
    workspace: int | None = None
    skipped: str | None = None

    @property
    def microseconds(self) -> float | None:
        """Per problem."""
        return None if self.seconds is None else 1e6 * self.seconds

    @property
    def microseconds_per_pass(self) -> float | None:
        """Per problem and iteration, of a forward pass."""
        if self.seconds is None or self.iterations is None or self.cell.what != "forward":
            return None
        return 1e6 * self.seconds / self.iterations.passes

    @property
    def gflops(self) -> float | None:
        """Billions of operations per second."""
        if self.seconds is None or self.operations is None:
            return None
        return 1e-9 * self.operations / self.seconds

    @property
    def share_of_peak(self) -> float | None:
        """Of the rate of multiply-adds, every operation as one."""
        return None if self.gflops is None or not self.peak else 1e9 * self.gflops / self.peak

    @property
    def livermore_share(self) -> float | None:
        """Of the same peak, elementary functions as eight operations."""
        if self.share_of_peak is None or not self.operations or self.livermore is None:
            return None
        return self.share_of_peak * self.livermore / self.operations


def groups(selection: Selection) -> Iterator[tuple[str, int]]:
    """Problem and batch of what is measured in turns; batches ascending, so that times can be foreseen."""
    for problem in NAMES:
        if problem in selection.problems:
            for batch in sorted(set(selection.batches)):
                yield problem, batch


def cells(selection: Selection, problem: str, batch: int) -> list[Cell]:
    """Return the cells of a group."""
    found = [
        Cell(problem, batch, threads, dtype, what, start, device=selection.device)
        for dtype in selection.dtypes
        for threads in selection.threads
        for what in selection.passes
        for start in (("cold",) if what == "backward" else selection.starts)
    ]
    if selection.device != "cpu":
        return [*_beside(selection, found), *found]
    if batch == 1:
        found += [replace(c, through="torch") for c in found if c.threads == 1 and c.what != "backward"]
    return found


def _beside(selection: Selection, found: Sequence[Cell]) -> list[Cell]:
    """The cells of one CPU core, in the first group whose batch has it; before the device's, which idles meanwhile."""
    if any(CORE_BATCH <= batch < found[0].batch for batch in selection.batches):
        return []
    return [replace(c, batch=min(c.batch, CORE_BATCH), device="cpu") for c in found if c.start == "cold"]
