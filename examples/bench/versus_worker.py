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
            tasks[line] = _task(Path(root), **json.loads(line))
            tasks[line]()
        task, count, began = tasks[line], 0, time.process_time()
        while time.process_time() - began < TURN:
            task()
            count += 1
        print((time.process_time() - began) / count, flush=True)


def _task(root: Path, problem: str, batch: int, dtype: str, kind: str) -> Callable[[], object]:
    starts = runpy.run_path(str(root / "examples" / f"{problem}.py"))["initial_states"]
    x0 = starts(batch, 0).to(getattr(torch, dtype))
    mpc = importlib.import_module(problem).MPC(on_unconverged="ignore", threads=1)
    if kind == "solve":
        return lambda: mpc(x0)
    if kind == "kernel":
        return _kernel(mpc, x0)
    if kind == "warm kernel":
        return _kernel(mpc, x0, u_init=mpc(x0).u.detach())
    u_init = mpc(x0).u.detach()
    if kind == "warm":
        return lambda: mpc(x0, u_init=u_init)
    wanted = x0.clone().requires_grad_()
    return lambda: torch.autograd.grad(mpc(wanted, u_init=u_init).u.sum(), wanted)


def _kernel(mpc: Any, x0: torch.Tensor, **start: torch.Tensor) -> Callable[[], object]:
    """The compiled solver alone, with the arguments of a call."""
    mpc(x0, **start)
    solver = list(mpc.direct._known.values())[-1].solver
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
