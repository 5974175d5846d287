"""Reverse mode, made ready for solutions of one size: from call to call only addresses change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mpcgen.calls.devices import Device
from mpcgen.calls.options import Options
from mpcgen.calls.struct import Struct, dense, strides_of_shapes
from mpcgen.calls.wanted import poison, usable

_COTANGENTS = ("cotangent_states", "cotangent_controls", "cotangent_cost")
_MEMBERS = ("states", "controls", "usable", *_COTANGENTS, "gradient_initial_state")
_CONSTRAINED = (*_MEMBERS[:2], "duals", "usable", *_COTANGENTS, "cotangent_duals", "gradient_initial_state")
"""Pointers that follow each other in the struct, of problems without and with constraints."""
_address = Tensor.data_ptr


class Gradient:
    """Gradients of batches of one size, dtype, horizon and sharing of parameters.

    shapes: of the parameters, (B, ...), or (1, ...) where the batch shares one. constant_parameters: each has one value
    for all stages, and no axis of stages. constrained: solutions have multipliers of rows. Several threads may call it
    at once.
    """

    __slots__ = (
        "_batch",
        "_constrained",
        "_device",
        "_entry",
        "_fields",
        "_options",
        "_reports",
        "_row",
        "_shapes",
        "_spare",
        "_strides",
    )

    def __init__(
        self,
        constrained: bool,
        device: Device,
        options: Options,
        dtype: torch.dtype,
        batch: int,
        states: int,
        horizon: int,
        shapes: Sequence[Sequence[int]],
        constant_parameters: bool,
    ) -> None:
        self._constrained, self._device, self._options = constrained, device, options
        self._batch, self._shapes, self._strides = batch, shapes, strides_of_shapes(shapes)
        self._entry = device.entry("differentiate", dtype, batch)
        self._fields = {
            "batch": batch,
            "horizon": horizon,
            "exact_hessian": options.gradient == "exact",
            "smoothing": options.smoothing,
            "barrier": options.smooth == "solve",
            "constant_parameters": constant_parameters,
        }
        with torch.inference_mode(False):
            self._row = torch.empty((), dtype=dtype, device=device.device).expand(batch, states)
        self._reports = options.on_unconverged != "ignore"
        self._spare: list[_Arguments] = []

    def __call__(
        self,
        x: Tensor,
        u: Tensor,
        status: Tensor,
        parameters: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        duals: Tensor | None,
        asked: tuple[int, ...] | None = None,
    ) -> tuple[Tensor, ...]:
        """Gradients of x0 (..., n) and of the parameters, or of those at the places ``asked`` for.

        All are of the size and dtype prepared for. The solution and its cotangents have any leading dimensions of that
        size; parameters, which are dense, may have other shapes, too, and their gradients are like them. cotangents: of
        x, u, cost and, with constraints, duals.
        """
        x, u = dense(x), dense(u)
        if asked is None:
            asked = tuple(range(len(parameters)))
        g_x0 = torch.empty_like(self._row)
        if x.ndim != 3:
            g_x0 = g_x0.view(x.shape[:-2] + x.shape[-1:])
        if self._batch == 0:
            return g_x0, *(torch.zeros_like(parameters[place]) for place in asked)
        status = status if status.ndim == 1 else status.reshape(-1)
        wanted = usable(status, self._options)
        pushes = [None if g is None else dense(g) for g in cotangents]
        try:
            arguments = self._spare.pop()
        except IndexError:
            arguments = _Arguments(self._device, self._fields, self._strides, self._constrained)
        # a report of another device's may come after the next call
        singular = arguments.singular if status.is_cpu else torch.empty_like(status)
        kept = () if not self._constrained else (None if duals is None else dense(duals),)
        arguments.point_to((x, u, *kept, wanted, *pushes[: 3 + len(kept)], g_x0), singular, parameters)
        found, dropped = arguments.gradients(parameters, asked)
        struct = arguments.struct
        struct.threads = 1 if self._batch == 1 else self._options.thread_count()
        self._entry(struct)
        del dropped
        if self._reports and (self._batch > 1 or not status.is_cpu or struct.singular[0]):
            self._device.report_singular(singular, self._options.on_unconverged)
        if self._options.unconverged_gradient == "nan":
            flat = [g.view(self._shapes[place]) for place, g in zip(asked, found, strict=True)]
            poison((g_x0.view(self._batch, -1), *flat), (wanted == 0) | (singular != 0))
        self._spare.append(arguments)  # a call of another thread may write it from here on
        return g_x0, *found


class _Arguments:
    """An argument struct of reverse mode, filled but for the addresses and the threads.

    ``singular``: which problems have no gradient, for calls that read it before they end. ``_aside`` is where the
    kernel writes the gradients of parameters that the batch shares and calls that ask for ``_asked`` do not ask for;
    each call makes room for those of the others, at the places ``_own``.
    """

    __slots__ = (
        "_addresses",
        "_aside",
        "_asked",
        "_made",
        "_own",
        "_point",
        "_point_gradients",
        "_point_parameters",
        "_singular",
        "_strides",
        "singular",
        "struct",
    )

    def __init__(
        self, device: Device, fields: Mapping[str, Any], strides: Sequence[int], constrained: bool
    ) -> None:
        pointers = dict.fromkeys(("parameters", "gradient_parameters"), len(strides))
        self._made = made = Struct(device, "gradient", fields, {"parameter_strides": strides}, pointers)
        self.struct = made.struct
        self._point_parameters, self._point_gradients = map(made.array, pointers)
        self._point = made.members(_CONSTRAINED if constrained else _MEMBERS)
        self._singular = made.slot("singular")
        with torch.inference_mode(False):
            self.singular = torch.empty(fields["batch"], dtype=torch.int32, device=device.device)
        self._strides = strides
        self._asked: tuple[int, ...] | None = None
        self._addresses = [0] * len(strides)
        self._aside: list[Tensor] = []
        self._own: list[int] = []

    def point_to(
        self, tensors: Sequence[Tensor | None], singular: Tensor, parameters: Sequence[Tensor]
    ) -> None:
        """Let the struct point to these tensors, in its order, which have to outlive the call."""
        self._point(*[0 if tensor is None else tensor.data_ptr() for tensor in tensors])
        self._made.words[self._singular] = singular.data_ptr()
        self._point_parameters(*map(_address, parameters))

    def gradients(
        self, parameters: Sequence[Tensor], asked: tuple[int, ...]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Where the struct lets the kernel write the gradients asked for, and others; both have to outlive the call."""
        if asked != self._asked:
            self._set_aside(parameters, asked)
        found, dropped = self._make(parameters, asked), self._make(parameters, self._own)
        self._point_gradients(*self._addresses)
        return found, dropped

    def _make(self, parameters: Sequence[Tensor], places: Sequence[int]) -> list[Tensor]:
        made = [torch.empty_like(parameters[place]) for place in places]
        for place, gradient in zip(places, made, strict=True):
            self._addresses[place] = gradient.data_ptr()
        return made

    def _set_aside(self, parameters: Sequence[Tensor], asked: tuple[int, ...]) -> None:
        """Make room for what calls that ask for these do not ask for."""
        rest = [place for place in range(len(parameters)) if place not in asked]
        self._own = [place for place in rest if self._strides[place] != 0]
        self._aside = self._make(parameters, [place for place in rest if self._strides[place] == 0])
        self._asked = asked
