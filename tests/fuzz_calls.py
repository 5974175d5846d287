"""Random calls of small controllers: each gives a result that holds, or an error of mpcgen's own.

    python tests/fuzz_calls.py --count 10000        # minutes; exit status 1 and the calls' numbers where one is wrong
    python tests/fuzz_calls.py --only 4711 --count 1    # one call again, with its traceback

Shapes, dtypes, layouts, missing, wrong and superfluous arguments, NaN and infinity, broadcasting, values per stage,
horizons, options, gradients in both modes and vmap. Every result is checked for its shapes, bounds, residual and the
gradient of its cost; one in `SAMPLED` against CasADi with IPOPT, which a convex problem leaves no choice. A call that
takes longer than 20 s, crashes or raises something else is wrong. Not a test of pytest's, which would pay for it.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import sympy as sp
import torch
from torch import Tensor

import mpcgen
from mpcgen.baseline import Baseline

SAMPLED = 40
PATIENCE = 20  # seconds a call may take
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"hessian": "gauss_newton", "gradient": "gauss_newton"},
    {"method": "interior_point"},
    {"max_iterations": 2, "unconverged_gradient": "keep"},
    {"max_iterations": 1, "unconverged_gradient": "nan"},
    {"smoothing": 1e-3},
    {"smoothing": 1e-3, "smooth": "solve"},
    {"history": True, "max_iterations": 20},
    {"tol": 1e-10},
    {"threads": 1},
)


class WrongError(Exception):
    """A result that does not hold."""


class HangError(Exception):
    """A call that takes too long."""


def cart() -> mpcgen.Problem:
    """Return two states, a control with a bound that is a parameter, a reference per stage and one at the end."""
    problem = mpcgen.Problem("fuzz_cart", horizon=6)
    position, velocity = problem.states("position velocity")
    most = problem.parameter("most", default=1.0)
    (force,) = problem.controls("force", lower=-most, upper=most)
    mass = problem.parameter("mass", default=1.0)
    weight = problem.parameter("weight", shape=2, default=[1.0, 0.1])
    target = problem.parameter("target", default=0.0, per_stage=True)
    problem.dynamics = [position + velocity / 10, velocity + force / mass / 10]
    miss = weight[0] ** 2 * (position - target) ** 2 + weight[1] ** 2 * velocity**2
    problem.stage_cost = miss + force**2 / 10
    problem.terminal_cost = 5 * miss
    return problem


def tank() -> mpcgen.Problem:
    """Return one state and two controls, one of them with half a bound, and a price per stage that only stages read."""
    problem = mpcgen.Problem("fuzz_tank", horizon=4)
    (level,) = problem.states("level")
    inflow, outflow = problem.controls("inflow outflow", lower=[0, -sp.oo], upper=[1, sp.oo])
    price = problem.parameter("price", shape=2, default=[0.1, 0.2], per_stage=True)
    loss = problem.parameter("loss")
    problem.dynamics = [level + inflow - outflow - loss]
    problem.stage_cost = level**2 + inflow**2 + outflow**2 + price[0] * inflow + price[1] * outflow
    problem.terminal_cost = level**2
    return problem


@functools.cache
def controllers() -> list[Any]:
    """Compile the problems; what a call needs to know of each."""
    return [(problem.spec(), mpcgen.compile(problem)) for problem in (cart(), tank())]


@functools.cache
def controller(which: int, options: int) -> Any:
    """Return a controller with the given options, once."""
    return controllers()[which][1].MPC(on_unconverged="ignore", **OPTIONS[options])


@functools.cache
def witness(which: int) -> Baseline:
    """CasADi's solver of a problem."""
    return Baseline(controllers()[which][0], tol=1e-10)


class Call:
    """A random call: what is passed, and how. ``is_plain``: all of it is as documented."""

    def __init__(self, number: int) -> None:
        self.dice = random.Random(number)
        self.torch_dice = torch.Generator().manual_seed(number)
        self.which, self.options = self.dice.randrange(2), self.dice.randrange(len(OPTIONS))
        self.spec = controllers()[self.which][0]
        self.dtype = torch.float32 if self.chance(0.15) else torch.float64
        self.batch = self.dice.choice([(), (1,), (3,), (2, 3), (0,), (17,)])
        self.how = self.dice.choice(["plain", "plain", "no_grad", "grad", "grad", "jvp", "vmap", "vmap grad"])
        self.horizon = self.dice.choice([None, None, None, 1, 3, 9])
        self.arguments = self._arguments()

    def chance(self, probability: float) -> bool:
        """Throw a coin."""
        return self.dice.random() < probability

    def tensor(self, *shape: int) -> Tensor:
        """Return normal numbers."""
        return torch.randn(shape, generator=self.torch_dice, dtype=torch.float64).to(self.dtype)

    def leading(self) -> tuple[int, ...]:
        """Leading dimensions that broadcast with the batch's, most of the time."""
        tail = self.batch[self.dice.randrange(len(self.batch) + 1) :]
        wrong = (5,) if self.chance(0.02) else ()
        return wrong or tuple(1 if self.chance(0.2) else size for size in tail)

    def _arguments(self) -> dict[str, Any]:
        n, m = len(self.spec.states), len(self.spec.controls)
        horizon = self.horizon or self.spec.horizon
        given: dict[str, Any] = {"x0": self.spoil(self.tensor(*self.batch, n))}
        for p in self.spec.parameters:
            if self.chance(0.5) and p.default is not None:
                continue
            shape = p.shape
            if p.per_stage and self.chance(0.6):
                shape = (p.stages(horizon) + (self.chance(0.05)), *p.shape)
                given[p.name] = self.spoil(self.tensor(*self.leading(), *shape))
            elif p.per_stage:
                given[p.name] = self.spoil(self.tensor(*shape))
            else:
                given[p.name] = self.spoil(0.3 + self.tensor(*self.leading(), *shape).abs())
        if self.chance(0.3):
            given["u_init"] = self.spoil(self.tensor(*self.leading(), horizon, m))
        if self.horizon is not None or self.chance(0.1):
            odd = [np.int64(horizon), torch.tensor(horizon), 0, -3, 2.0, "six", True, 2**40, None]
            given["horizon"] = self.dice.choice(odd) if self.chance(0.2) else horizon
        if self.chance(0.02):
            given[self.dice.choice(["lower", "mas", "tol", "x_init", "warm_start"])] = 1.0
        if self.chance(0.01):
            del given["x0"]
        return given

    def spoil(self, value: Tensor) -> Any:
        """Return a tensor as something else: seldom as something wrong."""
        kind = self.dice.choices(
            [
                "",
                "strided",
                "list",
                "numpy",
                "number",
                "nan",
                "inf",
                "dtype",
                "shape",
                "sparse",
                "word",
                "none",
            ],
            [200, 12, 3, 3, 2, 3, 3, 2, 4, 1, 1, 1],
        )[0]
        if kind == "strided":
            return value.unsqueeze(-1).expand(*value.shape, 3)[..., 1]
        if kind in ("nan", "inf") and value.numel():
            value.view(-1)[self.dice.randrange(value.numel())] = float(kind)
        if kind == "shape":
            return value[..., None] if self.chance(0.5) else value.reshape(-1)[: self.dice.randrange(4)]
        other = {
            "list": value.tolist,
            "numpy": value.numpy,
            "number": lambda: self.dice.choice([1.0, -2, 10**400, 1j, np.float32(0.5)]),
            "dtype": lambda: value.to(self.dice.choice([torch.float32, torch.float16, torch.int64])),
            "sparse": value.to_sparse,
            "word": lambda: "heavy",
            "none": lambda: None,
        }
        return other[kind]() if kind in other else value

    def run(self) -> tuple[Any, dict[str, Tensor]]:
        """Call; return the solution and the gradients of its cost by what was asked to have one."""
        mpc, given = controller(self.which, self.options), dict(self.arguments)
        # what torch itself can differentiate: it refuses the others before a controller sees them
        floats = [name for name, value in given.items() if name != "u_init" and is_differentiable(value)]
        if self.how == "no_grad":
            with torch.no_grad():
                return mpc(**given), {}
        if self.how == "jvp" and floats:
            rest = {k: v for k, v in given.items() if k not in floats}
            primals = tuple(given[k] for k in floats)
            torch.func.jvp(
                lambda *values: mpc(**dict(zip(floats, values, strict=True)), **rest).cost,
                primals,
                tuple(torch.ones_like(p) for p in primals),
            )
        if self.how.startswith("vmap") and isinstance(given.get("x0"), Tensor) and given["x0"].ndim > 1:
            rest = {k: v for k, v in given.items() if k != "x0"}
            mapped = lambda x0: mpc(x0, **rest).cost  # noqa: E731
            if "grad" in self.how and is_differentiable(given["x0"]):
                mapped = torch.func.grad(lambda x0: mpc(x0, **rest).cost.sum())
            torch.func.vmap(mapped)(given["x0"])
        if self.how == "grad":
            for name in floats:
                given[name] = given[name].detach().requires_grad_()
            solution = mpc(**given)
            found = torch.autograd.grad(
                solution.cost.sum() + 0 * solution.u.sum(), [given[k] for k in floats]
            )
            return solution, dict(zip(floats, found, strict=True))
        return mpc(**given), {}

    def check(self, solution: Any, gradients: dict[str, Tensor]) -> None:
        """Raise WrongError unless the result holds."""
        n, m = len(self.spec.states), len(self.spec.controls)
        batch, horizon = solution.cost.shape, solution.u.shape[-2]
        for part, shape in ((solution.x, (horizon + 1, n)), (solution.u, (horizon, m))):
            require(part.shape == (*batch, *shape) and part.dtype == solution.cost.dtype, "shapes or dtypes")
        require(bool(((solution.status >= 0) & (solution.status <= max(mpcgen.Status))).all()), "status")
        done = solution.converged
        for part in (solution.x, solution.u, solution.cost, solution.residual, solution.costates):
            require(bool(part[done].isfinite().all()), "a solved problem has numbers that are not finite")
        tolerance = controller(self.which, self.options).options.tolerance(solution.cost.dtype)
        require(bool((solution.residual[done] <= tolerance).all()), "residual above tol")
        slack = 1e-6 if solution.cost.dtype == torch.float64 else 1e-3
        u = solution.u[done]
        require(bool((u >= solution.lower[done] - slack).all()), "below a bound")
        require(bool((u <= solution.upper[done] + slack).all()), "above a bound")
        if "smoothing" not in OPTIONS[self.options] and "x0" in gradients and done.all():
            wanted = solution.costates[..., 0, :].expand((*batch, n))
            while wanted.ndim > gradients["x0"].ndim:
                wanted = wanted.sum(0)
            wanted = wanted.sum_to_size(gradients["x0"].shape)
            error = (gradients["x0"] - wanted).abs().max() if wanted.numel() else 0.0
            require(
                bool(error <= 1e3 * tolerance * (1 + wanted.abs().max())) if wanted.numel() else True,
                "dcost/dx0",
            )

    def compare(self, solution: Any) -> bool:
        """Compare the first problem with CasADi's; whether that was possible."""
        if self.arguments.get("horizon") is not None or "smooth" in OPTIONS[self.options]:
            return False
        if solution.u.shape[-2] != self.spec.horizon or solution.u.dtype != torch.float64:
            return False
        if not solution.cost.numel() or not solution.converged.all():
            return False
        values = {}
        for p, value in zip(self.spec.parameters, solution.origin.parameters, strict=True):
            value = value[0].detach().numpy()
            values[p.name] = value[0] if p.per_stage and len(value) == 1 else value
        found = solution.u.detach().reshape(-1, *solution.u.shape[-2:])[0]
        x0 = solution.x.detach().reshape(-1, *solution.x.shape[-2:])[0, 0]
        casadi = witness(self.which).solve_batch(x0[None].numpy(), values)
        if not casadi.success.all():
            return False
        # strongly convex in the controls, with curvature at least 0.2: residuals of 1e-8 move them by less than 1e-6;
        # IPOPT's barrier leaves weakly active bounds sqrt(1e-10) away
        require(float(np.abs(casadi.u[0] - found.numpy()).max()) <= 1e-4, "CasADi finds other controls")
        return True


def is_differentiable(value: Any) -> bool:
    """Whether torch can differentiate by it."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.layout is torch.strided


def require(holds: bool, what: str) -> None:
    """Raise WrongError unless so."""
    if not holds:
        raise WrongError(what)


def judge(number: int) -> str:
    """Run a call; return what came of it. Raises what must not come of any."""
    call = Call(number)
    signal.alarm(PATIENCE)
    try:
        solution, gradients = call.run()
        call.check(solution, gradients)
        if number % SAMPLED == 0 and call.compare(solution):
            return "solved, as CasADi does"
        return "solved" if solution.converged.all() else "ended, not all of it solved"
    except mpcgen.MpcgenError as error:
        return f"refused: {type(error).__name__}"
    finally:
        signal.alarm(0)


def work(first: int, count: int, where: Path) -> int:
    """Make the calls in this process, and note each before it is made."""

    def ring(*_: object) -> None:
        raise HangError(f"longer than {PATIENCE} s")

    signal.signal(signal.SIGALRM, ring)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    outcomes, wrong = Counter[str](), 0
    with where.open("r+b", buffering=0) as place:
        for number in range(first, first + count):
            os.pwrite(place.fileno(), f"{number:12}".encode(), 0)
            try:
                outcomes[judge(number)] += 1
            except Exception:
                wrong += 1
                print(f"call {number} is wrong:\n{traceback.format_exc(limit=-4)}", flush=True)
    for what, times in sorted(outcomes.items()):
        print(f"{times:7} {what}")
    return 1 if wrong else 0


def main() -> int:
    """Make the calls in a process that may crash."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument(
        "--only", "--first", dest="first", type=int, default=0, help="number of the first call"
    )
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.place:
        return work(arguments.first, arguments.count, arguments.place)
    begun, first, end, failed = time.monotonic(), arguments.first, arguments.first + arguments.count, False
    with tempfile.NamedTemporaryFile() as file:
        while first < end:
            command = [sys.executable, "-X", "faulthandler", __file__, "--first", str(first)]
            command += ["--count", str(end - first), "--place", file.name]
            code = subprocess.run(command, check=False).returncode
            failed |= code != 0
            if code in (0, 1):
                break
            crashed = int(Path(file.name).read_text() or first)
            print(f"call {crashed} crashed with code {code}")
            first = crashed + 1
    print(f"{arguments.count} calls in {time.monotonic() - begun:.0f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
