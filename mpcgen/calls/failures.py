"""Where a problem that ended as DIVERGED or MODEL failed: the stage and, of the former, what is not finite."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def describe_failure(x: Tensor, costates: Tensor, gains: Tensor, problem: int, states: Sequence[str]) -> str:
    """Say what of one DIVERGED problem is not finite, and at which stage, as a clause without a full stop.

    x, costates: (..., N+1, n); gains: (..., N, m, n), of a solution. problem: its place in the flat batch. Of a rollout
    that overflowed x has what came before, with NaN behind it; otherwise the derivatives tell, which are made from the
    last stage backward.
    """
    n, (horizon, m) = len(states), gains.shape[-3:-1]
    first = _first(x.reshape(-1, horizon + 1, n)[problem])
    if first is not None:
        return f"state {states[first % n]} is not finite at stage {first // n}"
    costate, gain = costates.reshape(-1, horizon + 1, n)[problem], gains.reshape(-1, horizon, m * n)[problem]
    if not bool(costate.isnan().all()):  # NaN throughout where there was no backward sweep
        # Stage 0 has no say: of x_0 the solution needs no derivative.
        last = _first(costate[1:].flip(0))
        if last is not None:
            name = states[last % n]
            return f"the derivative of the cost-to-go by state {name} is not finite at stage {horizon - last // n}"
        curved = _first(gain.flip(0))
        if curved is not None:
            stage = horizon - 1 - curved // (m * n)
            return f"the second derivatives are not finite at stage {stage} or the next"
    return "all states are finite, but the cost is not"


def describe_step(x: Tensor, costates: Tensor, problem: int) -> str:
    """Say at which stage a MODEL problem's implicit step found no solution; arguments as for `describe_failure`."""
    rows = x.reshape(-1, *x.shape[-2:])[problem]
    first = _first(rows)
    if first is not None:
        return f"the step from stage {first // x.shape[-1] - 1} has no solution"
    # Iterates that do not obey the dynamics are finite; derivatives, made from the last stage backward, are not.
    last = _first(costates.reshape(-1, *costates.shape[-2:])[problem].flip(0))
    if last is None:
        return "a step has no solution"
    return f"the step from stage {x.shape[-2] - 1 - last // x.shape[-1]} has no solution"


LITTLE_VIOLATION = 1e-6
"""Less than that is for more passes to remove."""


def describe_violation(violation: Tensor, problem: int, has_hard_rows: bool) -> str:
    """Say by how much a problem that is not solved violates its constraints; "" where it hardly does.

    Without hard rows these are the dynamics, which some controls always obey.
    """
    found = float(violation.detach().flatten()[problem])
    if not found > LITTLE_VIOLATION:
        return ""
    if not has_hard_rows:
        return (
            f"its states differ by {found:.2g} from where the dynamics lead: rows are all soft, so that more passes, "
            "or another start, bring it nearer"
        )
    return (
        f"it violates constraints by {found:.2g}, and may have no feasible point near its start: make rows soft, or "
        "try others, MPC(restarts=8)"
    )


def _first(values: Tensor) -> int | None:
    """Place of the first number, row by row, that is not finite."""
    bad = values.detach().isfinite().logical_not().flatten().nonzero()
    return int(bad[0]) if len(bad) else None
