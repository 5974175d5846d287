"""The paper's gradient beside the exact one: `make gradient-accuracy`.

The paper differentiates through the last convex approximation (its Module 2), which leaves the curvature of the
dynamics out: `gradient="gauss_newton"`. This measures what that costs on the paper's own systems, in an imitation
loss Σ(u - u_expert)², where the expert has other parameters. The exact gradient is checked in the same run
against central differences of solutions and, where it is installed, against CasADi's KKT system.
"""

import dataclasses
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import sympy as sp
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import mpcgen
from examples.bench.timing import machine_name
from mpcgen.calls import kernels
from mpcgen.problem.spec import ParameterSpec, Spec

HORIZONS = {"pendulum": (5, 10, 19, 40), "cartpole": (5, 10, 24, 40)}
CASES = ("free", "active")
SPREAD = 0.1  # of the expert's parameters about ours, relative
TOLERANCE = 1e-11
STEP = 1e-4  # of central differences, relative; their truncation is of the order of its square
# Nearer to switching than this, a bound may become active or inactive within a step of the differences.
MARGIN = 1e-2
ROOT = Path(__file__).resolve().parent.parent

Tensors = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Error of the paper's gradient by one parameter over the problems of a setting.

    median, worst: of ‖paper's - exact‖ / ‖exact‖ per problem; the worst are problems whose exact gradient nearly
    vanishes. sign_errors: share of wrong signs among the entries that are not zero.
    """

    median: float
    worst: float
    sign_errors: float


@dataclasses.dataclass(frozen=True)
class Setting:
    """One system, horizon and case ("free": no bounds; "active": at half of the largest free control).

    differences, casadi: largest relative error of the *exact* gradient beside central differences of solutions
    and beside CasADi over the first ``checked`` problems; None where there is no CasADi or nothing to check.
    """

    system: str
    horizon: int
    case: str
    problems: int
    solved: int
    active_share: float
    accuracy: dict[str, Accuracy]
    checked: int
    differences: float | None
    casadi: float | None


def with_bounds(spec: Spec) -> Spec:
    """Return the same problem with its control limits as parameters ``lower`` and ``upper``, (m,) each."""
    m = len(spec.controls)
    sides = {
        side: ParameterSpec(
            side, (m,), tuple(sp.Symbol(f"{side}_{i}", real=True) for i in range(m)), None, False, False, True
        )
        for side in ("lower", "upper")
    }
    controls = tuple(
        dataclasses.replace(control, lower=sides["lower"].symbols[i], upper=sides["upper"].symbols[i])
        for i, control in enumerate(spec.controls)
    )
    parameters = (*spec.parameters, *sides.values())
    return dataclasses.replace(spec, name=f"{spec.name}_limited", controls=controls, parameters=parameters)


def inputs_of(spec: Spec, x0: Tensor) -> Tensors:
    """x0 and every parameter with a value of its own for each problem, free of bounds."""
    infinite = torch.full((len(x0), len(spec.controls)), torch.inf, dtype=x0.dtype)
    defaults = {
        p.name: torch.tensor(p.default, dtype=x0.dtype).reshape(p.shape).expand(len(x0), *p.shape).clone()
        for p in spec.parameters
        if p.default is not None
    }
    return {"x0": x0, **defaults, "lower": -infinite, "upper": infinite}


def solve(mpc: Any, inputs: Tensors, horizon: int, u_init: Tensor | None = None) -> Any:
    """Solve the problems whose x0 and parameters are ``inputs``."""
    given = {name: value for name, value in inputs.items() if name != "x0"}
    return mpc(inputs["x0"], horizon=horizon, u_init=u_init, **given)


def gradients(mpc: Any, inputs: Tensors, horizon: int, expert: Tensor) -> tuple[Any, Tensors]:
    """Return the solution and the gradients of Σ(u - expert)²."""
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    solution = solve(mpc, leaves, horizon)
    found = torch.autograd.grad(((solution.u - expert) ** 2).sum(), list(leaves.values()))
    return solution, dict(zip(leaves, found, strict=True))


def accuracy(exact: Tensor, paper: Tensor) -> Accuracy | None:
    """Compare gradients (B, ...) by one parameter; None where it has no influence on any problem."""
    exact, paper = exact.reshape(len(exact), -1), paper.reshape(len(paper), -1)
    size = torch.linalg.vector_norm(exact, dim=1)
    some = size > 0
    if not some.any():
        return None
    error = (torch.linalg.vector_norm(paper - exact, dim=1) / size)[some]
    wrong = (torch.sign(paper) != torch.sign(exact))[exact != 0].double()
    return Accuracy(float(error.median()), float(error.max()), float(wrong.mean()))


def examine(mpc: Any, solution: Any, inputs: Tensors) -> tuple[Tensor, Tensor]:
    """Return which controls are at a bound, (B, N, m), and each problem's strict-complementarity margin."""
    u = solution.u.detach()
    parameters = tuple(inputs[p.name] for p in mpc.controller.parameters)
    slope, lower, upper, *_ = kernels.examine(
        mpc.controller, solution.x.detach(), u, solution.status, parameters
    )
    held = (u - slope <= lower) | (u - slope >= upper)
    margin = torch.where(held, slope.abs(), torch.minimum(u - lower, upper - u))
    return held, margin.amin((1, 2))


def central_differences(mpc: Any, inputs: Tensors, horizon: int, expert: Tensor, u: Tensor) -> Tensors:
    """Gradients of the loss from differences of tight solutions: two batches for each entry of x0 and parameters."""
    result = {}
    for name, value in inputs.items():
        flat = value.reshape(len(value), -1)
        result[name] = torch.zeros_like(flat)
        for i in range(flat.shape[1]):
            step = STEP * torch.where(flat[:, i] == 0, 1.0, flat[:, i].abs())
            if not step.isfinite().all():
                continue
            losses = []
            for sign in (-1, 1):
                moved = flat.clone()
                moved[:, i] += sign * step
                solution = solve(mpc, inputs | {name: moved.reshape(value.shape)}, horizon, u)
                losses.append(((solution.u - expert) ** 2).sum((1, 2)))
            result[name][:, i] = (losses[1] - losses[0]) / (2 * step)
    return result


def largest_error(found: Tensors, witness: Tensors) -> float:
    """Largest relative error over problems, all parameters of a problem taken together, (B, ...) each."""
    own, expected = (
        torch.cat([values[n].reshape(len(values[n]), -1) for n in witness], 1) for values in (found, witness)
    )
    return float(((own - expected).norm(dim=1) / expected.norm(dim=1)).max())


def casadi_gradients(spec: Spec, inputs: Tensors, solution: Any, expert: Tensor) -> Tensors | None:
    """Gradients of the loss from CasADi's KKT system at the same solutions; None without CasADi."""
    try:
        from mpcgen.baseline import Functions, kkt_gradient
    except ImportError:
        return None
    functions = Functions(spec)
    found: dict[str, list[Tensor]] = {name: [] for name in inputs}
    x, u = solution.x.detach(), solution.u.detach()
    for b in range(len(x)):
        parameters = {name: value[b].numpy() for name, value in inputs.items() if name != "x0"}
        cotangent = 2 * (u[b] - expert[b]).numpy()
        witness = kkt_gradient(functions, x[b].numpy(), u[b].numpy(), parameters, grad_u=cotangent)
        for name, value in {"x0": witness.x0, **witness.parameters}.items():
            found[name].append(torch.as_tensor(value).reshape(-1))
    return {name: torch.stack(values) for name, values in found.items()}


def pick(values: Tensors, rows: Tensor) -> Tensors:
    """Rows of every tensor."""
    return {name: value[rows] for name, value in values.items()}


def imitation(
    mpc: Any, spec: Spec, x0: Tensor, horizon: int, case: str, seed: int
) -> tuple[Tensors, Any, Tensor]:
    """Return the inputs of the problems, an expert's solutions of them with other parameters, and which are solved."""
    inputs = inputs_of(spec, x0)
    free = solve(mpc, inputs, horizon)
    if case == "active":
        half = 0.5 * free.u.abs().amax(1)
        inputs |= {"lower": -half, "upper": half}
    generator = torch.Generator().manual_seed(seed)
    theirs = {
        name: value
        if name in ("x0", "lower", "upper")
        else value * (1 + SPREAD * torch.randn(value.shape, generator=generator, dtype=value.dtype))
        for name, value in inputs.items()
    }
    expert = solve(mpc, theirs, horizon)
    return inputs, expert, (free.status == 0) & (expert.status == 0)


def verify(
    mpc: Any, spec: Spec, inputs: Tensors, exact: Tensors, horizon: int, expert: Tensor, u: Tensor
) -> tuple[float | None, float | None]:
    """Largest errors of exact gradients beside central differences and beside CasADi; None: nothing to compare."""
    if not len(u):
        return None, None
    differences = largest_error(exact, central_differences(mpc, inputs, horizon, expert, u))
    witness = casadi_gradients(spec, inputs, solve(mpc, inputs, horizon, u), expert)
    return differences, None if witness is None else largest_error(exact, witness)


def measure(system: str, horizon: int, case: str, count: int, checked: int, seed: int) -> Setting:
    """Compare both gradients over ``count`` random starts, and check the exact one on ``checked`` of them."""
    module = importlib.import_module(f"examples.{system}")
    spec = with_bounds(module.problem.spec())
    build = mpcgen.compile(spec).MPC
    options = {"tol": TOLERANCE, "on_unconverged": "ignore"}
    exact_mpc, paper_mpc = build(**options), build(gradient="gauss_newton", **options)
    x0 = module.initial_states(count, seed=seed)
    inputs, expert, good = imitation(exact_mpc, spec, x0, horizon, case, seed)
    solution, exact = gradients(exact_mpc, inputs, horizon, expert.u)
    _, paper = gradients(paper_mpc, inputs, horizon, expert.u)
    good &= solution.status == 0
    held, margin = examine(exact_mpc, solution, inputs)
    compared = {name: accuracy(exact[name][good], paper[name][good]) for name in exact}
    # all controls at bounds, of the expert too: no error to imitate away, and no relative error
    u = solution.u.detach()
    differs = (u != expert.u).flatten(1).any(1)
    rows = torch.nonzero(good & differs & (margin > MARGIN)).flatten()[:checked]
    errors = verify(exact_mpc, spec, pick(inputs, rows), pick(exact, rows), horizon, expert.u[rows], u[rows])
    return Setting(
        system,
        horizon,
        case,
        count,
        int(good.sum()),
        float(held[good].double().mean()),
        {name: value for name, value in compared.items() if value is not None},
        len(rows),
        *errors,
    )


def tables(settings: list[Setting]) -> Iterator[Table]:
    """One table for each system and case: a row per parameter, a column per horizon."""
    for system in dict.fromkeys(setting.system for setting in settings):
        for case in CASES:
            those = [s for s in settings if (s.system, s.case) == (system, case)]
            table = Table(title=f"{system}, {'bounds active' if case == 'active' else 'no bounds'}")
            table.add_column("by")
            for setting in those:
                table.add_column(f"N = {setting.horizon}\nmedian, worst, signs", justify="right")
            for name in dict.fromkeys(name for setting in those for name in setting.accuracy):
                cells = [setting.accuracy.get(name) for setting in those]
                table.add_row(name, *("" if cell is None else describe(cell) for cell in cells))
            table.add_section()
            table.add_row("problems", *(f"{s.solved} of {s.problems}" for s in those))
            table.add_row("controls at a bound", *(f"{s.active_share:.0%}" for s in those))
            table.add_row("exact beside differences", *(scientific(s.differences) for s in those))
            table.add_row("exact beside CasADi", *(scientific(s.casadi) for s in those))
            yield table


def describe(cell: Accuracy) -> str:
    """Return e.g. "15 %, 260 %, 4.1 %"."""
    return ", ".join(percent(value) for value in (cell.median, cell.worst, cell.sign_errors))


def percent(share: float) -> str:
    """Return a percentage with two digits, or more before the point."""
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.2g} %"


def scientific(value: float | None) -> str:
    """Return e.g. "3e-09", or a dash."""
    return "-" if value is None else f"{value:.0e}"


def draw(settings: list[Setting], file: Path) -> None:
    """Draw bars of the median error by parameter and horizon, with the worst above each."""
    from matplotlib.figure import Figure

    systems = list(dict.fromkeys(setting.system for setting in settings))
    figure = Figure(figsize=(12, 3.6 * len(systems)), layout="constrained")
    axes = figure.subplots(len(systems), len(CASES), sharey=True, squeeze=False)
    for row, system in enumerate(systems):
        for column, case in enumerate(CASES):
            those = [s for s in settings if (s.system, s.case) == (system, case)]
            names = list(dict.fromkeys(name for setting in those for name in setting.accuracy))
            panel, width = axes[row][column], 0.8 / len(those)
            for i, setting in enumerate(those):
                places = [k + (i - (len(those) - 1) / 2) * width for k in range(len(names))]
                values = [setting.accuracy.get(name) for name in names]
                medians = [value.median if value else float("nan") for value in values]
                panel.bar(places, medians, width, label=f"N = {setting.horizon}", color=f"C{i}")
                worst = [value.worst if value else float("nan") for value in values]
                panel.scatter(places, worst, marker="_", s=60 * width, color=f"C{i}")
            panel.set_yscale("log")
            panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
            panel.set_xticks(range(len(names)), names, rotation=30, ha="right")
            panel.set_title(f"{system}, {'bounds active' if case == 'active' else 'no bounds'}")
            panel.spines[["top", "right"]].set_visible(False)
        axes[row][0].set_ylabel("error of the paper's gradient\nmedian (bar), worst (dash)")
        axes[row][0].legend(fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


@click.command(help=__doc__)
@click.option("--count", default=256, show_default=True, help="Random starts per setting.")
@click.option("--checked", default=4, show_default=True, help="Of these, checked against the witnesses.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=ROOT / "pictures", help="Folder for JSON, PNG."
)
def main(count: int, checked: int, seed: int, output: Path) -> None:
    """Measure, print, write and draw."""
    plan = [(system, n, case) for system, horizons in HORIZONS.items() for case in CASES for n in horizons]
    settings = [measure(*each, count, checked, seed) for each in track(plan, "comparing gradients")]
    console = Console()
    for table in tables(settings):
        console.print(table)
    output.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine_name(), "settings": [dataclasses.asdict(setting) for setting in settings]}
    (output / "gradient_accuracy.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw(settings, output / "gradient_accuracy.png")
    console.print(f"wrote {output / 'gradient_accuracy.json'} and gradient_accuracy.png")


if __name__ == "__main__":
    main()
