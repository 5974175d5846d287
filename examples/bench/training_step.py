"""A training step beside one of a trivial function: `python -m examples.bench.training_step`.

One pendulum, started at its solution: forward with gradient and backward of the cost, eager, so that what is measured
is the way through Python and torch to the kernels. Beside it a `torch.autograd.Function` of two tensors that multiplies
them, applied, summed and differentiated. They take turns; CPU seconds of one thread.

With `--compiled` the same under torch.compile, and beside it the least that a registered operator of x0 and controls
can take there: one that adds up squares, with another operator as its derivative.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import mpcgen
from examples.bench.timing import load_average, machine_name
from examples.pendulum import problem

CALLS = 100


class Product(torch.autograd.Function):
    """a b, with nothing around it."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        """Keep both factors."""
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """Each factor's is the other times the product's."""
        a, b = ctx.saved_tensors
        return cotangent * b, cotangent * a


def squares() -> Callable[[Tensor, Tensor], Tensor]:
    """A registered operator of x0 (B, n) and controls (B, N, m) that does next to nothing, with a derivative by x0."""
    library = torch.library.Library("mpcgen_bench", "FRAGMENT")

    def define(schema: str, kernel: Callable[..., Tensor], fake: Callable[..., Tensor]) -> Any:
        name = schema.partition("(")[0]
        library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        library.impl(name, kernel, "CPU")
        torch.library.register_fake(f"mpcgen_bench::{name}", fake, lib=library)
        return getattr(torch.ops.mpcgen_bench, name).default

    slope = define(
        "slope(Tensor g, Tensor x) -> Tensor",
        lambda g, x: 2 * g[:, None] * x,
        lambda g, x: x.new_empty(x.shape),
    )
    operator = define(
        "squares(Tensor x, Tensor u) -> Tensor",
        lambda x, u: (x * x).sum(-1),
        lambda x, u: x.new_empty(x.shape[:1]),
    )
    torch.library.register_autograd(
        "mpcgen_bench::squares",
        lambda ctx, cotangent: (slope(cotangent, *ctx.saved_tensors), None),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
        lib=library,
    )
    _ALIVE.append(library)
    return operator


_ALIVE: list[Any] = []
"""Libraries whose operators go with them."""


def steps(dtype: torch.dtype, compiled: bool = False) -> dict[str, Callable[[], None]]:
    """What is measured, by name."""
    mpc = mpcgen.compile(problem, dtypes=(dtype,)).MPC(threads=1)
    x0 = torch.tensor([[-0.9, 0.3, 0.2]], dtype=dtype).requires_grad_()
    mass = torch.tensor(1.0, dtype=dtype).requires_grad_()
    controls = mpc(x0).u.detach()
    a, b = (torch.ones(3, dtype=dtype).requires_grad_() for _ in range(2))
    measured = {
        "product": lambda: Product.apply(a, b).sum().backward(),
        "pendulum": lambda: mpc(x0, u_init=controls).cost.sum().backward(),
        "pendulum, learned mass": lambda: mpc(x0, u_init=controls, mass=mass).cost.sum().backward(),
    }
    if compiled:
        operator = squares()
        product = torch.compile(lambda a, b: Product.apply(a, b).sum(), fullgraph=True)
        least = torch.compile(lambda x: operator(x, controls).sum(), fullgraph=True)
        whole = torch.compile(lambda x: mpc(x, u_init=controls).cost.sum(), fullgraph=True)
        measured |= {
            "compiled product": lambda: product(a, b).backward(),
            "compiled operator": lambda: least(x0).backward(),
            "compiled pendulum": lambda: whole(x0).backward(),
        }
    return measured


def turn(step: Callable[[], None]) -> float:
    """CPU seconds of a step, over some."""
    begin = time.process_time()
    for _ in range(CALLS):
        step()
    return (time.process_time() - begin) / CALLS


def main() -> None:
    """Print each step's time, and over the product's."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.bench.training_step",
        description="A training step beside one of a trivial function.",
    )
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--compiled", action="store_true", help="Under torch.compile, too.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    measured = steps(getattr(torch, given.dtype), given.compiled)
    for step in measured.values():
        turn(step)
    turns = [[turn(step) for step in measured.values()] for _ in range(given.turns)]
    print(f"{machine_name()}, {load_average()}; one thread; {given.dtype}; over the product's time")
    for place, name in enumerate(measured):
        ratio = statistics.median(times[place] / times[0] for times in turns)
        least = min(times[place] for times in turns)
        print(f"{name:<24} {ratio:5.2f}  (least {1e6 * least:7.1f} us)")


if __name__ == "__main__":
    main()
