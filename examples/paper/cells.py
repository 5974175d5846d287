"""The trials of figures 4 and 6: what is learned in each, and how they are run side by side and kept."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import Any

import torch

import mpcgen
from examples.paper.common import Results, Trial, progress
from examples.paper.imitation import MPCPolicy, evaluate, train
from examples.paper.lstm import LSTMPolicy
from examples.paper.systems import SYSTEMS, Data, collect

METHODS = ("nn", "sysid", "mpc.dx", "mpc.cost", "mpc.cost.dx")
SIZES = (10, 50, 100)  # training trajectories
SEEDS = (0, 1, 2, 3)
DATA_SEED = 0  # as in the paper, all four trials of a cell learn from one data set
EPOCHS = 10_000
PATIENCE = 300  # epochs without a better validation loss of any seed, after which `nn` stops
WORKERS = 2


@dataclass(frozen=True)
class Cell:
    """One method on one system and size: four trials, run as one batch.

    gradient: of the controller, "exact" or the paper's "gauss_newton". data_seeds: one for each trial. decay: let
    the learning rate fall to zero along a cosine, which the paper does not.
    """

    system: str
    method: str
    trajectories: int
    gradient: str = "exact"
    data_seeds: tuple[int, ...] = (DATA_SEED,) * len(SEEDS)
    decay: bool = False
    epochs: int = EPOCHS

    @property
    def variant(self) -> str:
        """What differs from the paper's experiment with an exact gradient; empty if nothing does."""
        differences = {
            "paper's gradient": self.gradient != "exact",
            "four data sets": len(set(self.data_seeds)) > 1,
            "decaying rate": self.decay,
        }
        return ", ".join(name for name, differs in differences.items() if differs)

    @property
    def name(self) -> str:
        """Name of the file that keeps the trials."""
        data = "" if len(set(self.data_seeds)) == 1 else "-data"
        decay = "-decay" if self.decay else ""
        return f"{self.system}-{self.method}-{self.trajectories}-{self.gradient}{data}{decay}"


def run_cell(cell: Cell, after_epoch: Callable[[int], Any] = lambda epoch: None) -> dict[str, Any]:
    """Run the four trials of a cell; every list has an entry per trial."""
    training, validation, test = expert_data(cell).split(cell.trajectories)
    policy, optimizer, patience = learners(cell, training)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, cell.epochs)

    def finish(epoch: int) -> None:
        if cell.decay:
            schedule.step()
        after_epoch(epoch)

    best, curves = train(
        policy, optimizer, training, validation, SEEDS, cell.epochs, patience, after_epoch=finish
    )
    losses = {"train": training, "validation": validation, "test": test}
    return {
        **{name: evaluate(policy, data).tolist() for name, data in losses.items()},
        "best_epoch": best.epoch.int().tolist(),
        "epochs": len(curves.validation),
        **policy.summary(),
    }


def learners(cell: Cell, training: Data) -> tuple[Any, torch.optim.Optimizer, int | None]:
    """Return four learners as one policy, their optimizer, and the patience with them."""
    count = len(SEEDS)
    if cell.method == "nn":
        policy = LSTMPolicy(count, training.x.shape[-1], training.u.shape[-1])
        return policy, torch.optim.Adam(policy.parameters(), lr=1e-4, fused=True), PATIENCE
    system = SYSTEMS[cell.system]
    # A problem that does not converge has no gradient; such problems are counted instead of reported one by one.
    mpc = mpcgen.compile(system.problem, dtypes=("float64",)).MPC(
        gradient=cell.gradient, on_unconverged="ignore", threads=1
    )
    policy = MPCPolicy(mpc, system, cell.method, count)
    return policy, torch.optim.RMSprop(policy.parameters(), lr=1e-2, alpha=0.5), None


def expert_data(cell: Cell) -> Data:
    """Trajectories of the expert for each trial."""
    system = SYSTEMS[cell.system]
    expert = mpcgen.compile(system.problem, dtypes=("float64",)).MPC(on_unconverged="raise", threads=1)
    return collect(expert, system.initial_states, cell.data_seeds)


def papers_cells(quick: bool) -> list[Cell]:
    """The cells of the paper's figure, or short ones; the longest first, the networks last."""
    if quick:
        epochs = {"nn": 2, "mpc.dx": 200, "mpc.cost": 200}
        return [Cell("pendulum", method, 50, epochs=count) for method, count in epochs.items()]
    controllers = [Cell(s, m, n) for n in reversed(SIZES) for m in METHODS[1:] for s in SYSTEMS]
    networks = [Cell(s, "nn", n) for n in SIZES for s in SYSTEMS]
    return controllers + networks


def added_cells() -> list[Cell]:
    """The cells that the page adds: the paper's gradient, a decaying rate, other data where trajectories are few."""
    ours = [cell for cell in papers_cells(quick=False) if cell.method != "nn"]
    few = [replace(cell, data_seeds=SEEDS) for cell in ours if cell.trajectories == min(SIZES)]
    return [
        *(replace(cell, gradient="gauss_newton") for cell in ours if cell.method != "sysid"),
        *(replace(cell, decay=True) for cell in ours),
        *few,
    ]


def cells_of(results: Results) -> list[Cell]:
    """The cells of a run: the variants if they are asked for, or where they are kept already."""
    if results.quick:
        return papers_cells(quick=True)
    kept = [cell for cell in added_cells() if results.variants or results.kept(cell.name, asdict(cell))]
    return papers_cells(quick=False) + kept


def run_cells(results: Results, cells: Sequence[Cell]) -> dict[Cell, Trial]:
    """Return the trials of the cells: those in the results are read, the others run."""
    kept = {cell: results.kept(cell.name, asdict(cell)) for cell in cells}
    missing = [cell for cell in cells if kept[cell] is None]
    trials = kept | (_run_side_by_side(results, missing) if missing else {})
    return {cell: trial for cell, trial in trials.items() if trial}


def _run_side_by_side(results: Results, cells: Sequence[Cell]) -> dict[Cell, Trial]:
    """Run cells in processes of one thread each."""
    context = get_context("spawn")
    done = context.Value("l", 0)
    trials = {}
    with ProcessPoolExecutor(WORKERS, context, _set_up_worker, (done,)) as pool, progress() as bar:
        task = bar.add_task("epochs of four trials", total=sum(cell.epochs for cell in cells), note="")
        running = {pool.submit(_run_and_keep, results, cell): cell for cell in cells}
        while running:
            finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                trials[running.pop(future)] = future.result()
            bar.update(task, completed=done.value, note=f"{len(trials)} of {len(cells)} cells")
    return trials


def _set_up_worker(done: Any) -> None:
    global _epochs_done
    _epochs_done = done
    torch.set_num_threads(1)


def _run_and_keep(results: Results, cell: Cell) -> Trial:
    """Run a cell, in a worker; epochs that it does without count as done in the end."""
    counted = 0

    def count(epoch: int) -> None:
        nonlocal counted
        if epoch % 50 == 0:
            _advance(epoch - counted)
            counted = epoch

    trial = results.trial(cell.name, asdict(cell), run_cell, cell, count)
    _advance(cell.epochs - counted)
    return trial


def _advance(epochs: int) -> None:
    with _epochs_done.get_lock():
        _epochs_done.value += epochs
