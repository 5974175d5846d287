"""Torch's reductions and products of matrices on expressions.

Keys are the names of core ATen, without the overload. A reduction is given `Nodes`, the entries along the dimensions
that it takes together, and the operation's other arguments by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from mpcgen.errors import UnsupportedExpressionError
from mpcgen.problem.nodes import Nodes
from mpcgen.problem.torch_elementwise import ELEMENTWISE

Entries = Sequence[Any]


def _mean(b: Nodes, entries: Entries, **_: Any) -> Any:
    return b.mul(1.0 / len(entries), b.add(*entries))


def _variance(b: Nodes, entries: Entries, correction: Any = 1, **_: Any) -> Any:
    mean = _mean(b, entries)
    squares = (b.power(b.sub(entry, mean), 2) for entry in entries)
    return b.mul(1.0 / (len(entries) - (1 if correction is None else correction)), b.add(*squares))


def _folded(name: str) -> Callable[..., Any]:
    return lambda b, entries, **_: reduce(lambda x, y: ELEMENTWISE[name](b, x, y), entries)


def _first_greatest(b: Nodes, entries: Entries, **_: Any) -> Any:
    return reduce(lambda x, y: b.joined(b.at_most(y, x), x, y), entries)


def _first_least(b: Nodes, entries: Entries, **_: Any) -> Any:
    return reduce(lambda x, y: b.joined(b.at_most(x, y), x, y), entries)


def _greatest(b: Nodes, entries: Entries) -> Any:
    """The maximum where its slopes cancel."""
    return reduce(lambda x, y: b.call("max", x, y), entries)


def _norm(b: Nodes, entries: Entries, ord: Any = 2, **_: Any) -> Any:
    order = 2.0 if ord is None else float(ord)
    if order == 2:
        return b.sqrt(b.add(*(b.power(entry, 2) for entry in entries)))
    sizes = [b.call("abs", entry) for entry in entries]
    if order == 1:
        return b.add(*sizes)
    if math.isinf(order):
        return _folded("maximum" if order > 0 else "minimum")(b, sizes)
    if order <= 0:
        raise UnsupportedExpressionError(f"a norm of the order {order} jumps")
    return b.power(b.add(*(b.power(size, order) for size in sizes)), 1 / order)


def _log_sum_exp(b: Nodes, entries: Entries, **_: Any) -> Any:
    greatest = _greatest(b, entries)
    return b.add(
        greatest, b.call("log", b.add(*(b.call("exp", b.sub(entry, greatest)) for entry in entries)))
    )


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": lambda b, entries, **_: b.add(*entries),
    "mean": _mean,
    "var": _variance,
    "std": lambda b, entries, **given: b.sqrt(_variance(b, entries, **given)),
    "prod": _folded("mul"),
    "amax": _folded("maximum"),
    "amin": _folded("minimum"),
    "max": _first_greatest,
    "min": _first_least,
    "any": lambda b, entries, **_: reduce(
        lambda x, y: b.apply("or", b.condition(x), b.condition(y)), entries
    ),
    "all": lambda b, entries, **_: reduce(
        lambda x, y: b.apply("and", b.condition(x), b.condition(y)), entries
    ),
    "logsumexp": _log_sum_exp,
    "linalg_vector_norm": _norm,
}
"""One entry from those along some dimensions."""


def _softmax(b: Nodes, entries: Entries) -> list[Any]:
    greatest = _greatest(b, entries)
    powers = [b.call("exp", b.sub(entry, greatest)) for entry in entries]
    total = b.add(*powers)
    return [b.div(power, total) for power in powers]


def _log_softmax(b: Nodes, entries: Entries) -> list[Any]:
    total = _log_sum_exp(b, entries)
    return [b.sub(entry, total) for entry in entries]


def _running(name: str) -> Callable[..., list[Any]]:
    def scan(b: Nodes, entries: Entries) -> list[Any]:
        found = [b.number(entries[0])]
        for entry in entries[1:]:
            found.append(ELEMENTWISE[name](b, found[-1], entry))
        return found

    return scan


SCANS: dict[str, Callable[..., list[Any]]] = {
    "_softmax": _softmax,
    "_log_softmax": _log_softmax,
    "cumsum": _running("add"),
    "cumprod": _running("mul"),
}
"""As many entries as there are along a dimension."""

PRODUCTS: dict[str, tuple[int, int, int | None]] = {
    "mm": (0, 1, None),
    "bmm": (0, 1, None),
    "mv": (0, 1, None),
    "dot": (0, 1, None),
    "vdot": (0, 1, None),
    "addmm": (1, 2, 0),
    "addmv": (1, 2, 0),
    "baddbmm": (1, 2, 0),
}
"""Positions of the two factors, and of what is added to their product."""
