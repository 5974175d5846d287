"""The paper's experiments in their short versions: what the paper claims holds, and the files are there."""

import json

import pytest
from click.testing import CliRunner

from examples.paper.__main__ import EXPERIMENTS, main


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_short_experiment_bears_out_its_claims(name, tmp_path):
    result = CliRunner().invoke(main, [name, "--quick", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert record["claims"] and record["rows"]
    assert all(claim["holds"] for claim in record["claims"])
    for suffix in (".png", ".svg", ".csv"):
        assert (tmp_path / name).with_suffix(suffix).stat().st_size > 200
