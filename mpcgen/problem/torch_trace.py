"""What a torch module computes, as expressions: its operations are followed as they are dispatched.

The module runs once, on numbers, below autograd and the transforms of torch.func; so derivatives that it takes inside
have become operations like any others. Beside every tensor that depends on an input there is one of the same layout
with the numbers of the expressions of its entries: views, writes in place and all that moves entries act on these as
they do on the entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import sympy as sp
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from mpcgen.errors import UnsupportedExpressionError
from mpcgen.problem.nodes import Nodes
from mpcgen.problem.torch_elementwise import ELEMENTWISE, RANDOM, REFUSED
from mpcgen.problem.torch_layers import COMBINED, Layers, layers_of
from mpcgen.problem.torch_linalg import ROUTINES
from mpcgen.problem.torch_moves import (
    CASTS,
    IN_SHAPE_ALONE,
    MOVES,
    WITHOUT_VALUES,
    bound_arguments,
    digits,
    endless,
    is_definite,
    is_view,
    seen,
    storage,
    tensors_in,
    without_kind,
)
from mpcgen.problem.torch_reductions import PRODUCTS, REDUCTIONS, SCANS
from mpcgen.problem.torch_shadows import Shadows

_CONSTANT = (
    "under torch.no_grad, by torch.autograd.grad without create_graph=True, or in a torch.autograd.Function: torch "
    "would count the result as constant, or differentiate it otherwise; compute it with gradients"
)


class Trace(Shadows, TorchDispatchMode):
    """Follows operations.

    what: the module, for messages. dtype: that it computes in. frozen: whether weights that nothing stands for are
    constants; they are refused otherwise.
    """

    def __init__(self, nodes: Nodes, what: str, dtype: torch.dtype, frozen: bool) -> None:
        super().__init__(nodes, what)
        self.dtype, self.frozen = dtype, frozen
        self.layers = Layers(self)
        self.made: set[int] = set()

    # Operations.

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and note what its results are."""
        given = kwargs or {}
        try:
            return self._followed(func, args, given)
        except UnsupportedExpressionError as error:
            if str(error).startswith(self.what):
                raise
            raise self.refusal(str(error), func) from None

    def _followed(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        name = func._schema.name.split("::")[1]
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise self.refusal(RANDOM, func)
        if func._schema.is_mutable and name not in IN_SHAPE_ALONE:
            return self._written(func, name, args, kwargs)
        tensors = tensors_in((args, kwargs))
        shapes = any(tensor.is_meta for tensor in tensors)  # what torch asks for a shape alone
        if shapes or name in WITHOUT_VALUES or not any(map(self.is_traced, tensors)):
            return self._plain(func, name, args, kwargs)
        if not torch.is_grad_enabled():
            raise self.refusal(f"computes {_CONSTANT}", func)
        if name in REFUSED:
            raise self.refusal(REFUSED[name], func)
        self._check_weights(func, tensors)
        if name not in CASTS and (name in IN_SHAPE_ALONE or is_view(func)):
            return self._kept(func(*args, **kwargs))
        numbers = self._results(func, name, args, kwargs)
        if numbers is NotImplemented:
            result = self._decomposed(func, args, kwargs)
            if name == "native_layer_norm":
                self._normed(bound_arguments(func, args, kwargs), result[0])
            return result
        return self._noted(func, func(*args, **kwargs), numbers)

    def _plain(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Of constants, torch knows the value."""
        if name == "_linalg_check_errors":
            return None
        self._check_weights(func, tensors_in((args, kwargs)))
        return self._kept(func(*args, **kwargs))

    def _check_weights(self, func: Any, tensors: Sequence[Tensor]) -> None:
        """Refuse to take for a constant what is learned."""
        for tensor in tensors:
            learned = tensor.requires_grad and tensor.is_leaf and not self.is_traced(tensor)
            if learned and not self.frozen and storage(tensor) not in self.made:
                raise self.refusal(
                    f"reads a tensor of shape {tuple(tensor.shape)} that requires gradients and is no parameter of the "
                    "module: make it one, name it in weights={...}, or bake all in with weights='constants'",
                    func,
                )

    def _kept(self, result: Any) -> Any:
        """Keep a result alive, so that no other takes its memory, and may be written to."""
        for tensor in tensors_in(result):
            self.alive.append(tensor)
            if storage(tensor) not in self.given:
                self.made.add(storage(tensor))
        return result

    def _noted(self, func: Any, result: Any, numbers: Sequence[Tensor | None]) -> Any:
        for tensor, own in zip(tensors_in(result), chain(numbers, endless(None)), strict=False):
            if tensor.is_complex() or (
                tensor.is_floating_point() and digits(tensor.dtype) < digits(self.dtype)
            ):
                raise self.refusal(f"computes in {tensor.dtype}, and the module in {self.dtype}", func)
            if not (tensor.is_meta or self.is_traced(tensor)):
                self.put(tensor, own)
        return self._kept(result)

    def _decomposed(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """An operation that others make up."""
        from torch._decomp import decomposition_table

        with self:
            if func in decomposition_table:
                return decomposition_table[func](*args, **kwargs)
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            raise self.refusal("which has no counterpart", func)
        return result

    def _results(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """The numbers of the results' expressions; NotImplemented for an operation that is not known."""
        if name in ELEMENTWISE:
            return [self._mapped(name, args, without_kind(kwargs))]
        if name in CASTS:
            return [self._cast(func, args, kwargs)]
        if name in MOVES:
            return tensors_in(func(*self._in_numbers(func, name, args), **kwargs))
        given = bound_arguments(func, args, without_kind(kwargs))
        if name in PRODUCTS:
            return [self._layer(name, args, kwargs, self._product(PRODUCTS[name], args, kwargs))]
        if name in REDUCTIONS:
            return [self._reduced(REDUCTIONS[name], given)]
        if name in SCANS:
            return [self._scanned(SCANS[name], given)]
        if name in ROUTINES:
            result = self._routine(ROUTINES[name], given)
            return [result[..., 0, 0] if name == "_linalg_det" else result]
        if name == "log_sigmoid_forward":
            return [
                self._elementwise(
                    lambda b, x: b.neg(ELEMENTWISE["softplus"](b, b.neg(x), 1, 1e300)), args, {}
                )
            ]
        return NotImplemented

    def _written(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """An operation in place: on what the module has made itself."""
        target = args[0] if args else kwargs.get("self")
        if "out" in kwargs or not isinstance(target, Tensor):
            raise self.refusal("writes to tensors that it is given (out=)", func)
        if storage(target) not in self.made:
            raise self.refusal(
                "changes a tensor that it did not make: an input, a weight, or what the module keeps between calls; "
                "make a new one, and what is to be remembered a state of the problem",
                func,
            )
        if any(map(self.is_traced, tensors_in((args, kwargs)))):
            self._write(func, name.removesuffix("_"), args, kwargs)
        return func(*args, **kwargs)

    def _write(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> None:
        target = args[0]
        if not self.is_traced(target):
            whole = torch.as_strided(
                target.detach(), (target.untyped_storage().nbytes() // target.element_size(),), (1,), 0
            )
            self.put(whole, self.constants(whole))
        place = seen(self.shadows[storage(target)], target)
        if name == "copy":
            self._check_cast(func, args[1], target.dtype)
        if name in MOVES:
            func(place, *self._in_numbers(func, name, args)[1:], **kwargs)
        elif name == "zero":
            place.zero_()
        elif name in REFUSED:
            raise self.refusal(REFUSED[name], func)
        elif name in ELEMENTWISE:
            place.copy_(self._mapped(name, args, without_kind(kwargs)).expand(place.shape))
        else:
            raise self.refusal("which has no counterpart in place", func)

    # Kinds of operations.

    def _mapped(self, name: str, args: Any, kwargs: dict[str, Any]) -> Tensor:
        """The results of an elementwise operation, of which the layers of networks are told."""
        numbers = self._elementwise(ELEMENTWISE[name], args, kwargs)
        if name == "add" and len(args) == 2 and not kwargs:
            numbers = self._biased(args, numbers)
        if self.is_traced(args[0]):
            self.layers.activated(name, (*args[1:], *kwargs.values()), self.numbers_of(args[0]), numbers)
        alpha = kwargs.get("alpha", 1)
        if (
            name in COMBINED
            and len(args) < 3
            and not {*kwargs} - {"alpha"}
            and isinstance(alpha, int | float)
        ):
            numbers = self.layers.combined(
                name, [self.numbers_of(arg) for arg in args], float(alpha), numbers
            )
        return numbers

    def _elementwise(self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Tensor:
        leaves = [*args, *kwargs.values()]
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        grids = torch.broadcast_tensors(*(self.numbers_of(leaves[i]) for i in places))
        known: dict[tuple[int, ...], sp.Basic] = {}
        found = []
        for key in zip(*(grid.reshape(-1).tolist() for grid in grids), strict=True):
            if key not in known:
                for place, number in zip(places, key, strict=True):
                    leaves[place] = self.expressions[number]
                positional, named = leaves[: len(args)], leaves[len(args) :]
                known[key] = function(self.b, *positional, **dict(zip(kwargs, named, strict=True)))
            found.append(known[key])
        return self.numbered(found, grids[0].shape)

    def _check_cast(self, func: Any, source: Any, dtype: torch.dtype) -> None:
        if not self.is_traced(source) or source.dtype == dtype:
            return
        if source.is_floating_point() and not dtype.is_floating_point:
            raise self.refusal(f"rounds to {dtype}, which jumps", func)

    def _cast(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        given = bound_arguments(func, args, kwargs)
        source = args[0]
        self._check_cast(func, source, given.get("dtype") or source.dtype)
        return self.numbers_of(source)

    def _in_numbers(self, func: Any, name: str, args: Any) -> list[Any]:
        """Arguments with numbers of expressions in place of what is moved; what says where must be constant."""
        changed = list(args)
        for place, arg in enumerate(args):
            if place in MOVES[name]:
                numbers = tree_map(lambda leaf: self.numbers_of(leaf), arg)
                changed[place] = numbers if isinstance(arg, Tensor | list | tuple) else int(numbers)
            elif any(map(self.is_traced, tensors_in(arg))):
                raise self.refusal("takes entries at places that depend on the input", func)
        if name in ("index_put", "_unsafe_index_put") and len(args) > 3 and args[3]:
            raise self.refusal("adds to entries at places; write it with sums", func)
        return changed

    def _product(self, places: tuple[int, int, int | None], args: Any, kwargs: dict[str, Any]) -> Tensor:
        left, right = self.numbers_of(args[places[0]]), self.numbers_of(args[places[1]])
        shape = torch.matmul(left.double(), right.double()).shape
        left = left.unsqueeze(0) if left.dim() == 1 else left
        right = right.unsqueeze(-1) if right.dim() == 1 else right
        columns = right.transpose(-1, -2)
        rows_of, columns_of = (grid.reshape(-1, *grid.shape[-2:]).tolist() for grid in (left, columns))
        e = self.expressions
        found: list[sp.Basic] = []
        for rows, others in zip(rows_of, columns_of, strict=True):
            for row in rows:
                entries = [e[i] for i in row]
                found.extend(self.b.dot(entries, [e[i] for i in column]) for column in others)
        product = self.numbered(found, shape)
        if places[2] is None:
            return product
        alpha, beta = kwargs.get("alpha", 1), kwargs.get("beta", 1)
        added, grid = torch.broadcast_tensors(self.numbers_of(args[places[2]]), product)
        pairs = zip(added.reshape(-1).tolist(), grid.reshape(-1).tolist(), strict=True)
        total = [self.b.add(self.b.mul(beta, e[i]), self.b.mul(alpha, e[j])) for i, j in pairs]
        return self.numbered(total, grid.shape)

    def _layer(self, name: str, args: Any, kwargs: dict[str, Any], numbers: Tensor) -> Tensor:
        """The same numbers, or those of outputs that know the chain of layers that they come from."""
        if kwargs:
            return numbers
        if name in ("bmm", "baddbmm"):
            each = zip(*(arg.unbind() for arg in args), numbers.unbind(), strict=True)
            return torch.stack([self._layer(f"{name.removeprefix('b')}", one, {}, of) for *one, of in each])
        for vector, matrix, bias in layers_of(name, args, numbers):
            added = None if bias is None else self.numbers_of(bias).expand(numbers.shape)
            found = self.layers.outputs(self.numbers_of(vector), self.numbers_of(matrix), added, numbers)
            if found is not numbers:
                return found
        return numbers

    def _normed(self, given: dict[str, Any], result: Tensor) -> None:
        """Tell the layers of networks of rows that are normalised."""
        if len(given["normalized_shape"]) != 1 or not self.is_traced(given["input"]):
            return
        weights, bias = (
            None if given.get(name) is None else self.numbers_of(given[name]) for name in ("weight", "bias")
        )
        source, numbers = self.numbers_of(given["input"]), self.numbers_of(result)
        self.layers.normed(source, weights, bias, float(given["eps"]), numbers)

    def _biased(self, args: Any, numbers: Tensor) -> Tensor:
        """The same numbers, or those of outputs of layers of which one term is the bias."""
        terms = [self.numbers_of(arg) for arg in args]
        if not all(isinstance(arg, Tensor) and arg.shape == numbers.shape for arg in args):
            return numbers
        return self.layers.biased(terms, numbers)

    def _reduced(self, function: Callable[..., Any], given: dict[str, Any]) -> Tensor:
        first = next(iter(given))  # "self", or what prims call it
        numbers = self.numbers_of(given.pop(first))
        dims, keep = given.pop("dim", given.pop("dims", None)), given.pop("keepdim", False)
        wanted = [dims] if isinstance(dims, int) else list(dims or range(numbers.dim()))
        together = sorted(d % max(numbers.dim(), 1) for d in wanted) if numbers.dim() else []
        apart = [d for d in range(numbers.dim()) if d not in together]
        grid = numbers.permute(*apart, *together).reshape([*(numbers.shape[d] for d in apart), -1])
        groups = grid.reshape(-1, grid.shape[-1]).tolist()
        found = [function(self.b, [self.expressions[i] for i in group], **given) for group in groups]
        kept = [1 if d in together else numbers.shape[d] for d in range(numbers.dim())]
        reduced = self.numbered(found, kept if keep else [numbers.shape[d] for d in apart])
        if function is REDUCTIONS["mean"]:
            self.layers.mean_squares.averaged(groups, reduced.reshape(-1).tolist())
        return reduced

    def _scanned(self, function: Callable[..., Any], given: dict[str, Any]) -> Tensor:
        numbers = self.numbers_of(given["self"])
        grid = numbers.movedim(given["dim"], -1) if numbers.dim() else numbers.reshape(1)
        groups = grid.reshape(-1, grid.shape[-1]).tolist()
        found = chain.from_iterable(
            function(self.b, [self.expressions[i] for i in group]) for group in groups
        )
        scanned = self.numbered(list(found), grid.shape)
        return scanned.movedim(-1, given["dim"]) if numbers.dim() else scanned.reshape(())

    def _routine(self, routine: Callable[..., Any], given: dict[str, Any]) -> Tensor:
        """A routine of linear algebra, for each matrix of a batch."""
        tensors = {key: value for key, value in given.items() if isinstance(value, Tensor)}
        options = {key: value for key, value in given.items() if key not in tensors}
        first = next(iter(tensors.values()))
        vector = any(value.dim() == first.dim() - 1 for value in tensors.values())
        grids = {k: self.numbers_of(v) for k, v in tensors.items()}
        grids = {k: g.unsqueeze(-1) if vector and g.dim() == first.dim() - 1 else g for k, g in grids.items()}
        batch = torch.broadcast_shapes(*(g.shape[:-2] for g in grids.values()))
        lists = {
            k: g.expand(*batch, *g.shape[-2:]).reshape(-1, *g.shape[-2:]).tolist() for k, g in grids.items()
        }
        found: list[Any] = []
        definite = is_definite(first, grids[next(iter(grids))])
        for index in range(len(next(iter(lists.values())))):
            matrices = {k: [[self.expressions[i] for i in row] for row in v[index]] for k, v in lists.items()}
            found.append(routine(self.b, matrices | options, definite))
        flat = [entry for matrix in found for row in matrix for entry in row]
        rows, columns = len(found[0]), len(found[0][0])
        result = self.numbered(flat, (*batch, rows, columns))
        return result.squeeze(-1) if vector else result
