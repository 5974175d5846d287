"""The optimal control problem on the graph: the second typed value of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import inf

from mpcgen.ir.expr import Expr, Graph
from mpcgen.ir.network import Network
from mpcgen.ir.printer import listing
from mpcgen.ir.signature import Signature
from mpcgen.ir.walk import symbols_of, unrolled


@dataclass(frozen=True)
class Rows:
    """Scalar rows lower <= values <= upper, hard or soft: what the constraints of a group come to.

    ``labels`` name the rows for people; bounds and weights depend on parameters only. A ``linear`` weight of inf means
    that the row is hard; of an equality, both bounds are the same node.
    """

    labels: tuple[str, ...] = ()
    values: tuple[Expr, ...] = ()
    lower: tuple[Expr, ...] = ()
    upper: tuple[Expr, ...] = ()
    linear: tuple[Expr, ...] = ()
    quadratic: tuple[Expr, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def __add__(self, other: Rows) -> Rows:
        """These rows, then the others."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return Rows(*(mine + theirs for mine, theirs in pairs))

    @property
    def soft(self) -> bool:
        """Whether any row may be exceeded."""
        return any(not (weight.is_const and weight.value == inf) for weight in self.linear)


@dataclass(frozen=True)
class Implicit:
    """The stage equations of an implicit scheme, and how they are solved.

    Stage i is at Z_i with E (Z_i - z) = sum of matrix[i][j] k(Z_j); the step ends at z + sum of final[i] (Z_i - z). E
    is the identity but for a zero for each state that is ``algebraic``, of which k is a residual. ``newton``: most
    steps.
    """

    matrix: tuple[tuple[float, ...], ...]
    final: tuple[float, ...]
    algebraic: tuple[bool, ...]
    newton: int


@dataclass(frozen=True)
class Priced:
    """A cost and rows of constraints that read networks of loops.

    ``cost``: the terms that do, by their outputs; ``rest``: the others. ``rows``: their positions, values by outputs.
    """

    networks: tuple[Network, ...]
    cost: Expr
    rest: Expr
    rows: tuple[tuple[int, Expr], ...] = ()

    @property
    def values(self) -> tuple[Expr, ...]:
        """The cost, then the rows."""
        return (self.cost, *(value for _, value in self.rows))


@dataclass(frozen=True)
class Substeps:
    """Integration in ``count`` equal steps, beside `Model.next_state`, which has explicit ones written out.

    Each step has the scheme's stages: stage i is at z + reach[i] k_(i-1), and the step ends at z + sum of share[i] k_i.
    Of an ``implicit`` scheme see there; ``reach`` is empty, and `Model.next_state` a symbol for what a step changes.
    ``moving``: positions of the states z that a step changes. ``changes``: k, their rates times the step's length.
    ``hidden``: symbols of what a step of an implicit scheme solves for besides, the changes in it of the first moving
    states, whose rates residuals read. They are algebraic states that no stage keeps; ``changes`` has their residuals
    last, as `Implicit` has.
    ``sums``: symbols of the integrals of running costs, whose ``increments`` are like k; ``cost`` is the stage cost
    that reads the sums. ``others``: the next state of all that a step does not change, and 0 for what it does.
    ``networks``: those whose outputs the changes and increments read; of the same inputs they follow each other.
    """

    count: int
    reach: tuple[float, ...]
    share: tuple[float, ...]
    moving: tuple[int, ...]
    changes: tuple[Expr, ...]
    sums: tuple[Expr, ...]
    increments: tuple[Expr, ...]
    cost: Expr
    others: tuple[Expr, ...]
    implicit: Implicit | None = None
    hidden: tuple[Expr, ...] = ()
    networks: tuple[Network, ...] = ()

    @property
    def width(self) -> int:
        """Numbers that a step changes, hidden ones included."""
        return len(self.moving) + len(self.hidden)


@dataclass(frozen=True)
class Model:
    """A lowered specification with n states, m controls and p parameter entries.

    ``parameters`` are the symbols of all parameters' entries, flat and in order; ``next_state`` is the discrete
    map after integration; ``lower`` and ``upper`` depend on parameters only and may be ±inf. Constraints come as rows:
    ``mixed`` ones, which read controls, hold at stages 0..N-1, ``state_rows`` at stages 1..N, ``terminal`` at stage N.
    ``substeps``: of dynamics that are integrated in more than one step, or in one of more than one slope, or that read
    networks. ``priced``: stage and terminal cost as they read networks, where loops evaluate any for them.
    """

    graph: Graph
    states: tuple[Expr, ...]
    controls: tuple[Expr, ...]
    parameters: tuple[Expr, ...]
    next_state: tuple[Expr, ...]
    stage_cost: Expr
    terminal_cost: Expr
    lower: tuple[Expr, ...]
    upper: tuple[Expr, ...]
    signature: Signature
    mixed: Rows = Rows()
    state_rows: Rows = Rows()
    terminal: Rows = Rows()
    substeps: Substeps | None = None
    priced: tuple[Priced | None, Priced | None] = (None, None)

    @property
    def read_by_prices(self) -> frozenset[Expr]:
        """The symbols that costs and rows read by loops."""
        expressions = [
            expression
            for priced in self.priced
            if priced is not None
            for expression in (
                *priced.values,
                *(entry for network in priced.networks for entry in network.inputs),
            )
        ]
        return frozenset(symbols_of(expressions))

    @property
    def by_loops(self) -> Model:
        """The same model without the costs that loops make, and with zeros for such rows."""
        stage, end = self.priced
        zero, n_mixed, n_state = self.graph.const(0.0), len(self.mixed), len(self.state_rows)
        path = {i for i, _ in stage.rows} if stage else set()
        last = {i - n_state for i, _ in end.rows} if end else set()

        def without(rows: Rows, places: set[int]) -> Rows:
            return replace(
                rows, values=tuple(zero if i in places else value for i, value in enumerate(rows.values))
            )

        return replace(
            self,
            stage_cost=stage.rest if stage else self.stage_cost,
            terminal_cost=end.rest if end else self.terminal_cost,
            mixed=without(self.mixed, path),
            state_rows=without(self.state_rows, {i - n_mixed for i in path}),
            terminal=without(self.terminal, last),
        )

    @property
    def path_rows(self) -> Rows:
        """Rows of a stage that has controls."""
        return self.mixed + self.state_rows

    @property
    def end_rows(self) -> Rows:
        """Rows of the last state."""
        return self.state_rows + self.terminal

    @property
    def constrained(self) -> bool:
        """Whether there are any rows besides the bounds of the controls."""
        return bool(self.mixed or self.state_rows or self.terminal)

    @property
    def unrolled(self) -> Model:
        """The same model with linear systems written out."""
        if not self.graph.solves:
            return self

        def rows(of: Rows) -> Rows:
            return replace(of, values=tuple(unrolled(of.values)))

        stage_cost, terminal_cost = unrolled((self.stage_cost, self.terminal_cost))
        return replace(
            self,
            next_state=tuple(unrolled(self.next_state)),
            stage_cost=stage_cost,
            terminal_cost=terminal_cost,
            mixed=rows(self.mixed),
            state_rows=rows(self.state_rows),
            terminal=rows(self.terminal),
        )

    @property
    def has_soft_rows(self) -> bool:
        """Whether any row may be exceeded at a price."""
        return (self.path_rows + self.terminal).soft

    def outputs(self) -> dict[str, Expr]:
        """All expressions of the model, by a name for people."""
        named = {f"{x.value}_next": row for x, row in zip(self.states, self.next_state, strict=True)}
        named |= {"stage_cost": self.stage_cost, "terminal_cost": self.terminal_cost}
        for u, low, high in zip(self.controls, self.lower, self.upper, strict=True):
            named |= {f"{u.value}_lower": low, f"{u.value}_upper": high}
        rows = self.mixed + self.state_rows + self.terminal
        for label, value, low, high in zip(rows.labels, rows.values, rows.lower, rows.upper, strict=True):
            named |= {label: value, f"lower of {label}": low, f"upper of {label}": high}
        return named

    def __str__(self) -> str:
        head = [f"model {self.signature.name}: horizon {self.signature.horizon}"]
        for title, symbols in (
            ("states", self.states),
            ("controls", self.controls),
            ("parameters", self.parameters),
        ):
            head.append(f"  {title:<11}{', '.join(str(symbol.value) for symbol in symbols)}")
        return "\n".join([*head, listing(self.outputs())])
