"""Groups of numbers that many stage functions read or write: what they are called in C, and what they mean."""

from __future__ import annotations

from mpcgen.stages.table import Slot

MEANINGS = {
    "x": "state",
    "u": "control",
    "theta": "parameters constant over the stages, and behind them what is prepared of them",
    "theta_t": "parameters of this stage",
    "weight": "of the second derivatives of what multipliers multiply",
    "costate": "lambda, of the next state",
    "V": "Hessian of the value function of the next state, lower triangle",
    "offset": "gradient of that value function beside lambda",
    "dual": "multipliers of the rows",
    "point": "values that a rollout has left behind the next state",
    "kept": "entries of F = df/d(x, u) that are no constants",
    "stiffness": "D of J'DJ, a row's share of the Hessian",
    "force": "what the rows push with: J'force is part of the offset",
    "d_x": "differential of the state",
    "d_u": "differential of the control",
    "d_costate": "differential of lambda",
    "d_dual": "differential of the multipliers of the rows",
    "loss_cost": "derivative of the loss by the cost",
    "d_theta": "change of theta",
    "d_theta_t": "change of theta_t",
    "g_theta": "gradient by theta",
    "g_theta_t": "gradient by theta_t",
}


def slot(declaration: str, group: str, size: str, meaning: str = "", place: str = "") -> Slot:
    """A slot with what its group means everywhere, unless ``meaning`` says otherwise."""
    accumulate = group in ("g_theta", "g_theta_t")
    return Slot(
        group, size, meaning or MEANINGS[group], declaration, place or _argument(declaration), accumulate
    )


def _argument(declaration: str) -> str:
    """Name of a C parameter."""
    return declaration.split()[-1].lstrip("*")


def member(struct: str, field: str, group: str, size: str, meaning: str = "") -> Slot:
    """A slot that is a field of a struct: ``struct`` is the C parameter."""
    return slot(struct, group, size, meaning, f"{_argument(struct)}->{field}")


THETA = (
    slot("stored_reals restrict theta", "theta", "NTHETA + NPREPARED"),
    slot("stored_reals restrict theta_t", "theta_t", "NTHETA_STAGE"),
)
CHANGE = (
    slot("stored_reals restrict d_theta", "d_theta", "NTHETA"),
    slot("stored_reals restrict d_theta_t", "d_theta_t", "NTHETA_STAGE"),
)
SUMS = (
    slot("reals restrict g_theta", "g_theta", "NTHETA"),
    slot("reals restrict g_theta_t", "g_theta_t", "NTHETA_STAGE"),
)
LOSS = slot("const real *restrict loss_cost", "loss_cost", "1")
