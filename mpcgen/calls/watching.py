"""Who watches a call: what a tensor is, and whether autograd, transforms or tracers see what is done with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

_Function = TypeVar("_Function", bound=Callable[..., Any])

PLAIN = (Tensor, torch.nn.Parameter)
"""Types of tensors that hold their numbers in memory, unless a transform or a mode is active."""


def is_traced() -> bool:
    """Whether a functorch transform, a dispatch mode or the tracer of torch.jit sees what operators are called."""
    return bool(torch._C._are_functorch_transforms_active()) or is_intercepted()


def is_intercepted() -> bool:
    """Whether a dispatch mode or the tracer of torch.jit sees what operators are called."""
    return bool(torch._C._len_torch_dispatch_stack() or torch._C._get_tracing_state() is not None)


def is_forward_mode() -> bool:
    """Whether forward-mode AD is active."""
    return bool(torch.autograd.forward_ad._current_level >= 0)


def never_compiled(function: _Function) -> _Function:
    """Let torch.compile leave a function alone, and all that it calls, where a graph breaks around it.

    `torch.compiler.disable` does so too, but imports the compiler at once and costs time in each call.
    """
    machinery: Any = torch._C._dynamo.eval_frame
    skip = machinery._FrameAction.SKIP
    machinery.set_code_exec_strategy(function.__code__, machinery._FrameExecStrategy(skip, skip))
    return function


def is_foreign(value: Any) -> bool:
    """Whether a tensor's class decides itself what an operator does: FakeTensor, DTensor, MaskedTensor, ..."""
    kind = type(value)
    return (
        kind not in PLAIN
        and issubclass(kind, Tensor)
        and kind.__torch_dispatch__ is not Tensor.__torch_dispatch__
    )


def without_memory(tensor: Tensor) -> str | None:
    """Why the kernels cannot read a tensor, and what to do; None if they can, or if its class may know how.

    A tensor of zeros that torch keeps no numbers for (`torch._efficientzerotensor`) is as good as any other.
    """
    functorch = torch._C._functorch
    if is_lazy(tensor):
        return "is not initialized; call its module once, or materialize() it"
    if tensor.is_nested:
        return "is a nested tensor; pad it with torch.nested.to_padded_tensor, or call once for each length"
    if tensor.layout is not torch.strided:
        return f"has the layout {tensor.layout}; pass its to_dense()"
    if is_foreign(tensor) or is_traced() or tensor._is_zerotensor():
        return None
    if functorch.is_legacy_batchedtensor(tensor):
        return "is mapped by a vmap that mpcgen does not know; use torch.func.vmap"
    if functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_gradtrackingtensor(tensor):  # which torch unwraps by itself
            return None
        return "is left over from a torch.func transform that has ended; return it from the mapped function instead"
    if tensor.numel() and not tensor.data_ptr():
        return "has no memory, which was freed or never given; pass a tensor that holds its numbers"
    return None
