"""The part of a C text that depends on the problem: sizes, the parameters' layout, the stage functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mpcgen.codegen.c_function import CFunction, c_functions, linear_alias, of_both
from mpcgen.codegen.c_substeps import composed_functions
from mpcgen.codegen.filling import fill
from mpcgen.codegen.network_text import network_tables, read_networks
from mpcgen.derivative.kernels import Kernels
from mpcgen.derivative.matrices import product_count
from mpcgen.derivative.substeps import PARTS
from mpcgen.ir.model import Implicit
from mpcgen.ir.schedule import Schedules
from mpcgen.ir.walk import degree, flops
from mpcgen.passes.economy import Economy
from mpcgen.stages import StageFunction, contract
from mpcgen.stages.contract import (
    ADJOINT,
    DERIVE,
    DYNAMICS,
    EXPAND,
    MATRICES,
    PULLBACK,
    REMEMBERED,
    ROWS,
    SLOPES,
    STEP,
)
from mpcgen.stages.network import MAPS
from mpcgen.stages.substeps import outer_name

C_PROBLEM = "c/problem.c.j2"
OF_RATES = ("rate_", "body_", *(f"{of.prefix}_" for of in MAPS))
"""How functions of a right-hand side are called, or of what is around networks."""
SMALL_STAGE = 500
"""Operations of a stage's rollout and backward sweep up to which the sweep keeps a stage's model in registers and the
compiler is asked for all that it can do.

The registers bring 7 % on pendulum (174 operations), 6 % on car (361) and 2 to 5 % on cartpole (456), where half of the
stores go. Above, there are too few. For the compiler see `LARGE_FLAGS` in `mpcgen.build.toolchain`.
"""


@dataclass(frozen=True)
class LayoutRow:
    """A parameter in the kernels: ``size`` numbers from ``offset`` on, in theta or in a row of theta_stage."""

    name: str
    size: int
    offset: int
    per_stage: int
    in_terminal: int
    only_bounds: int


def problem_text(
    kernels: Kernels,
    economy: Economy,
    schedules: Schedules,
    wanted: Callable[[str], bool] = lambda name: True,
) -> str:
    """Sizes, layout and functions of a problem in C; wanted: which of the stage functions."""
    model = kernels.model
    operations = stage_operations(kernels, economy)
    every = _printed_functions(kernels, schedules, contract(model.constrained))
    functions = [function for function in every if wanted(function.name)]
    context = {
        "n_state": len(model.states),
        "n_control": len(model.controls),
        "n_parameters": len(model.signature.parameters),
        "n_static": len(kernels.static),
        "n_prepared": economy.prepared,
        "n_per_stage": len(kernels.per_stage),
        "bounds_vary": int(any(not b.is_const for b in (*model.lower, *model.upper))),
        "stage_operations": operations,
        "small": int(operations <= SMALL_STAGE),
        "only_cost": " || ".join(f"(i) == {i}" for i in _carried(kernels)),
        "row_sizes": row_sizes(kernels),
        "kept": _read_by(kernels, STEP, "kept"),
        "remembered": _read_by(kernels, REMEMBERED, "point"),
        "linear": int(not kernels.curved),
        "flat": int(_has_flat_costs(kernels)),
        "quadratic": kernels.quadratic,
        "slopes": any(function.name == SLOPES for function in functions),
        "adjoint": any(function.name == ADJOINT for function in functions),
        "looped": int(not kernels.fused),
        "stage_header": "mpcgen_stage.h" if kernels.fused else "mpcgen_products.h",
        "layout": layout(kernels),
        "loop": _loop_sizes(kernels),
        "networks": network_tables(kernels),
        "rate_functions": [function for function in functions if function.name.startswith(OF_RATES)],
        "functions": [function for function in functions if not function.name.startswith(OF_RATES)],
    }
    return fill(C_PROBLEM, context)


def layout(kernels: Kernels) -> list[LayoutRow]:
    """Where each parameter lies in the kernels' arrays."""
    offsets = {False: 0, True: 0}
    rows = []
    for p in kernels.model.signature.parameters:
        size = p.size
        rows.append(
            LayoutRow(
                p.name, size, offsets[p.per_stage], int(p.per_stage), int(p.in_terminal), int(p.only_bounds)
            )
        )
        offsets[p.per_stage] += size
    return rows


def _loop_sizes(kernels: Kernels) -> dict[str, object] | None:
    """Of a loop over substeps: how many, the scheme, what moves, what is held, and where in (x, u) both are."""
    loop = kernels.loop
    if loop is None:
        return None
    substeps = loop.substeps
    return {
        "count": substeps.count,
        "slopes": len(substeps.share),
        "reach": _table(substeps.reach),
        "share": _table(substeps.share),
        "moving": substeps.width,
        "hidden": len(substeps.hidden),
        "held": len(loop.held),
        "costs": int(loop.costs),
        "carried": ", ".join(str(int(state)) for state in loop.carried),
        "places": ", ".join(map(str, (*substeps.moving, *(-1 for _ in substeps.hidden), *loop.held))),
        "implicit": _implicit(substeps.implicit),
        "networks": read_networks(loop),
    }


def _table(numbers: Sequence[float]) -> str:
    """Constants of the working precision."""
    return ", ".join(f"R({number!r})" for number in numbers)


def _implicit(implicit: Implicit | None) -> dict[str, int | str] | None:
    """The stage equations of an implicit scheme."""
    if implicit is None:
        return None
    return {
        "newton": implicit.newton,
        "parts": PARTS,
        "matrix": _table([entry for row in implicit.matrix for entry in row]),
        "start": repr(1 - sum(implicit.final)),
        "final": _table(implicit.final),
        "mass": ", ".join(str(int(not zero)) for zero in implicit.algebraic),
    }


def _carried(kernels: Kernels) -> list[int]:
    """Which states only accumulate cost."""
    return [i for i, state in enumerate(kernels.model.states) if str(state.value) in kernels.carried]


def row_sizes(kernels: Kernels) -> dict[str, object] | None:
    """Numbers of rows by group, and what is known of them beforehand; None without constraints."""
    model = kernels.model
    if not model.constrained:
        return None
    rows = model.path_rows + model.terminal
    varying = (*rows.lower, *rows.upper, *rows.linear, *rows.quadratic)
    carried = _carried(kernels)
    reached = [value for i, value in enumerate(model.next_state) if i not in carried]
    return {
        "mixed": len(model.mixed),
        "state": len(model.state_rows),
        "terminal": len(model.terminal),
        "soft": int(model.has_soft_rows),
        "vary": int(any(not value.is_const for value in varying)),
        "quadratic": any(function.name == PULLBACK for function in kernels.functions),
        "linear": int(
            not (model.substeps and model.substeps.implicit)
            and degree((*reached, *rows.values), (*model.states, *model.controls)) <= 1
        ),
    }


def _has_flat_costs(kernels: Kernels) -> bool:
    """Whether the costs are linear in states and controls; false where states or substeps accumulate costs."""
    model = kernels.model
    if kernels.carried or any(model.priced) or (kernels.loop and kernels.loop.costs):
        return False
    return degree((model.stage_cost, model.terminal_cost), (*model.states, *model.controls)) <= 1


def _read_by(kernels: Kernels, name: str, group: str) -> int:
    """How many numbers of a group a function reads; 0 where there is no such function."""
    found = [function for function in kernels.functions if function.name == name]
    return sum(len(read.symbols) for function in found for read in function.inputs if read.name == group)


def dual_count(kernels: Kernels) -> int:
    """Multipliers of a stage, those of the controls' bounds included."""
    model = kernels.model
    return len(model.controls) + len(model.mixed) + len(model.state_rows) + len(model.terminal)


def _printed_functions(
    kernels: Kernels, schedules: Schedules, table: Mapping[str, StageFunction]
) -> Iterator[CFunction]:
    names = {plan.function.name for plan in schedules.plans}
    for plan in schedules.plans:
        yield from c_functions(plan, table)
        for names_by_kind in (EXPAND, DERIVE):
            if plan.function.name == names_by_kind["gauss_newton"] and names_by_kind["exact"] not in names:
                yield linear_alias(table)
        if plan.function.name == SLOPES:
            yield from (of_both(table), linear_alias(table))
    sites = {price.site: bool(price.rows) for price in kernels.priced}
    yield from composed_functions(table, names, kernels.loop is not None, sites)


def stage_operations(kernels: Kernels, economy: Economy, most: bool = False) -> int:
    """Roughly what a rollout and a backward sweep do per stage: functions, and products that are loops.

    Of implicit steps as many as Newton's method takes as a rule, or at ``most``.
    """
    functions = {function.name: function for function in economy.functions}
    priced = sum(price.products for price in kernels.priced if price.site == "stage")
    if kernels.loop is not None:
        counts = {name: flops(f.expressions()) for name, f in functions.items()}
        return kernels.loop.operations(counts, most) + priced

    def count(name: str) -> int:
        found = functions.get(name) or functions.get(outer_name(name))
        return flops(found.expressions()) if found else 0

    expansion = (
        max(count(name) for name in (*EXPAND.values(), *DERIVE.values())) + count(MATRICES) + count(SLOPES)
    )
    products = 0 if kernels.fused else 2 * product_count(kernels.F)
    return count(DYNAMICS) + count(ROWS) + expansion + products + priced
