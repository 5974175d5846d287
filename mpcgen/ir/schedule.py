"""The schedule of a function: which nodes get a name, what is nested, and in what order all is written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from mpcgen.ir import Expr
from mpcgen.ir.function import Function, Input, Output
from mpcgen.ir.walk import topological
from mpcgen.runtime.naming import ascii_name

MOST_NESTED = 7
"""Most operations written inside one expression: more is hard to read, and gains nothing."""

MOST_LOADS_AHEAD = 100
"""Most inputs that are read at the top, where a reader looks for them. Beyond that each is read just before its
first use: the compiler's time grows with the distance between the two."""

MOST_ZEROS = 400
"""Most zeros of an output that are written one by one; where there are more, all of it is set to zero first.

A matrix of derivatives around a network, whose memory is among the states, is zeros but for some diagonals, and without
that its text grows as the square of the states: a GRU cell with a memory of 64 had 42,000 such statements.
"""
LEAST_FILLED = 8
"""Fewest equal constants at even distances that are then written together, such as a diagonal."""


@dataclass(frozen=True)
class Load:
    """Entry ``index`` of an input, under a name of its own."""

    source: Input
    index: int
    name: str


@dataclass(frozen=True)
class Assign:
    """A temporary."""

    name: str
    node: Expr


@dataclass(frozen=True)
class Store:
    """Entry ``index`` of an output."""

    output: Output
    index: int
    node: Expr


@dataclass(frozen=True)
class Fill:
    """Entries ``places`` of an output, which are one constant."""

    output: Output
    places: range
    node: Expr


Statement = Load | Assign | Store | Fill


@dataclass(frozen=True)
class Schedule:
    """A function as straight-line code; ``names`` maps nodes to the names that stand for them."""

    function: Function
    statements: tuple[Statement, ...]
    names: Mapping[Expr, str]

    def __str__(self) -> str:
        lines = [f"{self.function.name}:"]
        for statement in self.statements:
            match statement:
                case Load():
                    lines.append(f"  {statement.name} <- {statement.source.name}[{statement.index}]")
                case Assign():
                    lines.append(f"  {statement.name} = {statement.node!r}")
                case Store():
                    lines.append(f"  {statement.output.name}[{statement.index}] <- {statement.node!r}")
                case Fill(output, places):
                    lines.append(f"  {output.name}[{places}] <- {statement.node!r}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Schedules:
    """The schedules of all functions of a problem, in the order of the text."""

    plans: tuple[Schedule, ...]

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.plans))


def _fills(output: Output) -> list[Fill]:
    """What sets an output with many zeros to zero, and then its other constants that are at even distances."""
    zeros = [node for node in output.expressions if node.is_zero]
    if output.accumulate or len(zeros) <= MOST_ZEROS:
        return []
    places: dict[Expr, list[int]] = {}
    for index, node in enumerate(output.expressions):
        if node.is_const and not node.is_zero:
            places.setdefault(node, []).append(index)
    fills = [Fill(output, range(len(output.expressions)), zeros[0])]
    for node, of_node in places.items():
        fills += (Fill(output, run, node) for run in _even_runs(of_node) if len(run) >= LEAST_FILLED)
    return fills


def _even_runs(places: Sequence[int]) -> Iterator[range]:
    """Rising numbers in runs at even distances, each as long as it can be from where the one before it ends."""
    begin = 0
    while begin < len(places):
        end = begin + 1
        step = places[end] - places[begin] if end < len(places) else 1
        while end < len(places) and places[end] - places[end - 1] == step:
            end += 1
        yield range(places[begin], places[end - 1] + 1, step)
        begin = end


_C_RESERVES = re.compile(r"_[_A-Z]")
"""How the names begin that C keeps for compilers and libraries."""


class _Names:
    """Gives out identifiers that are not taken yet."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._counter = 0

    def claim(self, wish: str) -> str:
        name = ascii_name(wish)
        if _C_RESERVES.match(name):
            name += "_"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def temporary(self) -> str:
        name = f"t{self._counter}"
        self._counter += 1
        return self.claim(name)


def schedule(function: Function, hints: Mapping[Expr, str], taken: Iterable[str]) -> Schedule:
    """Order and name the nodes of a function: depth first from output to output, stores as soon as possible.

    hints: names for nodes that deserve one. taken: identifiers that mean something else where the code goes.
    """
    return _Scheduler(function, hints, taken).run()


class _Scheduler:
    def __init__(self, function: Function, hints: Mapping[Expr, str], taken: Iterable[str]) -> None:
        self.function = function
        self.hints = hints
        self.fresh = _Names(taken)
        self.names: dict[Expr, str] = {}
        self.nested: dict[Expr, int] = {}
        self.statements: list[Statement] = []
        self.uses = self._count_uses()
        self.loads = self._find_loads()

    def _count_uses(self) -> dict[Expr, int]:
        outputs = self.function.expressions()
        order = topological(outputs)
        uses = dict.fromkeys(order, 0)
        for node in order:
            for arg in node.args:
                uses[arg] += 1
        for node in outputs:
            uses[node] += 1
        return uses

    def run(self) -> Schedule:
        if len(self.loads) <= MOST_LOADS_AHEAD:
            self._load(list(self.loads))
        done: set[Expr] = set()
        for output in self.function.outputs:
            fills = _fills(output)
            self.statements.extend(fills)
            filled = set(chain.from_iterable(fill.places for fill in fills[1:]))
            for index in output.written():
                if index in filled or (fills and output.expressions[index].is_zero):
                    continue
                node = output.expressions[index]
                for inner in topological((node,), stop=done):
                    if inner not in done:
                        done.add(inner)
                        self._place(inner, is_output=inner is node)
                self._load(self._read_by(node))
                self.statements.append(Store(output, index, node))
        return Schedule(self.function, tuple(self.statements), self.names)

    def _find_loads(self) -> dict[Expr, Load]:
        loads = {}
        for group in self.function.inputs:
            for index, symbol in enumerate(group.symbols):
                if symbol in self.uses:
                    self.names[symbol] = self.fresh.claim(str(symbol.value))
                    loads[symbol] = Load(group, index, self.names[symbol])
        return loads

    def _load(self, symbols: list[Expr]) -> None:
        """Emit the loads of those symbols that are not there yet."""
        for symbol in symbols:
            load = self.loads.pop(symbol, None)
            if load is not None:
                self.statements.append(load)

    def _place(self, node: Expr, is_output: bool) -> None:
        """Nest a node in its only reader, or give it a name."""
        if not node.args:
            return
        size = 1 + sum(self.nested.get(arg, 0) for arg in node.args)
        if self.uses[node] == 1 and (is_output or size <= MOST_NESTED):
            self.nested[node] = size
            return
        self._load(self._read_by(node))
        self.names[node] = self._name(node)
        self.statements.append(Assign(self.names[node], node))

    def _read_by(self, node: Expr) -> list[Expr]:
        """Symbols in the text of a statement: those reached through nodes that have no name of their own."""
        if not self.loads:
            return []
        found, stack = [], [node]
        while stack:
            inner = stack.pop()
            if inner.op == "symbol":
                found.append(inner)
            stack.extend(arg for arg in inner.args if arg.op == "symbol" or arg not in self.names)
        return sorted(found, key=lambda symbol: symbol.index)

    def _name(self, node: Expr) -> str:
        if node in self.hints:
            return self.fresh.claim(self.hints[node])
        if len(node.args) == 1 and node.op != "neg" and node.args[0].op == "symbol":
            return self.fresh.claim(f"{node.op}_{self.names[node.args[0]]}")
        return self.fresh.temporary()
