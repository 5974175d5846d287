"""The symbols that the derived functions share: what they read besides a model's own states, controls, parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mpcgen.derivative.forward import tangents
from mpcgen.derivative.matrices import Matrix, dot, lower_triangle, triangle_labels
from mpcgen.derivative.reverse import gradient
from mpcgen.errors import InternalError
from mpcgen.ir import Expr, Graph, unrolled
from mpcgen.ir.function import Function, Input, Output
from mpcgen.ir.model import Model, Rows
from mpcgen.ir.reciprocals import split_reciprocals
from mpcgen.stages import Slot, contract


def weighted_sum(graph: Graph, weights: Sequence[Expr], values: Sequence[Expr]) -> Expr:
    """Sum of products with what is not constant."""
    pairs = [(w, value) for w, value in zip(weights, values, strict=True) if not value.is_const]
    return dot(graph, [w for w, _ in pairs], [value for _, value in pairs])


def _with_split_reciprocals(model: Model, fixed: Sequence[Expr]) -> Model:
    groups = (model.mixed, model.state_rows, model.terminal)
    values = [value for rows in groups for value in rows.values]
    split = iter(
        split_reciprocals((*model.next_state, model.stage_cost, model.terminal_cost, *values), fixed)
    )
    following = tuple(next(split) for _ in model.next_state)
    stage_cost, terminal_cost = next(split), next(split)
    mixed, state_rows, terminal = (
        replace(rows, values=tuple(next(split) for _ in rows.values)) for rows in groups
    )
    return replace(
        model,
        next_state=following,
        stage_cost=stage_cost,
        terminal_cost=terminal_cost,
        mixed=mixed,
        state_rows=state_rows,
        terminal=terminal,
    )


class RowSymbols:
    """Symbols of the rows of a stage or of the end: one each per row."""

    def __init__(self, graph: Graph, rows: Rows, place: str) -> None:
        self.rows = rows
        # By number: the name of a constraint need not be fit for C.
        numbers = [f"{place}{index}" for index in range(len(rows))]

        def symbols(prefix: str) -> tuple[Expr, ...]:
            return tuple(graph.symbol(f"{prefix}.{number}") for number in numbers)

        self.dual = symbols("dual")
        self.stiffness = symbols("stiffness")
        self.force = symbols("force")
        self.d_dual = symbols("d_dual")
        self.g_lower = symbols("g_lower")
        self.g_upper = symbols("g_upper")
        self.g_linear = symbols("g_linear")
        self.g_quadratic = symbols("g_quadratic")

    def groups(self) -> dict[str, tuple[Expr, ...]]:
        """The symbols by the group that functions read."""
        return {name: value for name, value in vars(self).items() if name != "rows"}


class Symbols:
    """A model whose reciprocals are split, and the symbols that its functions share."""

    sizes = ("NX", "NU")
    """What the contract calls the numbers of states and controls."""

    def __init__(self, model: Model) -> None:
        per_stage = [p.per_stage for p in model.signature.parameters for _ in range(p.size)]
        self.static = tuple(s for s, staged in zip(model.parameters, per_stage, strict=True) if not staged)
        self.per_stage = tuple(s for s, staged in zip(model.parameters, per_stage, strict=True) if staged)
        self.model = model = _with_split_reciprocals(model, self.static)
        self.graph = model.graph
        self.x_names = tuple(str(s.value) for s in model.states)
        self.u_names = tuple(str(s.value) for s in model.controls)
        # A dot cannot occur in a user's name, so these symbols are new.
        self.costate = self.named("lambda", self.x_names)
        self.weight_d2f = self.graph.symbol("weight.d2f")
        self.offset = self.named("v_offset", self.x_names)
        self.d_x = self.named("d", self.x_names)
        self.d_u = self.named("d", self.u_names)
        self.d_costate = self.named("d_lambda", self.x_names)
        self.weight = self.graph.symbol("loss.cost")
        self.d_static = self.named("d", [str(symbol.value) for symbol in self.static])
        self.d_per_stage = self.named("d", [str(symbol.value) for symbol in self.per_stage])
        self.V = self._symmetric_symbols()
        self.tau = (*model.states, *model.controls)
        self.path = RowSymbols(model.graph, model.path_rows, "path")
        self.end = RowSymbols(model.graph, model.end_rows, "end")
        self.table = contract(model.constrained)
        self.groups = self._groups()
        self.labels = self._labels()

    def _groups(self) -> dict[tuple[str, str], tuple[Expr, ...]]:
        """The symbols of what functions read, by group and size in the contract."""
        n, m = self.sizes
        groups = {
            ("x", n): self.model.states,
            ("u", m): self.model.controls,
            ("theta", "NTHETA + NPREPARED"): self.static,
            ("theta_t", "NTHETA_STAGE"): self.per_stage,
            ("weight", "1"): (self.weight_d2f,),
            ("costate", n): self.costate,
            ("V", "NXX"): lower_triangle(self.V),
            ("offset", n): self.offset,
            ("d_x", n): self.d_x,
            ("d_u", m): self.d_u,
            ("d_costate", n): self.d_costate,
            ("loss_cost", "1"): (self.weight,),
            ("d_theta", "NTHETA"): self.d_static,
            ("d_theta_t", "NTHETA_STAGE"): self.d_per_stage,
        }
        for rows, size in ((self.path, "NPATH"), (self.end, "NEND")):
            groups |= {(group, size): symbols for group, symbols in rows.groups().items()}
        return groups

    def _labels(self) -> dict[str, tuple[str, ...]]:
        """What the numbers of a group are called, by its size in the contract."""
        tau = (*self.x_names, *self.u_names)
        return {
            "NX": self.x_names,
            "NU": self.u_names,
            "NTHETA": tuple(str(symbol.value) for symbol in self.static),
            "NTHETA_STAGE": tuple(str(symbol.value) for symbol in self.per_stage),
            "NXX": triangle_labels(self.x_names),
            "TRIANGLE(NTAU, 0)": triangle_labels(tau),
            "NX * NTAU": tuple(f"{x}, {variable}" for x in self.x_names for variable in tau),
            "NPATH": self.path.rows.labels,
            "NEND": self.end.rows.labels,
        }

    def function(self, name: str, **values: Sequence[Expr]) -> Function:
        """The stage function of the contract that writes ``values``, by group, without linear systems.

        Raises InternalError for values that are another function's.
        """
        stage = self.table[name]
        sizes = {slot.group: len(self._labels_of(slot)) for slot in stage.writes}
        given = {group: len(entries) for group, entries in values.items()}
        written = {group: tuple(unrolled(entries)) for group, entries in values.items()}
        if sizes != given:
            raise InternalError(f"{name} writes {sizes} by the contract, and the derivation made {given}")
        inputs = (Input(slot.group, self.groups[slot.group, slot.size]) for slot in stage.reads)
        outputs = (
            Output(slot.group, written[slot.group], self._labels_of(slot), slot.accumulate)
            for slot in stage.writes
        )
        return Function(name, stage.purpose, tuple(inputs), tuple(outputs))

    def _labels_of(self, slot: Slot) -> tuple[str, ...]:
        return (slot.meaning,) if slot.size == "1" else self.labels[slot.size]

    def named(self, prefix: str, names: Sequence[str]) -> tuple[Expr, ...]:
        """Symbols by prefix and name."""
        return tuple(self.graph.symbol(f"{prefix}.{name}") for name in names)

    def _symmetric_symbols(self) -> Matrix:
        names = self.x_names
        n = len(names)
        return tuple(
            tuple(self.graph.symbol(f"V.{names[max(i, j)]}.{names[min(i, j)]}") for j in range(n))
            for i in range(n)
        )

    def by_parameters(self, scalar: Expr) -> dict[str, list[Expr]]:
        """The gradient of a scalar by the parameters, as functions write it."""
        entries = gradient(scalar, (*self.static, *self.per_stage))
        split = len(self.static)
        return {"g_theta": entries[:split], "g_theta_t": entries[split:]}

    def parameter_tangents(self, outputs: Sequence[Expr]) -> list[Expr]:
        """Directional derivatives of ``outputs`` along a change of the parameters."""
        seeds = dict(zip((*self.static, *self.per_stage), (*self.d_static, *self.d_per_stage), strict=True))
        return tangents(outputs, seeds)
