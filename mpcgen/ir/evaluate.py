"""Evaluation of expressions on numbers: a backend is a table from operations to functions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpcgen.errors import ParameterError
from mpcgen.ir.expr import Expr
from mpcgen.ir.ops import OPERATIONS
from mpcgen.ir.walk import topological, unrolled


@dataclass(frozen=True)
class Backend:
    """How to compute: one function per operation, and how constants look.

    ``constants`` gets the symbols' values and returns the function that turns a float into a
    constant.
    """

    name: str
    table: Mapping[str, Callable[..., Any]]
    constants: Callable[[Sequence[Any]], Callable[[float], Any]]


PYTHON = Backend(
    "python",
    {name: operation.evaluate for name, operation in OPERATIONS.items()},
    lambda values: float,
)
"""Python floats with IEEE results."""


def torch_backend() -> Backend:
    """Elementwise torch: values are tensors (broadcast against each other), differentiable by autograd.

    Constants take the dtype and device of the first tensor among the values. As always with
    `torch.where`, a NaN slope of the branch that is not selected reaches autograd's result.
    """
    import torch

    table: dict[str, Callable[..., Any]] = {
        "add": torch.add,
        "sub": torch.sub,
        "mul": torch.mul,
        "div": torch.div,
        "neg": torch.neg,
        "length": lambda a: torch.where(a == 0, 0, torch.sqrt(torch.where(a == 0, 1, a))),
        "pinv": lambda a: torch.where(a == 0, 0, 1 / torch.where(a == 0, 1, a)),
        "softplus": lambda a: torch.logaddexp(a, torch.zeros_like(a)),
        "min": torch.minimum,
        "max": torch.maximum,
        "select": torch.where,
        "lt": torch.lt,
        "le": torch.le,
        "eq": torch.eq,
        "and": torch.logical_and,
        "or": torch.logical_or,
        "not": torch.logical_not,
    }
    table.update({name: getattr(torch, name) for name in OPERATIONS if name not in table})

    def constants(values: Sequence[Any]) -> Callable[[float], Any]:
        like = next((value for value in values if isinstance(value, torch.Tensor)), torch.empty(()))
        return lambda number: torch.tensor(number, dtype=like.dtype, device=like.device)

    return Backend("torch", table, constants)


def evaluate(outputs: Sequence[Expr], values: Mapping[Expr, Any], backend: Backend = PYTHON) -> list[Any]:
    """Return the value of each output, given those of the symbols (or of any inner node).

    Each node is computed once. Raises `ParameterError` where a symbol has no value.
    """
    constant = backend.constants(list(values.values()))
    results: dict[Expr, Any] = {}
    outputs = unrolled(outputs)
    for node in topological(outputs, stop=values.keys()):
        if node in values:
            results[node] = values[node]
        elif node.op == "const":
            results[node] = constant(node.value)
        elif node.op == "symbol":
            raise ParameterError(f"symbol {node.value!r} has no value; give one for every symbol read")
        else:
            results[node] = backend.table[node.op](*(results[arg] for arg in node.args))
    return [results[output] for output in outputs]
