"""The gallery in short: a few problems from few starts, beside IPOPT; and what its table and picture are made of."""

import importlib.util
import json

import numpy as np
import pytest
from click.testing import CliRunner

from examples.bench.gallery import PEER, Outcome, Settings, chosen, compare, entries, measure
from examples.bench.gallery_report import profile
from examples.bench.hard_starts import PROBLEMS
from examples.bench.hard_starts import main as hard_starts
from mpcgen.cli import main
from mpcgen.errors import ParameterError

SHORT = ("pendulum", "van_der_pol_sum", "double_integrator")


def outcome(solver, solved, iterations, cost=None):
    solved = np.array(solved, dtype=bool)
    cost = np.zeros(len(solved)) if cost is None else np.array(cost)
    return Outcome("problem", solver, solved, np.array(iterations), cost, {}, 1.0)


@pytest.fixture(scope="module")
def short():
    settings = Settings(starts=6, peer_starts=2)
    return {entry.name: (entry, *measure(entry, settings)) for entry in chosen(SHORT)}


@pytest.mark.parametrize("name", SHORT)
def test_every_start_of_a_short_gallery_is_solved_to_the_known_optimum(short, name):
    entry, ours, theirs = short[name]
    assert ours.solved.all()
    assert theirs.solved.all()
    assert ours.statuses == {"CONVERGED": 6}
    if entry.optimum is not None:
        np.testing.assert_allclose(ours.cost, entry.optimum, rtol=1e-7)
    assert compare(ours, theirs).same == 2


def test_starts_of_a_given_state_begin_with_zero_controls_and_keep_the_bounds():
    (entry,) = chosen(["jensen_reactor"])
    x0, u = entry.starts(entry.make(), 5, 0)
    assert np.ptp(x0, axis=0).max() == 0
    assert np.abs(u[0]).max() == 0
    assert (u >= 0).all() and (u <= [20, 6, 4, 20]).all()
    assert np.ptp(u[1:], axis=0).min() > 0


def test_a_profile_counts_iterations_over_those_of_the_best_solver():
    found = profile(
        [outcome("auto", [True, True, False], [10, 30, 5]), outcome(PEER, [True, False, False], [5, 9, 9])]
    )
    assert found["auto"].tolist() == [1.0, 2.0]
    assert found[PEER].tolist() == [1.0, np.inf]


def test_a_comparison_counts_minima():
    ours = outcome("auto", [True, True, True, False, True], [1] * 5, [1.0, 2.0, 4.0, 0.0, 1.0])
    theirs = outcome(PEER, [True] * 4, [1] * 4, [1.0, 2.5, 3.5, 1.0])
    found = compare(ours, theirs)
    assert (found.both, found.same, found.cheaper, found.dearer) == (3, 1, 1, 1)
    assert found.above == 0
    assert found.above_same == 0


def test_names_are_unique_and_an_unknown_one_is_named():
    names = [entry.name for entry in entries()]
    assert len(set(names)) == len(names) >= 25
    with pytest.raises(ParameterError, match="has no problem 'pendulums'; its problems are pendulum, "):
        chosen(["pendulums"])


def test_the_command_writes_a_table_its_numbers_and_a_picture(tmp_path):
    drawn = importlib.util.find_spec("matplotlib") is not None
    options = ["--problem", "pendulum", "--count", "3", "--peer-count", "1", "-o", str(tmp_path)]
    result = CliRunner().invoke(
        main, ["bench", "--gallery", *options, "--picture" if drawn else "--no-picture"]
    )
    assert result.exit_code == 0, result.output
    assert "3 of 3" in result.output and "1 of 1" in result.output
    assert "3 of 3" in (tmp_path / "gallery.txt").read_text()
    rows = json.loads((tmp_path / "gallery.json").read_text())["outcomes"]
    assert [(row["solver"], len(row["cost"])) for row in rows] == [("auto", 3), (PEER, 1)]
    assert (tmp_path / "gallery.png").is_file() == drawn


def test_options_of_the_gallery_need_it():
    result = CliRunner().invoke(main, ["bench", "--count", "3"])
    assert result.exit_code == 2
    assert "give that too" in result.output


def test_hard_starts_are_counted_by_problem():
    result = CliRunner().invoke(hard_starts, ["--problem", "pendulum", "--count", "64"])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1].startswith("| pendulum | 64 of 64 | ")


@pytest.mark.parametrize("name", ["cartpole", "quadrotor", "crane"])
def test_hard_starts_are_states_of_their_problem(name):
    hard = PROBLEMS[name]
    x0 = hard.draw()(100, 0)
    assert x0.shape == (100, len(hard.spec().states))
    unit = {"cartpole": slice(2, 4), "quadrotor": slice(3, 7)}.get(name)
    if unit is not None:
        np.testing.assert_allclose((x0[:, unit] ** 2).sum(axis=1), 1, rtol=1e-12)
