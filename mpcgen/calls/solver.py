"""The compiled solver, made ready for calls of one size: from call to call only addresses change."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mpcgen.calls.arguments import Start
from mpcgen.calls.devices import BOX_DDP, HAND_OVER, INTERIOR_POINT, POLISHED, Device
from mpcgen.calls.failures import describe_failure, describe_step
from mpcgen.calls.gradient import Gradient
from mpcgen.calls.options import Options
from mpcgen.calls.struct import Struct
from mpcgen.errors import LayoutError, UnconvergedError
from mpcgen.runtime.controller import Controller
from mpcgen.runtime.outputs import DIFFERENTIABLE, OUTPUTS, Outputs, sizes_of
from mpcgen.runtime.status import Status

_STARTS = ("initial_controls", "initial_states", "initial_costates", "initial_duals")
"""Members of the solver's argument struct, in the order of `Start`."""

NEAR_A_SOLUTION = {torch.float64: 1e-6, torch.float32: 1e-4}
"""The barrier parameter of the interior point where it starts near a solution, in units of some 1/1000 of the cost."""


def method_of(options: Options, start: Start, constrained: bool) -> int:
    """What the solver's argument struct calls the method of a call."""
    if constrained:
        return INTERIOR_POINT
    is_state_guess = start.x is not None and start.costates is None
    if options.is_interior_point or is_state_guess:
        return POLISHED
    return HAND_OVER if options.hands_over else BOX_DDP


def solver_fields(
    options: Options, dtype: torch.dtype, horizon: int, constant_parameters: bool
) -> dict[str, Any]:
    """What the solver's argument struct says of options, horizon and sharing of parameters."""
    return {
        "horizon": horizon,
        "max_iterations": options.max_iterations,
        "exact_hessian": options.hessian == "exact",
        "certify": options.hessian == "exact" or options.gradient == "exact",
        "tolerance": options.tolerance(dtype),
        "barrier": options.smoothing if options.smooth == "solve" else 0.0,
        "constant_parameters": constant_parameters,
        "initial_barrier": NEAR_A_SOLUTION[dtype],
    }


class Solver:
    """The solver for batches of one shape, dtype, horizon and sharing of parameters.

    batch_shape: leading dimensions of the outputs. strides: of each parameter, numbers from one problem to the
    next, 0 where the batch shares it. start: what calls will start from, of which the presence and the sharing count.
    constant_parameters: each has one value for all stages, and no axis of stages.

    Outputs that a problem has not, and so are empty, are the same in all calls, but in those of `solve_anew`, of which
    outputs may get gradients. Several threads may call it at once: each call has an argument struct to itself and
    leaves it to a later one.
    """

    __slots__ = (
        "_addresses",
        "_batch",
        "_controller",
        "_device",
        "_entry",
        "_fields",
        "_gradient",
        "_make_gradient",
        "_nothing",
        "_options",
        "_outputs",
        "_spare",
        "_start_names",
        "_starts",
        "_strides",
    )

    def __init__(
        self,
        controller: Controller,
        device: Device,
        options: Options,
        dtype: torch.dtype,
        horizon: int,
        batch_shape: Sequence[int],
        strides: Sequence[int],
        start: Start,
        constant_parameters: bool,
    ) -> None:
        n, m = len(controller.states), len(controller.controls)
        self._batch, self._controller = math.prod(batch_shape), controller
        self._device, self._options, self._strides = device, options, strides
        self._entry = device.entry("solve", dtype, self._batch)
        rows = controller.dual_count
        sizes = sizes_of(horizon, n, m, rows)
        written = [output for output in OUTPUTS if rows or not output.constrained]
        self._addresses = ("initial_state", *(output.member for output in written))
        shapes = [output.shape(batch_shape, sizes) for output in OUTPUTS]
        # Without constraints the last ones are empty, and of all calls the same: to make them takes a tenth of a call.
        with torch.inference_mode(False):
            real = torch.empty(0, dtype=dtype, device=device.device)
            self._nothing = tuple(real.new_empty(shape) for shape in shapes[len(written) :])
        # Methods of a tensor that has the dtype and the device: the fastest way to another.
        new, new_integer = real.new_empty_strided, real.int().new_empty_strided
        self._outputs = tuple(
            (new_integer if output.integer else new, shape, _dense_strides(shape))
            for shape, output in zip(shapes, written, strict=False)
        )
        self._fields = solver_fields(options, dtype, horizon, constant_parameters) | {
            "batch": self._batch,
            "method": method_of(options, start, rows > 0),
            "initial_state_stride": n,
        }
        given = [(member, guess) for member, guess in zip(_STARTS, start, strict=True) if guess is not None]
        for member, guess in given:
            self._fields[f"{member}_stride"] = 0 if guess.shape[0] <= 1 else guess.numel() // guess.shape[0]
        self._starts = tuple(member for member, _ in given)
        self._start_names = [name for name, _ in start.named]
        self._gradient: Gradient | None = None
        self._make_gradient = functools.partial(
            Gradient, rows > 0, device, options, dtype, self._batch, horizon, strides, constant_parameters
        )
        self._spare: list[_Arguments] = []

    def __call__(
        self, x0: Tensor, start: Sequence[Tensor], parameters: Sequence[Tensor], history: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Outputs of `mpcgen.calls.kernels.solve`; every tensor is dense, of the size and dtype prepared for.

        start: those that are not None.
        """
        outputs = [new(shape, strides) for new, shape, strides in self._outputs]
        if self._batch == 0:
            return (*outputs, *self._nothing)
        try:
            arguments = self._spare.pop()
        except IndexError:
            arguments = _Arguments(self._device, self._fields, self._strides, self._addresses, self._starts)
        try:
            arguments.point_to(x0, start, parameters, outputs, history)
        except RuntimeError as error:  # torch's, of tensors that stand for something else
            raise LayoutError(f"a tensor given to the solver has no numbers of its own: {error}") from error
        struct = arguments.struct
        struct.threads = 1 if self._batch == 1 else self._options.thread_count()
        self._entry(struct)
        if self._batch > 1 or not outputs[3].is_cpu or struct.status[0]:
            begun = zip(self._start_names, start, strict=True)
            report(self._controller, self._device, self._options, outputs, (x0, begun, parameters))
        self._spare.append(arguments)
        return (*outputs, *self._nothing)

    @property
    def gradient(self) -> Gradient:
        """Reverse mode for solutions of these sizes."""
        if self._gradient is None:
            self._gradient = self._make_gradient()
        return self._gradient

    def solve_anew(
        self, x0: Tensor, start: Sequence[Tensor], parameters: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """The same, and what may get a gradient is this call's own."""
        outputs = self(x0, start, parameters)
        if not self._nothing:
            return outputs
        places = range(len(outputs) - len(self._nothing), len(outputs))
        own = (outputs[i].new_empty(outputs[i].shape) if i in DIFFERENTIABLE else outputs[i] for i in places)
        return (*outputs[: places.start], *own)


Given = tuple[Tensor, Iterable[tuple[str, Tensor]], Sequence[Tensor]]
"""x0, what a solve began with by name, and parameters."""


def report(
    controller: Controller, device: Device, options: Options, outputs: Sequence[Tensor], given: Given
) -> None:
    """Warn or raise where problems did not converge, as asked; outputs: of a solve of what was given."""
    x, _, _, status, _, _, costates, gains, *_ = outputs

    def failure(problem: int) -> str:
        how = int(status.flatten()[problem])
        if how == Status.INVALID_INPUT:
            from mpcgen.calls.invalid import describe_input  # which examines by kernels that need this module

            return describe_input(controller, *given, problem, need_room=options.smooth == "solve")
        if how == Status.MODEL:
            return describe_step(x, costates, problem)
        return describe_failure(x, costates, gains, problem, controller.states)

    try:
        device.report_statuses(status, options.on_unconverged, failure)
    except UnconvergedError as error:
        error.solution = Outputs(*outputs)
        raise


class _Arguments:
    """An argument struct of the solver, filled but for the addresses and the threads."""

    __slots__ = ("_history", "_made", "_parameters", "_slots", "_starts", "struct")

    def __init__(
        self,
        device: Device,
        fields: dict[str, Any],
        strides: Sequence[int],
        addresses: Sequence[str],
        starts: Sequence[str],
    ) -> None:
        pointers = {"parameters": len(strides)}
        self._made = made = Struct(device, "solve", fields, {"parameter_strides": strides}, pointers)
        self.struct, self._parameters = made.struct, made.array("parameters")
        self._slots = tuple(map(made.slot, addresses))
        self._starts, self._history = tuple(map(made.slot, starts)), made.slot("history")

    def point_to(
        self,
        x0: Tensor,
        start: Sequence[Tensor],
        parameters: Sequence[Tensor],
        outputs: Sequence[Tensor],
        history: Tensor | None,
    ) -> None:
        """Let the struct point to these tensors, which have to outlive the call."""
        words, pointers = self._made.words, self._parameters
        for slot, tensor in zip(self._slots, (x0, *outputs), strict=True):
            words[slot] = tensor.data_ptr() or _no_memory()
        for slot, tensor in zip(self._starts, start, strict=True):
            words[slot] = tensor.data_ptr() or _no_memory()
        words[self._history] = 0 if history is None else history.data_ptr()
        for index, tensor in enumerate(parameters):
            pointers[index] = tensor.data_ptr() or _no_memory()


def _no_memory() -> int:
    raise LayoutError("a tensor given to the solver has no memory, which was freed or never given")


def _dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
