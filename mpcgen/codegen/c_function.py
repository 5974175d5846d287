"""Scheduled functions as C text: signature, body lines, and where each argument lives."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mpcgen.codegen.c_expression import CALLS, c_definition, c_value
from mpcgen.ir import Expr
from mpcgen.ir.function import Function
from mpcgen.ir.schedule import Assign, Load, Store, schedule
from mpcgen.passes.parts import Keep, Part, Take, cut

WIDTH = 116

_POINT = "stored_reals restrict state, stored_reals restrict control, {theta}"
_THETA = "stored_reals restrict theta, stored_reals restrict theta_t"
_EXPAND = _POINT + ", {weight}const value_model *restrict value, "
_DERIVE = _POINT + ", {weight}const real *restrict costate, "


@dataclass(frozen=True)
class Interface:
    """C parameters of a function, and the C expression of each of its inputs and outputs.

    ``apart``: a part of a long function, which the compiler must not put together again.
    """

    parameters: str
    places: Mapping[str, str]
    inline: bool = True
    apart: bool = False


def _interface(parameters: str, places: Mapping[str, str], inline: bool = True) -> Interface:
    usual = {"x": "state", "u": "control", "theta": "theta", "theta_t": "theta_t"}
    return Interface(parameters.format(theta=_THETA), {**usual, **places}, inline)


def _expand(exact: bool) -> Interface:
    value = {"costate": "value->costate", "V": "value->hessian", "offset": "value->offset"}
    return _model_interface(_EXPAND, exact, value)


def _derive(exact: bool) -> Interface:
    return _model_interface(_DERIVE, exact, {"costate": "costate"})


def _model_interface(parameters: str, exact: bool, places: Mapping[str, str]) -> Interface:
    weight = "const real *restrict weight, " if exact else ""
    head = parameters.format(theta=_THETA, weight=weight)
    return _interface(head + _RESULT, {"weight": "weight", **places, **_MODEL}, inline=False)


def _same(names: str) -> dict[str, str]:
    """Inputs and outputs that go by the same name in C."""
    return {name: name for name in names.split()}


_MODEL = {name: f"q->{name}" for name in ("F", "gradient_u", "offset_x", "offset_u")}
_MODEL |= {"Q": "q->hessian", "H": "q->hessian", "out costate": "q->costate"}
_RESULT = "stage_model *restrict q"
_SUMS = "reals restrict g_theta, reals restrict g_theta_t"
_G = _same("g_theta g_theta_t")
_CHANGE = "stored_reals restrict d_theta, stored_reals restrict d_theta_t"
_DTHETA = _same("d_theta d_theta_t")
_D = {"d_x": "d_state", "d_u": "d_control"}

INTERFACES: dict[str, Interface] = {
    "prepare_parameters": _interface(
        "in_reals restrict theta, out_reals restrict prepared", _same("prepared"), inline=False
    ),
    "stage_dynamics": _interface(
        _POINT + ", reals restrict next_state, real *restrict cost",
        {"x_next": "next_state", "cost": "cost"},
    ),
    "terminal_cost": _interface("stored_reals restrict state, {theta}, real *restrict cost", _same("cost")),
    "stage_bounds": _interface(
        "{theta}, out_reals restrict lower, out_reals restrict upper", _same("lower upper")
    ),
    "terminal_expand": _interface(
        "stored_reals restrict state, {theta}, real *restrict hessian, real *restrict costate",
        {"hessian": "hessian", "out costate": "costate"},
    ),
    "stage_expand_gauss_newton": _expand(exact=False),
    "stage_expand_exact": _expand(exact=True),
    "stage_derivatives_gauss_newton": _derive(exact=False),
    "stage_derivatives_exact": _derive(exact=True),
    "stage_tangent": _interface(
        _POINT + ", in_reals restrict d_state, in_reals restrict d_control, out_reals restrict d_next",
        {**_D, "d_next": "d_next"},
    ),
    "stage_gradient": _interface(
        _POINT + ", stored_reals restrict costate, const real *restrict d_state, "
        "const real *restrict d_control, const real *restrict d_costate, "
        "const real *restrict loss_cost, " + _SUMS + ", real *restrict g_control",
        {**_D, **_same("costate d_costate loss_cost"), **_G, "g_u": "g_control"},
        inline=False,
    ),
    "terminal_gradient": _interface(
        "stored_reals restrict state, {theta}, const real *restrict d_state, const real *restrict loss_cost, "
        + _SUMS,
        {**_D, **_same("loss_cost"), **_G},
    ),
    "bounds_gradient": _interface(
        "{theta}, const real *restrict g_lower, const real *restrict g_upper, " + _SUMS,
        {**_same("g_lower g_upper"), **_G},
    ),
    "stage_forward": _interface(
        _POINT + ", const real *restrict costate, " + _CHANGE + ", reals restrict r_state, "
        "reals restrict r_control, reals restrict affine, real *restrict d_cost",
        {**_same("costate affine d_cost"), **_DTHETA, "r_x": "r_state", "r_u": "r_control"},
        inline=False,
    ),
    "terminal_forward": _interface(
        "stored_reals restrict state, {theta}, "
        + _CHANGE
        + ", reals restrict r_state, real *restrict d_cost",
        {**_DTHETA, "r_x": "r_state", "d_cost": "d_cost"},
    ),
    "bounds_forward": _interface(
        "{theta}, " + _CHANGE + ", real *restrict d_lower, real *restrict d_upper",
        {**_DTHETA, **_same("d_lower d_upper")},
    ),
}

_RESERVED = """
prepared state control theta theta_t value q weight costate hessian lower upper next_state cost d_state d_control
d_theta d_theta_t r_state r_control affine d_cost d_lower d_upper d_next d_costate loss_cost g_theta g_theta_t g_control
g_lower g_upper F H R ALL LANES NX NU NXX NUU NTHETA NPREPARED NTHETA_STAGE NPARAMETERS PARAMETERS BOUNDS_VARY TRIANGLE
SYMMETRIC NTAU SCALAR_EPSILON REGISTER_BYTES LANE_BYTES ALL_BUT_SIGN real mask scalar scalar_bits stage_model
value_model INFINITY NAN LIBM LIBMVEC ARMIJO rollout expand review adopt refill finish take allocate accumulate
parameter_row load_row store_row sweep reals stored_reals in_reals out_reals INLINE FUNCTION COUNT TABLE WARP BLOCK
zero_reals copy_reals TILE WHOLE_TILES UNROLL EACH ALWAYS_INLINE LOOPED_PRODUCTS STAGE_OPERATIONS control_row copy_uu
shared LINEAR_DYNAMICS SMALL_STAGE ALL_COUNTS TEAM TEAM_FOR TEAM_LEADER TEAM_SHARED
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


def c_functions(function: Function, hints: Mapping[Expr, str]) -> tuple[CFunction, ...]:
    """Schedule a function and print it: whole, or in parts with a function that calls them.

    Matrices that loops are to multiply are followed by the function that has them multiplied.
    """
    interface = INTERFACES[function.name]
    parts, n_shared = cut(schedule(function, hints, RESERVED))
    if len(parts) == 1:
        printed = [CFunction(*_head(function, interface), _body(parts[0], interface))]
    else:
        printed = _printed_parts(function, parts, n_shared)
    if function.name.startswith("stage_derivatives_"):
        printed.append(_with_products(function.name))
    return tuple(printed)


def _printed_parts(function: Function, parts: Sequence[Part], n_shared: int) -> list[CFunction]:
    """The parts of a long function, and the function."""
    interface = replace(INTERFACES[function.name], inline=False)
    through = ", real *restrict shared" if n_shared else ""
    inner = replace(interface, parameters=interface.parameters + through, apart=True)
    printed, calls = [], [f"real shared[{n_shared}];"] if n_shared else []
    for number, part in enumerate(parts, start=1):
        name, purpose = f"{function.name}_{number}", f"{function.purpose}: part {number}"
        head = _head(replace(function, name=name, purpose=purpose), inner)
        printed.append(CFunction(*head, _body(part, inner)))
        calls.append(_call(name, inner))
    return [*printed, CFunction(*_head(function, interface), tuple(calls))]


def _with_products(name: str) -> CFunction:
    outer = name.replace("derivatives", "expand")
    interface = INTERFACES[outer]
    signature = _wrap_signature(f"FUNCTION void {outer}({interface.parameters})")
    derivatives = _call(name, INTERFACES[name]).replace("costate", "value->costate")
    body = (derivatives, "riccati_products(value, q);")
    return CFunction(
        outer, "/* The same as a quadratic model: the products with V by loops. */", signature, body
    )


def linear_alias() -> CFunction:
    """The exact model of dynamics without second derivatives, where it is the Gauss-Newton one."""
    interface = INTERFACES["stage_expand_exact"]
    signature = _wrap_signature(f"FUNCTION void stage_expand_exact({interface.parameters})")
    call = _call("stage_expand_gauss_newton", INTERFACES["stage_expand_gauss_newton"])
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
