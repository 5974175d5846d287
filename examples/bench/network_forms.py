"""Networks wherever problems may read them, and of other layers: `python -m examples.bench.network_forms`.

Two hidden tanh layers on four states and a control, where nothing else is said, in one process and thread, float64; for
what a pass is see `examples.bench.networks`. Of each form the seconds from the problem to the first solution, the size
of the C text, and the least CPU time of some runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

import mpcgen
from examples.bench.networks import BATCH, HORIZON, controller, seconds
from examples.bench.timing import load_average, machine_name
from mpcgen.compiler import Compilation

STATES, MEMBERS = 4, 5
STEP = 0.05
"""Of forms with norms, whose outputs are larger: with 0.2 single problems take ten times the passes of the others."""
Weights = dict[str, Tensor]


def network(inputs: int, outputs: int, width: int) -> nn.Sequential:
    """Two hidden tanh layers."""
    layers = nn.Sequential(
        nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs)
    )
    return layers.double()


def new_problem(
    module: Callable[[Tensor, Tensor], Tensor], weights: Weights, step: float = 0.2, memory: int = 0
) -> tuple[mpcgen.Problem, Weights]:
    """The control of x + step module(x, u) to zero, and what its call takes.

    memory: states behind x, which cost nothing and of which module(x, u) gives the next values, with those of x.
    """
    problem = mpcgen.Problem("bench_form", HORIZON)
    states = problem.states([f"x_{i}" for i in range(STATES + memory)])
    (u,) = problem.controls(["u"], lower=-1, upper=1)
    following = lambda x, u: x + step * module(x, u)  # noqa: E731
    problem.dynamics = mpcgen.torch_model(problem, module if memory else following, weights=weights)
    problem.terminal_cost = sum(state**2 for state in states[:STATES]) / 2
    problem.stage_cost = problem.terminal_cost + u**2 / 20
    return problem, mpcgen.torch_parameters(weights)


def plain(width: int) -> tuple[mpcgen.Problem, Weights]:
    """A network of states and controls."""
    net = network(STATES + 1, STATES, width)
    return new_problem(lambda x, u: net(torch.cat([x, u])), dict(net.named_parameters()))


def features(width: int) -> tuple[mpcgen.Problem, Weights]:
    """A network of the sine and the cosine of an angle, and of the rest."""
    net = network(STATES + 2, STATES, width)

    def module(x: Tensor, u: Tensor) -> Tensor:
        return net(torch.cat([torch.sin(x[:1]), torch.cos(x[:1]), x[1:], u]))

    return new_problem(module, dict(net.named_parameters()))


def ensemble(width: int) -> tuple[mpcgen.Problem, Weights]:
    """The mean of five networks."""
    members = [network(STATES + 1, STATES, width) for _ in range(MEMBERS)]
    stacked, _ = stack_module_state(members)

    def module(x: Tensor, u: Tensor) -> Tensor:
        point = torch.cat([x, u])
        return vmap(lambda weights: functional_call(members[0], weights, (point,)))(stacked).mean(0)

    return new_problem(module, stacked)


def costs(width: int) -> tuple[mpcgen.Problem, Weights]:
    """A network as the dynamics, one in the stage cost, and one in the terminal cost."""
    problem, given = plain(width)
    price, value = network(STATES + 1, 1, width), network(STATES, 1, width)
    problem.stage_cost += 0.1 * mpcgen.torch_cost(
        problem,
        lambda x, u: price(torch.cat([x, u])).squeeze() ** 2,
        dict(price.named_parameters()),
        name="price",
    )
    problem.terminal_cost += 0.1 * mpcgen.torch_cost(
        problem,
        lambda x: value(x).squeeze() ** 2,
        dict(value.named_parameters()),
        controls=False,
        name="value",
    )
    further = {**mpcgen.torch_parameters(price, "price"), **mpcgen.torch_parameters(value, "value")}
    return problem, {**given, **further}


class Block(nn.Module):
    """h + W silu(W norm(h))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, h: Tensor) -> Tensor:
        """The following features."""
        return h + self.inner(h)


def normed(width: int) -> tuple[mpcgen.Problem, Weights]:
    """Two hidden layers, each normalised, then silu."""
    hidden = lambda inputs: (nn.Linear(inputs, width), nn.LayerNorm(width), nn.SiLU())  # noqa: E731
    net = nn.Sequential(*hidden(STATES + 1), *hidden(width), nn.Linear(width, STATES)).double()
    return new_problem(lambda x, u: net(torch.cat([x, u])), dict(net.named_parameters()), STEP)


def residual(width: int) -> tuple[mpcgen.Problem, Weights]:
    """Two residual blocks of two layers with a norm and silu, between a layer and a norm with another."""
    net = nn.Sequential(
        nn.Linear(STATES + 1, width),
        *(Block(width) for _ in range(2)),
        nn.LayerNorm(width),
        nn.Linear(width, STATES),
    ).double()
    return new_problem(lambda x, u: net(torch.cat([x, u])), dict(net.named_parameters()), STEP)


def latent(width: int) -> tuple[mpcgen.Problem, Weights]:
    """An encoder, a residual step of what it gives and the control, and a decoder."""
    parts = nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Linear(STATES, width), nn.LayerNorm(width), nn.SiLU()),
            "step": nn.Sequential(nn.Linear(width + 1, width), nn.SiLU(), nn.Linear(width, width)),
            "decoder": nn.Linear(width, STATES),
        }
    ).double()

    def module(x: Tensor, u: Tensor) -> Tensor:
        z = parts["encoder"](x)
        return parts["decoder"](z + parts["step"](torch.cat([z, u])))

    return new_problem(module, dict(parts.named_parameters()), STEP)


def gru(width: int) -> tuple[mpcgen.Problem, Weights]:
    """A GRU cell, a quarter as wide, whose memory is among the states, and a layer on it."""
    memory = width // 4
    parts = nn.ModuleDict(
        {"cell": nn.GRUCell(STATES + 1, memory), "last": nn.Linear(memory, STATES)}
    ).double()

    def module(x: Tensor, u: Tensor) -> Tensor:
        hidden = parts["cell"](torch.cat([x[:STATES], u]), x[STATES:])
        return torch.cat([x[:STATES] + STEP * parts["last"](hidden), hidden])

    return new_problem(module, dict(parts.named_parameters()), memory=memory)


FORMS: Sequence[Callable[[int], tuple[mpcgen.Problem, Weights]]] = (
    plain,
    features,
    ensemble,
    costs,
    normed,
    residual,
    latent,
    gru,
)


def row(form: Callable[[int], tuple[mpcgen.Problem, Weights]], width: int, rounds: int) -> str:
    """A row of the table."""
    torch.manual_seed(0)
    start = time.perf_counter()
    problem, given = form(width)
    mpc, x0 = controller(problem), torch.zeros(BATCH, len(problem.state_symbols), dtype=torch.float64)
    x0[:, :STATES] = torch.randn(BATCH, STATES, dtype=torch.float64)

    def solve() -> Any:
        with torch.no_grad():
            return mpc(x0, **given)

    solution = solve()
    build = time.perf_counter() - start
    passes = 1 + solution.iterations.double().mean().item()
    least = min(seconds(solve) for _ in range(rounds))
    text = len(Compilation(problem.spec()).rendered.c_text) / 1e3
    micros = 1e6 * least / (BATCH * HORIZON * passes)
    what = (form.__doc__ or "").rstrip(".")
    return f"| {what} | {text:.0f} kB | {build:.1f} s | {passes:.1f} | {micros:.2f} |"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", nargs="*", choices=[form.__name__ for form in FORMS])
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{machine_name()}, {load_average()}, torch {torch.__version__}; width {given.width}, N = {HORIZON}"
    )
    print("| form | C text | first call | passes | µs a stage and pass |\n|---|---|---|---|---|")
    for form in FORMS:
        if given.only and form.__name__ not in given.only:
            continue
        print(row(form, given.width, given.rounds), flush=True)


if __name__ == "__main__":
    main()
