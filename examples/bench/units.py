"""The units of cost and controls: what becomes of problems of the gallery in every one of a grid of them.

    python -m examples.bench.units
    python -m examples.bench.units --problem acrobot --precision float32

A cost of unit s and controls of unit a are two parameters of each problem, so that all units of a start are one batch:
powers of a thousand from 1e-9 to 1e9 in float64, from 1e-6 to 1e6 in float32. Every cell is judged beside the one where
both are 1, and by a solve in float64 in those units from the controls that it ended with: a CONVERGED is wrong from
where that goes to a cheaper solution, a STALLED is false where that finds nothing to do.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click
import sympy as sp
import torch
from torch import Tensor

import mpcgen
from examples.bench.gallery import Entry, chosen
from mpcgen import Status
from mpcgen.problem.spec import ParameterSpec, Spec

PROBLEMS = (
    "pendulum",
    "cartpole",
    "car",
    "quadrotor",
    "van_der_pol_integral",
    "rayleigh_sum",
    "luus_reactor",
    "catalyst_weighted",
    "crane_sum",
    "acrobot",
    "rocket_landing",
    "safe_cartpole",
)
MAX_ITERATIONS = 500
SEED = 0
REACH = {"float64": 9, "float32": 6}
STEP = 3
CHEAPER = {"float64": 1e-6, "float32": 1e-3}
"""Relative difference of costs beyond which one solution is cheaper than another."""
HEADER = (
    "| problem | precision | CONVERGED | the others | wrong CONVERGED | false STALLED | in another minimum "
    "| controls differ by | gradients |"
)


@dataclass(frozen=True)
class Row:
    """What became of a problem in all units.

    ``elsewhere``: cells that ended in another minimum than their start in units of 1. ``controls``, ``gradients``: the
    largest difference from there in the same one, relative to the start's largest; gradients by x0 of a sum of the
    controls, each with a weight of its own, and of the cost.
    """

    problem: str
    precision: str
    cells: int
    solved: int
    others: dict[str, int]
    wrong: int
    false: int
    elsewhere: int
    controls: float
    gradients: float

    def __str__(self) -> str:
        left = ", ".join(f"{count} {name}" for name, count in sorted(self.others.items()))
        counts = f"{self.wrong} | {self.false} | {self.elsewhere}"
        share = f"{self.solved} of {self.cells}"
        differences = f"{self.controls:.0e} | {self.gradients:.0e}"
        return f"| {self.problem} | {self.precision} | {share} | {left} | {counts} | {differences} |"


def in_units(spec: Spec) -> Spec:
    """Return the same problem with its cost times a parameter ``cost_unit`` and controls times ``control_unit``.

    Each stage costs ``cost_offset`` more than that, 0 unless given.
    """
    ends = ("cost_unit",) if sp.sympify(spec.terminal_cost) != 0 else ()
    cost, control, offset = (
        ParameterSpec(name, (), (sp.Symbol(name, real=True),), (default,), False, name in ends, False)
        for name, default in (("cost_unit", 1.0), ("control_unit", 1.0), ("cost_offset", 0.0))
    )
    s, a = cost.symbols[0], control.symbols[0]
    change = {c.symbol: c.symbol / a for c in spec.controls}

    def changed(rows: tuple[sp.Expr, ...]) -> tuple[sp.Expr, ...]:
        return tuple(sp.sympify(row).xreplace(change) for row in rows)

    def priced(weights: tuple[sp.Expr, ...]) -> tuple[sp.Expr, ...]:
        return tuple(weight if weight is sp.oo else s * weight for weight in weights)

    return dataclasses.replace(
        spec,
        name=f"{spec.name}_in_units",
        controls=tuple(
            dataclasses.replace(c, lower=_scaled(c.lower, a), upper=_scaled(c.upper, a))
            for c in spec.controls
        ),
        parameters=(*spec.parameters, cost, control, offset),
        dynamics=dataclasses.replace(spec.dynamics, expressions=changed(spec.dynamics.expressions)),
        stage_cost=s * sp.sympify(spec.stage_cost).xreplace(change) + offset.symbols[0],
        terminal_cost=s * spec.terminal_cost,
        constraints=tuple(
            dataclasses.replace(
                c, rows=changed(c.rows), soft=priced(c.soft), soft_quadratic=priced(c.soft_quadratic)
            )
            for c in spec.constraints
        ),
    )


def _scaled(bound: sp.Expr, unit: sp.Symbol) -> sp.Expr:
    return bound if sp.sympify(bound).is_infinite else unit * bound


def grid(precision: str) -> Tensor:
    """(cells, 2) float64: units of cost and controls; the first are (1, 1)."""
    exponents = torch.arange(-REACH[precision], REACH[precision] + 1, STEP, dtype=torch.float64)
    others = torch.cartesian_prod(exponents, exponents)
    return 10 ** torch.cat([torch.zeros(1, 2, dtype=torch.float64), others[others.abs().sum(1) > 0]])


@dataclass(frozen=True)
class Found:
    """Of all cells and starts, in units of 1 and float64, leading dimensions (cells, starts).

    status (...); cost (...); u (..., N, m); gradients (..., n) of the controls and of the cost.
    """

    status: Tensor
    cost: Tensor
    u: Tensor
    gradients: tuple[Tensor, Tensor]


def solve(module: Any, entry: Entry, spec: Spec, x0: Tensor, u_init: Tensor, units: Tensor) -> Found:
    """Solve starts x0 (starts, n), u_init (starts, N, m) in units (cells, 2), and differentiate."""
    s, a = units.to(x0.dtype).T[..., None]
    given = {name: torch.as_tensor(value, dtype=x0.dtype) for name, value in entry.parameters.items()}
    begin = x0.expand(len(units), *x0.shape).clone().requires_grad_()
    mpc = module.MPC(max_iterations=MAX_ITERATIONS, on_unconverged="ignore")
    sol = mpc(
        begin, u_init=u_init * a[..., None, None], cost_unit=s, control_unit=a, horizon=entry.horizon, **given
    )
    u, cost = sol.u / a[..., None, None], sol.cost / s
    weights = torch.linspace(1, 2, u[0, 0].numel(), dtype=u.dtype).reshape(u[0, 0].shape)
    losses = ((u * weights).nansum(), cost.nansum())
    of_controls, of_cost = (
        torch.autograd.grad(loss, begin, retain_graph=True)[0].double() for loss in losses
    )
    return Found(sol.status, cost.detach().double(), u.detach().double(), (of_controls, of_cost))


def differences(values: Tensor, where: Tensor) -> float:
    """The largest of (cells, starts, ...) from the first cell, relative to a start's largest; where (cells, starts)."""
    flat = values.flatten(2)
    size = flat.masked_fill(~where[..., None], 0.0).abs().amax((0, 2))
    error = (flat - flat[:1]).abs().amax(-1) / torch.where(size > 0, size, torch.ones_like(size))
    return float(error[where].max()) if where.any() else float("nan")


def measure(entry: Entry, precision: str, starts: int) -> Row:
    """Solve a problem's starts in all units of a precision, and judge how each cell ends."""
    spec = entry.make()
    scaled = in_units(spec)
    module = mpcgen.compile(
        scaled, dtypes=("float64", precision)[: 1 + (precision != "float64")], progress=False
    )
    x0, u_init = (torch.as_tensor(values) for values in entry.starts(spec, starts, SEED))
    units, dtype = grid(precision), getattr(torch, precision)
    found = solve(module, entry, scaled, x0.to(dtype), u_init.to(dtype), units)
    solved = found.status == Status.CONVERGED
    again = check(module, entry, x0, found)
    size = again.cost.abs().clamp_min(1e-12)
    fallen = again.cost < found.cost - CHEAPER[precision] * size
    moved = (again.cost - found.cost).abs() > CHEAPER[precision] * size
    ends = (again.status == Status.CONVERGED) & ~moved
    same = (found.cost - found.cost[:1]).abs() <= CHEAPER[precision] * found.cost[:1].abs().clamp_min(1e-12)
    both = solved & solved[:1]
    others = Counter(Status(int(status)).name for status in found.status[~solved])
    return Row(
        entry.name,
        precision,
        solved.numel(),
        int(solved.sum()),
        dict(others),
        int((solved & fallen).sum()),
        int(((found.status == Status.STALLED) & ends).sum()),
        int((both & ~same).sum()),
        differences(found.u, both & same),
        max(differences(kind, both & same) for kind in found.gradients),
    )


def check(module: Any, entry: Entry, x0: Tensor, found: Found) -> Any:
    """Solve in units of 1 and float64 from what all cells have found; of x0 (starts, n)."""
    given = {name: torch.as_tensor(value, dtype=x0.dtype) for name, value in entry.parameters.items()}
    mpc = module.MPC(max_iterations=MAX_ITERATIONS, on_unconverged="ignore")
    with torch.no_grad():
        return mpc(
            x0.expand(*found.status.shape, -1), u_init=found.u.nan_to_num(), horizon=entry.horizon, **given
        )


def rows(names: tuple[str, ...], precisions: tuple[str, ...], starts: int) -> Iterator[Row]:
    """Yield a row for each problem and precision."""
    for entry in chosen(names):
        for precision in precisions:
            yield measure(entry, precision, starts)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--problem", "problems", multiple=True, help="Of the gallery; default: twelve of them.")
@click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(list(REACH)), help="Default: both."
)
@click.option("--starts", default=16, show_default=True, type=click.IntRange(1), help="Of each in each unit.")
def main(problems: tuple[str, ...], precisions: tuple[str, ...], starts: int) -> None:
    """Print what becomes of problems of the gallery in a grid of units of their cost and controls."""
    click.echo(HEADER)
    click.echo("|" + "---|" * (HEADER.count("|") - 1))
    for row in rows(problems or PROBLEMS, precisions or tuple(REACH), starts):
        click.echo(str(row))


if __name__ == "__main__":
    main()
