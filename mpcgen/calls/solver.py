"""The compiled solver, made ready for calls of one size: from call to call only addresses change."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mpcgen.calls.arguments import Start
from mpcgen.calls.devices import BOX_DDP, HAND_OVER, INTERIOR_POINT, POLISHED, Device
from mpcgen.calls.failures import describe_failure, describe_step, describe_violation
from mpcgen.calls.gradient import Gradient
from mpcgen.calls.options import Options
from mpcgen.calls.struct import Struct, strides_of_shapes
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

    batch_shape: leading dimensions of the outputs. shapes: of the parameters, (B, ...), or (1, ...) where the batch
    shares one. start: what calls will start from, of which the presence and the sharing count.
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
        "_own",
        "_spare",
        "_start_names",
        "_starts",
        "_strides",
        "constrained",
        "shapes",
    )

    def __init__(
        self,
        controller: Controller,
        device: Device,
        options: Options,
        dtype: torch.dtype,
        horizon: int,
        batch_shape: Sequence[int],
        shapes: Sequence[Sequence[int]],
        start: Start,
        constant_parameters: bool,
    ) -> None:
        n, m = len(controller.states), len(controller.controls)
        self._batch, self._controller = math.prod(batch_shape), controller
        self._device, self._options = device, options
        self.shapes, self._strides = shapes, strides_of_shapes(shapes)
        self._entry = device.entry("solve", dtype, self._batch)
        rows = controller.dual_count
        self.constrained = rows > 0
        sizes = sizes_of(horizon, n, m, rows)
        written = [output for output in OUTPUTS if rows or not output.constrained]
        self._addresses = tuple(output.member for output in written)
        made = [output.shape(batch_shape, sizes) for output in OUTPUTS]
        # Numbers that are all one number have the shape and no memory: the fastest way to a tensor that has both.
        with torch.inference_mode(False):
            real = torch.empty((), dtype=dtype, device=device.device)
            integer = real.int()
            self._outputs = [
                (integer if output.integer else real).expand(shape)
                for shape, output in zip(made, written, strict=False)
            ]
            # Without constraints the last ones are empty, and of all calls the same.
            self._nothing = tuple(real.new_empty(shape) for shape in made[len(written) :])
        self._own = [place for place in range(len(written), len(OUTPUTS)) if place in DIFFERENTIABLE]
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
            Gradient, rows > 0, device, options, dtype, self._batch, n, horizon, shapes, constant_parameters
        )
        self._spare: list[_Arguments] = []

    def __call__(
        self, x0: Tensor, start: Sequence[Tensor], parameters: Sequence[Tensor], history: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Outputs of `mpcgen.calls.kernels.solve`; every tensor is dense, of the size and dtype prepared for.

        start: those that are not None. Parameters may have other shapes of that size.
        """
        outputs = list(map(torch.empty_like, self._outputs))
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
            given = (x0, begun, functools.partial(self.flat, parameters))
            report(self._controller, self._device, self._options, outputs, given)
        self._spare.append(arguments)
        return (*outputs, *self._nothing)

    def flat(self, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Parameters of the shapes prepared for."""
        return tuple(map(torch.reshape, parameters, self.shapes))

    @property
    def gradient(self) -> Gradient:
        """Reverse mode for solutions of these sizes."""
        if self._gradient is None:
            self._gradient = self._make_gradient()
        return self._gradient

    def solve_anew(
        self,
        x0: Tensor,
        start: Sequence[Tensor],
        parameters: Sequence[Tensor],
        history: Tensor | None = None,
    ) -> list[Tensor]:
        """The same, and what may get a gradient is this call's own."""
        outputs = list(self(x0, start, parameters, history))
        for place in self._own:
            outputs[place] = torch.empty_like(outputs[place])
        return outputs


Given = tuple[Tensor, Iterable[tuple[str, Tensor]], Callable[[], Sequence[Tensor]]]
"""x0, what a solve began with by name, and what returns the parameters, flat."""


def report(
    controller: Controller, device: Device, options: Options, outputs: Sequence[Tensor], given: Given
) -> None:
    """Warn or raise where problems did not converge, as asked; outputs: of a solve of what was given."""
    if options.quiet:
        return
    x, _, _, status, _, _, costates, gains, *_ = outputs

    def failure(problem: int) -> str:
        how = int(status.flatten()[problem])
        if how == Status.INVALID_INPUT:
            from mpcgen.calls.invalid import describe_input  # which examines by kernels that need this module

            x0, begun, parameters = given
            need_room = options.smooth == "solve"
            return describe_input(controller, x0, begun, parameters(), problem, need_room=need_room)
        if how == Status.MODEL:
            return describe_step(x, costates, problem)
        if how in (Status.STALLED, Status.MAX_ITERATIONS):
            violation = Outputs(*outputs).row_violation
            return (
                ""
                if violation is None or not controller.dual_count
                else describe_violation(violation, problem, controller.has_hard_rows)
            )
        return describe_failure(x, costates, gains, problem, controller.states)

    try:
        device.report_statuses(status, options.on_unconverged, failure)
    except UnconvergedError as error:
        error.solution = Outputs(*outputs)
        raise


class _Arguments:
    """An argument struct of the solver, filled but for the addresses and the threads."""

    __slots__ = ("_history", "_initial", "_made", "_point_outputs", "_point_parameters", "_starts", "struct")

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
        self.struct, self._point_parameters = made.struct, made.array("parameters")
        self._point_outputs, self._initial = made.members(addresses), made.slot("initial_state")
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
        words = self._made.words
        words[self._initial] = x0.data_ptr() or _no_memory()
        for slot, tensor in zip(self._starts, start, strict=True):
            words[slot] = tensor.data_ptr() or _no_memory()
        words[self._history] = 0 if history is None else history.data_ptr()
        written, read = (
            [tensor.data_ptr() for tensor in outputs],
            [tensor.data_ptr() for tensor in parameters],
        )
        if not (all(written) and all(read)):
            _no_memory()
        self._point_outputs(*written)
        self._point_parameters(*read)


def _no_memory() -> int:
    raise LayoutError("a tensor given to the solver has no memory, which was freed or never given")
