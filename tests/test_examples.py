"""What the README and the examples promise: the code shown runs, and learning recovers the parameters."""

import importlib
import inspect
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sympy as sp
import torch
from click.testing import CliRunner
from pages import run_page, says_the_same

import mpcgen
from examples import detour, learn_pendulum
from examples import pendulum as pendulum_example
from examples.bench.timing import alternate, machine_name
from examples.gradients import compare_gradients, with_bound_parameters
from mpcgen.baseline import Baseline

ROOT = Path(__file__).resolve().parent.parent
SPECIFICATIONS = ("pendulum", "cartpole", "car", "lqr", "quadrotor", "chain", "cstr", "arm")
CONSTRAINED = ("obstacle", "landing", "safe_cartpole", "building", "minimum_time")


def readme_block():
    return re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )[0]


def test_readme_example_runs_and_its_gradient_is_the_derivative():
    names = {}
    (block,) = run_page(ROOT / "README.md", names)
    assert says_the_same(block.printed, block.shown), block.printed
    assert (names["solution"].status == 0).all()
    assert tuple(names["solution"].x.shape) == (128, 21, 2)
    assert (names["loop"].x[:, -1].abs() < 0.05).all()

    tight = names["controller"].MPC(tol=1e-10)

    def loss(mass):
        return tight(names["x0"], mass=mass).u.square().mean().item()

    # The losses' error of 1e-10 becomes 1e-5 of the difference; so small a step moves few bounds.
    h = 1e-5
    difference = (loss(1.5 + h) - loss(1.5 - h)) / (2 * h)
    assert names["heavier"].grad.item() == pytest.approx(difference, rel=1e-4)


def test_readme_example_has_at_most_thirty_lines():
    assert 20 <= len(readme_block().splitlines()) <= 30


@pytest.mark.parametrize(
    "page",
    [
        *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md"),
        "examples/paper/README.md",
        *(page.relative_to(ROOT).as_posix() for page in sorted((ROOT / "docs").glob("[!_]*/*.md"))),
        *(page.relative_to(ROOT).as_posix() for page in sorted((ROOT / "docs").glob("*.md"))),
    ],
)
def test_files_that_pages_link_to_exist(page):
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    for link in links:
        assert (ROOT / page).parent.joinpath(link).exists(), link


def test_files_that_the_architecture_names_exist():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = re.findall(
        r"`((?:problem|graph|derivative|codegen|build|runtime|autograd|baseline)/[\w.]*)`", text
    )
    assert len(named) > 10
    for name in named:
        assert (ROOT / "mpcgen" / name).exists(), name
    for header in re.findall(r"`(mpcgen_\w+\.h)`", text):
        assert (ROOT / "templates" / "runtime" / header).exists(), header


@pytest.mark.parametrize("name", [*SPECIFICATIONS, *CONSTRAINED])
def test_examples_page_names_every_control_with_its_bounds(name):
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    section = page.partition(f"## {name}:")[2].partition("\n## ")[0]
    assert section
    spec = mpcgen.load_problem(ROOT / "examples" / f"{name}.py").spec()
    assert str(spec.horizon) in section
    for control in spec.controls:
        numbers = all(bound.is_number and bound.is_finite for bound in (control.lower, control.upper))
        if numbers and name != "quadrotor":
            bounds = f"{float(control.lower):g} to {float(control.upper):g}".replace("-", "−")
            assert f"| control `{control.symbol}`" in section
            assert bounds in section


def test_guide_lists_every_option_and_status():
    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    from mpcgen.autograd import MPC

    for option in list(inspect.signature(MPC.__init__).parameters.values())[1:]:
        assert option.kind is option.VAR_KEYWORD or f"| `{option.name}` |" in text
    for status in mpcgen.Status:
        assert status == 0 or f"| `{status.name}` |" in text


@pytest.fixture(scope="module")
def pendulum():
    return mpcgen.compile(pendulum_example.problem, dtypes=("float64",))


@pytest.fixture
def generated(pendulum, monkeypatch):
    """The package that `from generated import pendulum` finds, wherever the tests run."""
    package = SimpleNamespace(pendulum=pendulum)
    monkeypatch.setitem(__import__("sys").modules, "generated", package)
    return package


def test_learning_recovers_the_expert_mass_and_length(generated, tmp_path):
    curve = learn_pendulum.learn()
    assert curve.parameters["mass"][0] == pytest.approx(learn_pendulum.START["mass"])
    # The expert's solutions are known to 1e-8, and Adam's last steps, 5e-2 (π/2/300)² in the logarithm, are 1e-6:
    # a hundred of them add up to 1e-4.
    for name, values in curve.parameters.items():
        assert values[-1] == pytest.approx(learn_pendulum.EXPERT[name], rel=1e-4)
    assert curve.loss[-1] < 1e-8 * curve.loss[0]
    learn_pendulum.plot(curve, tmp_path / "learning.png")
    assert (tmp_path / "learning.png").stat().st_size > 1000


def test_informative_states_leave_controls_free(pendulum):
    controller = pendulum.MPC()
    x0 = learn_pendulum.informative_states(controller, 16)
    assert x0.shape == (16, 3)
    at_bound = (controller(x0).u.abs() == 2.0).double().mean(dim=(1, 2))
    assert at_bound.max() <= 0.5


def test_gravity_mass_and_length_are_not_jointly_identifiable(pendulum):
    """Equal 3g/(2l) and 3/(m l²) give equal controls: what the example's docstring says."""
    x0 = pendulum_example.initial_states(8)
    mpc = pendulum.MPC(tol=1e-9)
    u = mpc(x0, gravity=10.0, mass=1.0, length=1.0).u
    other = mpc(x0, gravity=20.0, mass=0.25, length=2.0).u
    torch.testing.assert_close(u, other, rtol=0, atol=1e-6)


def test_with_bound_parameters_is_the_same_problem():
    spec = with_bound_parameters(pendulum_example.problem.spec())
    lower, upper = spec.parameters[-2:]
    assert (lower.name, upper.name) == ("lower", "upper")
    assert spec.controls[0].lower == lower.symbols[0] == sp.Symbol("lower_0", real=True)
    assert spec.dynamics == pendulum_example.problem.spec().dynamics


@pytest.mark.parametrize("case", ["free", "active"])
def test_pendulum_gradients_agree_with_both_witnesses(case):
    result = compare_gradients(pendulum_example.problem.spec(), pendulum_example, case, 4, 1, tol=1e-10)
    assert result.compared > 0
    assert (result.active_share > 0) == (case == "active")
    assert set(result.casadi) == {"x0", "gravity", "mass", "length", "q", "p", "lower", "upper"}
    assert max(result.casadi.values()) <= 1e-7
    assert result.differenced == 1
    assert max(result.differences.values()) <= 1e-4


def test_measure_reports_convergence_and_writes_json(generated, pendulum, tmp_path, monkeypatch):
    import json

    from examples import measure

    monkeypatch.setattr(measure, "load", lambda example: (pendulum, pendulum_example))
    file = tmp_path / "figures.json"
    arguments = ["--only", "convergence", "--only", "costs", "--example", "pendulum", "--ipopt", "4"]
    result = CliRunner().invoke(measure.main, [*arguments, "--json", str(file), "--check"])
    assert result.exit_code == 0, result.output
    rows = {row["what"]: row for row in json.loads(file.read_text())["rows"]}
    assert rows["of 1024 to residual 1e-8 in 100 iterations"]["measured"] >= 99.9
    assert rows["cost above IPOPT's, same basin, relative"]["measured"] <= 1e-7
    assert all(np.isfinite(row["measured"]) for row in rows.values())


def test_alternating_times_are_medians_of_every_task():
    calls = []
    timings = alternate([lambda: calls.append("a"), lambda: calls.append("b")], 3)
    assert "".join(calls) == "ab" + "ababab"
    assert len(timings) == 2
    assert all(0 <= timing.fastest <= timing.median for timing in timings)


def test_machine_name_names_cores():
    assert "cores" in machine_name()


# ---- constraints ----


@pytest.mark.parametrize("name", CONSTRAINED)
def test_constrained_examples_are_solved_from_random_starts_as_ipopt_solves_them(name):
    module = importlib.import_module(f"examples.{name}")
    values = module.parameter_values() if hasattr(module, "parameter_values") else {}
    # where an attempt leads nowhere, the next begins at 200 iterations; one landing takes several
    mpc = mpcgen.compile(module.problem, dtypes=("float64",)).MPC(
        max_iterations=1000, on_unconverged="ignore"
    )
    parameters = {key: torch.tensor(value, dtype=torch.float64) for key, value in values.items()}
    solution = mpc(module.initial_states(64), **parameters)
    solved = solution.converged
    assert int(solved.sum()) >= 63  # a start from which none of the solvers ends is one of many
    assert solution.violation[solved].max() <= 1e-7
    baseline = Baseline(module.problem.spec(), tol=1e-9)
    costs = []
    for b in range(8):
        witness = baseline.solve(module.initial_states(64)[b].numpy(), values)
        if witness.success and int(solution.status[b]) == 0:
            costs.append((float(solution.cost[b]), witness.cost))
    same = [ours == pytest.approx(its, rel=1e-7, abs=1e-7) for ours, its in costs]
    cheaper = [ours < its for ours, its in costs]
    assert sum(same) >= 2  # the others end in another minimum, no more than half of them in a dearer one
    assert 2 * sum(a or b for a, b in zip(same, cheaper, strict=True)) >= len(costs)


def test_a_landing_that_no_thrust_can_save_ends_with_the_least_violation_found():
    """The glide slope's margin is concave, so its linearisation at the start bounds it, under all of the thrust too."""
    module = importlib.import_module("examples.landing")
    x0 = module.initial_states(64)[38:39]
    east, north, height, *rates, mass = x0[0].tolist()
    across = math.sqrt(east**2 + north**2 + 1)
    slope = np.array([-0.8 * east / across, -0.8 * north / across, 1])
    margin, rate, t = height - 0.8 * across + module.TIP, slope @ rates, 5.5
    lightest = mass - 14 * t / 2200  # t, of the mass, with all of the thrust for as long
    strongest = np.linalg.norm(slope) * 14 / lightest - 3.71 * slope[2]
    assert margin + rate * t + strongest * t**2 / 2 < 0
    package = mpcgen.compile(module.problem, dtypes=("float64",))
    solution = package.MPC(max_iterations=600, on_unconverged="ignore")(x0.expand(2, 7))
    # stalled where the last attempt ends with less than a hundredth of what it began with
    lost = torch.tensor([mpcgen.Status.INFEASIBLE, mpcgen.Status.STALLED])
    assert torch.isin(solution.status, lost).all()
    # and one that is stopped in a later attempt, which is farther away then, has the nearest one's result all the same
    most = int(solution.iterations.min()) // 2
    stopped = package.MPC(max_iterations=most, on_unconverged="ignore")(x0.expand(2, 7))
    assert (stopped.status == mpcgen.Status.MAX_ITERATIONS).all()
    for found in (solution, stopped):
        assert (found.violation < 2).all()  # kN: later attempts begin at 100 times that
        largest = torch.stack([rows.violation.amax() for rows in found.rows.values()]).amax()
        assert found.violation.amax().item() == pytest.approx(largest.item(), rel=1e-9)


def test_the_least_time_is_that_of_full_power_and_full_brake():
    module = importlib.import_module("examples.minimum_time")
    mpc = mpcgen.compile(module.problem, dtypes=("float64",)).MPC(on_unconverged="raise")
    x0 = module.initial_states(16)
    free = torch.tensor(module.parameter_values()["free"], dtype=torch.float64)
    strongest = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    solution = mpc(x0, free=free, strongest=strongest)
    least = 2 * (-x0[:, 0] / 2.0).sqrt()
    assert torch.allclose(solution.x[:, -1, 2], least, rtol=1e-8, atol=0)
    assert (solution.u[:, :, 0].abs() - 2).abs().max() < 1e-6
    solution.cost.sum().backward()
    assert strongest.grad.item() == pytest.approx(-0.25 * least.sum().item(), rel=1e-6)


def test_the_detour_is_longer_the_further_a_disc_is_pushed_into_it(tmp_path):
    mpc = mpcgen.compile(importlib.import_module("examples.obstacle").problem, dtypes=("float64",)).MPC(
        on_unconverged="raise"
    )
    found = detour.detour(mpc)
    assert (found.duals > 1e-6).any(0).all()  # either disc holds the path somewhere
    h = 1e-4
    middle = torch.tensor(detour.MIDDLES, dtype=torch.float64)
    x0, radius = (
        torch.tensor(detour.START, dtype=torch.float64),
        torch.tensor(detour.RADII, dtype=torch.float64),
    )
    tight = mpcgen.compile(importlib.import_module("examples.obstacle").problem, dtypes=("float64",)).MPC(
        tol=1e-11
    )
    for disc in range(2):
        for axis in range(2):
            change = torch.zeros_like(middle)
            change[disc, axis] = h
            ahead, behind = (
                detour.length_of(tight(x0, middle=middle + side * change, radius=radius, u_init=found.u).x)
                for side in (1, -1)
            )
            assert float(ahead - behind) / (2 * h) == pytest.approx(
                float(found.gradient[disc, axis]), rel=1e-3
            )
    detour.plot(mpc, tmp_path / "detour.png")
    assert (tmp_path / "detour.png").stat().st_size > 1000
