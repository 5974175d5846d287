"""The committed text of every example is what its specification renders to, byte for byte."""

import difflib
from pathlib import Path

import pytest

import mpcgen
from mpcgen.compiler import render_spec

ROOT = Path(__file__).parent.parent
EXAMPLES = ("pendulum", "cartpole", "car", "lqr", "quadrotor", "chain")
EXAMPLES += ("obstacle", "landing", "safe_cartpole", "building", "minimum_time", "cstr", "arm")
UPDATE = "if the change is meant, run `make golden` and commit generated/"
MOST_LINES_SHOWN = 40


def difference(committed, rendered, file):
    lines = list(
        difflib.unified_diff(committed.splitlines(), rendered.splitlines(), file, "rendered", lineterm="")
    )
    more = [f"... and {len(lines) - MOST_LINES_SHOWN} more lines"] if len(lines) > MOST_LINES_SHOWN else []
    return "\n".join(lines[:MOST_LINES_SHOWN] + more)


def test_every_specification_among_the_examples_is_committed():
    specifications = {
        path.stem for path in (ROOT / "examples").glob("*.py") if "\nproblem = mpcgen." in path.read_text()
    }
    assert specifications == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_rendered_text_is_the_committed_text(name):
    spec = mpcgen.load_problem(ROOT / "examples" / f"{name}.py").spec()
    for file, text in render_spec(spec).files:
        path = ROOT / "generated" / name / file
        assert path.is_file(), f"generated/{name}/{file} is not there; run `make golden` and commit it"
        committed = path.read_bytes()
        if committed != text.encode():
            shown = difference(committed.decode(), text, f"generated/{name}/{file}")
            pytest.fail(f"generated/{name}/{file} is out of date; {UPDATE}\n{shown}", pytrace=False)
