"""Where the user's code is, and what leaves a trace without an operation."""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LIBRARIES = tuple(os.path.dirname(os.path.abspath(path)) + os.sep for path in (torch.__file__, __file__))
_LEAVING: dict[Any, str] = {
    Tensor.detach: "detach()",
    Tensor.detach_: "detach_()",
    torch.detach: "detach()",
    Tensor.data.__get__: "data",  # type: ignore[attr-defined]
    Tensor.numpy: "numpy()",
    Tensor.__array__: "an array of numpy",
    Tensor.tolist: "tolist()",
}
"""What of a tensor is no operation, as the user calls it."""


def users_line() -> str:
    """Where the user's code is at this moment: file, line and text."""
    frame = sys._getframe(1)
    while frame is not None and (
        frame.f_code.co_filename.startswith(_LIBRARIES) or frame.f_code.co_filename.startswith("<")
    ):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None:
        return "outside of any file"
    name, number = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(name, number).strip()
    return f"{name}:{number}" + (f": {text}" if text else "")


class Watch(TorchFunctionMode):
    """Refuses what takes a traced tensor out of the trace without an operation."""

    def __init__(self, is_traced: Callable[[Any], bool], refusal: Callable[[str], Exception]) -> None:
        super().__init__()
        self.is_traced, self.refusal = is_traced, refusal

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at methods of tensors before they run."""
        name = _LEAVING.get(func)
        if name is not None and args and self._follows(args[0]):
            raise self.refusal(
                f"{name} takes a tensor out of what is differentiated, so that torch and a solver would disagree on "
                "the slope; leave it out"
            )
        return func(*args, **(kwargs or {}))

    def _follows(self, value: Any) -> bool:
        """Whether a tensor may depend on an input; inside transforms of torch.func all may."""
        return isinstance(value, Tensor) and (
            torch._C._functorch.is_functorch_wrapped_tensor(value) or self.is_traced(value)
        )
