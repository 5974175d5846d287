"""The problems that calls stand for, made and compiled when they are first met, and their controllers.

A problem depends on sizes and kinds alone: whether dynamics and cost are matrices or which module computes them,
whether controls are bounded, and whether their changes cost. Matrices, weights, bounds and the number of stages are
given at each call. The paper's problem has as many controls as states, and its last control moves nothing: here it
moves a state that nobody asks for, so that T controls are T stages, without a terminal cost.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp
import torch
from torch import Tensor, nn

import mpcgen
from mpcgen.compat.structure import Structure, as_it_was, is_weight, read_by, structure_of
from mpcgen.problem.linear_quadratic import dot, quadratic

_STAGES = 20
"""Of the specifications: each call says how many it has."""
_MOST = 128
"""Problems, and controllers, that a process keeps."""
_LOCK = threading.RLock()


@dataclass(frozen=True)
class Kind:
    """What a problem depends on. dynamics, cost: a `Structure`'s key, or None for matrices."""

    n: int
    m: int
    bounded: bool
    slew: bool
    dynamics: Hashable
    cost: Hashable
    dtype: torch.dtype
    device: str


@dataclass(frozen=True)
class Compiled:
    """A compiled problem, and which of the tensors of the modules are its parameters, by place.

    unseen: which controls a module that is the cost never reads.
    """

    package: Any
    dynamics: tuple[int, ...]
    cost: tuple[int, ...]
    unseen: tuple[int, ...]


@dataclass(frozen=True)
class Models:
    """The modules of a call with their structures; None in place of matrices."""

    dynamics: Any
    cost: Any

    @functools.cached_property
    def structures(self) -> tuple[Structure | None, Structure | None]:
        """Of dynamics and cost."""
        return tuple(None if m is None else structure_of(m) for m in (self.dynamics, self.cost))  # type: ignore[return-value]


class _Kept(OrderedDict[Hashable, Any]):
    """The values that were last asked for."""

    def keep(self, key: Hashable, value: Any) -> Any:
        """Put in a value, and drop the one that nobody has asked for in the longest time."""
        self[key] = value
        while len(self) > _MOST:
            self.popitem(last=False)
        return value

    def find(self, key: Hashable) -> Any:
        """The value, or None."""
        if key not in self:
            return None
        self.move_to_end(key)
        return self[key]


_compiled, _controllers = _Kept(), _Kept()


def controller_of(
    n: int,
    m: int,
    models: Models,
    like: Tensor,
    *,
    bounded: bool,
    slew: bool,
    options: Mapping[str, Any],
    progress: bool | None,
) -> tuple[nn.Module, dict[str, Tensor], tuple[int, ...]]:
    """The controller for calls of a kind, the weights of the modules as arguments of its call, and `Compiled.unseen`.

    like: a tensor of the precision and on the device of the call. options: of `MPC`.
    """
    dynamics, cost = models.structures
    kind = Kind(
        n, m, bounded, slew, dynamics and dynamics.key, cost and cost.key, like.dtype, like.device.type
    )
    key = kind, tuple(options.items())
    with _LOCK:
        found = _compiled.find(kind)
        if found is None:
            found = _compiled.keep(kind, _compile(kind, models, dynamics, cost, progress))
        controller = _controllers.find(key)
        if controller is None:
            controller = _controllers.keep(key, found.package.MPC(**options))
    weights: dict[str, Tensor] = {}
    for name, structure, places in (("dynamics", dynamics, found.dynamics), ("cost", cost, found.cost)):
        if structure is not None:
            weights |= {f"{name}_{i}": structure.tensors[i].to(like.dtype) for i in places}
    return controller, weights, found.unseen


def _compile(
    kind: Kind, models: Models, dynamics: Structure | None, cost: Structure | None, progress: bool | None
) -> Compiled:
    problem = mpcgen.Problem(f"mpc_{kind.n}_{kind.m}", _STAGES)
    x = problem.states([f"x_{i}" for i in range(kind.n)])
    last = problem.states([f"last_{i}" for i in range(kind.m)]) if kind.slew else ()
    bounds = {}
    if kind.bounded:
        for side, default in (("lower", -sp.oo), ("upper", sp.oo)):
            bounds[side] = problem.parameter(side, shape=kind.m, default=default, per_stage=True)
    u = problem.controls([f"u_{i}" for i in range(kind.m)], **bounds)
    with as_it_was(models.dynamics), as_it_was(models.cost):
        of_dynamics = _add_dynamics(problem, kind, models.dynamics, dynamics, x, u, last)
        of_cost = _add_cost(problem, kind, models.cost, cost, x, u)
    unseen = tuple(i for i in range(kind.m) if u[i] not in sp.sympify(problem.stage_cost).free_symbols)
    if (
        kind.cost is not None
    ):  # which may not read a control, or not with all weights, whose last one would be free
        curvature = problem.parameter("curvature", shape=kind.m, default=0, per_stage=True)
        problem.stage_cost = problem.stage_cost + _half_squares(curvature, u)
    if kind.slew:
        penalty = problem.parameter("slew_rate_penalty", shape=kind.m)
        changes = [now - old for now, old in zip(u, last, strict=True)]
        problem.stage_cost = problem.stage_cost + _half_squares(penalty, changes)
    package = mpcgen.compile(problem, dtypes=(kind.dtype,), targets=(kind.device,), progress=progress)
    return Compiled(package, of_dynamics, of_cost, unseen)


def _half_squares(weights: Sequence[sp.Expr], values: Sequence[sp.Expr]) -> sp.Expr:
    """½ Σ weight value²."""
    return sp.Add(*(weight * value**2 for weight, value in zip(weights, values, strict=True))) / 2


def _add_dynamics(
    problem: mpcgen.Problem,
    kind: Kind,
    module: Any,
    structure: Structure | None,
    x: tuple[sp.Symbol, ...],
    u: tuple[sp.Symbol, ...],
    last: tuple[sp.Symbol, ...],
) -> tuple[int, ...]:
    """Set the dynamics, and return the places of their weights."""
    if structure is None:
        F = problem.parameter("F", shape=(kind.n, kind.n + kind.m), per_stage=True)
        f = problem.parameter("f", shape=kind.n, default=0, per_stage=True)
        rows = [sp.Add(dot(list(F[i, :]), (*x, *u)), f[i]) for i in range(kind.n)]
        problem.dynamics = [*rows, *u[: len(last)]]
        return ()
    caller = _Dynamics(module, kind.n)
    places, weights = _weights(caller, structure, kind)
    held = dict(zip(last, u, strict=True)) if last else None
    problem.dynamics = mpcgen.torch_model(problem, caller, weights=weights, discrete=held, name="dynamics")
    return places


def _add_cost(
    problem: mpcgen.Problem,
    kind: Kind,
    module: Any,
    structure: Structure | None,
    x: tuple[sp.Symbol, ...],
    u: tuple[sp.Symbol, ...],
) -> tuple[int, ...]:
    """Set the cost of a stage, and return the places of its weights."""
    if structure is None:
        size = kind.n + kind.m
        C = problem.parameter("C", shape=(size, size), per_stage=True)
        c = problem.parameter("c", shape=size, default=0, per_stage=True)
        problem.stage_cost = quadratic(C, list(c), (*x, *u))
        return ()
    caller = _Cost(module, kind.n)
    places, weights = _weights(caller, structure, kind)
    problem.stage_cost = mpcgen.torch_cost(problem, caller, weights=weights, name="cost")
    return places


def _weights(
    caller: nn.Module, structure: Structure, kind: Kind
) -> tuple[tuple[int, ...], dict[str, Tensor]]:
    """The tensors that a module reads, by place, and as weights by name."""
    dtype = precision_of(structure, kind.dtype)
    x, u = torch.full((kind.n,), 0.3, dtype=dtype), torch.full((kind.m,), 0.3, dtype=dtype)
    places = read_by(lambda: caller(x, u), structure.tensors)
    return places, {str(i): structure.tensors[i] for i in places if is_weight(structure.tensors[i])}


def precision_of(structure: Structure, default: torch.dtype) -> torch.dtype:
    """The precision that a module computes in."""
    return next((tensor.dtype for tensor in structure.tensors), default)


class _Dynamics(nn.Module):
    """A module of batches, x (B, n) and u (B, m), called with one problem, and without states that are ours."""

    def __init__(self, module: Any, n: int) -> None:
        super().__init__()
        self.module, self.n = module, n

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """(n,) from (n,) and (m,)."""
        return self.module(x[None, : self.n], u[None]).squeeze(0)


class _Cost(nn.Module):
    """A module of batches of τ (B, n+m), called with one problem."""

    def __init__(self, module: Any, n: int) -> None:
        super().__init__()
        self.module, self.n = module, n

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """() from (n,) and (m,)."""
        return self.module(torch.cat((x[: self.n], u))[None]).reshape(())
