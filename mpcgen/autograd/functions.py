"""Derivatives of the operators in `mpcgen.autograd.library`: both modes of the solution's, and no second one.

`Solve` is all there is to differentiate. Nothing around it but autograd, it calls the kernels at once, which is faster
than any operator; what traces or transforms the call reaches it through the operators' rules, registered here.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.utils import _pytree

from mpcgen.autograd import library
from mpcgen.calls import kernels
from mpcgen.calls.arguments import Start
from mpcgen.calls.direct import Known
from mpcgen.calls.options import Options
from mpcgen.calls.struct import dense
from mpcgen.calls.watching import PLAIN, is_forward_mode, is_traced, never_compiled
from mpcgen.errors import SecondDerivativeError, TracingError
from mpcgen.runtime.outputs import DIFFERENTIABLE, OUTPUTS

Tensors = tuple[Tensor, ...]
_X0 = 5
_PARAMETERS = _X0 + 1 + len(Start._fields)
"""Places of x0 and of the first parameter among the arguments of `Solve`."""


@never_compiled
def solve(key: str, options: str, horizon: int, x0: Tensor, start: Start, parameters: Tensors) -> Tensors:
    """Solve a flat batch, differentiable with respect to x0 and the parameters; see `kernels.solve`."""
    if is_traced() or not all(type(t) in PLAIN for t in (x0, *start, *parameters) if t is not None):
        return tuple(library.solve(key, options, horizon, x0, *start, list(parameters)))
    if is_recorded(x0, parameters):
        return apply(Solve, None, None, key, options, horizon, x0, *start, *parameters)
    return _solve_here(key, options, horizon, x0, *start, *parameters)


@never_compiled
def attach(key: str, options: str, outputs: Tensors, x0: Tensor, parameters: Tensors) -> Tensors:
    """Outputs that a quiet solve of a flat batch has found, differentiable as those of `solve`, and reported."""
    if is_traced() or not all(type(t) in PLAIN for t in (x0, *outputs, *parameters)):
        return tuple(library.attach(key, options, list(outputs), x0, list(parameters)))
    if is_recorded(x0, parameters):
        horizon = outputs[1].shape[1]
        return apply(Solve, None, outputs, key, options, horizon, x0, *Start(), *parameters)
    chosen = Options.from_text(options)
    return kernels.attach(library.controller_of(key), chosen, outputs, x0, parameters)


def solve_directly(
    known: Known, key: str, options: str, x0: Tensor, start: Start, parameters: Tensors
) -> Tensors:
    """`solve` of a call that nothing traces, by the solver that is ready for it, with the call's leading dimensions."""
    if not is_recorded(x0, parameters):
        return known.solver(x0, start.given, parameters)
    outputs = known.solver.solve_anew(x0, start.given, parameters)
    given = tuple([parameters[place] for place in known.given])
    asked = tuple([place for place in known.given if parameters[place].requires_grad])
    record: Any = super(torch.autograd.Function, _Direct).apply  # type: ignore[misc]  # as `apply` has it
    call = known, asked, key, options
    found = record((call, outputs, given), x0, *[parameters[place] for place in asked])
    for place, out in zip(DIFFERENTIABLE, found, strict=True):
        outputs[place] = out
    return tuple(outputs)


def is_recorded(x0: Tensor, parameters: Tensors) -> bool:
    """Whether autograd records what is computed of these, or forward mode is active."""
    recorded = torch.is_grad_enabled() and (x0.requires_grad or any(p.requires_grad for p in parameters))
    return recorded or is_forward_mode()


def _solve_here(key: str, options: str, horizon: int, x0: Tensor, *tensors: Any) -> Tensors:
    starts = len(Start._fields)
    chosen, start = Options.from_text(options), Start(*tensors[:starts])
    return kernels.solve(library.controller_of(key), chosen, horizon, x0, start, tensors[starts:])


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """Apply a function at the present level of autograd, without the part of `Function.apply` for functorch.

    That part binds the arguments to the signature anew in each call, which takes longer than a small problem. What
    functorch needs instead is done by the dispatcher, which calls the rules below once for each of its levels.
    """
    plain = super(torch.autograd.Function, function).apply  # type: ignore[misc]
    if torch._C._are_functorch_transforms_active():
        with enable_single_level_autograd_function():
            return plain(*arguments)
    return plain(*arguments)


def below_autograd(operator: Any, keyset: Any, *arguments: Any) -> Any:
    """Call an operator below the present level of autograd; those further out, of functorch, see it again."""
    below = keyset & torch._C._after_autograd_keyset
    if torch._C._are_functorch_transforms_active():
        # A function's forward has switched both modes off, which the levels further out would inherit. Not by context
        # managers, which take as long as an operator.
        modes = torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()
        torch._C._set_grad_enabled(True)
        torch._C._set_fwd_grad_enabled(True)
        try:
            return operator.redispatch(below, *arguments)
        finally:
            torch._C._set_grad_enabled(modes[0])
            torch._C._set_fwd_grad_enabled(modes[1])
    with torch._C._AutoDispatchBelowAutograd():
        return operator.redispatch(below, *arguments)


class Solve(torch.autograd.Function):
    """(keyset, found, key, options, horizon, x0, *start, *parameters) -> outputs of `kernels.solve`, flat batch.

    keyset: the dispatcher's, of a call that came through the operator; None for one that nothing but autograd sees.
    found: the outputs, where they are known already, or None.
    """

    @staticmethod
    @never_compiled
    def forward(keyset: Any, found: Tensors | None, key: str, options: str, *arguments: Any) -> Tensors:
        """Run the solver, where there are no outputs yet."""
        horizon, x0, *tensors = arguments
        start, parameters = Start(*tensors[: len(Start._fields)]), tensors[len(Start._fields) :]
        if keyset is None:
            if found is None:
                return _solve_here(key, options, *arguments)
            chosen = Options.from_text(options)
            return kernels.attach(library.controller_of(key), chosen, found, x0, tuple(parameters))
        if found is not None:
            return tuple(below_autograd(library.attach, keyset, key, options, found, x0, parameters))
        return tuple(below_autograd(library.solve, keyset, key, options, horizon, x0, *start, parameters))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        """Keep the solution and the parameters: nothing that grows with the iterations."""
        ctx.is_direct, ctx.names = inputs[0] is None, inputs[2:4]
        constants = [out for place, out in enumerate(output) if place not in DIFFERENTIABLE]
        ctx.mark_non_differentiable(*constants)
        ctx.set_materialize_grads(False)
        x, u, _, status = output[:4]
        duals = output[8]
        parameters = inputs[_PARAMETERS:]
        ctx.save_for_backward(x, u, status, duals, *parameters)
        ctx.save_for_forward(x, u, status, duals, *parameters)

    @staticmethod
    @never_compiled
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Reverse mode."""
        refuse_tracer()
        x, u, status, duals, *parameters = ctx.saved_tensors
        wanted = tuple(cotangents[place] for place in DIFFERENTIABLE)
        if ctx.is_direct and is_plain(wanted) and not torch.is_grad_enabled():
            known, chosen = library.controller_of(ctx.names[0]), Options.from_text(ctx.names[1])
            found = kernels.differentiate(known, chosen, x, u, status, tuple(parameters), wanted, duals)
        else:
            found = library.differentiate(*ctx.names, x, u, status, *wanted, duals, parameters)
        g_x0, *gradients = found
        return (*[None] * _X0, g_x0, *[None] * len(Start._fields), *gradients)

    @staticmethod
    @never_compiled
    def jvp(ctx: Any, *changes: Tensor | None) -> tuple[Tensor | None, ...]:
        """Forward mode."""
        x, u, status, duals, *parameters = ctx.saved_tensors
        moved = list(changes[_PARAMETERS:])
        found = library.tangent(*ctx.names, x, u, status, changes[_X0], duals, parameters, moved)
        changed = dict(zip(DIFFERENTIABLE, found, strict=True))
        return tuple(changed.get(place) for place in range(len(OUTPUTS)))


class _Direct(torch.autograd.Function):
    """((call, outputs, given), x0, *parameters asked for) -> those of the outputs that have gradients.

    Of a call that nothing but autograd sees, in reverse mode, which needs no more than this: with all that `Solve`
    takes and returns, torch is busy for longer than a small problem takes. call: what is known of it, the places of
    the parameters that get gradients, key and options. given: the parameters that the call gave.
    """

    @staticmethod
    @never_compiled
    def forward(ctx: Any, solved: Any, *inputs: Tensor) -> Tensors:
        """Keep the solution and the parameters that the call gave."""
        ctx.call, outputs, given = solved
        ctx.set_materialize_grads(False)
        x, u, _, status = outputs[:4]
        duals = outputs[8] if ctx.call[0].solver.constrained else None
        ctx.save_for_backward(x, u, status, duals, *given)
        return tuple([outputs[place] for place in DIFFERENTIABLE])

    @staticmethod
    @never_compiled
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Reverse mode."""
        refuse_tracer()
        x, u, status, duals, *given = ctx.saved_tensors
        known, asked, key, options = ctx.call
        parameters = known.with_given([dense(value) for value in given])
        if is_plain(cotangents) and not torch.is_grad_enabled():
            found = known.solver.gradient(x, u, status, parameters, cotangents, duals, asked)
        else:
            lead = status.shape
            flat = (None if t is None else _flat(t, lead) for t in (x, u, status, *cotangents, duals))
            g_x0, *rest = library.differentiate(key, options, *flat, list(known.solver.flat(parameters)))
            gradients = (rest[place].reshape(parameters[place].shape) for place in asked)
            found = (g_x0.reshape(*lead, x.shape[-1]), *gradients)
        return (None, *found)


def _flat(tensor: Tensor, lead: torch.Size) -> Tensor:
    """A tensor with one leading dimension in the place of these."""
    if len(lead) == 1:
        return tensor
    return tensor.reshape(lead.numel(), *tensor.shape[len(lead) :])


def refuse_tracer() -> None:
    """Raise TracingError in a backward pass that torch.jit.trace records."""
    if torch._C._get_tracing_state() is not None:
        raise TracingError(
            "torch.jit.trace cannot record the gradient of a controller; use torch.compile, torch.export or make_fx"
        )


def is_plain(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether nothing traces and every tensor has its numbers in memory, as the kernels need them."""
    if is_traced():
        return False
    for t in tensors:
        if t is not None and (type(t) not in PLAIN or torch._C._functorch.is_legacy_batchedtensor(t)):
            return False
    return True


class Last(torch.autograd.Function):
    """What is a derivative already, and has none of its own."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        """Refuse: raises SecondDerivativeError."""
        raise SecondDerivativeError

    @staticmethod
    def jvp(ctx: Any, *changes: Tensor | None) -> Any:
        """Refuse: raises SecondDerivativeError."""
        raise SecondDerivativeError


class _LastOperator(Last):
    """(keyset, operator, lengths, *leaves of its arguments) -> outputs of an operator that has no derivative.

    lengths: of the arguments that are lists, None for the others.
    """

    @staticmethod
    def forward(keyset: Any, operator: Any, lengths: list[int | None], *leaves: Any) -> Tensors:
        """Run the operator."""
        rest = iter(leaves)
        arguments = [
            next(rest) if length is None else list(itertools.islice(rest, length)) for length in lengths
        ]
        return tuple(below_autograd(operator, keyset, *arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        """Keep nothing: there is no second derivative."""


# ---- what the dispatcher calls -------------------------------------------------------------------------------------


def is_watched(*arguments: Any) -> bool:
    """Whether autograd, at the present level of functorch, may record the call or carry tangents through it."""
    # not is_forward_mode: torch.compile enters that behind the back of the module that counts its levels
    return torch._C._is_fwd_grad_enabled() or (
        torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)
    )


def _solve_rule(
    keyset: Any,
    key: str,
    options: str,
    horizon: int,
    x0: Tensor,
    u_init: Tensor | None,
    x_init: Tensor | None,
    costates: Tensor | None,
    duals: Tensor | None,
    parameters: list[Tensor],
) -> Tensors:
    start = (u_init, x_init, costates, duals)
    if is_watched(x0, *parameters):
        return apply(Solve, keyset, None, key, options, horizon, x0, *start, *parameters)
    return below_autograd(library.solve, keyset, key, options, horizon, x0, *start, parameters)


def _attach_rule(
    keyset: Any, key: str, options: str, outputs: list[Tensor], x0: Tensor, parameters: list[Tensor]
) -> Tensors:
    if is_watched(x0, *parameters):
        horizon = outputs[1].shape[1]
        return apply(Solve, keyset, outputs, key, options, horizon, x0, *Start(), *parameters)
    return below_autograd(library.attach, keyset, key, options, outputs, x0, parameters)


def last_rule(operator: Any, as_list: bool) -> Any:
    """The rule of an operator that has no derivative of its own; as_list: it returns a list."""

    def rule(keyset: Any, *arguments: Any) -> Any:
        leaves: list[Any] = []  # by hand: pytree would take longer than a small problem
        lengths: list[int | None] = []
        for argument in arguments:
            is_list = type(argument) is list
            leaves += argument if is_list else [argument]
            lengths.append(len(argument) if is_list else None)
        if not is_watched(*leaves):
            return below_autograd(operator, keyset, *arguments)
        found = apply(_LastOperator, keyset, operator, lengths, *leaves)
        return list(found) if as_list else found

    return rule


def old_vmap_rule(vmap: Any) -> Any:
    """The rule of an operator under `torch.autograd`'s own vectorisation, by its rule under torch.func's.

    ``is_grads_batched=True``, ``vectorize=True`` and gradcheck map with the vmap that preceded torch.func.
    """

    def rule(*arguments: Any) -> Any:
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        leaves, structure = _pytree.tree_flatten(arguments)
        is_mapped = [
            isinstance(leaf, Tensor) and torch._C._functorch.is_legacy_batchedtensor(leaf) for leaf in leaves
        ]
        values = [
            torch._remove_batch_dim(leaf, level, 1, 0) if mapped else leaf
            for leaf, mapped in zip(leaves, is_mapped, strict=True)
        ]
        dims = _pytree.tree_unflatten([0 if mapped else None for mapped in is_mapped], structure)
        size = next(value.shape[0] for value, mapped in zip(values, is_mapped, strict=True) if mapped)
        outputs, out_dims = vmap(
            SimpleNamespace(batch_size=size), dims, *_pytree.tree_unflatten(values, structure)
        )
        return type(outputs)(
            torch._add_batch_dim(out, dim, level) for out, dim in zip(outputs, out_dims, strict=True)
        )

    return rule


def one_by_one(compute: Any, *tensors: Tensor | None) -> tuple[Any, ...]:
    """What ``compute`` gives for each of the cotangents that `torch.autograd` has vectorised, vectorised in turn."""
    given = [place for place, tensor in enumerate(tensors) if tensor is not None]
    has_value: list[bool] = []

    def each(info: Any, dims: tuple[int | None, ...], *values: Tensor) -> tuple[Tensors, tuple[int, ...]]:
        rows = []
        for index in range(info.batch_size):
            whole: list[Tensor | None] = [None] * len(tensors)
            for place, dim, value in zip(given, dims, values, strict=True):
                whole[place] = value if dim is None else value.select(dim, index)
            rows.append(compute(*whole))
        has_value.extend(value is not None for value in rows[0])
        outputs = [torch.stack(column) for column in zip(*rows, strict=True) if column[0] is not None]
        return tuple(outputs), (0,) * len(outputs)

    mapped = iter(old_vmap_rule(each)(*(tensors[place] for place in given)))
    return tuple(next(mapped) if has else None for has in has_value)


library.differentiable(library.solve, _solve_rule)
library.differentiable(library.attach, _attach_rule)
for _operator in (library.differentiate, library.tangent):
    library.differentiable(_operator, last_rule(_operator, as_list=_operator is library.differentiate))
library.mapped_by_autograd(library.differentiate, old_vmap_rule(library._vmap_differentiate))
library.mapped_by_autograd(library.tangent, old_vmap_rule(library._vmap_tangent))
