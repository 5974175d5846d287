"""The paper's experiments in their short versions: what the paper claims holds, and the files are there."""

import json
import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from examples.paper import __main__ as paper
from examples.paper.cells import cells_of
from examples.paper.common import FOLDER, Claim, Results
from examples.paper.comparison import claims_of, page_table, table
from examples.paper.figure3 import agrees


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of all experiments, since figure 6 shows trials of figure 4."""
    return tmp_path_factory.mktemp("paper")


# torch loads its rules for forward mode at their first use, with a warning about itself
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", paper.EXPERIMENTS)
def test_short_experiment_bears_out_its_claims(name, folder):
    result = CliRunner().invoke(paper.main, [name, "--quick", "--output", str(folder)])
    assert result.exit_code == 0, result.output
    record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert record["claims"] and record["rows"]
    assert all(claim["holds"] for claim in record["claims"])
    for suffix in (".png", ".svg", ".csv"):
        assert (folder / name).with_suffix(suffix).stat().st_size > 200


def test_a_claim_that_fails_fails_the_command(tmp_path, monkeypatch):
    experiment = SimpleNamespace(run=lambda results: [Claim("it holds", True), Claim("it does not", False)])
    monkeypatch.setitem(sys.modules, "examples.paper.figure3", experiment)
    result = CliRunner().invoke(paper.main, ["figure3", "--output", str(tmp_path)])
    assert result.exit_code == 1
    assert "it does not" in result.output


def test_a_trial_is_kept_for_its_settings(tmp_path):
    computed = []

    def compute(value):
        computed.append(value)
        return {"loss": value}

    results = Results("experiment", tmp_path)
    assert results.trial("seed 0", {"steps": 10}, compute, 1.0).value == {"loss": 1.0}
    assert results.trial("seed 0", {"steps": 10}, compute, 2.0).value == {"loss": 1.0}
    assert results.trial("seed 0", {"steps": 20}, compute, 3.0).value == {"loss": 3.0}
    assert computed == [1.0, 3.0]


def test_an_interrupted_trial_leaves_nothing_to_resume_from(tmp_path):
    results = Results("experiment", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        results.trial("seed 0", {}, _interrupted)
    assert results.trial("seed 0", {}, lambda: 1).value == 1


def _interrupted():
    raise KeyboardInterrupt


def test_the_same_figure_gives_the_same_svg(tmp_path):
    texts = []
    for folder in ("a", "b"):
        figure = Figure()
        figure.add_subplot().plot([0, 1], [1, 0], label="line")
        Results("experiment", tmp_path / folder).save_figure(figure)
        texts.append((tmp_path / folder / "experiment.svg").read_bytes())
    assert texts[0] == texts[1]


def test_numbers_are_written_as_json_and_csv(tmp_path):
    Results("experiment", tmp_path).save_numbers(
        [{"a": 1, "b": 0.5}, {"a": 2}], [Claim("text", True)], note="n"
    )
    record = json.loads((tmp_path / "experiment.json").read_text(encoding="utf-8"))
    assert record["rows"] == [{"a": 1, "b": 0.5}, {"a": 2}]
    assert record["claims"] == [{"text": "text", "holds": True}]
    assert record["note"] == "n"
    assert (tmp_path / "experiment.csv").read_text(encoding="utf-8").split() == ["a,b", "1,0.5", "2,"]


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [(0.2276, ".228", True), (0.2285, ".228", True), (0.2287, ".228", False), (4.226e-5, "4.2e-5", True)],
)
def test_agreement_is_to_the_digits_given(value, digits, expected):
    assert agrees(value, digits) is expected


def committed(name):
    return json.loads((FOLDER / "results" / f"{name}.json").read_text(encoding="utf-8"))


def test_committed_numbers_of_figure4_follow_from_the_committed_trials():
    results = Results("figure4", FOLDER / "results")
    kept = {cell: results.kept(cell.name, asdict(cell)) for cell in cells_of(results)}
    assert [cell.name for cell, trial in kept.items() if trial is None] == []  # make paper repeats none
    rows = json.loads(json.dumps(table(kept)))
    assert rows == committed("figure4")["rows"]
    assert [asdict(claim) for claim in claims_of(rows)] == committed("figure4")["claims"]


def test_the_page_shows_the_committed_numbers_of_figure4():
    assert page_table(committed("figure4")["rows"]) in (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", paper.EXPERIMENTS)
def test_every_committed_claim_holds(name):
    assert all(claim["holds"] for claim in committed(name)["claims"])
