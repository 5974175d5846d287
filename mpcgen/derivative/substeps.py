"""Substeps as a loop: derivatives of the right-hand side, and of what a stage has beside them.

Written out, the text of a stage grows faster than the number of its substeps; composed in loops
(`mpcgen_runge_kutta.h`, `mpcgen_substeps.h`) it is that of the right-hand side. This is derived like a stage in small:
its states are those that move, its controls what the stage holds, its next state the change of a step, its cost what
that adds to the running costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

from mpcgen.derivative.derivation import Derivation
from mpcgen.derivative.matrices import Matrix, dot
from mpcgen.derivative.rates import BodyDerivation, RateDerivation
from mpcgen.derivative.reverse import gradient
from mpcgen.errors import SpecError
from mpcgen.ir import Expr, flops, substitute, symbols_of
from mpcgen.ir.function import Function
from mpcgen.ir.model import Model, Rows, Substeps
from mpcgen.stages import substeps as table
from mpcgen.stages.contract import ADJOINT, COMPOSED, WHOLE

LOOPED_FROM = 400
"""Operations of a stage's substeps, written out, from which on they are a loop."""
SLOPES_LOOPED_FROM = 1000
"""The same of a stage with one step, whose slopes are the loop.

Four links on a cart, 1,406 operations, have a tenth of the text and compile in a tenth of the time. What the slopes'
derivatives take must be of the order of the loop's products, by DENSE at most, which is so where the right-hand side is
dense: the sparse chain of masses takes three times as long by loops.
"""
DENSE = 4


NEWTON_STEPS = 4
"""That a step of an implicit scheme takes as a rule."""
PARTS = 256
"""In which an implicit step is gone through where Newton's method does not solve its equations at once."""
MOST_SOLVES = 1 + PARTS + 3
"""Of the equations of an implicit step: of the whole one, of its parts, and again (`mpcgen_stage_equations.h`)."""


@dataclass(frozen=True)
class Loop:
    """A stage as a loop: ``rates`` has the functions of the right-hand side, ``outer`` those of all outside.

    ``held``: positions of what the rates read besides the moving states, among states and controls. ``carried``:
    whether a moving state only accumulates cost.
    """

    substeps: Substeps
    held: tuple[int, ...]
    carried: tuple[bool, ...]
    rates: RateDerivation
    outer: Derivation

    def functions(self) -> tuple[Function, ...]:
        """The functions of the right-hand side, then all others."""
        implicit = self.substeps.implicit is not None
        left_out = WHOLE if self.has_adjoint else (*WHOLE, ADJOINT)
        outer = (
            replace(function, name=table.outer_name(function.name)) if function.name in COMPOSED else function
            for function in self.outer.functions()
            if function.name not in left_out  # what leaves out what substeps do
        )
        inputs = self.rates.inputs.functions() if isinstance(self.rates, BodyDerivation) else ()
        return (*inputs, *self.rates.functions(self.costs, implicit, self.has_adjoint), *outer)

    @property
    def has_adjoint(self) -> bool:
        """Whether the Lagrangian's gradients are wanted alone, and by an explicit scheme without networks."""
        return self.outer.model.constrained and not (self.substeps.implicit or self.substeps.networks)

    @property
    def accumulators(self) -> tuple[int, ...]:
        """States that move and only accumulate cost."""
        visible = self.carried[: len(self.substeps.moving)]
        return tuple(i for i, carried in zip(self.substeps.moving, visible, strict=True) if carried)

    @property
    def costs(self) -> bool:
        """Whether steps add to the cost, be it the stage's or one that a state carries."""
        return any(self.carried) or not self.rates.model.stage_cost.is_zero

    @cached_property
    def F(self) -> Matrix:  # noqa: N802
        """(n, n + m) df/d(x, u): 0 where it is always zero, a symbol where the loop computes it."""
        tau, n = len(self.outer.tau), len(self.outer.x_names)
        moving, hidden = self.substeps.moving, len(self.substeps.hidden)
        inside = (*moving, *range(tau, tau + hidden))
        places = (*inside, *self.held)
        reads = {i: {i} for i in range(tau)} | {tau + i: set() for i in range(hidden)}
        for _ in range(n + hidden):  # more slopes reach nothing new, and fewer are not used
            step = {
                i: reads[i].union(*(reads[j] for j, is_read in zip(places, row, strict=True) if is_read))
                for i, row in zip(inside, self.rates.pattern, strict=True)
            }
            reads |= step
        zero, graph = self.outer.graph.const(0.0), self.outer.graph
        rows = [list(row) for row in self.outer.F]
        for i in moving:
            rows[i] = [graph.symbol(f"F.{i}.{j}") if j in reads[i] else zero for j in range(tau)]
        return tuple(map(tuple, rows))

    def operations(self, counts: dict[str, int], most: bool = False) -> int:
        """Of the loops of a rollout and an expansion, given those of functions; at most, or as a rule."""
        n, width = self.substeps.width, self.substeps.width + len(self.held)
        products = products_of_slope(n, width)
        curvature = counts[self.rates.own_name(table.CURVATURE)]
        for network in self.substeps.networks:
            curvature += 2 * network.products * (len(network.inputs) + 2)
        slopes = len(self.substeps.share)
        if self.substeps.implicit is not None:
            unknowns = n * slopes
            first = counts[self.rates.own_name(table.SLOPES)]
            first += sum(2 * net.products * (len(net.inputs) + 1) for net in self.substeps.networks)
            newton = slopes * counts.get(table.NEWTON, first) + unknowns**2 * (2 * unknowns / 3 + 4)
            linearised = slopes * (first + curvature + products)
            solved = unknowns**2 * (2 * unknowns / 3 + 2 * width)
            steps = MOST_SOLVES * (self.substeps.implicit.newton + 1) if most else NEWTON_STEPS
            return self.substeps.count * round(2 * steps * newton + linearised + solved)
        values = counts[self.rates.own_name(table.VALUES)]
        values += sum(2 * network.products for network in self.substeps.networks)
        return self.substeps.count * slopes * (2 * values + curvature + products)


def loop_of(model: Model) -> Loop | None:
    """The loop that a model's substeps are worth, or None where they are written out.

    They are written out where that is short, where the rates are linear, and where the cost is not linear in
    the running costs; those of an implicit scheme never are. Raises `SpecError` for such a scheme with such a cost.
    """
    substeps = model.substeps
    if substeps is None or not substeps.moving:
        return None
    implicit = substeps.implicit is not None
    once = not implicit and substeps.count == 1
    networks = substeps.networks
    forced = implicit or bool(networks)
    if not forced and flops(model.next_state) < (SLOPES_LOOPED_FROM if once else LOOPED_FROM):
        return None
    graph, tau = model.graph, (*model.states, *model.controls)
    slopes = gradient(substeps.cost, substeps.sums)
    if not {*tau, *substeps.sums}.isdisjoint(symbols_of(slopes)):
        if not implicit:
            return None
        raise SpecError(
            "the stage cost is not linear in its running costs, as an implicit integrator needs it; multiply inside of "
            "running_cost, or make the running cost a state with a cost"
        )
    cost = dot(graph, slopes, substeps.increments)
    inputs = chain.from_iterable(network.inputs for network in networks)
    read = {*symbols_of((*substeps.changes, cost, *inputs))}
    held = tuple(i for i, symbol in enumerate(tau) if symbol in read and i not in substeps.moving)
    if not held:
        if not forced:
            return None
        held = (len(model.states),)  # arrays have at least one entry
    inside = _inside(model, substeps, held, cost)
    rates = BodyDerivation(inside, -1, networks) if networks else RateDerivation(inside, -1)
    if "exact" not in rates.kinds and not forced:
        return None
    if once and not forced and not _is_dense(rates):
        return None
    nothing = dict.fromkeys(substeps.sums, graph.const(0.0))
    (stage_cost,) = substitute((substeps.cost,), nothing)
    outside = replace(model, next_state=substeps.others, stage_cost=stage_cost, substeps=None)
    return Loop(substeps, held, _carried(outside, substeps, read), rates, Derivation(outside, -1))


def _is_dense(rates: RateDerivation) -> bool:
    """Whether second derivatives of the right-hand side take much beside the products that loops take with them."""
    n, width = len(rates.x_names), len(rates.x_names) + len(rates.u_names)
    return products_of_slope(n, width) <= DENSE * flops(rates.second.expressions())


def products_of_slope(n: int, width: int) -> int:
    """Operations of the products that a loop takes for a slope: of n moving numbers, and width with those it holds."""
    return n * width * (3 * width + 2 * n)


def _inside(model: Model, substeps: Substeps, held: Sequence[int], cost: Expr) -> Model:
    """The right-hand side as a model: what it gives is the change in a step, and its share of the cost."""
    tau, graph = (*model.states, *model.controls), model.graph
    return replace(
        model,
        states=(*(model.states[i] for i in substeps.moving), *substeps.hidden),
        controls=(
            *(tau[i] for i in held),
            *chain.from_iterable(network.outputs for network in substeps.networks),
        ),
        next_state=substeps.changes,
        stage_cost=graph.symbol("share.cost") * cost,
        terminal_cost=graph.const(0.0),
        mixed=Rows(),
        state_rows=Rows(),
        terminal=Rows(),
        substeps=None,
    )


def _carried(outside: Model, substeps: Substeps, read: set[Expr]) -> tuple[bool, ...]:
    """Whether a moving state only accumulates cost: nothing but the terminal cost reads it, and that linearly.

    read: what the right-hand side reads.
    """
    rows = (*outside.path_rows.values, *outside.end_rows.values)
    read = read | {*symbols_of((*outside.next_state, outside.stage_cost, *rows))} | outside.read_by_prices
    moving = [outside.states[i] for i in substeps.moving]
    prices = gradient(outside.terminal_cost, moving)
    carried = (
        state not in read and not price.is_zero and {*outside.states}.isdisjoint(symbols_of([price]))
        for state, price in zip(moving, prices, strict=True)
    )
    return (*carried, *(False for _ in substeps.hidden))
