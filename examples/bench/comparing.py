"""Run the peers beside the generated solver."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from examples.bench.calls import Batch
from examples.bench.cells import Selection
from examples.bench.peers import PEERS, Peer, PeerRow, agreement
from examples.bench.problems import Instances, Problem
from examples.bench.timing import alternate

BATCH = 128
REPETITIONS = 5


def compare_peers(
    problem: Problem, selection: Selection, most: int | None = None, compiled: bool = True
) -> Iterator[PeerRow]:
    """Solve the same instances with every peer and with the generated solver, one thread each.

    most: instances for each peer at most; default: as many as its adapter says.
    """
    tol = selection.tol("float64")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for peer in PEERS:
            count = peer.count if most is None else min(peer.count, most)
            instances = problem.draw(count, torch.float64, selection.seed)
            yield _compare(peer, problem, instances, tol, compiled)
    finally:
        torch.set_num_threads(threads)


def _compare(peer: Peer, problem: Problem, instances: Instances, tol: float, compiled: bool) -> PeerRow:
    reason = peer.unavailable(problem)
    if reason is not None:
        return PeerRow(problem.name, peer.name, peer.note, skipped=reason)
    count = len(instances.x0)
    found = peer.solve(problem, instances, tol, compiled)
    whole = Batch(problem, instances.x0, instances.parameters)
    whole.solve(tol, threads=1)()
    own = whole.solved
    if found.cost.isnan().all():
        found = dataclasses.replace(found, cost=cost_of(problem, instances, found.u))
    singles = [Batch(problem, x0, instances.parameters).solve(tol, 1) for x0 in instances.x0.split(1)]
    many = instances.x0.repeat(-(-BATCH // count), 1)[:BATCH]
    batch = Batch(problem, many, instances.parameters).solve(tol, 1)
    one_by_one, together = alternate([lambda: [solve() for solve in singles], batch], REPETITIONS)
    return PeerRow(
        problem.name,
        peer.name,
        peer.note,
        count=count,
        seconds=found.seconds / count,
        iterations=found.iterations,
        converged=int(found.converged.sum()),
        own_single=one_by_one.median / count,
        own_batch=together.median / BATCH,
        **agreement(own.cost, own.status == 0, found),
    )


def cost_of(problem: Problem, instances: Instances, u: torch.Tensor) -> torch.Tensor:
    """Cost (B,) of controls u (B, N, m) from the instances' initial states."""
    mpc = problem.package.MPC(max_iterations=0, on_unconverged="ignore", threads=1)
    return mpc(instances.x0, u_init=u, **instances.parameters).cost
