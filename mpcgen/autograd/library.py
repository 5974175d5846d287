"""The kernels as registered torch operators: what every tracer, transform and dispatch mode of torch sees.

A registered operator carries tensors, numbers and strings only, so a controller goes by its key, its name and the
digest of its C text, and the options by their text. Each has a rule for tensors without numbers and one for
vectorisation; `mpcgen.autograd.functions` adds the derivatives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter

from mpcgen.autograd.folding import batch_of, each, fold_each, own, unfold
from mpcgen.calls import kernels
from mpcgen.calls.arguments import Start
from mpcgen.calls.devices import check_built
from mpcgen.calls.options import Options
from mpcgen.errors import ParameterError
from mpcgen.runtime.controller import Controller
from mpcgen.runtime.outputs import OUTPUTS, sizes_of

Tensors = tuple[Tensor, ...]
_CONTROLLERS: dict[str, Controller] = {}
_LIBRARY = torch.library.Library("mpcgen", "FRAGMENT")
# Torch asks `inspect` for the module of each operator's rule, which would look for the files of all modules there are:
# half of the time that importing this package takes, and more where much is loaded. What it would find is this.
getattr(inspect, "modulesbyfile", {})[__file__] = __name__  # no documented name: without it, it takes longer


def register(controller: Controller) -> str:
    """Make a controller known to the operators; returns its key."""
    key = controller.key
    _CONTROLLERS[key] = controller
    return key


def controller_of(key: str) -> Controller:
    """The controller that `register` gave this key; raises ParameterError where its package is not imported."""
    try:
        return _CONTROLLERS[key]
    except KeyError:
        name = key.partition(":")[0]
        raise ParameterError(
            f"the controller {key} is not loaded in this process; import the generated package {name!r} first"
        ) from None


def define(
    schema: str, kernel: Callable[..., Any], fake: Callable[..., Any], vmap: Callable[..., Any]
) -> Any:
    """Register an operator of the namespace mpcgen, and return it.

    What takes other arguments than in a release before gets another name: torch keeps compiled graphs on disk, and
    finds them by keys in which operators have names alone.

    Not `torch.library.custom_op`, whose first call imports torch.compile's machinery, which takes seconds.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"mpcgen::{name}", fake, lib=_LIBRARY)
    operator = getattr(torch.ops.mpcgen, name).default
    _LIBRARY.impl(name, _mapped(operator, vmap), "FuncTorchBatched")
    return operator


def _mapped(operator: Any, vmap: Callable[..., Any]) -> Callable[..., Any]:
    """What the dispatcher calls under `torch.func.vmap`: ``vmap(info, in_dims, *arguments)``.

    Not `torch.library.register_vmap`, which takes arguments and outputs for trees and thereby longer than they take.
    """

    def run(*arguments: Any) -> Any:
        interpreter: Any = retrieve_current_functorch_interpreter()
        level = interpreter.level()
        values, in_dims, is_mapped = [], [], False
        for argument in arguments:
            is_list = type(argument) is list
            pairs = [
                unwrap(value, level) if isinstance(value, Tensor) else (value, None)
                for value in (argument if is_list else (argument,))
            ]
            is_mapped = is_mapped or any(dim is not None for _, dim in pairs)
            values.append([value for value, _ in pairs] if is_list else pairs[0][0])
            in_dims.append([dim for _, dim in pairs] if is_list else pairs[0][1])
        with torch._C._ExcludeDispatchKeyGuard(below):
            if not is_mapped:
                return operator(*arguments)
            info = SimpleNamespace(batch_size=interpreter.batch_size())
            outputs, out_dims = vmap(info, tuple(in_dims), *values)
        if isinstance(outputs, Tensor):
            return wrap(outputs, out_dims, level)
        return type(outputs)([wrap(out, dim, level) for out, dim in zip(outputs, out_dims, strict=True)])

    unwrap, wrap = torch._C._functorch._unwrap_batched, torch._C._functorch._add_batch_dim
    below = torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchBatched)
    return run


def differentiable(operator: Any, rule: Callable[..., Any]) -> None:
    """Let ``rule(keyset, *arguments)`` compute an operator where derivatives may be asked for."""
    _LIBRARY.impl(operator._schema.name.partition("::")[2], rule, "Autograd", with_keyset=True)


def mapped_by_autograd(operator: Any, rule: Callable[..., Any]) -> None:
    """Let ``rule(*arguments)`` compute an operator under the vmap of `torch.autograd`'s own vectorisation."""
    _LIBRARY.impl(operator._schema.name.partition("::")[2], rule, "Batched")


# ---- solve ----------------------------------------------------------------------------------------------------------


def _solve(
    controller: str,
    options: str,
    horizon: int,
    x0: Tensor,
    u_init: Tensor | None,
    x_init: Tensor | None,
    costates: Tensor | None,
    duals: Tensor | None,
    parameters: Sequence[Tensor],
) -> Tensors:
    chosen = Options.from_text(options)
    return kernels.solve(
        controller_of(controller),
        chosen,
        horizon,
        x0,
        Start(u_init, x_init, costates, duals),
        tuple(parameters),
    )


def _fake_solve(
    controller: str,
    options: str,
    horizon: int,
    x0: Tensor,
    u_init: Tensor | None,
    x_init: Tensor | None,
    costates: Tensor | None,
    duals: Tensor | None,
    parameters: Sequence[Tensor],
) -> Tensors:
    known = controller_of(controller)
    check_built(known, x0.device)
    sizes = sizes_of(horizon, x0.shape[1], len(known.controls), known.dual_count)
    return tuple(
        x0.new_empty(output.shape(x0.shape[:1], sizes), dtype=torch.int32 if output.integer else x0.dtype)
        for output in OUTPUTS
    )


def _vmap_solve(
    info: Any,
    in_dims: tuple[Any, ...],
    controller: str,
    options: str,
    horizon: int,
    x0: Tensor,
    u_init: Tensor | None,
    x_init: Tensor | None,
    costates: Tensor | None,
    duals: Tensor | None,
    parameters: Sequence[Tensor],
) -> tuple[Tensors, tuple[int, ...]]:
    size, batch = info.batch_size, batch_of(x0, in_dims[3])
    x0 = own(x0, in_dims[3], size, batch)
    guesses = fold_each((u_init, x_init, costates, duals), in_dims[4:8], size, batch)
    folded = fold_each(parameters, in_dims[8], size, batch)
    outputs = solve(controller, options, horizon, x0, *guesses, folded)
    return tuple(unfold(out, size, batch) for out in outputs), (0,) * len(outputs)


solve = define(
    "solve(str controller, str options, SymInt horizon, Tensor x0, Tensor? u_init, Tensor? x_init, "
    "Tensor? costates, Tensor? duals, Tensor[] parameters) "
    f"-> ({', '.join('Tensor' for _ in OUTPUTS)})",
    _solve,
    _fake_solve,
    _vmap_solve,
)
"""Operator form of `kernels.solve`; start: as `Start` has them."""


# ---- attach ---------------------------------------------------------------------------------------------------------


def _attach(
    controller: str, options: str, outputs: Sequence[Tensor], x0: Tensor, parameters: Sequence[Tensor]
) -> Tensors:
    chosen = Options.from_text(options)
    return kernels.attach(controller_of(controller), chosen, tuple(outputs), x0, tuple(parameters))


def _fake_attach(
    controller: str, options: str, outputs: Sequence[Tensor], x0: Tensor, parameters: Sequence[Tensor]
) -> Tensors:
    return tuple(out.new_empty(out.shape) for out in outputs)


def _vmap_attach(
    info: Any,
    in_dims: tuple[Any, ...],
    controller: str,
    options: str,
    outputs: Sequence[Tensor],
    x0: Tensor,
    parameters: Sequence[Tensor],
) -> tuple[Tensors, tuple[int, ...]]:
    size, batch = info.batch_size, batch_of(x0, in_dims[3])
    found = [own(t, d, size, batch) for t, d in zip(outputs, each(outputs, in_dims[2]), strict=True)]
    x0 = own(x0, in_dims[3], size, batch)
    attached = attach(controller, options, found, x0, fold_each(parameters, in_dims[4], size, batch))
    return tuple(unfold(out, size, batch) for out in attached), (0,) * len(attached)


attach = define(
    "attach(str controller, str options, Tensor[] outputs, Tensor x0, Tensor[] parameters) "
    f"-> ({', '.join('Tensor' for _ in OUTPUTS)})",
    _attach,
    _fake_attach,
    _vmap_attach,
)
"""Operator form of `kernels.attach`: outputs found before, with the derivatives of `solve` at them."""


# ---- reverse mode ---------------------------------------------------------------------------------------------------


def _differentiate(
    controller: str,
    options: str,
    x: Tensor,
    u: Tensor,
    status: Tensor,
    g_x: Tensor | None,
    g_u: Tensor | None,
    g_cost: Tensor | None,
    g_duals: Tensor | None,
    duals: Tensor | None,
    parameters: Sequence[Tensor],
) -> list[Tensor]:
    chosen, cotangents = Options.from_text(options), (g_x, g_u, g_cost, g_duals)
    found = kernels.differentiate(
        controller_of(controller), chosen, x, u, status, tuple(parameters), cotangents, duals
    )
    return list(found)


def _fake_differentiate(
    controller: str,
    options: str,
    x: Tensor,
    u: Tensor,
    status: Tensor,
    g_x: Tensor | None,
    g_u: Tensor | None,
    g_cost: Tensor | None,
    g_duals: Tensor | None,
    duals: Tensor | None,
    parameters: Sequence[Tensor],
) -> list[Tensor]:
    return [x.new_empty(x.shape[0], x.shape[2]), *(p.new_empty(p.shape) for p in parameters)]


def _vmap_differentiate(
    info: Any, in_dims: tuple[Any, ...], controller: str, options: str, *arguments: Any
) -> tuple[list[Tensor], list[int]]:
    """Fold; the gradient of a parameter that the batch shares is summed for each mapped index by itself."""
    *tensors, parameters = arguments
    *dims, p_dims = in_dims[2:]
    size, batch = info.batch_size, batch_of(tensors[0], dims[0])
    pairs = list(zip(parameters, each(parameters, p_dims), strict=True))
    solution = [None if t is None else own(t, d, size, batch) for t, d in zip(tensors, dims, strict=True)]
    found = differentiate(controller, options, *solution, [own(p, d, size, batch) for p, d in pairs])
    g_x0, *gradients = (unfold(g, size, batch) for g in found)
    summed = [
        g.sum(1, keepdim=True) if batch_of(p, d) == 1 != batch else g
        for g, (p, d) in zip(gradients, pairs, strict=True)
    ]
    return [g_x0, *summed], [0] * (1 + len(summed))


differentiate = define(
    "differentiate(str controller, str options, Tensor x, Tensor u, Tensor status, Tensor? g_x, Tensor? g_u, "
    "Tensor? g_cost, Tensor? g_duals, Tensor? duals, Tensor[] parameters) -> Tensor[]",
    _differentiate,
    _fake_differentiate,
    _vmap_differentiate,
)
"""Operator form of `kernels.differentiate`: gradients of (x0, *parameters) for cotangents of x, u, cost and duals."""


# ---- forward mode ---------------------------------------------------------------------------------------------------


def _tangent(
    controller: str,
    options: str,
    x: Tensor,
    u: Tensor,
    status: Tensor,
    d_x0: Tensor | None,
    duals: Tensor | None,
    parameters: Sequence[Tensor],
    changes: Sequence[Tensor | None],
) -> Tensors:
    known, chosen = controller_of(controller), Options.from_text(options)
    return kernels.tangent(known, chosen, x, u, status, tuple(parameters), d_x0, tuple(changes), duals)


def _fake_tangent(
    controller: str,
    options: str,
    x: Tensor,
    u: Tensor,
    status: Tensor,
    d_x0: Tensor | None,
    duals: Tensor | None,
    parameters: Sequence[Tensor],
    changes: Sequence[Tensor | None],
) -> Tensors:
    d_duals = x.new_empty(x.shape[0], 0, 0) if duals is None else duals.new_empty(duals.shape)
    return x.new_empty(x.shape), u.new_empty(u.shape), x.new_empty(x.shape[0]), d_duals


def _vmap_tangent(
    info: Any, in_dims: tuple[Any, ...], controller: str, options: str, *arguments: Any
) -> tuple[Tensors, tuple[int, ...]]:
    *tensors, parameters, changes = arguments
    *dims, p_dims, c_dims = in_dims[2:]
    size, batch = info.batch_size, batch_of(tensors[0], dims[0])
    solution = [None if t is None else own(t, d, size, batch) for t, d in zip(tensors, dims, strict=True)]
    values, moves = fold_each(parameters, p_dims, size, batch), fold_each(changes, c_dims, size, batch)
    outputs = tangent(controller, options, *solution, values, moves)
    return tuple(unfold(out, size, batch) for out in outputs), (0,) * len(outputs)


tangent = define(
    "tangent(str controller, str options, Tensor x, Tensor u, Tensor status, Tensor? d_x0, Tensor? duals, "
    "Tensor[] parameters, Tensor?[] changes) -> (Tensor, Tensor, Tensor, Tensor)",
    _tangent,
    _fake_tangent,
    _vmap_tangent,
)
"""Operator form of `kernels.tangent`: changes of x, u, cost and duals along changes of x0 and of the parameters."""
