"""What stands beside the tensors of a torch module that runs: the numbers of their entries' expressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy as sp
import torch
from torch import Tensor

from mpcgen.errors import MpcgenError, UnsupportedExpressionError
from mpcgen.problem.nodes import Nodes
from mpcgen.problem.torch_moves import seen, storage
from mpcgen.problem.torch_watch import users_line

_NOTHING = -1
"""In place of an expression's number: there is none."""


class Shadows:
    """Expressions with numbers, and beside every tensor that depends on an input one of the same layout with these.

    what: the module, for messages.
    """

    def __init__(self, nodes: Nodes, what: str) -> None:
        super().__init__()
        self.b, self.what = nodes, what
        self.expressions: list[sp.Basic] = [sp.S.Zero]
        self.numbers: dict[sp.Basic, int] = {sp.S.Zero: 0}
        self.shadows: dict[int, Tensor] = {}
        self.given: set[int] = set()
        self.alive: list[Tensor] = []

    def give(self, tensor: Tensor, entries: Sequence[sp.Basic]) -> None:
        """Let expressions stand for the entries of an input or weight, row by row."""
        self.given.add(storage(tensor))
        self.put(tensor, torch.tensor([self.number(e) for e in entries]).reshape(tensor.shape))

    def number(self, expression: sp.Basic) -> int:
        """The number of an expression."""
        if expression not in self.numbers:
            self.numbers[expression] = len(self.expressions)
            self.expressions.append(expression)
        return self.numbers[expression]

    def put(self, tensor: Tensor, numbers: Tensor | None) -> None:
        """Note what the entries of a tensor are; None: nothing that may be read."""
        self.alive.append(tensor)
        size = tensor.untyped_storage().nbytes() // max(tensor.element_size(), 1)
        shadow = self.shadows.setdefault(storage(tensor), torch.full((size,), _NOTHING))
        if numbers is not None:
            seen(shadow, tensor).copy_(numbers)

    def is_traced(self, value: Any) -> bool:
        """Whether this is a tensor that depends on an input."""
        return isinstance(value, Tensor) and not value.is_meta and storage(value) in self.shadows

    def numbers_of(self, value: Any) -> Tensor:
        """The numbers of the expressions of a tensor's entries, or of a number's."""
        if not isinstance(value, Tensor):
            return torch.tensor(self.number(self.b.value(value)))
        if not self.is_traced(value):
            return self.constants(value)
        numbers = seen(self.shadows[storage(value)], value)
        if bool((numbers < 0).any()):
            raise self.refusal(
                "reads a result that has no counterpart, such as the position of a maximum or a factor"
            )
        return numbers

    def constants(self, tensor: Tensor) -> Tensor:
        """The numbers of the entries of a tensor that depends on no input."""
        values = [0.0] * tensor.numel() if tensor._is_zerotensor() else tensor.detach().reshape(-1).tolist()
        try:
            numbers = [self.number(self.b.value(value)) for value in values]
        except MpcgenError as error:
            raise type(error)(f"{error}, at {users_line()}") from None
        return torch.tensor(numbers, dtype=torch.int64).reshape(tensor.shape)

    def entries(self, value: Any) -> list[sp.Basic]:
        """The expressions of a tensor's entries, row by row."""
        return [self.expressions[number] for number in self.numbers_of(value).reshape(-1).tolist()]

    def numbered(self, entries: Sequence[sp.Basic], shape: Sequence[int]) -> Tensor:
        """The numbers of expressions, in a shape."""
        return torch.tensor([self.number(entry) for entry in entries], dtype=torch.int64).reshape(
            tuple(shape)
        )

    def refusal(self, problem: str, operation: Any = None) -> UnsupportedExpressionError:
        """What to raise for an operation."""
        by = f" {operation}," if operation is not None else ""
        return UnsupportedExpressionError(f"{self.what}:{by} at {users_line()}, {problem}")
