"""Scheduled functions as C text: signature, body lines, and where each argument lives."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mpcgen.codegen.c_expression import CALLS, c_definition, c_value
from mpcgen.codegen.interfaces import Interface, interfaces
from mpcgen.ir.function import Function
from mpcgen.ir.schedule import Assign, Load, Schedule, Store
from mpcgen.passes.parts import Keep, Part, Take, cut

WIDTH = 116

_RESERVED = """
prepared state control theta theta_t value q weight costate hessian lower upper next_state cost d_state d_control
d_theta d_theta_t r_state r_control affine d_cost d_lower d_upper d_next d_costate loss_cost g_theta g_theta_t g_control
g_lower g_upper F H R ALL LANES NX NU NXX NUU NTHETA NPREPARED NTHETA_STAGE NPARAMETERS PARAMETERS BOUNDS_VARY TRIANGLE
SYMMETRIC NTAU SCALAR_EPSILON REGISTER_BYTES LANE_BYTES ALL_BUT_SIGN real mask scalar scalar_bits stage_model
value_model INFINITY NAN LIBM LIBMVEC ARMIJO rollout expand review adopt refill finish take allocate accumulate
parameter_row load_row store_row sweep reals stored_reals in_reals out_reals INLINE FUNCTION COUNT TABLE WARP BLOCK
zero_reals copy_reals TILE WHOLE_TILES UNROLL EACH ALWAYS_INLINE LOOPED_PRODUCTS STAGE_OPERATIONS control_row copy_uu
shared LINEAR_DYNAMICS SMALL_STAGE ALL_COUNTS TEAM TEAM_FOR TEAM_LEADER TEAM_SHARED
NMIXED NSTATE NTERMINAL NPATH NEND NDUAL CONSTRAINED SOFT_ROWS ROW_BOUNDS_VARY
"""
RESERVED = frozenset(_RESERVED.split()) | frozenset(CALLS.values())
"""Names that mean something in the generated file or its headers."""


@dataclass(frozen=True)
class CFunction:
    """A function's C text: a comment, its signature, and its body's lines."""

    name: str
    comment: str
    signature: str
    body: tuple[str, ...]


def c_functions(plan: Schedule, constrained: bool = False) -> tuple[CFunction, ...]:
    """Print a scheduled function: whole, or in parts with a function that calls them.

    Matrices that loops are to multiply are followed by the function that has them multiplied.
    """
    function = plan.function
    interface = interfaces(constrained)[function.name]
    parts, n_shared = cut(plan)
    if len(parts) == 1:
        printed = [CFunction(*_head(function, interface), _body(parts[0], interface))]
    else:
        printed = _printed_parts(function, interface, parts, n_shared)
    if function.name.startswith("stage_derivatives_"):
        printed.append(_with_products(function.name, constrained))
    return tuple(printed)


def reserved_in(interface: Interface) -> frozenset[str]:
    """Names that mean something inside a function: those of the file, and of its own parameters."""
    return RESERVED | frozenset(_parameter_names(interface.parameters))


def _printed_parts(
    function: Function, interface: Interface, parts: Sequence[Part], n_shared: int
) -> list[CFunction]:
    """The parts of a long function, and the function."""
    interface = replace(interface, inline=False)
    through = ", real *restrict shared" if n_shared else ""
    inner = replace(interface, parameters=interface.parameters + through, apart=True)
    printed, calls = [], [f"real shared[{n_shared}];"] if n_shared else []
    for number, part in enumerate(parts, start=1):
        name, purpose = f"{function.name}_{number}", f"{function.purpose}: part {number}"
        head = _head(replace(function, name=name, purpose=purpose), inner)
        printed.append(CFunction(*head, _body(part, inner)))
        calls.append(_call(name, inner))
    return [*printed, CFunction(*_head(function, interface), tuple(calls))]


def _with_products(name: str, constrained: bool) -> CFunction:
    outer = name.replace("derivatives", "expand")
    known = interfaces(constrained)
    interface = known[outer]
    signature = _wrap_signature(f"FUNCTION void {outer}({interface.parameters})")
    derivatives = _call(name, known[name]).replace("costate", "value->costate")
    body = (derivatives, "riccati_products(value, q);")
    return CFunction(
        outer, "/* The same as a quadratic model: the products with V by loops. */", signature, body
    )


def linear_alias(constrained: bool) -> CFunction:
    """The exact model of dynamics without second derivatives, where it is the Gauss-Newton one."""
    known = interfaces(constrained)
    interface = known["stage_expand_exact"]
    signature = _wrap_signature(f"FUNCTION void stage_expand_exact({interface.parameters})")
    call = _call("stage_expand_gauss_newton", known["stage_expand_gauss_newton"])
    comment = "/* The dynamics have no second derivatives: their exact model is the Gauss-Newton one. */"
    return CFunction("stage_expand_exact", comment, signature, ("(void)weight;", call))


def _call(name: str, interface: Interface) -> str:
    return f"{name}({', '.join(_parameter_names(interface.parameters))});"


def _head(function: Function, interface: Interface) -> tuple[str, str, str]:
    """Name, comment and signature."""
    qualifier = "INLINE" if interface.inline else "FUNCTION"
    if interface.apart:
        qualifier += " __attribute__((noinline))"
    signature = _wrap_signature(f"{qualifier} void {function.name}({interface.parameters})")
    comment = _wrap(f"/* {function.purpose[0].upper()}{function.purpose[1:]}. */", indent=" * ")
    return function.name, comment, signature


def _body(part: Part, interface: Interface) -> tuple[str, ...]:
    unused = _unused_parameters(interface, part)
    return tuple(f"(void){name};" for name in unused) + tuple(_lines(part, interface.places))


def _parameter_names(parameters: str) -> list[str]:
    return [parameter.split()[-1].lstrip("*") for parameter in parameters.split(",")]


def _unused_parameters(interface: Interface, plan: Part) -> list[str]:
    """Names of C parameters that no statement touches: said aloud, so that -Wextra stays silent."""
    touched = set()
    for statement in plan.statements:
        if isinstance(statement, Load):
            touched.add(_root(interface.places[statement.source.name]))
        elif isinstance(statement, Store):
            touched.add(_root(_destination(statement, interface.places)))
        elif isinstance(statement, Keep | Take):
            touched.add("shared")
    return [name for name in _parameter_names(interface.parameters) if name not in touched]


def _root(place: str) -> str:
    return place.split("->")[0]


def _destination(store: Store, places: Mapping[str, str]) -> str:
    return places.get(f"out {store.output.name}") or places[store.output.name]


def _lines(plan: Part, places: Mapping[str, str]) -> list[str]:
    lines = []
    for statement in plan.statements:
        match statement:
            case Load(source, index, name):
                line = f"const real {name} = {places[source.name]}[{index}];"
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
                target = f"{_destination(statement, places)}[{index}]"
                line = f"{target} {operator} {c_value(node, plan.names)};"
                label = f"/* {output.labels[index]} */"
                if len(line) + 1 + len(label) > WIDTH:
                    lines.append(label)
                else:
                    line = f"{line} {label}"
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
