"""One line in the place of all the numbers of a result, for an interactive session."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from mpcgen.calls.watching import PLAIN, is_traced
from mpcgen.runtime.status import Status


def shapes(name: str, values: Iterable[tuple[str, Any]]) -> str:
    """The shapes of a result's tensors, and what else it holds as it is."""
    shown = (
        f"{key}: {tuple(value.shape)}" if isinstance(value, Tensor) else f"{key}: {value!r}"
        for key, value in values
    )
    return f"<{name} with {', '.join(shown)}>"


def has_numbers(*values: Any) -> bool:
    """Whether all are tensors whose numbers can be looked at."""
    return not torch.compiler.is_compiling() and not is_traced() and all(type(v) in PLAIN for v in values)


def problems(shape: torch.Size) -> str:
    """How many problems a batch has."""
    count = shape.numel()
    several = f", batch {' x '.join(map(str, shape))}" if len(shape) > 1 else ""
    return f"{count} problem{'' if count == 1 else 's'}{several}"


def statuses(status: Tensor) -> str:
    """How many ended how."""
    counts = ((s.name, int((status == s).sum())) for s in Status)
    return ", ".join(f"{count} {name}" for name, count in counts if count) or "none"
