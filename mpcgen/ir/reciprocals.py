"""Reciprocals of products, before anything is derived: what only depends on parameters is divided by on its own.

1/((m + M) s(x)) becomes (1/(m + M)) (1/s(x)): the first factor is the same at all stages, the second is one division
for all quotients by s(x), and derivatives carry shorter products.
"""

from collections.abc import Collection, Sequence
from functools import reduce
from operator import mul

from mpcgen.ir import Expr, rebuild, topological


def split_reciprocals(outputs: Sequence[Expr], fixed: Collection[Expr]) -> list[Expr]:
    """Return ``outputs`` with every 1/(p d), p of the ``fixed`` symbols and constants only, as (1/p) (1/d)."""
    rebuilt: dict[Expr, Expr] = {}
    known = set(fixed)
    for node in topological(outputs):
        new = rebuild(node, rebuilt)
        rebuilt[node] = _split(new, known) if new.op == "div" else new
        if new.args and all(arg.is_const or arg in known for arg in new.args):
            known.add(new)
    return [rebuilt[output] for output in outputs]


def _split(reciprocal: Expr, known: Collection[Expr]) -> Expr:
    factors, stack = [], [reciprocal.args[1]]
    while stack:
        factor = stack.pop()
        if factor.op == "mul":
            stack.extend(reversed(factor.args))
        else:
            factors.append(factor)
    apart = [factor for factor in factors if factor.is_const or factor in known]
    rest = [factor for factor in factors if not (factor.is_const or factor in known)]
    if not apart or not rest:
        return reciprocal
    return (1.0 / reduce(mul, apart)) * (1.0 / reduce(mul, rest))
