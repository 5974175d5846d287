"""Where kernels run: one object for each kind of device, with what differs between them.

Tensors and argument structs are the same everywhere; a device says how its entry points are called, and how one learns
of problems that did not converge without waiting for them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from mpcgen.calls.reporting import Deferred, Report, report_singular, report_statuses, report_steps
from mpcgen.errors import DeviceError, InternalError, ParameterError
from mpcgen.runtime import interrupts
from mpcgen.runtime.controller import Controller
from mpcgen.runtime.loading import Function, Library, kinds_in, load_kind

Entry = Callable[[Any], None]
"""Takes an argument struct; raises what its call ends in."""

BOX_DDP, INTERIOR_POINT, HAND_OVER, _REMAINING, _RESUMED, POLISHED = range(6)
"""What an argument struct calls a method, as in `mpcgen_outcome.h`. HAND_OVER is box-DDP, and the interior point where
that does not get on, POLISHED the interior point, whose solutions box-DDP then polishes, as it knows bounds of controls
alone."""
_NEXT = {HAND_OVER: _REMAINING, _REMAINING: _RESUMED, POLISHED: _RESUMED}
"""What follows a method that leaves problems."""
_LEFT_OVER = 3
"""What an entry point returns that leaves problems (`mpcgen_batch.h`)."""


class Device(Protocol):
    """What the calls of the kernels need to know of a device."""

    device: torch.device
    ffi: Any

    def arguments(self, verb: str) -> Any:
        """Fresh, zeroed argument struct of an entry point."""

    def entry(self, verb: str, dtype: torch.dtype, batch: int) -> Entry:
        """Return the entry point for a precision and a batch."""

    def report_statuses(self, status: Tensor, how: str, failure: Callable[[int], str]) -> None:
        """Warn or raise where problems did not converge, as asked; see `mpcgen.calls.reporting`."""

    def report_steps(self, status: Tensor, how: str, failure: Callable[[int, int], str]) -> None:
        """Warn or raise where solves of closed loops, (..., steps), did not converge, as asked."""

    def report_singular(self, singular: Tensor, how: str) -> None:
        """Warn or raise where solutions are not differentiable, as asked."""


def device_of(controller: Controller, tensor: Tensor) -> Device:
    """The device that solves what lies where ``tensor`` does.

    Raises DeviceError where the controller was not built for it.
    """
    known: dict[torch.device, Device] = controller.devices
    found = known.get(tensor.device)
    if found is None:
        found = known[tensor.device] = _make(controller, tensor.device)
    return found


def check_built(controller: Controller, device: torch.device) -> None:
    """Raise DeviceError where the controller was not built for a device; loads nothing.

    Devices of other types than the CPU and CUDA are refused by `mpcgen.calls.arguments`, with the rest of a call.
    """
    library = controller.library
    if device.type == "cpu":
        if library.kind == "cuda":
            raise DeviceError(_not_built(controller, device, "cpu"))
    elif device.type == "cuda" and library.kind != "cuda" and "cuda" not in kinds_in(library.path.parent):
        raise DeviceError(_not_built(controller, device, "cuda"))


def _make(controller: Controller, device: torch.device) -> Device:
    check_built(controller, device)
    library = controller.library
    if device.type == "cpu":
        return Cpu(library, bool(controller.constraints)) if library.kind == "cpu" else Cuda(library, device)
    if library.kind != "cuda":
        library = load_kind(library.path.parent, library.name, library.manifest["source_digest"], "cuda")
    return Cuda(library, device)


def _not_built(controller: Controller, device: torch.device, target: str) -> str:
    folder = controller.library.path.parent
    other = "the CPU" if target == "cuda" else "CUDA"
    return (
        f"{controller.name}: x0 is on {device}, but this module was built for {other} only; run `mpcgen build <the "
        f"spec file of {controller.name}> --target cpu,cuda -o {folder.parent}` or mpcgen.compile(problem, "
        f"targets=('cpu', 'cuda')), or move x0"
    )


def _variant(dtype: torch.dtype, batch: int) -> str:
    return f"f{torch.finfo(dtype).bits}_{'single' if batch == 1 else 'batch'}"


class Cpu:
    """The kernels of an extension, on the calling thread and others."""

    device = torch.device("cpu")

    def __init__(self, library: Library, constrained: bool) -> None:
        self.ffi, self._library, self._constrained = library.ffi, library, constrained

    def arguments(self, verb: str) -> Any:
        """See `Device`."""
        return self.ffi.new(f"{self._library.prefix}_{verb}_arguments *")

    def address(self, verb: str, dtype: torch.dtype, batch: int) -> Any:
        """The same as a pointer to a C function of an argument struct, for kernels of any library to call."""
        return self.ffi.cast("int (*)(const void *)", self._library.address(verb, _variant(dtype, batch)))

    def entry(self, verb: str, dtype: torch.dtype, batch: int) -> Entry:
        """See `Device`: the scalar variant for a single problem, else the vector one."""
        variant = _variant(dtype, batch)
        function = self._library.function(verb, variant)
        if verb == "solve" and not self._constrained:
            return self._solve(function, variant)
        if verb == "closed_loop":
            return self._closed_loop(function, variant)

        def call(arguments: Any) -> None:
            code = function(arguments)
            if code:
                self._refuse(verb, code)

        return call

    def _solve(self, box_ddp: Function, variant: str) -> Entry:
        """Return the entry point of a problem that two methods solve: what one leaves is for the other."""

        def call(arguments: Any) -> None:
            method = arguments.method
            by_box_ddp = method in (HAND_OVER, BOX_DDP)
            function = box_ddp if by_box_ddp else self._library.function("interior_point", variant)
            code = function(arguments)
            if code == _LEFT_OVER:
                code = self._follow(arguments, variant)
            if code:
                self._refuse("solve", code)

        return call

    def _follow(self, arguments: Any, variant: str) -> int:
        """Solve by other methods what one has left of a batch; returns the last one's code."""
        method = arguments.method
        code, following = _LEFT_OVER, method
        while code == _LEFT_OVER:
            arguments.method = following = _NEXT[following]
            verb = "interior_point" if following == _REMAINING else "solve"
            code = self._library.function(verb, variant)(arguments)
        arguments.method = method  # the struct is used again
        return code

    def _closed_loop(self, function: Function, variant: str) -> Entry:
        """Return the entry point of closed loops: where problems wait for another method, it solves their steps."""

        def call(arguments: Any) -> None:
            code = function(arguments)
            while code == _LEFT_OVER:
                taken = self.ffi.unpack(arguments.progress, arguments.solve.batch)
                for step in sorted(set(taken) - {arguments.steps}):
                    code = self._follow(arguments.step_arguments + step, variant)
                    if code:
                        self._refuse("solve", code)
                code = function(arguments)
            if code:
                self._refuse("closed_loop", code)

        return call

    def _refuse(self, verb: str, code: int) -> NoReturn:
        """Raise what an entry point ended in."""
        if code == interrupts.STOPPED:
            interrupts.end_call()
        if code == 1:
            raise MemoryError(f"{self._library.name}: the system refused the memory to {verb} this batch")
        raise InternalError(f"{self._library.name}: unknown return code {code} from {verb}")

    def report_statuses(self, status: Tensor, how: str, failure: Callable[[int], str]) -> None:
        """See `Device`."""
        report_statuses(self._library.name, status, how, failure)

    def report_steps(self, status: Tensor, how: str, failure: Callable[[int, int], str]) -> None:
        """See `Device`."""
        report_steps(self._library.name, status, how, failure)

    def report_singular(self, singular: Tensor, how: str) -> None:
        """See `Device`."""
        report_singular(self._library.name, singular, how)


class Cuda:
    """The kernels of a CUDA library, on torch's current stream and in memory of torch's allocator.

    Nothing waits for the device but on_unconverged="raise", which has to. A warning comes with the first call after
    its problems were solved. In a CUDA graph no one is told: read ``status``. On a CPU device: the shim's kernels.
    """

    def __init__(self, library: Library, device: torch.device) -> None:
        self.device, self.ffi, self._library = device, library.ffi, library
        self._deferred = Deferred(library.name)

    def arguments(self, verb: str) -> Any:
        """See `Device`."""
        return self.ffi.new(f"{self._library.prefix}_{verb}_arguments *")

    def entry(self, verb: str, dtype: torch.dtype, batch: int) -> Entry:
        """See `Device`."""
        name, bits = self._library.name, torch.finfo(dtype).bits
        function = getattr(self._library.lib, f"{self._library.prefix}_{verb}_f{bits}_cuda")
        workspace_bytes = getattr(self._library.lib, f"{self._library.prefix}_{verb}_workspace_f{bits}_cuda")

        def call(arguments: Any) -> None:
            if self.device.type == "cpu":
                return launch(arguments, 0)
            with torch.cuda.device(self.device):
                return launch(arguments, torch.cuda.current_stream().cuda_stream)

        def launch(arguments: Any, stream: int) -> None:
            size = workspace_bytes(arguments)
            if size < 0:
                raise DeviceError(f"{name}: CUDA finds no device to {verb} on; {self._build_hint()}")
            # Torch's allocator gives the memory to later work of the same stream only, so it may be let go at once.
            workspace = torch.empty(size, dtype=torch.uint8, device=self.device)
            code = function(
                arguments, self.ffi.cast("void *", workspace.data_ptr()), self.ffi.cast("void *", stream)
            )
            if code:
                message = self.ffi.string(self._library.lib.mpcgen_cuda_message(code)).decode()
                raise DeviceError(
                    f"{name}: CUDA refuses to {verb} this batch: {message}; {self._build_hint()}"
                )

        return call

    def _build_hint(self) -> str:
        return (
            f"the library was built for {self._library.manifest['target']}; for another device build it anew there, or "
            f"with --arch"
        )

    def report_statuses(self, status: Tensor, how: str, failure: Callable[[int], str]) -> None:
        """See `Device`."""
        self._report(status, how, functools.partial(report_statuses, failure=failure), report_statuses)

    def report_steps(self, status: Tensor, how: str, failure: Callable[[int, int], str]) -> None:
        """See `Device`."""
        self._report(status, how, functools.partial(report_steps, failure=failure), report_steps)

    def report_singular(self, singular: Tensor, how: str) -> None:
        """See `Device`."""
        self._report(singular, how, report_singular, report_singular)

    def _report(self, flags: Tensor, how: str, report: Report, report_later: Report) -> None:
        """Report at once where that needs no waiting or is asked for; later there are no more than the flags."""
        if how == "ignore" or self.device.type == "cpu":
            report(self._library.name, flags, how)
        elif torch.cuda.is_current_stream_capturing():
            if how == "raise":
                raise ParameterError(
                    f"{self._library.name}: on_unconverged='raise' has to wait for the result, which a CUDA graph "
                    f"cannot; use 'ignore' and read sol.status"
                )
        elif how == "raise":
            report(self._library.name, flags, how)
        else:
            self._deferred.note(flags, report_later)
