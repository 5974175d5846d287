"""Fewer operations per stage: the passes between derivation and schedule, in order.

They see what the derivation cannot from inside one function: the trajectory that it reads, and what is the same at all
stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mpcgen.derivative.kernels import Kernels
from mpcgen.ir import Expr
from mpcgen.ir.function import Function
from mpcgen.passes.angles import without_angles
from mpcgen.passes.next_state import read_next_state
from mpcgen.passes.parameters import prepare_parameters
from mpcgen.passes.products import grouped
from mpcgen.passes.rewriting import rewritten, verify


@dataclass(frozen=True)
class Economy:
    """The rewritten functions, `prepare_parameters` first if there is any; ``prepared`` is how many numbers it writes.

    ``names`` are the hints of `mpcgen.passes.naming`, for the nodes as they are now.
    """

    functions: tuple[Function, ...]
    prepared: int
    names: Mapping[Expr, str]

    def __str__(self) -> str:
        return "\n\n".join(str(function) for function in self.functions)


def economise(kernels: Kernels, names: Mapping[Expr, str]) -> Economy:
    """Rewrite the functions of ``kernels`` so that they do less; each pass is verified."""
    fixed = frozenset(kernels.static)
    known = dict(names)
    functions = []
    for function in kernels.functions:
        reused = verify(read_next_state(function, kernels.model), "read_next_state")
        expressions = grouped(without_angles(reused.expressions()), fixed)
        functions.append(verify(rewritten(reused, expressions, known), "without_angles and grouped"))
    prepared, count = prepare_parameters(functions, kernels.static, known)
    return Economy(tuple(verify(f, "prepare_parameters") for f in prepared), count, known)
