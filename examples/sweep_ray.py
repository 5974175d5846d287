"""Solve and differentiate ten million pendulums on a cluster, with Ray Data; what is done is done if it is killed.

    pip install '.[ray]'
    python -m examples.sweep_ray --problems 10000000

The sweep is cut into shards of 50,000 problems. Each is drawn from its own seed, so that whoever computes it computes
the same, and ends as a Parquet file that is renamed into place when it is complete. Another call with the same folder
computes the shards that are missing. A worker that dies is started again by Ray, and its shard with it.

    python -m examples.sweep_ray --problems 400000 --plain     # the same in a loop of this process's threads

Without --address Ray starts a cluster of this machine; with --address auto it joins the one that runs here
(docs/many_machines.md).
"""

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mpcgen

SHARD = 50_000
"""Problems of a shard: about a second of work, beside which a file and a message are little."""
BATCH = 8_000
"""Problems of a call. Larger ones bring nothing, and take more memory."""


@dataclass(frozen=True)
class Shard:
    """Problems ``start`` to ``start + count`` of a sweep, drawn from ``seed``."""

    index: int
    start: int
    count: int
    seed: int

    @property
    def file(self) -> str:
        """The name of its file: equal only for equal problems."""
        return f"shard-{self.index:06d}-of-{self.count}-from-{self.start}-seed-{self.seed}.parquet"


def plan(problems: int, size: int = SHARD, seed: int = 0) -> list[Shard]:
    """Shards that cover ``problems`` problems, the last of what remains."""
    if problems < 1 or size < 1:
        raise ValueError(f"problems={problems}, size={size}; both have to be at least 1")
    return [
        Shard(index, start, min(size, problems - start), seed)
        for index, start in enumerate(range(0, problems, size))
    ]


def missing(shards: list[Shard], folder: Path) -> list[Shard]:
    """Those without a file in ``folder``; one that was being written when its process died has another name."""
    present = {path.name for path in folder.glob("*.parquet")}
    return [shard for shard in shards if shard.file not in present]


def draw(shard: Shard) -> dict[str, Tensor]:
    """Initial states (count, 3) within a quarter turn of upright, and masses (count,) from 0.5 to 1.5 kg."""
    generator = torch.Generator().manual_seed(shard.seed * 1_000_003 + shard.index)
    angle, velocity, mass = torch.rand(3, shard.count, generator=generator, dtype=torch.float64)
    angle, velocity = (angle - 0.5) * torch.pi, 2 * velocity - 1  # rad, rad/s
    return {"x0": torch.stack([angle.cos(), angle.sin(), velocity], dim=-1), "mass": 0.5 + mass}


def make_controller() -> torch.nn.Module:
    """The pendulum's controller. Problems that do not converge keep their status, and have no gradient."""
    problem = mpcgen.load_problem(Path(__file__).with_name("pendulum.py"))
    return mpcgen.compile(problem, dtypes="float64").MPC(on_unconverged="ignore", unconverged_gradient="nan")


def solve(controller: torch.nn.Module, shard: Shard) -> dict[str, Any]:
    """Columns of a shard: the problem, cost, status and first torque, and that torque's derivatives."""
    rows: list[dict[str, Tensor]] = []
    problems = draw(shard)
    for x0, mass in zip(problems["x0"].split(BATCH), problems["mass"].split(BATCH), strict=True):
        x0, mass = x0.requires_grad_(), mass.requires_grad_()
        solution = controller(x0, mass=mass)
        torque = solution.u[:, 0, 0]
        by_x0, by_mass = torch.autograd.grad(torque.sum(), (x0, mass))
        values = (*x0.unbind(-1), mass, solution.cost, torque, solution.status, *by_x0.unbind(-1), by_mass)
        rows.append({name: value.detach() for name, value in zip(COLUMNS, values, strict=True)})
    return {name: torch.cat([row[name] for row in rows]).numpy() for name in COLUMNS}


COLUMNS = (
    *("cos_theta", "sin_theta", "omega", "mass", "cost", "torque", "status"),
    *("torque_D_cos_theta", "torque_D_sin_theta", "torque_D_omega", "torque_D_mass"),
)


def write(columns: dict[str, Any], path: Path) -> None:
    """Write a Parquet file that is there when it is complete, and not before."""
    import pyarrow
    import pyarrow.parquet

    partial = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    pyarrow.parquet.write_table(
        pyarrow.table(columns), partial, compression="zstd", use_dictionary=["status"]
    )
    os.replace(partial, path)


def compute(controller: torch.nn.Module, shard: Shard, folder: Path) -> dict[str, Any]:
    """Solve a shard and write its file; returns counts, and seconds of this process's CPU time."""
    start = time.process_time()
    columns = solve(controller, shard)
    write(columns, folder / shard.file)
    converged = int((columns["status"] == mpcgen.Status.CONVERGED).sum())
    seconds = time.process_time() - start
    return {"index": shard.index, "count": shard.count, "converged": converged, "cpu": seconds}


class Worker:
    """What one of Ray's actors does: keeps a controller, and computes the shards that it is given."""

    def __init__(self) -> None:
        torch.set_num_threads(1)  # an actor has one core
        self.controller = make_controller()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Compute the shards of a batch of Ray's: a column for each field of `Shard`, and the folder."""
        folders = batch.pop("folder")
        shards = [Shard(*map(int, row)) for row in zip(*batch.values(), strict=True)]
        done = [
            compute(self.controller, shard, Path(folder))
            for shard, folder in zip(shards, folders, strict=True)
        ]
        return {name: [row[name] for row in done] for name in done[0]}


def with_ray(
    shards: list[Shard], folder: Path, workers: int, address: str | None
) -> Iterator[dict[str, Any]]:
    """Compute shards on ``workers`` actors of a core each; yields what each did, as they end."""
    import ray

    ray.init(
        address=address, num_cpus=None if address else workers, include_dashboard=False, log_to_driver=False
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    # The folder is in the rows: what an actor's constructor is given must not be lost, or it cannot be started again.
    items = [{**asdict(shard), "folder": str(folder)} for shard in shards]
    rows = ray.data.from_items(items, override_num_blocks=len(items))
    pool = ray.data.ActorPoolStrategy(size=workers)
    done = rows.map_batches(Worker, compute=pool, batch_size=1, num_cpus=1)
    try:
        yield from done.iter_rows()
    finally:
        ray.shutdown()


def in_a_loop(shards: list[Shard], folder: Path) -> Iterator[dict[str, Any]]:
    """Compute shards one after the other on this process's threads."""
    controller = make_controller()
    for shard in shards:
        yield compute(controller, shard, folder)


def sweep(options: argparse.Namespace) -> None:
    """Compute what is missing of a sweep, and say how far it is."""
    import pyarrow
    import pyarrow.parquet  # noqa: F401

    folder = Path(options.output).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    shards = plan(options.problems, options.shard, options.seed)
    left = missing(shards, folder)
    print(f"{len(shards)} shards, of which {len(shards) - len(left)} are in {folder}", flush=True)
    if not left:
        return
    solve(make_controller(), Shard(0, 0, 1, 0))  # compiles once, before all workers ask for it
    solved = sum(shard.count for shard in shards) - sum(shard.count for shard in left)
    results = (
        in_a_loop(left, folder) if options.plain else with_ray(left, folder, options.workers, options.address)
    )
    show_progress(results, solved, options.problems)


def show_progress(results: Iterator[dict[str, Any]], solved: int, problems: int) -> None:
    """Print how far a sweep is as its shards end. Until the second the pace is that of the start."""
    start = time.perf_counter()
    here, cpu, converged, first, first_count = 0, 0.0, 0, 0.0, 0
    for row in results:
        here, cpu, converged = here + row["count"], cpu + row["cpu"], converged + row["converged"]
        elapsed = time.perf_counter() - start
        if first_count == 0:
            first, first_count, pace = elapsed, here, elapsed / here
        else:
            pace = (elapsed - first) / (here - first_count)
        print(
            f"{(solved + here) / problems:7.2%}  {solved + here:,} of {problems:,} problems, "
            f"{converged / here:.3%} converged; per problem {pace * 1e6:.2f} µs, {cpu / here * 1e6:.2f} µs of CPU "
            f"time; {pace * (problems - solved - here):.0f} s to go",
            flush=True,
        )
    print(f"{here:,} problems in {elapsed:.0f} s, the first shard after {first:.0f} s", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=10_000_000)
    parser.add_argument("--output", default="sweep", help="folder of the Parquet files")
    parser.add_argument("--workers", type=int, default=2, help="actors, of one core each")
    parser.add_argument("--shard", type=int, default=SHARD, help="problems of a shard")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--address", help="of a running cluster; auto: the one that runs on this machine")
    parser.add_argument("--plain", action="store_true", help="a loop in this process instead of Ray")
    sweep(parser.parse_args())


if __name__ == "__main__":
    main()
