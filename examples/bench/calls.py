"""Calls of the compiled solver laid out beforehand, so that what is timed is the C function alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from examples.bench.problems import Problem
from mpcgen.calls.arguments import Start, make_call
from mpcgen.calls.devices import device_of
from mpcgen.calls.kernels import is_constant
from mpcgen.runtime.controller import Controller

MAX_ITERATIONS = 200


@dataclass(frozen=True)
class Solved:
    """Results of a solve, one row per problem: as `mpcgen.autograd.Solution` has them."""

    x: Tensor
    u: Tensor
    cost: Tensor
    residual: Tensor
    status: Tensor
    iterations: Tensor


class Batch:
    """Problems with room for their solutions and gradients, laid out as the C interface wants them.

    x0: (B, n), on the device that is to solve them. u_init: (B, N, m) or None for zeros. The arrays are allocated
    once and shared by all calls made from one Batch: a later call writes over what an earlier one left. kernels:
    which of the problem's packages, as `Cell.device`.
    """

    def __init__(
        self,
        problem: Problem,
        x0: Tensor,
        parameters: dict[str, Tensor],
        horizon: int | None = None,
        kernels: str = "cpu",
    ) -> None:
        self.controller: Controller = problem.package_for(kernels).MPC.controller
        call = make_call(self.controller, x0, Start(), horizon, parameters)
        self.horizon, self.x0 = call.horizon, call.x0.contiguous()
        self.parameters = tuple(p.contiguous() for p in call.parameters)
        count, n, m, N = len(x0), len(self.controller.states), len(self.controller.controls), self.horizon
        new = self.x0.new_zeros
        self.x, self.costates, self.u = new(count, N + 1, n), new(count, N + 1, n), new(count, N, m)
        self.gains, self.cost, self.residual = new(count, N, m, n), new(count), new(count)
        self.status, self.iterations = (new(count, dtype=torch.int32) for _ in range(2))
        self._duals: dict[str, Any] = {}
        if self.controller.constraints:
            self._duals = {"duals": new(count, N + 1, self.controller.dual_count)}
            self._violation = new(count)

    @property
    def solved(self) -> Solved:
        """A copy of what the last solve left."""
        return Solved(
            *(
                part.clone()
                for part in (self.x, self.u, self.cost, self.residual, self.status, self.iterations)
            )
        )

    def solve(
        self,
        tol: float,
        threads: int,
        x0: Tensor | None = None,
        u_init: Tensor | None = None,
        max_iterations: int = MAX_ITERATIONS,
    ) -> Callable[[], None]:
        """Return the solve from x0 (default: the batch's own), started at u_init (default: zeros)."""
        n, m = len(self.controller.states), len(self.controller.controls)
        fields = {
            "horizon": self.horizon,
            "max_iterations": max_iterations,
            "exact_hessian": 1,
            "certify": 1,
            "threads": threads,
            "tolerance": tol,
            "initial_state": self.x0 if x0 is None else x0,
            "initial_state_stride": n,
            "initial_controls": u_init,
            "initial_controls_stride": 0 if u_init is None else self.horizon * m,
            "states": self.x,
            "controls": self.u,
            "costates": self.costates,
            "gains": self.gains,
            "cost": self.cost,
            "residual": self.residual,
            "status": self.status,
            "iterations": self.iterations,
        }
        if self._duals:
            fields |= {**self._duals, "violation": self._violation}
        return self._prepared("solve", "solve", fields)

    @functools.cached_property
    def _cotangents(self) -> tuple[Tensor, Tensor]:
        """Random dloss/dx and dloss/du, the same for every reverse pass."""
        generator = torch.Generator().manual_seed(0)
        x, u = (torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in (self.x, self.u))
        return x.to(self.x), u.to(self.u)

    def differentiate(self, solved: Solved, threads: int) -> Callable[[], None]:
        """Return the reverse pass at a solution, for random cotangents of states and controls.

        Every parameter is shared by the batch, so that its gradient is summed over it.
        """
        gradients = [torch.zeros_like(p) for p in self.parameters]
        fields = {
            "horizon": self.horizon,
            "exact_hessian": 1,
            "threads": threads,
            "states": solved.x,
            "controls": solved.u,
            "usable": (solved.status == 0).to(torch.int32),
            "cotangent_states": self._cotangents[0],
            "cotangent_controls": self._cotangents[1],
            "gradient_initial_state": torch.zeros_like(self.x0),
            "gradient_parameters": gradients,
            "singular": torch.zeros_like(self.status),
            **{name: value.clone() for name, value in self._duals.items()},
        }
        return self._prepared("gradient", "differentiate", fields)

    def _prepared(self, verb: str, entry: str, fields: dict[str, Any]) -> Callable[[], None]:
        """Fill an argument struct; tensors become pointers, lists of tensors arrays of pointers."""
        device = device_of(self.controller, self.x0)
        ffi, arguments = device.ffi, device.arguments(verb)
        strides = [0 if p.shape[0] == 1 else p.numel() // p.shape[0] for p in self.parameters]
        fields = fields | {
            "parameters": list(self.parameters),
            "parameter_strides": ffi.new("int64_t[]", strides),
            "constant_parameters": is_constant(self.controller, self.parameters),
        }
        kept: list[Any] = [fields]  # what the struct points at lives as long as the call
        arguments.batch = len(self.x0)
        for name, value in fields.items():
            if isinstance(value, Tensor):
                kind = "int32_t *" if value.dtype == torch.int32 else "void *"
                value = ffi.cast(kind, value.data_ptr())
            elif isinstance(value, list):
                value = ffi.new("void *[]", [ffi.cast("void *", tensor.data_ptr()) for tensor in value])
                kept.append(value)
            elif value is None:
                value = ffi.NULL
            setattr(arguments, name, value)
        function = device.entry(entry, self.x0.dtype, len(self.x0))

        def run(_alive: object = kept) -> None:
            function(arguments)

        return run


def receding(solved: Solved) -> tuple[Tensor, Tensor]:
    """Where the next problem of a moving horizon starts: x_1 (B, n), and the controls moved on by one stage.

    The model itself moves the state, so x_1 of the solution is f(x_0, u_0). The last control is repeated.
    """
    return solved.x[:, 1].contiguous(), torch.cat([solved.u[:, 1:], solved.u[:, -1:]], dim=1).contiguous()
