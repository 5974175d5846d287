"""A process of `versus.py`: times one build's packages, a turn at a time. Knows nothing of this checkout's code.

Arguments: the checkout, and the folder of its packages. Each line that comes in is a case, as JSON: problem, batch,
dtype, kind. The answer is how many CPU seconds a run of it took.
"""

from __future__ import annotations

import importlib
import json
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

TURN = 0.02
"""Seconds that a turn takes, about."""


def serve(root: str, folder: str) -> None:
    """Answer, for each case that comes in, with the seconds of a run of it."""
    torch.set_num_threads(1)
    sys.path.insert(0, folder)
    tasks: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        if line not in tasks:
            tasks[line] = _task(Path(root), Path(folder), **json.loads(line))
            tasks[line]()
        task, count, began = tasks[line], 0, time.process_time()
        while time.process_time() - began < TURN:
            task()
            count += 1
        print((time.process_time() - began) / count, flush=True)


def _task(root: Path, folder: Path, problem: str, batch: int, dtype: str, kind: str) -> Callable[[], object]:
    x0, values = _instances(root, folder, problem, batch, getattr(torch, dtype))
    mpc = importlib.import_module(problem).MPC(on_unconverged="ignore", threads=1)
    if kind == "solve":
        return lambda: mpc(x0, **values)
    if kind == "kernel":
        return _kernel(mpc, x0, **values)
    given = {**values, "u_init": mpc(x0, **values).u.detach()}
    if kind == "warm kernel":
        return _kernel(mpc, x0, **given)
    if kind == "warm":
        return lambda: mpc(x0, **given)
    return _derivative(kind, mpc, x0, given)


def _instances(
    root: Path, folder: Path, problem: str, batch: int, dtype: torch.dtype
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """x0 of a batch, and the parameters that it shares."""
    drawn = folder / f"{problem}.pt"
    if drawn.exists():
        x0, values = torch.load(drawn)
        return x0[:batch].to(dtype), {name: value.to(dtype) for name, value in values.items()}
    starts = runpy.run_path(str(root / "examples" / f"{problem}.py"))["initial_states"]
    return starts(batch, 0).to(dtype), {}


def _derivative(
    kind: str, mpc: Any, x0: torch.Tensor, given: dict[str, torch.Tensor]
) -> Callable[[], object]:
    """What takes gradients of calls that begin at their solutions."""
    wanted = x0.clone().requires_grad_()

    def step(call: Callable[..., torch.Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(call(wanted, **given), wanted)

    def total(x: torch.Tensor, **values: torch.Tensor) -> torch.Tensor:
        return mpc(x, **values).u.sum()

    if kind == "step":
        return step(total)
    if kind == "compiled":
        return step(torch.compile(total, fullgraph=True))
    if kind == "backward":
        given |= {name: value.clone().requires_grad_() for name, value in _defaults(mpc, x0.dtype).items()}
        inputs = [wanted, *(value for value in given.values() if value.requires_grad)]
        mean = mpc(wanted, **given).u.square().mean()
        return lambda: torch.autograd.grad(mean, inputs, retain_graph=True)
    u_init = given.pop("u_init")

    def controls(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return mpc(x, u_init=u, **given).u

    if kind == "vmap":
        of_each = torch.func.vmap(torch.func.grad(lambda x, u: controls(x, u).sum()))
        return lambda: of_each(x0, u_init)
    if kind == "jacobian":
        first, start = x0[:8], u_init[:8]
        return lambda: torch.func.jacrev(lambda x: controls(x, start)[:, 0].sum(0))(first)
    tangent = torch.ones_like(x0)
    return lambda: torch.func.jvp(lambda x: controls(x, u_init), (x0,), (tangent,))


def _defaults(mpc: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """By name, the parameters that have a default, and in each stage one if they have several."""
    return {
        parameter.name: torch.tensor(parameter.default, dtype=dtype).reshape(parameter.shape)
        for parameter in mpc.controller.parameters
        if parameter.default is not None and not parameter.only_bounds
    }


def _kernel(mpc: Any, x0: torch.Tensor, **start: torch.Tensor) -> Callable[[], object]:
    """The compiled solver alone, with the arguments of a call."""
    mpc(x0, **start)
    kept = list(mpc.direct._known.values())[-1]
    solver = (kept if hasattr(kept, "solver") else kept[0]).solver  # revisions differ
    entry, kept = solver._entry, []

    def keep(arguments: object) -> None:
        kept.append(arguments)
        entry(arguments)

    solver._entry = keep
    outputs = mpc(x0, **start)  # the arguments point to them

    def run(_alive: object = (x0, start, mpc, outputs)) -> None:
        entry(kept[0])

    return run


if __name__ == "__main__":
    serve(*sys.argv[1:])
