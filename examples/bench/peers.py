"""Other solvers on the benchmark's problems, each behind a small adapter.

To add one: derive from `Peer`, implement ``unavailable`` and ``solve``, and list an instance in `PEERS`.
"""

from __future__ import annotations

import importlib.util
import time
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from examples.bench.calls import MAX_ITERATIONS
from examples.bench.problems import Instances, Problem


@dataclass(frozen=True)
class PeerSolution:
    """Results of a peer: u (B, N, m), cost (B,), converged (B,) bool, mean iterations or None, seconds in all.

    ``cost`` is NaN where the peer does not give the problem's own cost.
    """

    u: Tensor
    cost: Tensor
    converged: Tensor
    iterations: float | None
    seconds: float


class Peer(ABC):
    """An adapter for another solver; ``name`` is what the table calls it, ``note`` what to know about it."""

    name: ClassVar[str]
    note: ClassVar[str] = ""
    count: ClassVar[int] = 8
    """Problems that it is given; times are per problem."""

    @abstractmethod
    def unavailable(self, problem: Problem) -> str | None:
        """Say why this peer cannot solve the problem here; None if it can."""

    @abstractmethod
    def solve(self, problem: Problem, instances: Instances, tol: float, compiled: bool) -> PeerSolution:
        """Solve float64 instances from zero controls; with ``compiled``, using compiled functions if it can."""


class Casadi(Peer):
    """CasADi's multiple shooting, one problem after another; its time is its solver's own clock."""

    most_variables = 1200
    """Larger programs take CasADi minutes to build."""
    most_compiled = 150
    """Variables up to which the functions are compiled: beyond, the compiler takes minutes."""

    def __init__(self, solver: str) -> None:
        self.solver = solver
        self.name = f"casadi {solver}"  # type: ignore[misc]
        self.note = "multiple shooting, exact Hessian, one problem after another; its own clock"  # type: ignore[misc]

    def unavailable(self, problem: Problem) -> str | None:
        """Say why not."""
        if importlib.util.find_spec("casadi") is None:
            return "casadi is not installed"
        n, m, N = problem.sizes
        if N * (n + m) > self.most_variables:
            return f"not run: {N * (n + m)} variables take CasADi minutes to build"
        return None

    def solve(self, problem: Problem, instances: Instances, tol: float, compiled: bool) -> PeerSolution:
        """Solve with `mpcgen.baseline.Baseline`."""
        n, m, N = problem.sizes
        baseline = _baseline(problem, self.solver, tol, compiled and N * (n + m) <= self.most_compiled)
        given = {name: value.numpy() for name, value in instances.parameters.items()}
        baseline.solve(instances.x0[0].numpy(), given)  # warm-up
        done = baseline.solve_batch(instances.x0.numpy(), given)
        return PeerSolution(
            torch.from_numpy(done.u),
            torch.from_numpy(done.cost),
            torch.from_numpy(done.success),
            float(done.iterations.mean()),
            done.seconds,
        )


@lru_cache(maxsize=32)
def _baseline(problem: Problem, solver: str, tol: float, compiled: bool) -> Any:
    from mpcgen.baseline import Baseline

    flags = {"flags": ["-O2", "-march=native"]}
    options = {"jit": True, "compiler": "shell", "jit_options": flags} if compiled else {}
    return Baseline(problem.spec, solver=solver, tol=tol, max_iterations=MAX_ITERATIONS, options=options)


class Reference(Peer):
    """`mpcgen.reference`: the algorithm in plain PyTorch, all problems as one batch."""

    name = "mpcgen.reference"
    note = "plain PyTorch, all problems as one batch"
    count = 32

    def unavailable(self, problem: Problem) -> str | None:
        """Say why not."""
        n, m, _ = problem.sizes
        return f"not run: {n + m} variables a stage take it minutes" if n + m > 30 else None

    def solve(self, problem: Problem, instances: Instances, tol: float, compiled: bool) -> PeerSolution:
        """Solve with `mpcgen.reference.MPC`."""
        from mpcgen.reference import MPC

        mpc = MPC(
            problem.spec,
            tol=tol,
            max_iterations=MAX_ITERATIONS,
            differentiable="none",
            on_unconverged="ignore",
        )
        began = time.perf_counter()
        done = mpc(instances.x0, **instances.parameters)
        seconds = time.perf_counter() - began
        return PeerSolution(
            done.u, done.cost, done.status == 0, float(done.iterations.double().mean()), seconds
        )


class MpcPytorch(Peer):
    """`mpc`, the package of the paper's authors, all problems as one batch.

    Forward only: its backward pass fails on a current torch. It stops at a small step, not at a small residual,
    and says nothing of the problem's own constant terms, so that its cost is that of its controls.
    """

    name = "mpc (the paper's)"
    note = "all problems as one batch; forward only, its backward pass fails on a current torch"
    count = 32
    most_iterations = 100

    def unavailable(self, problem: Problem) -> str | None:
        """Say why not."""
        if importlib.util.find_spec("mpc") is None:
            return "mpc is not installed"
        if not problem.name.startswith(("box_lq", "free_lq", "lqr")) and problem.name not in QUADRATIC:
            return "its cost is not quadratic, as mpc wants it"
        return None

    def solve(self, problem: Problem, instances: Instances, tol: float, compiled: bool) -> PeerSolution:
        """Solve with `mpc.mpc.MPC`."""
        from mpc import mpc

        model = _Torch(problem, instances)
        n, m, N = problem.sizes
        count = len(instances.x0)
        lower, upper = (bound.expand(N + 1, count, m) for bound in model.bounds())
        bounded = bool(lower.isfinite().all() and upper.isfinite().all())
        solver = mpc.MPC(
            n,
            m,
            N + 1,
            u_lower=lower if bounded else None,
            u_upper=upper if bounded else None,
            lqr_iter=self.most_iterations,
            eps=tol,
            n_batch=count,
            verbose=-1,
            exit_unconverged=False,
            backprop=False,
            grad_method=mpc.GradMethods.AUTO_DIFF,
        )
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of functions that torch is about to remove
            _, u, _ = solver(instances.x0, mpc.QuadCost(*model.cost(N)), model)
        seconds = time.perf_counter() - began
        u = u[:-1].transpose(0, 1).detach().contiguous()
        unknown = torch.full((count,), float("nan"), dtype=u.dtype)
        return PeerSolution(u, unknown, u.isfinite().flatten(1).all(1), None, seconds)


QUADRATIC = ("pendulum", "cartpole", "quadrotor", "chain")
"""Examples whose costs are quadratic."""


class _Torch(torch.nn.Module):
    """A problem's dynamics and quadratic cost in torch, from the expression graph."""

    def __init__(self, problem: Problem, instances: Instances) -> None:
        super().__init__()
        from mpcgen.problem.lowering import lower_spec
        from mpcgen.reference.functions import Functions

        self.functions = Functions(lower_spec(problem.spec))
        self.model = self.functions.model
        self.values: dict[Any, Any] = {}
        entries: list[Tensor] = []
        for p in problem.spec.parameters:
            given = instances.parameters.get(p.name)
            value = torch.tensor(p.default, dtype=torch.float64) if given is None else given.flatten()
            entries += value.expand(len(p.symbols)).unbind()
        self.values = dict(zip(self.model.parameters, entries, strict=True))

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """Next states (B, n) of states (B, n) and controls (B, m)."""
        return self._evaluate(self.model.next_state, x, u)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds (m,)."""
        x = torch.zeros(1, len(self.model.states), dtype=torch.float64)
        lower, upper = (self._evaluate(side, x, x[:, :0])[0] for side in (self.model.lower, self.model.upper))
        return lower, upper

    def cost(self, horizon: int) -> tuple[Tensor, Tensor]:
        """C (N+1, n+m, n+m) and c (N+1, n+m) of ½ τ'Cτ + c'τ; the last control, which acts on nothing, costs."""
        n, m = len(self.model.states), len(self.model.controls)
        x, u = torch.zeros(1, n, dtype=torch.float64), torch.zeros(1, m, dtype=torch.float64)
        f = self.functions
        C = self._evaluate(f.cost_hessian, x, u)[0].reshape(n + m, n + m).repeat(horizon + 1, 1, 1)
        c = self._evaluate(f.cost_gradient, x, u)[0].repeat(horizon + 1, 1)
        C[-1], c[-1] = torch.eye(n + m, dtype=torch.float64), 0
        C[-1, :n, :n] = self._evaluate(f.terminal_hessian, x, u)[0].reshape(n, n)
        c[-1, :n] = self._evaluate(f.terminal_gradient, x, u)[0]
        return C, c

    def _evaluate(self, outputs: Any, x: Tensor, u: Tensor) -> Tensor:
        from mpcgen.ir import evaluate, torch_backend

        values = self.values | dict(zip(self.model.states, x.unbind(-1), strict=True))
        values |= dict(zip(self.model.controls, u.unbind(-1), strict=False))
        results = evaluate(outputs, values, torch_backend())
        return torch.stack([torch.as_tensor(r, dtype=x.dtype).expand(len(x)) for r in results], dim=-1)


PEERS: tuple[Peer, ...] = (Casadi("ipopt"), Casadi("fatrop"), Reference(), MpcPytorch())


@dataclass(frozen=True)
class PeerRow:
    """A peer beside the generated solver on the same instances, float64, one thread each.

    Times in seconds per problem; ``own_single`` with one problem per call, ``own_batch`` in batches of 128.
    Among the problems that both solved: ``agree`` within 1e-6 relative in cost, and those where the peer's
    solution is cheaper or dearer, which for a problem that is not convex is another local minimum.
    """

    problem: str
    peer: str
    note: str = ""
    skipped: str | None = None
    count: int = 0
    seconds: float | None = None
    iterations: float | None = None
    converged: int = 0
    both: int = 0
    agree: int = 0
    cheaper: int = 0
    dearer: int = 0
    worst_agreeing: float | None = None
    own_single: float | None = None
    own_batch: float | None = None

    @property
    def ratio_single(self) -> float | None:
        """How many times longer the peer takes than one problem per call."""
        return self.seconds / self.own_single if self.seconds and self.own_single else None

    @property
    def ratio_batch(self) -> float | None:
        """How many times longer the peer takes than a problem in a batch of 128."""
        return self.seconds / self.own_batch if self.seconds and self.own_batch else None


SAME_COST = 1e-6
"""Relative difference of two costs of one minimum: solutions to a residual of 1e-6 differ by far less."""


def agreement(own_cost: Tensor, own_solved: Tensor, peer: PeerSolution) -> dict[str, Any]:
    """Fields of a `PeerRow` that say how the costs compare."""
    both = own_solved & peer.converged & peer.cost.isfinite()
    excess = ((peer.cost - own_cost) / own_cost.abs().clamp(min=1.0))[both]
    same = excess.abs() <= SAME_COST
    return {
        "both": int(both.sum()),
        "agree": int(same.sum()),
        "cheaper": int((excess < -SAME_COST).sum()),
        "dearer": int((excess > SAME_COST).sum()),
        "worst_agreeing": float(excess[same].abs().max()) if same.any() else None,
    }
