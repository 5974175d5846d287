"""Refuses equality rows that leave the controls no freedom: as many independent ones per stage as controls.

Numerically, at random points: the Jacobian by the controls of the rows that read them, and of the rows of the next
state that a stage's controls decide, has the rank of the number of controls.
"""

import random
from collections.abc import Sequence

from mpcgen.errors import SpecError
from mpcgen.ir import Expr, evaluate, substitute
from mpcgen.ir.model import Model, Rows
from mpcgen.ir.signature import Signature
from mpcgen.problem.lowering import lower_spec
from mpcgen.problem.spec import Spec

_POINTS = 3
_STEP = 1e-5
_NOTHING = 1e-8
"""A difference quotient below this, relative to what is differenced, is rounding."""
_DEPENDENT = 1e-5
"""A row that keeps less than this share of its length beside the others depends on them."""


def check_freedom(spec: Spec) -> None:
    """Raise SpecError where the equality rows of a stage determine all of its controls."""
    names = [
        c.name for c in spec.constraints if not c.terminal and any(_hard_equalities(c.is_equality, c.is_soft))
    ]
    if not names:
        return
    model = lower_spec(spec)
    mixed, state = _equalities(model.mixed), _equalities(model.state_rows)
    m = len(model.controls)
    if len(mixed) + len(state) < m or any(_rank_at(model, mixed, state, seed) < m for seed in range(_POINTS)):
        return
    raise SpecError(
        f"the equality rows of {', '.join(map(repr, names))} determine all {m} controls of a stage, so that nothing is "
        "left to optimise; drop rows, add controls, or make the rows soft"
    )


def _hard_equalities(equal: Sequence[bool], soft: Sequence[bool]) -> list[bool]:
    return [e and not s for e, s in zip(equal, soft, strict=True)]


def _equalities(rows: Rows) -> list[Expr]:
    infinite = [weight.is_const and weight.value == float("inf") for weight in rows.linear]
    pairs = zip(rows.values, rows.lower, rows.upper, infinite, strict=True)
    return [value for value, low, high, hard in pairs if low is high and hard]


def _rank_at(model: Model, mixed: Sequence[Expr], state: Sequence[Expr], seed: int) -> int:
    """Rank of the rows' Jacobian by the controls at a random point; 0 where it has no value."""
    generator = random.Random(seed)
    point = dict(zip(model.parameters, _parameter_values(model.signature, generator), strict=True))
    point |= {symbol: generator.uniform(-1, 1) for symbol in (*model.states, *model.controls)}

    def rows(control: Expr, change: float) -> list[float]:
        here = point | {control: point[control] + change}
        values = evaluate([*mixed, *_following(model)], here)
        following = dict(zip(model.states, values[len(mixed) :], strict=True))
        return [*values[: len(mixed)], *evaluate(state, here | following)]

    columns = []
    for control in model.controls:
        try:
            sides = rows(control, _STEP), rows(control, -_STEP)
        except (ArithmeticError, ValueError):
            return 0
        columns.append([_quotient(*pair) for pair in zip(*sides, strict=True)])
    return _rank([list(row) for row in zip(*columns, strict=True)])


def _following(model: Model) -> list[Expr]:
    """Next states; of an implicit integrator those of one explicit Euler step, which controls reach no further.

    Where a rate is unknown, its residual at no change takes its place.
    """
    following, substeps = list(model.next_state), model.substeps
    if substeps is not None and substeps.implicit is not None:
        moving = len(substeps.moving)
        changes = [*substeps.changes[moving:], *substeps.changes[len(substeps.hidden) : moving]]
        changes = substitute(changes, dict.fromkeys(substeps.hidden, model.graph.const(0.0)))
        for i, change in zip(substeps.moving, changes, strict=True):
            following[i] = model.states[i] + change
    return following


def _parameter_values(signature: Signature, generator: random.Random) -> list[float]:
    """Defaults; a random positive number where there is none, or an infinite one."""
    return [
        value if abs(value) < float("inf") else generator.uniform(0.5, 1.5)
        for parameter in signature.parameters
        for value in (parameter.default or [float("inf")] * parameter.size)
    ]


def _quotient(high: float, low: float) -> float:
    slope = (high - low) / (2 * _STEP)
    return slope if abs(slope) > _NOTHING * max(1.0, abs(high)) else 0.0


def _rank(rows: list[list[float]]) -> int:
    """Number of independent rows, by Gram-Schmidt on rows of length one."""
    basis: list[list[float]] = []
    for row in rows:
        length = sum(entry * entry for entry in row) ** 0.5
        if not length > 0:
            continue
        rest = [entry / length for entry in row]
        for known in basis:
            share = sum(a * b for a, b in zip(rest, known, strict=True))
            rest = [a - share * b for a, b in zip(rest, known, strict=True)]
        left = sum(entry * entry for entry in rest) ** 0.5
        if left > _DEPENDENT:
            basis.append([entry / left for entry in rest])
    return len(basis)
