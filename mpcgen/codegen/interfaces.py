"""How the generated functions look in C: their parameters, and where each input and output lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_POINT = "stored_reals restrict state, stored_reals restrict control, {theta}"
_THETA = "stored_reals restrict theta, stored_reals restrict theta_t"
_EXPAND = _POINT + ", {weight}const value_model *restrict value, "
_DERIVE = _POINT + ", {weight}const real *restrict costate, "
_ROWS = "const real *restrict dual, const real *restrict stiffness, const real *restrict force, "


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


def _expand(exact: bool, rows: str = "") -> Interface:
    value = {"costate": "value->costate", "V": "value->hessian", "offset": "value->offset"}
    return _model_interface(_EXPAND + rows, exact, value)


def _derive(exact: bool, rows: str = "") -> Interface:
    return _model_interface(_DERIVE + rows, exact, {"costate": "costate"})


def _model_interface(parameters: str, exact: bool, places: Mapping[str, str]) -> Interface:
    weight = "const real *restrict weight, " if exact else ""
    head = parameters.format(theta=_THETA, weight=weight)
    usual = _same("weight dual stiffness force")
    return _interface(head + _RESULT, {**usual, **places, **_MODEL}, inline=False)


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

_END = "stored_reals restrict state, {theta}, "

_ROW_INTERFACES: dict[str, Interface] = {
    "stage_rows": _interface(_POINT + ", out_reals restrict rows", _same("rows")),
    "terminal_rows": _interface(_END + "out_reals restrict rows", _same("rows")),
    "stage_rows_tangent": _interface(
        _POINT + ", in_reals restrict d_state, in_reals restrict d_control, out_reals restrict d_rows",
        {**_D, **_same("d_rows")},
    ),
    "terminal_rows_tangent": _interface(
        _END + "in_reals restrict d_state, out_reals restrict d_rows", {**_D, **_same("d_rows")}
    ),
    "stage_expand_gauss_newton": _expand(False, _ROWS),
    "stage_expand_exact": _expand(True, _ROWS),
    "stage_derivatives_gauss_newton": _derive(False, _ROWS),
    "stage_derivatives_exact": _derive(True, _ROWS),
    "terminal_expand": _interface(
        _END
        + "const real *restrict weight, "
        + _ROWS
        + "real *restrict hessian, real *restrict costate, real *restrict offset",
        {**_same("weight dual stiffness force hessian"), "out costate": "costate", "out offset": "offset"},
        inline=False,
    ),
    "stage_gradient": _interface(
        _POINT + ", stored_reals restrict costate, const real *restrict dual, const real *restrict d_state, "
        "const real *restrict d_control, const real *restrict d_costate, const real *restrict d_dual, "
        "const real *restrict loss_cost, " + _SUMS + ", real *restrict g_control",
        {**_D, **_same("costate dual d_costate d_dual loss_cost"), **_G, "g_u": "g_control"},
        inline=False,
    ),
    "terminal_gradient": _interface(
        _END + "const real *restrict dual, const real *restrict d_state, const real *restrict d_dual, "
        "const real *restrict loss_cost, " + _SUMS,
        {**_D, **_same("dual d_dual loss_cost"), **_G},
        inline=False,
    ),
    "stage_forward": _interface(
        _POINT
        + ", const real *restrict costate, const real *restrict dual, "
        + _CHANGE
        + ", reals restrict r_state, "
        "reals restrict r_control, reals restrict affine, reals restrict d_rows, real *restrict d_cost",
        {**_same("costate dual affine d_rows d_cost"), **_DTHETA, "r_x": "r_state", "r_u": "r_control"},
        inline=False,
    ),
    "terminal_forward": _interface(
        _END
        + "const real *restrict dual, "
        + _CHANGE
        + ", reals restrict r_state, reals restrict d_rows, real *restrict d_cost",
        {**_DTHETA, "r_x": "r_state", **_same("dual d_rows d_cost")},
        inline=False,
    ),
}

for _place, _prefix in (("stage", ""), ("terminal", "terminal_")):
    for _what, _first, _second in (("bounds", "lower", "upper"), ("weights", "linear", "quadratic")):
        _ROW_INTERFACES[f"{_place}_row_{_what}"] = _interface(
            f"{{theta}}, out_reals restrict {_first}, out_reals restrict {_second}",
            _same(f"{_first} {_second}"),
        )
        _ROW_INTERFACES[f"{_prefix}row_{_what}_gradient"] = _interface(
            f"{{theta}}, const real *restrict g_{_first}, const real *restrict g_{_second}, " + _SUMS,
            {**_same(f"g_{_first} g_{_second}"), **_G},
        )
        _ROW_INTERFACES[f"{_prefix}row_{_what}_forward"] = _interface(
            "{theta}, " + _CHANGE + f", real *restrict d_{_first}, real *restrict d_{_second}",
            {**_DTHETA, **_same(f"d_{_first} d_{_second}")},
        )


def interfaces(constrained: bool) -> Mapping[str, Interface]:
    """The interface of each function, by name, of a problem with or without constraints."""
    return {**INTERFACES, **_ROW_INTERFACES} if constrained else INTERFACES
