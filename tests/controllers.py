"""The examples as compiled controllers with random problems for them, shared by the tests of the solver.

MPCGEN_TEST_KERNELS=cuda-host makes them of CUDA's kernels on the host, so that the same tests say what those compute;
MPCGEN_TEST_CUDA_KERNEL=warp, or thread, of one kind of them whatever the problem's size.
"""

import dataclasses
import functools
import os
import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch
from torch import Tensor

import mpcgen
from mpcgen.baseline import Functions, KktGradient, kkt_gradient
from mpcgen.problem.spec import ParameterSpec, Spec
from mpcgen.runtime.loading import DTYPES

EXAMPLES = Path(__file__).parent.parent / "examples"
NONLINEAR = ("pendulum", "cartpole", "car")
EPS = np.finfo(float).eps
KERNELS = os.environ.get("MPCGEN_TEST_KERNELS", "cpu")
CUDA_KERNEL = os.environ.get("MPCGEN_TEST_CUDA_KERNEL", "auto")


def compiled(problem: mpcgen.Problem | Spec, dtypes: Sequence[str] = ("float64",)) -> ModuleType:
    """Compile a problem for the kernels under test; most tests need one precision, which takes half the time."""
    return mpcgen.compile(problem, targets=(KERNELS,), cuda_kernel=CUDA_KERNEL, dtypes=dtypes)


@dataclass(frozen=True)
class Example:
    """A compiled specification; ``starts(count, seed)`` draws x0 (count, n), ``values(seed)`` parameters."""

    spec: Spec
    module: ModuleType
    starts: Callable[[int, int], Tensor]
    values: Callable[[int], dict[str, Tensor]]

    @functools.cached_property
    def functions(self) -> Functions:
        """CasADi's functions of the same specification."""
        return Functions(self.spec)

    def mpc(self, **options) -> torch.nn.Module:
        """Return a controller that raises where anything does not converge, unless told otherwise."""
        return self.module.MPC(**{"on_unconverged": "raise", **options})


@functools.cache
def example(name: str) -> Example:
    """Compile ``examples/<name>.py``."""
    return _compiled(mpcgen.load_problem(EXAMPLES / f"{name}.py").spec(), name)


@functools.cache
def with_bound_parameters(name: str, dtypes: Sequence[str] = ("float64",)) -> Example:
    """Compile an example whose bounds are parameters: ``lower`` (m,), and ``upper`` (m,) per stage."""
    spec = mpcgen.load_problem(EXAMPLES / f"{name}.py").spec()
    m = len(spec.controls)
    bounds, controls = {}, {c.symbol: [] for c in spec.controls}
    for side in ("lower", "upper"):
        symbols = tuple(sp.Symbol(f"{side}_{i}", real=True) for i in range(m))
        default = tuple(float(getattr(c, side)) for c in spec.controls)
        bounds[side] = ParameterSpec(side, (m,), symbols, default, side == "upper", False, True)
        for control, symbol in zip(spec.controls, symbols, strict=True):
            controls[control.symbol].append(symbol)
    changed = dataclasses.replace(
        spec,
        name=f"{name}_bounds",
        controls=tuple(
            dataclasses.replace(c, lower=controls[c.symbol][0], upper=controls[c.symbol][1])
            for c in spec.controls
        ),
        parameters=(*spec.parameters, *bounds.values()),
    )
    return _compiled(changed, name, dtypes)


def _compiled(spec: Spec, name: str, dtypes: Sequence[str] = DTYPES) -> Example:
    starts = runpy.run_path(str(EXAMPLES / f"{name}.py"))["initial_states"]
    values = (lambda seed: random_lq(3, 3, spec.horizon, seed)) if name == "lqr" else (lambda seed: {})
    return Example(spec, compiled(spec, dtypes), starts, values)


def random_lq(n: int, m: int, horizon: int, seed: int, batch: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """C, c, F, f of convex problems with time-varying data: C = I + A'A, F near the identity. Float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)

    root = normal(horizon + 1, n + m, n + m) / (n + m) ** 0.5
    return {
        "C": torch.eye(n + m, dtype=torch.float64) + root.mT @ root,
        "c": normal(horizon + 1, n + m),
        "F": torch.eye(n, n + m, dtype=torch.float64) + 0.3 * normal(horizon, n, n + m),
        "f": 0.5 * normal(horizon, n),
    }


def leaves(
    case: Example, count: int, given: dict[str, Tensor], horizon: int | None = None
) -> dict[str, Tensor]:
    """Every parameter as a leaf with a value of its own for each of ``count`` problems.

    Omitted ones take their defaults; all carry the stage axis where they have one.
    """
    horizon = case.spec.horizon if horizon is None else horizon
    result = {}
    for p in case.spec.parameters:
        full = (p.stages(horizon), *p.shape) if p.per_stage else p.shape
        value = given.get(p.name)
        if value is None:
            value = torch.tensor(p.default, dtype=torch.float64).reshape(p.shape)
        result[p.name] = value.expand(count, *full).clone().requires_grad_()
    return result


@dataclass(frozen=True)
class Differentiated:
    """A solved batch and the gradients of a random linear loss in x, u and cost.

    ``gradients``: name -> (count, ...) with x0 among them; ``cotangents`` those of x, u and cost.
    """

    solution: object
    parameters: dict[str, Tensor]
    cotangents: tuple[Tensor, Tensor, Tensor]
    gradients: dict[str, Tensor]


def differentiate(
    mpc: torch.nn.Module, x0: Tensor, parameters: dict[str, Tensor], seed: int = 0, cost: bool = True
) -> Differentiated:
    """Solve from x0 (count, n) and differentiate; parameters as `leaves` returns them."""
    start = x0.clone().requires_grad_()
    solution = mpc(start, **parameters)
    generator = torch.Generator().manual_seed(seed)
    cotangents = tuple(
        torch.randn(part.shape, generator=generator, dtype=torch.float64) * (cost or part.ndim > 1)
        for part in (solution.x, solution.u, solution.cost)
    )
    outputs = (solution.x, solution.u, solution.cost)
    inputs = {"x0": start, **parameters}
    found = torch.autograd.grad(outputs, list(inputs.values()), cotangents)
    return Differentiated(solution, parameters, cotangents, dict(zip(inputs, found, strict=True)))


def witness(case: Example, done: Differentiated, b: int) -> KktGradient:
    """CasADi's gradient of problem b at the same solution, by a dense solve of its KKT system."""
    g_x, g_u, g_cost = (cotangent[b].numpy() for cotangent in done.cotangents)
    return kkt_gradient(
        case.functions,
        done.solution.x[b].detach().numpy(),
        done.solution.u[b].detach().numpy(),
        {name: value[b].detach().numpy() for name, value in done.parameters.items()},
        grad_x=g_x,
        grad_u=g_u,
        grad_cost=float(g_cost),
    )


@functools.cache
def scalar_problem() -> Example:
    """X' = x + 0.1 (u + v + w - 1/4) + growth x³ with every kind of bound, and a cost to make any case from.

    Stage cost: well (x² - 1)²/2 + pull (x - target)²/2 + (sum_weight (u+v)² + weight (u²+v²) + w²)/2; the target
    is per stage. Bounds: -1 <= u < ∞, -∞ < v <= v_max (a parameter, ∞ by default), w = 1/4.
    """
    problem = mpcgen.Problem("scalar_problem", horizon=12)
    (x,) = problem.states("x")
    v_max = problem.parameter("v_max", default=sp.oo)
    (u,) = problem.controls("u", lower=-1)
    (v,) = problem.controls("v", upper=v_max)
    (w,) = problem.controls("w", lower=sp.Rational(1, 4), upper=sp.Rational(1, 4))
    well, pull, sum_weight, weight, growth = problem.parameters(
        "well pull sum_weight weight growth", default=[0.0, 1.0, 0.0, 0.1, 0.0]
    )
    target = problem.parameter("target", default=0.0, per_stage=True)
    problem.dynamics = [x + sp.Rational(1, 10) * (u + v + w - sp.Rational(1, 4)) + growth * x**3]
    state_cost = (well * (x**2 - 1) ** 2 + pull * (x - target) ** 2) / 2
    problem.stage_cost = state_cost + (sum_weight * (u + v) ** 2 + weight * (u**2 + v**2) + w**2) / 2
    problem.terminal_cost = state_cost

    def starts(count: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return 4 * torch.rand(count, 1, generator=generator, dtype=torch.float64) - 2

    spec = problem.spec()
    return Example(spec, compiled(spec, DTYPES), starts, lambda seed: {})


def assert_workspace_is_not_read(
    results: Callable[[], list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that results do not depend on what a CUDA kernel's workspace, the uint8 memory, holds beforehand."""
    empty, found = torch.empty, []
    for bits in (0, 255):  # all of them set is NaN

        def filled(*size: Any, bits: int = bits, **options: Any) -> Tensor:
            memory = empty(*size, **options)
            return memory.fill_(bits) if memory.dtype == torch.uint8 else memory

        monkeypatch.setattr(torch, "empty", filled)
        found.append(results())
    assert all(map(torch.equal, *found))
