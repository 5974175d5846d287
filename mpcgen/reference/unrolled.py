"""``gradient="unrolled"``: differentiate the last k iterations of the solver instead of its fixed point.

The surrogate of section 4.3 of the paper, for problems that have no usable fixed point: the solver stopped early,
or the second-order condition fails there. The compiled solver computes the numbers, `mpcgen.reference` the
iterations that are differentiated, in plain PyTorch from the problem's expression graph.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mpcgen.calls import kernels
from mpcgen.calls.arguments import Call, Start, at_each_stage
from mpcgen.calls.options import Options
from mpcgen.calls.watching import is_forward_mode, is_traced
from mpcgen.errors import ParameterError
from mpcgen.problem.lowering import lower_spec
from mpcgen.problem.signature import signature
from mpcgen.problem.spec import Spec, require_explicit, require_unconstrained
from mpcgen.reference.functions import Functions, Problems
from mpcgen.reference.ilqr import Trajectory, backward_recursion, follow, rollout
from mpcgen.runtime.controller import Controller, Description
from mpcgen.runtime.status import WITHOUT_VALUE, Status

_SECOND_ORDER_STEPS = tuple((curvature, 1.0) for curvature in (1.0, 0.7, 0.49, 0.3))
_FIRST_ORDER_STEPS = tuple((0.0, 0.5**halvings) for halvings in range(10))
"""Weight of the dynamics' curvature in the Hessian, and step length: what the compiled solver tries in turn."""
_SAME = 1e-6
_SYMBOLIC_TRANSFORM = (
    'gradient="unrolled" records the solver\'s last iterations with autograd: it has neither torch.func transforms '
    'nor forward mode, and no tracer can follow it; call it outside of them, or use gradient="exact"'
)


@functools.lru_cache(maxsize=16)
def _functions(spec: Spec) -> Functions:
    require_unconstrained(spec, 'gradient="unrolled"')
    require_explicit(spec, 'gradient="unrolled"')
    return Functions(lower_spec(spec))


@dataclass(frozen=True)
class Unrolled:
    """Differentiates the last k = ``iterations`` passes of box-iLQR, of the problem that a controller was made from.

    Let u_j be the controls of the compiled solver after j passes, of i in all, and Φ one iteration of
    `mpcgen.reference.ilqr`, a backward recursion and a rollout. The numbers returned are those of u_i. Their
    derivative follows du_{j+1} = DΦ(u_j; x0, θ, bounds), from du_{i-k} = 0, step lengths and active sets held. Each
    Φ is expanded at the solver's own u_j. A refused pass, u_{j+1} = u_j, has the derivative of the identity. If
    i <= k, u_init has a gradient, and a converged problem is iterated at its solution for the passes that it lacks.
    The weight of the dynamics' curvature in the Hessian and the step's length are those, of a few, with which Φ comes
    nearest to u_{j+1}; the compiled solver's weights between them and its regularisation are not repeated.

    Error against the solution's derivative: with e_j the error of u_j and E_j that of du_j, E is the derivative
    itself at the start. With the exact Hessian E_{j+1} = O(e_j E_j + e_j²): one iteration from a solution has the
    derivative of the implicit function theorem. With Gauss-Newton E_j contracts as fast as the iteration itself.

    Problems that are INVALID_INPUT or DIVERGED have a gradient of zero, all others one, converged or not. Memory
    grows with k, and the forward pass with the number of distinct pass counts in the batch.
    """

    spec: Spec
    iterations: int

    @staticmethod
    def of(controller: Controller, options: Options, iterations: Any, problem: Any) -> Unrolled:
        """Check the options ``unroll`` and ``problem`` of `mpcgen.autograd.MPC`; raises ParameterError."""
        if options.gradient != "unrolled":
            raise ParameterError(
                f'unroll and problem are options of gradient="unrolled", and gradient={options.gradient!r}'
            )
        if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
            raise ParameterError(f"unroll={iterations!r}; a whole number of at least 1 is expected")
        if options.smoothing or options.unconverged_gradient != "zero":
            raise ParameterError(
                'smoothing and unconverged_gradient have no meaning with gradient="unrolled"; leave them out'
            )
        spec = problem.spec() if callable(getattr(problem, "spec", None)) else problem
        if not isinstance(spec, Spec):
            raise ParameterError(
                f'gradient="unrolled" differentiates the expressions of the problem, which a compiled package does '
                f"not carry; pass problem=..., the mpcgen.Problem of {controller.name}, not {problem!r}"
            )
        own, given = _compared(controller), _compared(signature(spec))
        for name, value in own.items():
            if value != given[name]:
                raise ParameterError(
                    f"problem={spec.name!r} is not what {controller.name} was compiled from: {name} "
                    f"{given[name]}, and in the compiled package {value}"
                )
        return Unrolled(spec, iterations)

    @torch.compiler.disable(reason='gradient="unrolled" runs eagerly')
    def solve(self, controller: Controller, options: Options, call: Call) -> tuple[Tensor, ...]:
        """Outputs of `mpcgen.calls.kernels.solve`, (x, u, cost) of them with the gradient, flat batch.

        Raises ParameterError inside torch.func transforms and forward mode, and where ``problem`` computes something
        else than the compiled package.
        """
        if is_traced() or is_forward_mode():
            raise ParameterError(_SYMBOLIC_TRANSFORM)
        with torch.no_grad():
            outputs = kernels.solve(controller, options, call.horizon, call.x0, call.start, call.parameters)
        if not torch.is_grad_enabled():
            return outputs
        status = outputs[3]
        index = torch.stack([status != bad for bad in WITHOUT_VALUE]).all(0).nonzero()[:, 0]
        if not len(index):
            return outputs
        problems = self._problems(call).select(index).with_bounds()
        _check_same(controller, problems, *(outputs[i][index] for i in (0, 1, 6)))
        again = self._differentiable(controller, options, call, problems, outputs, index)
        parts = zip(outputs, (again.x, again.u, again.cost), strict=False)
        found = tuple(value.index_add(0, index, p - p.detach()) for value, p in parts)
        return (*found, *outputs[len(found) :])

    def _problems(self, call: Call) -> Problems:
        theta = tuple(
            at_each_stage(value, p.stages(call.horizon) if p.per_stage else None, len(p.symbols))
            for p, value in zip(self.spec.parameters, call.parameters, strict=True)
        )
        no_bounds = call.x0.new_zeros(len(call.x0), call.horizon, len(self.spec.controls))
        return Problems(_functions(self.spec), call.x0, theta, no_bounds, no_bounds)

    def _differentiable(
        self,
        controller: Controller,
        options: Options,
        call: Call,
        problems: Problems,
        outputs: tuple[Tensor, ...],
        index: Tensor,
    ) -> Trajectory:
        """The trajectories of ``index`` (k,) with their gradient."""
        passes = self._passes(controller, options, call, outputs)[index]
        u, count = passes[:, 0], outputs[4][index]
        if call.u_init is not None:
            given = call.u_init.expand(outputs[1].shape)[index]
            u = u + torch.where((count <= self.iterations)[:, None, None], given - given.detach(), 0.0)
        for j in range(self.iterations):
            beyond = (j >= count) & (outputs[3][index] == Status.CONVERGED)
            moved = beyond | (passes[:, j] != passes[:, j + 1]).flatten(1).any(1)
            u = _step(problems, u, passes[:, j + 1], moved.nonzero()[:, 0], options.hessian == "exact")
        return rollout(problems, lambda t, x: u[:, t])

    def _passes(
        self, controller: Controller, options: Options, call: Call, outputs: tuple[Tensor, ...]
    ) -> Tensor:
        """Controls (B, k+1, N, m) after the last k passes of each problem; the end repeats where there are fewer.

        The solver is deterministic, so that a lower limit of passes stops it at a trajectory it went through.
        """
        u, count, batch = outputs[1], outputs[4], len(outputs[4])
        first = (count - self.iterations).clamp(min=0)
        limits = first[:, None] + torch.arange(self.iterations + 1, dtype=first.dtype)
        passes = u[:, None].repeat(1, self.iterations + 1, 1, 1)
        for limit in limits[limits < count[:, None]].unique().tolist():
            index, place = ((limits == limit) & (limit < count)[:, None]).nonzero(as_tuple=True)
            # A single problem has a kernel of its own, which rounds differently.
            group = index.repeat(2) if len(index) == 1 and batch > 1 else index
            shorter = replace(options, max_iterations=limit, on_unconverged="ignore")
            x0, *parameters = (_among(t, group, batch) for t in (call.x0, *call.parameters))
            start = Start(None if call.u_init is None else _among(call.u_init, group, batch))
            passed = kernels.solve(controller, shorter, call.horizon, x0, start, tuple(parameters))
            passes[index, place] = passed[1][: len(index)]
        return passes


def _step(problems: Problems, u: Tensor, target: Tensor, index: Tensor, exact: bool) -> Tensor:
    """Controls (B, N, m) after a step of the problems ``index``: numbers of ``target``, derivative of the step."""
    distance, length, curvature = _nearest(problems.select(index), u.detach()[index], target[index], exact)
    good = distance.isfinite().nonzero()[:, 0]
    if not len(good):
        return u
    where = index[good]
    after = _iterate(problems.select(where), u[where], length[good], curvature[good])
    return u.index_copy(0, where, target[where] + (after - after.detach()))


def _iterate(problems: Problems, u: Tensor, length: Tensor, curvature: Tensor) -> Tensor:
    """Controls after an iteration of Algorithm 2 from the rollout of u (B, N, m); length, curvature: (B,)."""
    now = rollout(problems, lambda t, x: u[:, t])
    policy = backward_recursion(problems, now, torch.zeros_like(now.cost), curvature)
    return rollout(problems, follow(now, policy, length)).u


@torch.no_grad()
def _nearest(problems: Problems, u: Tensor, target: Tensor, exact: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The iteration from u that comes nearest to the target: its distance, length and curvature, each (B,)."""
    best, length, curvature = (u.new_full((len(u),), value) for value in (torch.inf, 1.0, 0.0))
    for w, a in (*_SECOND_ORDER_STEPS, *_FIRST_ORDER_STEPS) if exact else _FIRST_ORDER_STEPS:
        there = _iterate(problems, u, torch.full_like(best, a), torch.full_like(best, w))
        distance = (there - target).abs().flatten(1).amax(1)
        nearer = distance < best
        best = torch.where(nearer, distance, best)
        length, curvature = torch.where(nearer, a, length), torch.where(nearer, w, curvature)
        if (best <= _SAME * (1 + target.abs().flatten(1).amax(1))).all():
            break
    return best, length, curvature


def _among(tensor: Tensor, index: Tensor, batch: int) -> Tensor:
    """The problems with the given indices (k,), constant; a value that the batch shares stays (1, ...)."""
    return tensor.detach() if tensor.shape[0] != batch else tensor.detach()[index]


def _compared(problem: Description) -> dict[str, Any]:
    """What a package and the problem it was compiled from have in common, defaults aside."""
    parameters = [(p.name, p.shape, p.per_stage, p.in_terminal, p.only_bounds) for p in problem.parameters]
    return {
        "name": problem.name,
        "states": problem.states,
        "controls": problem.controls,
        "parameters": parameters,
    }


@torch.no_grad()
def _check_same(controller: Controller, problems: Problems, x: Tensor, u: Tensor, costates: Tensor) -> None:
    """Refuse a problem whose dynamics or costates differ from the compiled ones by more than rounding."""
    zero = torch.zeros_like(x[:, 0, 0])
    tau = Trajectory(x, u, zero, zero)
    expected = backward_recursion(problems, tau, zero, zero).costates
    difference = torch.cat([problems.expand(x, u).defect, costates - expected], dim=1).abs()
    size = torch.cat([x[:, 1:].abs() + 1, expected.abs() + 1], dim=1).flatten(1).amax(1)
    if (difference.flatten(1).amax(1) > torch.finfo(x.dtype).eps ** 0.5 * size).any():
        raise ParameterError(
            f"problem={controller.name!r} computes other dynamics or costs than the compiled package of that name; "
            f"pass the problem that it was compiled from, or compile again"
        )
