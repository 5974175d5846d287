"""The short way of calls that nothing traces: what the checks of a call found is kept by the call's signature.

The checks in `mpcgen.calls.arguments` look at names, types, shapes, dtypes and devices, never at values. So a call
with the signature of one that passed would pass again, with the same horizon, batch and sharing of parameters: only
addresses differ. Control loops make many such calls, and the checks would be most of their overhead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpcgen.calls import kernels
from mpcgen.calls.arguments import Call, Start, make_call
from mpcgen.calls.options import Options
from mpcgen.calls.solver import Solver
from mpcgen.calls.watching import PLAIN, is_forward_mode, is_traced
from mpcgen.runtime.controller import Controller

MOST_SIGNATURES = 64
"""After so many a controller forgets them all, so that ever new batch sizes do not fill the memory."""

Signature = tuple[Any, ...]
Tensors = tuple[Tensor, ...]


class Known(NamedTuple):
    """What calls of one signature share.

    parameters: flat defaults, which nobody changes, None in the place of a given one. given: places of those. names:
    theirs.
    """

    solver: Solver
    parameters: tuple[Tensor | None, ...]
    given: tuple[int, ...]
    names: tuple[str, ...]

    def with_given(self, values: Iterable[Tensor]) -> Tensors:
        """All parameters, these in the places of what a call gives, as it gives them: only addresses count."""
        parameters: list[Any] = list(self.parameters)
        for place, value in zip(self.given, values, strict=True):
            parameters[place] = value
        return tuple(parameters)


class Direct:
    """The signatures that one controller, with its options, has checked; pickles and copies are empty."""

    def __init__(self) -> None:
        self._known: dict[Signature, tuple[Known | None]] = {}

    def __reduce__(self) -> tuple[type[Direct], tuple[()]]:
        return Direct, ()

    def find(
        self,
        controller: Controller,
        options: Options,
        x0: Tensor,
        start: Start,
        horizon: int | None,
        values: Mapping[str, Any],
    ) -> tuple[Known, Tensors] | None:
        """What is known of the call, and all its parameters, see `Known.with_given`.

        None for a call that has to go the long way: it is traced, or its tensors are not as the kernel reads them.
        Raises what `mpcgen.calls.arguments.make_call` raises.
        """
        try:
            signature = _signature(x0, start, horizon, values)
        except RuntimeError:  # a tensor that has no shape, as nested ones
            return None
        if signature is None:
            return None
        kept = self._known.get(signature)
        if kept is None:
            if not all(map(_is_readable, (x0, *start, *values.values()))):
                return None
            call = make_call(controller, x0, start, horizon, values)
            kept = (_what_to_keep(controller, options, x0, start, values, call),)
            if len(self._known) >= MOST_SIGNATURES:
                self._known.clear()
            self._known[signature] = kept
        (known,) = kept
        return None if known is None else (known, known.with_given([values[name] for name in known.names]))


def _what_to_keep(
    controller: Controller,
    options: Options,
    x0: Tensor,
    start: Start,
    values: Mapping[str, Tensor],
    call: Call,
) -> Known | None:
    """None where an input was not taken as it is, but copied or repeated, as broadcasting may have to."""
    pairs = [(x0, call.x0), *zip(start.given, call.start.given, strict=True)]
    given = tuple(place for place, p in enumerate(controller.parameters) if p.name in values)
    names = tuple(controller.parameters[place].name for place in given)
    pairs += [(values[name], call.parameters[place]) for place, name in zip(given, names, strict=True)]
    if any(not flat.is_contiguous() or flat.data_ptr() != value.data_ptr() for value, flat in pairs):
        return None
    kept = [None if place in given else value for place, value in enumerate(call.parameters)]
    return Known(kernels.solver_of(controller, options, call), tuple(kept), given, names)


def _is_readable(tensor: Tensor | None) -> bool:
    """Whether a tensor has its numbers in memory; the solver asks in every call, at less cost."""
    try:
        return tensor is None or not tensor.numel() or bool(tensor.data_ptr())
    except RuntimeError:
        return False


def _signature(x0: Tensor, start: Start, horizon: int | None, values: Mapping[str, Any]) -> Signature | None:
    """What the checks depend on; None for a call in forward mode, or whose tensors the kernel cannot read."""
    if (
        type(x0) not in PLAIN
        or not (horizon is None or type(horizon) is int)
        or is_traced()
        or is_forward_mode()
    ):
        return None
    dtype = x0.dtype
    guesses = start.given
    signature: list[Any] = [dtype, horizon, start.u is None, start.x is None, start.costates is None]
    for value in (x0, *guesses, *values.values()):
        if (
            type(value) not in PLAIN
            or value.dtype is not dtype
            or not value.is_cpu
            or value.layout is not torch.strided
            or not value.is_contiguous()
            or value.is_neg()
        ):
            return None
        signature.append(value.shape)
    return *signature, *values
