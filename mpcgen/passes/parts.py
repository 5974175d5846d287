"""Long schedules in parts: consecutive statements that become a function each.

A temporary that a later part reads goes through an array, `shared`. In a long function the compiler would keep most of
them in memory as well: there are far more than registers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mpcgen.ir import Expr
from mpcgen.ir.schedule import Assign, Fill, Load, Schedule, Store

LONGEST_FUNCTION = 2500
"""Operations beyond which a function is cut: gcc takes time that grows faster than a function's length.

The chain of masses (n = 21; its longest function has 23,900 operations) took gcc 12 -O3 30 s per variant in one piece.
"""


@dataclass(frozen=True)
class Keep:
    """A temporary goes to entry ``index`` of `shared`."""

    name: str
    index: int


@dataclass(frozen=True)
class Take:
    """A temporary comes from entry ``index`` of `shared`."""

    name: str
    index: int


Working = Assign | Store | Fill
Statement = Load | Working | Keep | Take


@dataclass(frozen=True)
class Part:
    """Consecutive statements of a schedule."""

    statements: tuple[Statement, ...]
    names: Mapping[Expr, str]


def cut(plan: Schedule) -> tuple[tuple[Part, ...], int]:
    """The parts of a schedule and the length of `shared`; a schedule that is short, or shares a mask, is one part."""
    working = [statement for statement in plan.statements if not isinstance(statement, Load)]
    chunks = list(_chunks(working, plan.names))
    home = {s.name: number for number, chunk in enumerate(chunks) for s in chunk if isinstance(s, Assign)}
    crossing: dict[str, int] = {}
    for number, chunk in enumerate(chunks):
        for name in (name for statement in chunk for name in _read(statement, plan.names)[0]):
            if home.get(name, number) != number:
                crossing.setdefault(name, len(crossing))
    masks = {name for node, name in plan.names.items() if node.is_boolean}
    if len(chunks) == 1 or not masks.isdisjoint(crossing):
        return (Part(plan.statements, plan.names),), 0
    loads = {statement.name: statement for statement in plan.statements if isinstance(statement, Load)}
    parts = (Part(tuple(_complete(chunk, plan.names, loads, crossing)), plan.names) for chunk in chunks)
    return tuple(parts), len(crossing)


def _chunks(statements: Sequence[Working], names: Mapping[Expr, str]) -> Iterator[list[Working]]:
    sizes = [_read(statement, names)[1] for statement in statements]
    count = max(1, -(-sum(sizes) // LONGEST_FUNCTION))
    share = sum(sizes) / count
    chunk: list[Working] = []
    done, number = 0, 1
    for statement, size in zip(statements, sizes, strict=True):
        if chunk and number < count and done + size > number * share:
            yield chunk
            chunk, number = [], number + 1
        chunk.append(statement)
        done += size
    yield chunk


def _complete(
    chunk: Iterable[Working],
    names: Mapping[Expr, str],
    loads: Mapping[str, Load],
    crossing: Mapping[str, int],
) -> Iterator[Statement]:
    """The statements of a chunk, each name loaded or taken before its first use, and kept where others read it."""
    known: set[str] = set()
    for statement in chunk:
        for name in _read(statement, names)[0]:
            if name not in known:
                known.add(name)
                yield loads[name] if name in loads else Take(name, crossing[name])
        yield statement
        if isinstance(statement, Assign):
            known.add(statement.name)
            if statement.name in crossing:
                yield Keep(statement.name, crossing[statement.name])


def _read(statement: Working, names: Mapping[Expr, str]) -> tuple[list[str], int]:
    """The names in a statement's text, in a fixed order, and its number of operations."""
    node = statement.node
    if isinstance(statement, Store) and node in names:
        return [names[node]], 0
    found: dict[str, None] = {}
    stack, operations = [node], 0
    while stack:
        inner = stack.pop()
        if inner in names and not (inner is node and isinstance(statement, Assign)):
            found[names[inner]] = None
        elif inner.args:
            operations += 1
            stack.extend(reversed(inner.args))
    return list(found), operations
