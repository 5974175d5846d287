"""Scheduled functions as C text: signature, body lines, and where each argument lives."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from mpcgen.codegen.c_expression import CALLS, c_definition, c_value
from mpcgen.codegen.c_words import c_words
from mpcgen.ir.schedule import Assign, Fill, Load, Schedule, Store
from mpcgen.passes.parts import Keep, Part, Take, cut
from mpcgen.stages import StageFunction, contract
from mpcgen.stages.contract import DERIVE, EXPAND, MATRICES, REMEMBERED, SLOPES
from mpcgen.stages.network import MAPS, body_functions
from mpcgen.stages.substeps import rate_functions

WIDTH = 116

_RESERVED = """
F H R ALL LANES NX NU NXX NUU NTHETA NPREPARED NTHETA_STAGE NPARAMETERS PARAMETERS BOUNDS_VARY TRIANGLE SYMMETRIC NTAU
SCALAR_EPSILON REGISTER_BYTES LANE_BYTES ALL_BUT_SIGN real mask scalar scalar_bits stage_model value_model INFINITY
NAN LIBM LIBMVEC ARMIJO rollout expand review adopt refill finish take allocate accumulate parameter_row load_row
store_row sweep reals stored_reals in_reals out_reals INLINE FUNCTION EXPANSION COUNT TABLE WARP BLOCK zero_reals
copy_reals TILE WHOLE_TILES UNROLL EACH ALWAYS_INLINE LOOPED_PRODUCTS STAGE_OPERATIONS control_row copy_uu shared
LINEAR_DYNAMICS SMALL_STAGE ALL_COUNTS TEAM TEAM_FOR TEAM_LEADER TEAM_SHARED NMOVING NHELD NBOTH NHIDDEN NVISIBLE
NSLOPES SUBSTEPS SUBSTEP_COSTS PLACES CARRIED REACH SHARE IMPLICIT NEWTON PARTS START MATRIX FINAL MASS NUNKNOWNS
STEP_TRACE NMIXED NSTATE NTERMINAL NPATH NEND NDUAL CONSTRAINED SOFT_ROWS SOFT_REALS ROW_BOUNDS_VARY
LINEAR_CONSTRAINTS QUADRATIC_PROGRAM ONLY_COST FLAT_COSTS NKEPT NREMEMBERED SCALAR_LEAST NINNER NINPUTS NOUTPUTS
NUNITS NWIDEST NLAYERS LAYERS NALL NETWORKS SITES NSITES READ READ_FROM NPASSED NRESULTS MOST_INPUTS MOST_SLOPES
MOST_WIDTH INPUT_COUNTS DO BODY_BENT INPUTS_BENT ACCUMULATES
SITE_OF_RATES SITE_OF_STAGES SITE_OF_ENDS PRICED_STAGE PRICED_END STAGE_INPUTS STAGE_OUTPUTS STAGE_BENT
STAGE_INPUTS_BENT END_INPUTS END_OUTPUTS END_BENT END_INPUTS_BENT PIECE SITE WIDTH INPUTS OUTPUTS VALUES BODY INPUT OF
OF_BENT OF_INPUTS_BENT STAGE_ROWS STAGE_ROW END_ROWS END_ROW ROWS ROW OF_ROWS OF_STAGE_ROWS OF_END_ROWS
AFFINE GIVEN SUM PRODUCT NORM NSLOPED NSCALED PARTS_OF_NETWORKS IS_PART EACH_LAYER
OUTPUTS_FROM OUTPUTS_READ LARGE_ARRAYS KEEPS_NETWORK KEEPS_ARRAYS TAKE_ARRAYS
"""
_OF_RATES = frozenset(
    stage.name
    for stage in (*rate_functions(), *body_functions(), *chain.from_iterable(of.functions() for of in MAPS))
)
_ARGUMENTS = frozenset(
    name for stage in contract(False).values() if stage.name not in _OF_RATES for name in stage.arguments
)
RESERVED = frozenset(_RESERVED.split()) | _ARGUMENTS | frozenset(CALLS.values()) | c_words()
"""Names that mean something in the generated file or its headers."""


@dataclass(frozen=True)
class CFunction:
    """A function's C text: a comment, its signature, and its body's lines."""

    name: str
    comment: str
    signature: str
    body: tuple[str, ...]


Table = Mapping[str, StageFunction]


def c_functions(plan: Schedule, table: Table) -> tuple[CFunction, ...]:
    """Print a scheduled function: whole, or in parts with a function that calls them.

    Matrices that loops are to multiply are followed by the function that has them multiplied. table: the contract.
    """
    stage = table[plan.function.name]
    parts, n_shared = cut(plan)
    printed = [_whole(stage, parts[0])] if len(parts) == 1 else _printed_parts(stage, parts, n_shared)
    for kind, name in DERIVE.items():
        if name == stage.name:
            printed.append(with_products(kind, table))
    return tuple(printed)


def reserved_in(stage: StageFunction) -> frozenset[str]:
    """Names that mean something inside a function: those of the file, and of its own parameters."""
    return RESERVED | frozenset(stage.arguments)


def _whole(stage: StageFunction, part: Part) -> CFunction:
    is_exact = stage.name in (EXPAND["exact"], REMEMBERED)
    qualifier = "EXPANSION" if is_exact else "INLINE" if stage.inline else "FUNCTION"
    return CFunction(stage.name, comment(stage.purpose), signature(qualifier, stage), _body(part, stage))


def _printed_parts(stage: StageFunction, parts: Sequence[Part], n_shared: int) -> list[CFunction]:
    """The parts of a long function, which the compiler must not put together again, and the function."""
    through = ("real *restrict shared",) if n_shared else ()
    names = (*stage.arguments, "shared") if n_shared else stage.arguments
    printed, calls = [], [f"real shared[{n_shared}];"] if n_shared else []
    for number, part in enumerate(parts, start=1):
        inner = replace(stage, name=f"{stage.name}_{number}")
        head = signature("FUNCTION __attribute__((noinline))", inner, through)
        title = comment(f"{stage.purpose}: part {number}")
        printed.append(CFunction(inner.name, title, head, _body(part, inner, bool(n_shared))))
        calls.append(call(inner.name, names))
    whole = CFunction(stage.name, comment(stage.purpose), signature("FUNCTION", stage), tuple(calls))
    return [*printed, whole]


def with_products(kind: str, table: Table) -> CFunction:
    """The model of a stage whose matrices loops multiply."""
    outer, inner = table[EXPAND[kind]], table[DERIVE[kind]]
    places = [outer.read("costate").place if name == "costate" else name for name in inner.arguments]
    body = (call(inner.name, places), "riccati_products(value, q);")
    title = "/* The same as a quadratic model: the products with V by loops. */"
    return CFunction(outer.name, title, signature("FUNCTION", outer), body)


def of_both(table: Table) -> CFunction:
    """The model of a linear-quadratic stage, whose matrices and gradients are functions of their own."""
    whole, parts = table[EXPAND["gauss_newton"]], (table[MATRICES], table[SLOPES])
    body = tuple(call(part.name, part.arguments) for part in parts)
    title = "/* Both: the quadratic model of the cost-to-go. */"
    return CFunction(whole.name, title, signature("FUNCTION", whole), body)


def linear_alias(table: Table) -> CFunction:
    """The exact model of dynamics without second derivatives, where it is the Gauss-Newton one."""
    exact, same = table[EXPAND["exact"]], table[EXPAND["gauss_newton"]]
    title = "/* The dynamics have no second derivatives: their exact model is the Gauss-Newton one. */"
    body = ("(void)weight;", call(same.name, same.arguments))
    return CFunction(exact.name, title, signature("FUNCTION", exact), body)


def call(name: str, arguments: Sequence[str]) -> str:
    """A statement that calls a function."""
    return f"{name}({', '.join(arguments)});"


def comment(purpose: str) -> str:
    """A sentence as a comment."""
    return _wrap(f"/* {purpose[0].upper()}{purpose[1:]}. */", indent=" * ")


def signature(qualifier: str, stage: StageFunction, more: tuple[str, ...] = ()) -> str:
    """The head of a function; ``more``: parameters behind those of the contract."""
    return _wrap_signature(f"{qualifier} void {stage.name}({', '.join((*stage.parameters, *more))})")


def _body(part: Part, stage: StageFunction, shared: bool = False) -> tuple[str, ...]:
    unused = _unused_parameters(stage, part, shared)
    return tuple(f"(void){name};" for name in unused) + tuple(_lines(part, stage))


def _unused_parameters(stage: StageFunction, plan: Part, shared: bool) -> list[str]:
    """Names of C parameters that no statement touches: said aloud, so that -Wextra stays silent."""
    touched = set()
    for statement in plan.statements:
        if isinstance(statement, Load):
            touched.add(stage.read(statement.source.name).argument)
        elif isinstance(statement, Store | Fill):
            touched.add(stage.written(statement.output.name).argument)
        elif isinstance(statement, Keep | Take):
            touched.add("shared")
    names = (*stage.arguments, "shared") if shared else stage.arguments
    return [name for name in names if name not in touched]


def _lines(plan: Part, stage: StageFunction) -> list[str]:
    lines = []
    for statement in plan.statements:
        match statement:
            case Load(source, index, name):
                line = f"const real {name} = {stage.read(source.name).place}[{index}];"
            case Take(name, index):
                line = f"const real {name} = shared[{index}];"
            case Keep(name, index):
                line = f"shared[{index}] = {name};"
            case Assign(name, node):
                line = f"const real {name} = {c_definition(node, plan.names)};"
                if node.is_boolean:
                    line = line.replace("const real", "const mask", 1)
            case Store(output, index, node):
                operator = "+=" if output.accumulate else "="
                target = f"{stage.written(output.name).place}[{index}]"
                line = f"{target} {operator} {c_value(node, plan.names)};"
                label = f"/* {output.labels[index]} */"
                if len(line) + 1 + len(label) > WIDTH:
                    lines.append(label)
                else:
                    line = f"{line} {label}"
            case Fill(output, places, node):
                step = f"i += {places.step}" if places.step > 1 else "i++"
                target = f"{stage.written(output.name).place}[i] = {c_value(node, plan.names)};"
                line = f"for (int i = {places.start}; i < {places.stop}; {step}) {target}"
        lines.append(_wrap(line, indent="    "))
    return lines


def _wrap(text: str, indent: str) -> str:
    if len(text) <= WIDTH:
        return text
    return "\n".join(
        textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    )


def _wrap_signature(text: str) -> str:
    """Wrap between parameters only."""
    head, _, parameters = text.partition("(")
    words = parameters.replace(" ", "\N{NO-BREAK SPACE}").replace(",\N{NO-BREAK SPACE}", ", ")
    return _wrap(f"{head}({words}", indent="    ").replace("\N{NO-BREAK SPACE}", " ")
