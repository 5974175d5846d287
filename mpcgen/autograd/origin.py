"""Where a solution comes from: its controller, options and parameters, and whether those are still as they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpcgen.autograd import library
from mpcgen.calls.options import Options
from mpcgen.errors import MpcgenError
from mpcgen.runtime.controller import Controller


class ExaminationError(MpcgenError, ValueError):
    """A solution that cannot be examined any more, or never could."""


class Origin:
    """Where a solution comes from: what an examination needs besides the solution itself.

    key: of the controller. options_text: the options as text. parameters: of shape (B or 1, ...) if ``is_flat``, else
    (..., *shape) with a leading 1 where the batch shares a value; what is handed out are copies, since those of
    omitted parameters serve every call of the process. versions: of the parameters when the problem was solved.
    shapes: those that flat parameters take when they are asked for, if they have others yet.
    """

    __slots__ = ("_shapes", "_values", "_versions", "is_flat", "key", "options_text")

    def __init__(
        self,
        key: str,
        options_text: str,
        parameters: tuple[Tensor, ...],
        versions: tuple[int, ...] | None = None,
        is_flat: bool = True,
        shapes: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.key, self.options_text, self.is_flat = key, options_text, is_flat
        self._values, self._versions, self._shapes = parameters, versions, shapes

    @property
    def controller(self) -> Controller:
        """The controller, if its package is imported in this process; raises ParameterError otherwise."""
        return library.controller_of(self.key)

    @property
    def options(self) -> Options:
        """Options of the call."""
        return Options.from_text(self.options_text)

    @property
    def own(self) -> tuple[Tensor, ...]:
        """The parameters themselves; not to be handed out."""
        if self._shapes is None:
            return self._values
        return tuple(map(torch.reshape, self._values, self._shapes))

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Copies of the parameters."""
        return tuple(p.clone() for p in self.own)

    def detach(self) -> Origin:
        """The same numbers without their graph."""
        parameters = tuple(p.detach() for p in self.own)
        return Origin(self.key, self.options_text, parameters, self._versions, self.is_flat)

    def copy(self, batch_shape: torch.Size) -> Origin:
        """A copy with parameters of shape (..., *shape): leading dimensions as the solution's, or ones."""
        parameters = self.parameters
        if self.is_flat:
            size, ones = batch_shape.numel(), (1,) * len(batch_shape)
            parameters = tuple(
                p.reshape((batch_shape if p.shape[0] == size else ones) + p.shape[1:]) for p in parameters
            )
        return Origin(self.key, self.options_text, parameters, is_flat=False)

    def flattened(self, batch_shape: torch.Size) -> tuple[Tensor, ...]:
        """Parameters of shape (B or 1, ...), checked to be those of the solve; not to be handed out."""
        if self._versions is not None and versions_of(self._values) != self._versions:
            raise ExaminationError(
                "a parameter was changed in place after the solve (by an optimizer's step?), so what held the "
                "solution cannot be told any more; ask for sol.multipliers before, or solve again"
            )
        if self.is_flat:
            return self.own
        return tuple(_flat(p, batch_shape) for p in self.own)

    def __reduce__(self) -> tuple[Any, ...]:
        return Origin, (self.key, self.options_text, self.own, None, self.is_flat)


def origin_of(
    key: str,
    options_text: str,
    parameters: tuple[Tensor, ...],
    shapes: Sequence[Sequence[int]] | None = None,
) -> Origin:
    """The origin of a solution; parameters (B or 1, ...), or to be reshaped so."""
    return Origin(key, options_text, parameters, versions_of(parameters), shapes=shapes)


def versions_of(tensors: tuple[Tensor, ...]) -> tuple[int, ...] | None:
    """How often each was changed in place; None where torch does not count, as in inference mode and in graphs."""
    if torch.compiler.is_compiling():
        return None
    try:
        return tuple([t._version for t in tensors])  # a list first: half the time, and every call pays it
    except (RuntimeError, AttributeError):  # the latter where a pytree of a solution holds something else
        return None


def _flat(parameter: Tensor, batch_shape: torch.Size) -> Tensor:
    rank = len(batch_shape)
    shape = parameter.shape[rank:]
    if parameter.shape[:rank].numel() == 1:
        return parameter.reshape(1, *shape)
    return parameter.expand(*batch_shape, *shape).reshape(batch_shape.numel(), *shape)
