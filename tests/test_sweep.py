"""The sweep on many machines: its shards, what is left to do of it, and what a shard holds. Ray is not needed."""

import pytest
import torch

import mpcgen
from examples import sweep_ray
from examples.sweep_ray import COLUMNS, Shard, draw, make_controller, missing, plan, solve


def test_shards_cover_every_problem_once():
    shards = plan(1_050, 100)
    problems = [index for shard in shards for index in range(shard.start, shard.start + shard.count)]
    assert problems == list(range(1_050))
    assert [shard.count for shard in shards] == [100] * 10 + [50]


@pytest.mark.parametrize(("problems", "size"), [(0, 10), (10, 0)])
def test_a_sweep_of_nothing_is_refused(problems, size):
    with pytest.raises(ValueError, match="at least 1"):
        plan(problems, size)


def test_what_has_a_file_is_not_computed_again(tmp_path):
    shards = plan(1_000, 100)
    for shard in shards[3:7]:
        (tmp_path / shard.file).touch()
    assert missing(shards, tmp_path) == shards[:3] + shards[7:]


def test_a_file_that_was_being_written_and_other_sweeps_do_not_count(tmp_path):
    shards = plan(1_000, 100)
    (tmp_path / f".{shards[0].file}.machine.123").touch()
    for other in (*plan(1_000, 200), *plan(1_000, 100, seed=1)):
        (tmp_path / other.file).touch()
    assert missing(shards, tmp_path) == shards


def test_a_shard_is_the_same_problems_wherever_it_is_drawn_and_no_other_s():
    first, second = plan(100, 50)
    assert all(torch.equal(draw(first)[name], draw(first)[name]) for name in ("x0", "mass"))
    assert not torch.equal(draw(first)["x0"], draw(second)["x0"])
    assert not torch.equal(draw(first)["x0"], draw(Shard(0, 0, 50, seed=1))["x0"])


def test_a_shard_holds_solutions_and_the_derivatives_of_their_first_torque(monkeypatch):
    monkeypatch.setattr(sweep_ray, "BATCH", 24)  # two calls, of which the second is smaller
    shard = Shard(0, 0, 40, 0)
    controller = make_controller()
    columns = solve(controller, shard)
    assert list(columns) == list(COLUMNS) and all(len(column) == 40 for column in columns.values())
    assert (columns["status"] == mpcgen.Status.CONVERGED).all()
    problems, step = draw(shard), 1e-6
    above, below = (
        controller(problems["x0"], mass=problems["mass"] + sign * step).u[:, 0, 0] for sign in (1, -1)
    )
    difference = ((above - below) / (2 * step)).numpy()
    # The solver ends quadratically, far below its tolerance: errors of 1e-10 of controls, which 2e-6 divides.
    inside = abs(columns["torque"]) < 2.0 - 1e-3
    assert inside.any()
    assert abs(difference - columns["torque_D_mass"])[inside].max() < 1e-4
