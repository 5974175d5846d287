"""One stage by itself as registered operators, differentiable once in both modes: next state and cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpcgen.autograd import functions, library
from mpcgen.autograd.folding import batch_of, each, fold_each, own, unfold
from mpcgen.calls import stage
from mpcgen.calls.watching import PLAIN, is_traced, never_compiled

Tensors = tuple[Tensor, ...]


def _evaluate(
    controller: str, last: bool, x: Tensor, u: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    return stage.evaluate(library.controller_of(controller), last, x, u, tuple(parameters))


def _fake_evaluate(
    controller: str, last: bool, x: Tensor, u: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], 0 if last else x.shape[1]), x.new_empty(x.shape[0])


def _vmap_evaluate(
    info: Any,
    in_dims: tuple[Any, ...],
    controller: str,
    last: bool,
    x: Tensor,
    u: Tensor,
    parameters: Sequence[Tensor],
) -> tuple[Tensors, tuple[int, ...]]:
    size, batch = info.batch_size, batch_of(x, in_dims[2])
    x, u = own(x, in_dims[2], size, batch), own(u, in_dims[3], size, batch)
    found = evaluate(controller, last, x, u, fold_each(parameters, in_dims[4], size, batch))
    return tuple(unfold(out, size, batch) for out in found), (0, 0)


evaluate = library.define(
    "evaluate(str controller, bool last, Tensor x, Tensor u, Tensor[] parameters) -> (Tensor, Tensor)",
    _evaluate,
    _fake_evaluate,
    _vmap_evaluate,
)
"""Operator form of `mpcgen.calls.stage.evaluate`."""


def _pull_back(
    controller: str,
    last: bool,
    x: Tensor,
    u: Tensor,
    g_next: Tensor | None,
    g_cost: Tensor | None,
    parameters: Sequence[Tensor],
) -> list[Tensor]:
    known = library.controller_of(controller)
    return list(stage.pull_back(known, last, x, u, g_next, g_cost, tuple(parameters)))


def _fake_pull_back(
    controller: str,
    last: bool,
    x: Tensor,
    u: Tensor,
    g_next: Tensor | None,
    g_cost: Tensor | None,
    parameters: Sequence[Tensor],
) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in (x, u, *parameters)]


def _vmap_pull_back(
    info: Any, in_dims: tuple[Any, ...], controller: str, last: bool, *arguments: Any
) -> tuple[list[Tensor], list[int]]:
    """Fold; the gradient of a parameter that the batch shares is summed for each mapped index by itself."""
    *tensors, parameters = arguments
    *dims, p_dims = in_dims[2:]
    size, batch = info.batch_size, batch_of(tensors[0], dims[0])
    pairs = list(zip(parameters, each(parameters, p_dims), strict=True))
    point = [None if t is None else own(t, d, size, batch) for t, d in zip(tensors, dims, strict=True)]
    found = pull_back(controller, last, *point, [own(p, d, size, batch) for p, d in pairs])
    g_x, g_u, *gradients = (unfold(g, size, batch) for g in found)
    summed = [
        g.sum(1, keepdim=True) if batch_of(p, d) == 1 != batch else g
        for g, (p, d) in zip(gradients, pairs, strict=True)
    ]
    return [g_x, g_u, *summed], [0] * (2 + len(summed))


pull_back = library.define(
    "pull_back(str controller, bool last, Tensor x, Tensor u, Tensor? g_next, Tensor? g_cost, Tensor[] parameters) "
    "-> Tensor[]",
    _pull_back,
    _fake_pull_back,
    _vmap_pull_back,
)
"""Operator form of `mpcgen.calls.stage.pull_back`."""


def _push_forward(
    controller: str,
    last: bool,
    x: Tensor,
    u: Tensor,
    d_x: Tensor | None,
    d_u: Tensor | None,
    parameters: Sequence[Tensor],
    changes: Sequence[Tensor | None],
) -> tuple[Tensor, Tensor]:
    known = library.controller_of(controller)
    return stage.push_forward(known, last, x, u, d_x, d_u, tuple(parameters), tuple(changes))


def _fake_push_forward(
    controller: str,
    last: bool,
    x: Tensor,
    u: Tensor,
    d_x: Tensor | None,
    d_u: Tensor | None,
    parameters: Sequence[Tensor],
    changes: Sequence[Tensor | None],
) -> tuple[Tensor, Tensor]:
    return _fake_evaluate(controller, last, x, u, parameters)


def _vmap_push_forward(
    info: Any, in_dims: tuple[Any, ...], controller: str, last: bool, *arguments: Any
) -> tuple[Tensors, tuple[int, ...]]:
    *tensors, parameters, changes = arguments
    *dims, p_dims, c_dims = in_dims[2:]
    size, batch = info.batch_size, batch_of(tensors[0], dims[0])
    point = [None if t is None else own(t, d, size, batch) for t, d in zip(tensors, dims, strict=True)]
    values, moves = fold_each(parameters, p_dims, size, batch), fold_each(changes, c_dims, size, batch)
    found = push_forward(controller, last, *point, values, moves)
    return tuple(unfold(out, size, batch) for out in found), (0, 0)


push_forward = library.define(
    "push_forward(str controller, bool last, Tensor x, Tensor u, Tensor? d_x, Tensor? d_u, Tensor[] parameters, "
    "Tensor?[] changes) -> (Tensor, Tensor)",
    _push_forward,
    _fake_push_forward,
    _vmap_push_forward,
)
"""Operator form of `mpcgen.calls.stage.push_forward`."""


# ---- derivatives ----------------------------------------------------------------------------------------------------


class Evaluate(torch.autograd.Function):
    """(keyset, key, last, x, u, *parameters) -> next state and cost; keyset: as `functions.Solve` has it."""

    @staticmethod
    @never_compiled
    def forward(keyset: Any, key: str, last: bool, x: Tensor, u: Tensor, *parameters: Tensor) -> Tensors:
        """Run the kernel."""
        if keyset is None:
            return _evaluate(key, last, x, u, parameters)
        return tuple(functions.below_autograd(evaluate, keyset, key, last, x, u, list(parameters)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        """Keep the point and the parameters."""
        ctx.is_direct, ctx.named = inputs[0] is None, inputs[1:3]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[3:])
        ctx.save_for_forward(*inputs[3:])

    @staticmethod
    @never_compiled
    def backward(ctx: Any, g_next: Tensor | None, g_cost: Tensor | None) -> tuple[Tensor | None, ...]:
        """Reverse mode."""
        functions.refuse_tracer()
        x, u, *parameters = ctx.saved_tensors
        is_direct = ctx.is_direct and functions.is_plain((g_next, g_cost)) and not torch.is_grad_enabled()
        operator: Any = _pull_back if is_direct else pull_back
        return None, None, None, *operator(*ctx.named, x, u, g_next, g_cost, parameters)

    @staticmethod
    @never_compiled
    def jvp(ctx: Any, *changes: Tensor | None) -> Tensors:
        """Forward mode."""
        x, u, *parameters = ctx.saved_tensors
        d_x, d_u, *moved = changes[3:]
        return tuple(push_forward(*ctx.named, x, u, d_x, d_u, parameters, moved))


def _evaluate_rule(
    keyset: Any, key: str, last: bool, x: Tensor, u: Tensor, parameters: list[Tensor]
) -> Tensors:
    if functions.is_watched(x, u, *parameters):
        return functions.apply(Evaluate, keyset, key, last, x, u, *parameters)
    return functions.below_autograd(evaluate, keyset, key, last, x, u, parameters)


library.differentiable(evaluate, _evaluate_rule)
for _operator in (pull_back, push_forward):
    library.differentiable(_operator, functions.last_rule(_operator, as_list=_operator is pull_back))
library.mapped_by_autograd(pull_back, functions.old_vmap_rule(_vmap_pull_back))
library.mapped_by_autograd(push_forward, functions.old_vmap_rule(_vmap_push_forward))


@never_compiled
def _evaluate_here(key: str, last: bool, x: Tensor, u: Tensor, parameters: Tensors) -> tuple[Tensor, Tensor]:
    if is_traced() or not all(type(t) in PLAIN for t in (x, u, *parameters)):
        return evaluate(key, last, x, u, list(parameters))
    if functions.is_recorded(x, (u, *parameters)):
        return functions.apply(Evaluate, None, key, last, x, u, *parameters)
    return _evaluate(key, last, x, u, parameters)


def evaluate_flat(key: str, last: bool, x: Tensor, u: Tensor, parameters: Tensors) -> tuple[Tensor, Tensor]:
    """Next state and cost of a flat batch, differentiable; see `mpcgen.calls.stage.evaluate`."""
    if torch.compiler.is_compiling():
        return evaluate(key, last, x, u, list(parameters))
    return _evaluate_here(key, last, x, u, parameters)
