"""The benchmark: what it counts, what it writes, and that its peers solve the same problems."""

import dataclasses
import importlib.util
import json
import math
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import mpcgen
from examples.bench.calls import Batch, receding
from examples.bench.cells import BATCHES, Cell, Iterations, Measurement, Selection, cells, select
from examples.bench.comparing import cost_of
from examples.bench.flops import Flops, box_qp, count_work
from examples.bench.instructions import by_function
from examples.bench.peak import Peak
from examples.bench.peers import PEERS
from examples.bench.problems import Instances, from_file, linear_quadratic, load, stable
from examples.bench.results import Environment, Results
from examples.bench.sweeps import HORIZONS, sweep_horizon, sweep_size, training_loop
from examples.bench.targets import exponent, judge
from examples.bench.timing import Timing
from mpcgen.cli import main
from mpcgen.errors import ParameterError, SpecError

EXAMPLES = Path(__file__).parent.parent / "examples"
TOL = 1e-8


@pytest.fixture(scope="module")
def pendulum():
    return from_file(EXAMPLES / "pendulum.py")


@pytest.fixture(scope="module")
def box_lq():
    return linear_quadratic(3, 2, 6, bound=1.0, name="box_lq")


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """Return the command's result and output folder."""
    folder = tmp_path_factory.mktemp("bench")
    options = [
        "--problem",
        "pendulum",
        "--batch",
        "1",
        "--batch",
        "8",
        "--threads",
        "1",
        "--repetitions",
        "3",
    ]
    arguments = ["bench", "--quick", *options, "-o", folder, "--examples", EXAMPLES]
    return CliRunner().invoke(main, [str(a) for a in arguments]), folder


def test_flops_of_a_scalar_problem_by_hand():
    problem = mpcgen.Problem("scalar", horizon=3)
    (x,) = problem.states("x")
    (u,) = problem.controls("u", lower=-1, upper=1)
    a = problem.parameter("a", default=0.5)
    problem.dynamics = [a * x + u]
    problem.stage_cost = x**2 + u**2
    problem.terminal_cost = x**2
    work = count_work(problem.spec())
    # Rollout: x - x_old, policy (2 + 2), promise (3), sums (2); a x + u, x x + u u.
    rollout = 1 + 4 + 3 + 2 + (2 + 3)
    # Expansion: Q_xx = 2 + a (V a), Q_ux = V a, Q_uu = 2 + V; λ' = 2x + a λ, dL/du = 2u + λ; a v.
    # V a is common; that of a v and v: one product.
    expand = 3 + 0 + 1 + 3 + 2 + 1
    # Box QP (5 and a division), distances to bounds, Q_u, regularisation (4), slope and bend (5).
    policy = 5 + 4 + 5
    gain = 1
    value = 2 + 4 + 2  # Q_uu k + q_u; two products for the offset; Q_xx + Q_ux K
    stage = rollout + expand + policy + gain + value
    terminal = 1 + 1
    assert work.exact_pass == Flops(plain=3 * stage + terminal, slow=3)
    assert work.first_pass == work.exact_pass  # the dynamics are linear


def test_elementary_functions_count_once_and_as_eight(pendulum):
    once = count_work(pendulum.spec, horizon=1)
    # cosine and sine in the rollout, which needs no arc tangent; the sweep reads the state they made
    assert once.exact_pass.elementary == 2
    weighted = once.exact_pass.plain + 4 * once.exact_pass.slow + 8 * once.exact_pass.elementary
    assert once.exact_pass.livermore == weighted
    assert once.forward(3.0)[0] == once.first_pass.total + 2 * once.exact_pass.total


def test_flops_grow_linearly_with_the_horizon(pendulum):
    totals = [count_work(pendulum.spec, horizon=N).exact_pass.total for N in (5, 10, 15)]
    assert totals[2] - totals[1] == totals[1] - totals[0] > 0


@pytest.mark.parametrize("horizon", [1, 8])
def test_a_parameter_per_stage_is_summed_over_the_batch_once(horizon):
    """As the benchmark gives it, one value for all stages; so it costs what a constant one does."""

    def work(per_stage):
        problem = mpcgen.Problem("cart", horizon=horizon)
        (x,), (u,) = problem.states("x"), problem.controls("u")
        pull = problem.parameter("pull", default=1.0, per_stage=per_stage)
        problem.dynamics, problem.stage_cost, problem.terminal_cost = [x + u], u**2 + x**2 + pull * x, x**2
        return count_work(problem.spec())

    assert work(per_stage=True) == work(per_stage=False)


def test_flops_of_a_box_qp_with_two_controls_by_hand():
    # Factor: l = e/d0, d1 - l l d0 (1 + 3); Newton step: two substitutions (4) and two pivots (2); along two lines
    # -(q + e s)/d (6). Divisions: two pivots, and the second curvature.
    assert box_qp(2) == Flops(plain=4 + 6 + 6, slow=3)


def test_flops_of_a_box_qp_step_with_three_controls_by_hand():
    # Quu step and + qu (15 + 3), tests of the bounds (12); factor: column 0 two entries (2), column 1 a pivot and an
    # entry of one product (3 + 4), column 2 a pivot of two (6); two substitutions (12) and three pivots (3); move (3).
    assert box_qp(3) == Flops(plain=30 + 15 + 15 + 3, slow=3)


def test_problems_are_those_of_the_benchmark():
    sizes = {p.name: p.sizes for p in load(["box_lq", "free_lq", "chain", "lqr37"], EXAMPLES)}
    assert sizes == {
        "box_lq": (8, 4, 40),
        "free_lq": (8, 4, 40),
        "chain": (21, 3, 40),
        "lqr37": (37, 12, 100),
    }


def test_random_systems_have_their_eigenvalues_inside_the_unit_circle(box_lq):
    F = box_lq.draw(2, torch.float64, 0).parameters["F"]
    assert torch.linalg.eigvals(F[:, :3]).abs().max() <= 0.99 + 1e-9
    calm = torch.diag(torch.tensor([0.5, -0.3]))
    torch.testing.assert_close(stable(calm), calm)


def test_a_prepared_call_gives_the_module_s_results(pendulum):
    x0 = pendulum.draw(5, torch.float64, 1).x0
    batch = Batch(pendulum, x0, {})
    batch.solve(TOL, threads=1)()
    found = batch.solved
    own = pendulum.package.MPC(tol=TOL)(x0)
    assert torch.equal(found.u, own.u) and torch.equal(found.iterations, own.iterations)
    x_next, u_init = receding(found)
    assert torch.equal(x_next, own.x[:, 1]) and torch.equal(u_init[:, 0], own.u[:, 1])
    batch.solve(TOL, 1, x_next, u_init)()
    warm = pendulum.package.MPC(tol=TOL)(x_next, u_init=u_init)
    assert torch.equal(batch.u, warm.u) and torch.equal(found.u, own.u)


def test_peak_rate_counts_two_operations_a_multiply_add():
    run, operations = Peak().task(64, vector=False, threads=1)
    assert operations % (2 * 12) == 0 and run() == operations


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("name", ["pendulum", "box_lq"])
def test_peers_solve_the_same_problems(peer, name, request):
    problem = request.getfixturevalue(name)
    if importlib.util.find_spec("mpc") is None and peer.name.startswith("mpc ("):
        assert "not installed" in peer.unavailable(problem)
        return
    assert peer.unavailable(problem) is None
    instances = problem.draw(2, torch.float64, 3)
    found = peer.solve(problem, instances, TOL, compiled=False)
    own = problem.package.MPC(tol=TOL)(instances.x0, **instances.parameters)
    assert found.converged.all() and found.seconds > 0
    cost = cost_of(problem, instances, found.u) if found.cost.isnan().all() else found.cost
    # A residual of 1e-8 leaves a relative error of the cost far below this; IPOPT's barrier leaves 1e-7 or so.
    torch.testing.assert_close(cost, own.cost, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.u, own.u, rtol=1e-3, atol=1e-3)


def test_a_peer_says_what_it_cannot_solve():
    car, lqr37 = load(["car", "lqr37"], EXAMPLES)
    reasons = {peer.name: [peer.unavailable(p) for p in (car, lqr37)] for peer in PEERS}
    assert reasons["casadi ipopt"][0] is None and "4900 variables" in reasons["casadi ipopt"][1]
    if importlib.util.find_spec("mpc") is not None:
        assert "not quadratic" in reasons["mpc (the paper's)"][0]


def test_numpy_is_only_needed_by_the_peers_that_bring_it():
    code = "import sys; sys.modules['numpy'] = None; import examples.bench.run, examples.bench.peers"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=EXAMPLES.parent)


def test_the_command_writes_tables_json_and_a_picture(tiny_run):
    result, folder = tiny_run
    assert result.exit_code == 0, result.output
    for title in ("Solver", "Peers", "Targets"):
        assert title in result.output
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert "µs/problem" in (folder / "bench.txt").read_text(encoding="utf-8")
    content = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    assert set(content) == {
        "format", "environment", "selection", "measurements", "peers", "sweeps", "loops", "builds", "targets",
        "device", "beside_a_core"
    }  # fmt: skip
    assert {"machine", "compiler", "flags", "versions", "date"} <= set(content["environment"])


def test_figures_of_a_run_are_consistent(tiny_run):
    content = json.loads((tiny_run[1] / "bench.json").read_text(encoding="utf-8"))
    rows = content["measurements"]
    kernel = [row for row in rows if row["cell"]["through"] == "kernel"]
    assert {row["cell"]["batch"] for row in rows} == {1, 8}
    assert {row["cell"]["through"] for row in rows if row["cell"]["batch"] == 1} == {"kernel", "torch"}
    for row in kernel:
        assert 0 < row["fastest"] <= row["seconds"] and row["repetitions"] >= 3
        assert row["gflops"] == pytest.approx(1e-9 * row["operations"] / row["seconds"])
        assert 0 < row["share_of_peak"] < row["livermore_share"]
        if row["cell"]["what"] == "forward":
            passes = row["iterations"]["mean"] + 1
            assert row["microseconds_per_pass"] == pytest.approx(1e6 * row["seconds"] / passes)
            assert row["iterations"]["converged"] == 1.0
        if sys.platform == "linux" and "glibc" in platform.libc_ver():
            # At least the trajectory, its candidate and the gains of one problem.
            n, m, N = 3, 1, 19
            assert row["workspace"] > 8 * (2 * N * (n + m) + N * m * n) / (1 + ("32" in row["cell"]["dtype"]))
    done = [row for row in content["peers"] if row["skipped"] is None]
    assert {row["peer"] for row in done} >= {"casadi ipopt", "casadi fatrop", "mpcgen.reference"}
    assert all(row["agree"] == row["both"] == row["count"] for row in done)


def test_what_would_exceed_the_budget_is_said(tmp_path):
    options = [
        "--problem",
        "pendulum",
        "--batch",
        "8",
        "--dtype",
        "float64",
        "--budget",
        "1e-9",
        "--no-peers",
    ]
    result = CliRunner().invoke(
        main, ["bench", *options, "--no-picture", "-o", str(tmp_path), "--examples", str(EXAMPLES)]
    )
    assert result.exit_code == 0, result.output
    assert "over budget" in result.output
    content = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert all("over budget" in row["skipped"] for row in content["measurements"])
    assert all(target["met"] is None for target in content["targets"])


def test_sweeps_have_a_point_for_every_horizon_and_size(pendulum):
    selection = select(quick=True, repetitions=3)
    horizons = sweep_horizon(pendulum, selection, Peak())
    assert tuple(point.value for point in horizons) == HORIZONS
    (point,) = sweep_size(selection, Peak(), sizes=((2, 1),))
    assert (point.sweep, point.value) == ("state size", 2)
    assert all(p.seconds > 0 and p.share_of_peak > 0 for p in (*horizons, point))


def test_the_training_loop_is_timed_for_every_number_of_threads(pendulum):
    selection = select(quick=True, threads=[1, 2], repetitions=3)
    points = training_loop(pendulum, selection, batch=2)
    assert [point.threads for point in points] == [1, 2]
    assert all(point.seconds > 0 for point in points)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"problems": ["pendulom"]}, "no problem 'pendulom'.*pendulum"),
        ({"dtypes": ["float16"]}, "float64, float32"),
        ({"passes": ["sideways"]}, "forward, backward"),
        ({"starts": ["tepid"]}, "cold, warm"),
        ({"batches": [0]}, "at least 1"),
        ({"threads": [-1]}, "at least 1"),
        ({"tol": -1.0}, "between 0 and 1"),
        ({"budget": -2.0}, "positive times"),
        ({"clock": "sun"}, "wall, cpu"),
        ({"clock": "cpu", "threads": [1, 2]}, "--threads 1"),
        ({"repetitions": 1}, "at least 2 repetitions"),
    ],
)
def test_bad_options_are_refused_with_what_is_expected(options, words):
    with pytest.raises(ParameterError, match=words):
        select(**options)


def test_a_missing_folder_of_examples_is_refused(tmp_path):
    result = CliRunner().invoke(main, ["bench", "--problem", "car", "--examples", str(tmp_path)])
    assert result.exit_code == 2 and "--examples" in result.output
    with pytest.raises(SpecError, match="--examples"):
        load(["car"], tmp_path)


def test_the_default_is_the_whole_grid():
    chosen = select()
    assert set(BATCHES) >= {1, 8, 128, 512, 4096, 65536} and chosen.batches == BATCHES
    found = cells(dataclasses.replace(chosen, threads=(1, 2)), "car", 128)
    assert len(found) == len(set(found)) == 2 * 2 * (2 + 1 + 2)  # forward and both also from a warm start


def measured(problem, batch, threads, dtype, what, microseconds, mean=4.0, share=0.3):
    operations = 1000.0
    seconds = 1e-6 * microseconds
    iterations = Iterations(mean, 9.0, 12, 1.0) if what == "forward" else None
    peak = operations / seconds / share
    cell = Cell(problem, batch, threads, dtype, what, "cold")
    return Measurement(cell, seconds, seconds, 0.0, 5, iterations, operations, operations, peak)


def test_targets_are_judged_by_their_worst_case():
    environment = Environment("", "", "", "", (), "", {})
    rows = (
        measured("pendulum", 128, 1, "float64", "forward", 2.0),  # 0.40 µs a pass
        measured("pendulum", 512, 1, "float64", "forward", 2.5, share=0.2),  # 0.50
        dataclasses.replace(measured("pendulum", 512, 2, "float64", "forward", 1.25), ceiling=1.6),
        measured("pendulum", 512, 1, "float32", "forward", 1.25),
        measured("pendulum", 512, 1, "float64", "backward", 0.9),
    )
    verdicts = {v.target: v for v in judge(Results(environment, Selection(), rows))}
    per_pass = verdicts["µs per problem and iteration, batch >= 128"]
    assert per_pass.measured == pytest.approx(0.5) and per_pass.met is False and "512" in per_pass.where
    assert verdicts["share of peak, batch >= 128"].met is False
    assert verdicts["2 threads over one, batch >= 512"].met is True
    of_ceiling = verdicts["2 threads over one, over the micro-kernel's, batch >= 512"]
    assert of_ceiling.measured == pytest.approx(2.0 / 1.6) and of_ceiling.met is True
    assert verdicts["float32 over float64 per iteration, batch >= 128"].measured == pytest.approx(2.0)
    assert verdicts["backward over one iteration, batch >= 128"].measured == pytest.approx(1.8)
    assert verdicts["µs, one problem, cold"].met is None


def test_growth_exponent_of_a_power_law():
    assert exponent([(n, 3.0 * n**1.5) for n in (2, 8, 32)]) == pytest.approx(1.5)


def test_spread_is_half_the_distance_of_the_quartiles_over_the_median():
    timing = Timing.of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (timing.median, timing.fastest) == (3.0, 1.0)
    assert timing.spread == pytest.approx((4.5 - 1.5) / 2 / 3.0)
    assert math.isclose(timing.per(2).median, 1.5)


def test_instances_are_the_same_for_the_same_seed(box_lq):
    first, second, other = (box_lq.draw(3, torch.float64, seed) for seed in (0, 0, 1))
    assert isinstance(first, Instances)
    assert torch.equal(first.x0, second.x0) and not torch.equal(first.x0, other.x0)


def test_instructions_are_counted_by_function_over_files_and_parts():
    report = """
38,000,000 (100.0%)  PROGRAM TOTALS

20,000,000 (52.63%)  /a/mpcgen_stage.h:barrier_sweep [/tmp/solve]
 1,000,000 ( 2.63%)  /a/mpcgen_lane.h:barrier_sweep.cold'2
   500,000 ( 1.32%)  /a/mpcgen_rows.h:add_rows.isra.0 [/tmp/solve]
"""
    assert by_function(report) == {"barrier_sweep": 21_000_000, "add_rows": 500_000}
