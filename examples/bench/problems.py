"""The problems of the benchmark and their random instances."""

from __future__ import annotations

import functools
import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from examples.bench.packages import COMPILED_HERE, Packages
from mpcgen.errors import ParameterError, SpecError
from mpcgen.problem.linear_quadratic import lqr
from mpcgen.problem.loading import load_problem
from mpcgen.problem.spec import Spec

EXAMPLES = ("pendulum", "cartpole", "car", "quadrotor", "chain")
"""Problems that are specification files with ``initial_states``."""

NAMES = ("pendulum", "cartpole", "car", "box_lq", "free_lq", "quadrotor", "chain", "lqr37")

LQ_SIZES = ((2, 1), (4, 2), (8, 4), (13, 4), (21, 7), (37, 12))
"""(n, m) of the linear-quadratic problems behind the figure of time over state size."""


@dataclass(frozen=True)
class Instances:
    """Random problems: x0 (count, n), and the parameters by name, shared by all of them."""

    x0: Tensor
    parameters: dict[str, Tensor]


@dataclass(frozen=True)
class Problem:
    """One problem of the benchmark. ``draw(count, dtype, seed)`` makes its instances."""

    name: str
    spec: Spec
    draw: Callable[[int, torch.dtype, int], Instances]
    packages: Packages = COMPILED_HERE

    @property
    def package(self) -> ModuleType:
        """The generated package for the CPU, compiled on first use and cached."""
        return self.package_for("cpu")

    def package_for(self, kind: str) -> ModuleType:
        """The generated package with the kernels of ``kind``: cpu, cuda or cuda-host."""
        if kind not in self._loaded:
            self._loaded[kind] = self.packages.package(self.spec, kind)
        return self._loaded[kind]

    @functools.cached_property
    def _loaded(self) -> dict[str, ModuleType]:
        return {}

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(n, m, N)."""
        return len(self.spec.states), len(self.spec.controls), self.spec.horizon


def load(names: Sequence[str], examples: Path, packages: Packages = COMPILED_HERE) -> list[Problem]:
    """Return the problems called ``names``, in the order of `NAMES`; specification files are in ``examples``.

    Raises ParameterError for an unknown name, SpecError for a missing specification file.
    """
    for name in names:
        if name not in NAMES:
            raise ParameterError(
                f"the benchmark has no problem {name!r}; its problems are {', '.join(NAMES)}"
            )
    return [replace(_load(name, examples), packages=packages) for name in NAMES if name in names]


def _load(name: str, examples: Path) -> Problem:
    if name in EXAMPLES:
        return from_file(examples / f"{name}.py")
    if name == "lqr37":
        return linear_quadratic(37, 12, 100, name="lqr37")
    bound = 1.0 if name == "box_lq" else None
    return linear_quadratic(8, 4, 40, bound=bound, name=name)


def from_file(path: Path) -> Problem:
    """Return the problem of a specification file that has ``initial_states(count, seed, dtype)``."""
    if not path.is_file():
        raise SpecError(
            f"the specification {path} is not there; run the benchmark in mpcgen's repository, or say with "
            "--examples where the folder of examples is"
        )
    initial_states = runpy.run_path(str(path))["initial_states"]

    def draw(count: int, dtype: torch.dtype, seed: int) -> Instances:
        return Instances(initial_states(count, seed, dtype), {})

    spec = load_problem(path).spec()
    return Problem(spec.name, spec, draw)


def linear_quadratic(n: int, m: int, horizon: int, bound: float | None = None, name: str = "") -> Problem:
    """Return a random linear-quadratic problem: x' = Ax + Bu, cost ½(x'x + u'u) at every stage.

    A = I + 0.1 N(0, 1) with its eigenvalues pulled inside the unit circle, B ~ N(0, 1), x0 ~ 5 N(0, 1),
    |u| <= ``bound``. One system per seed; the instances differ in x0.
    """
    spec = lqr(n, m, horizon, name=f"lq_{n}_{m}").spec()

    def draw(count: int, dtype: torch.dtype, seed: int) -> Instances:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        A = stable(torch.eye(n, dtype=torch.float64) + 0.1 * normal(n, n))
        F = torch.cat([A, normal(n, m)], dim=1)
        values = {"C": torch.eye(n + m, dtype=torch.float64), "F": F}
        if bound is not None:
            values |= {"lower": torch.full((m,), -bound), "upper": torch.full((m,), bound)}
        return Instances(
            (5 * normal(count, n)).to(dtype), {key: value.to(dtype) for key, value in values.items()}
        )

    return Problem(name or spec.name, spec, draw)


def stable(matrix: Tensor, radius: float = 0.99) -> Tensor:
    """Return the matrix (n, n) with the eigenvalues beyond ``radius`` moved radially onto it."""
    values, vectors = torch.linalg.eig(matrix)
    size = values.abs()
    pulled = torch.where(size > radius, values * (radius / size), values)
    return (vectors @ torch.diag(pulled) @ torch.linalg.inv(vectors)).real.contiguous()
