"""An unchanged `mpcgen build` is known without running the specification, and what has changed is not taken for it."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mpcgen
from mpcgen.build import unchanged
from mpcgen.build.observed import Observed, named_by

COMPILER = """#!/bin/sh
case "$*" in
*--version*) cat "{folder}/version"; exit;;
*-dumpmachine*) exec {gcc} -dumpmachine;;
esac
if [ -e "{folder}/stop" ]; then echo told to stop >&2; exit 1; fi
exec {gcc} "$@" -O0
"""
"""A compiler that is as fast as can be, and compiles no more where a file says so."""

SPEC = """
import json
from pathlib import Path

import mpcgen
from helper import weight

problem = mpcgen.Problem("toy", horizon=3)
x = problem.state("x")
u = problem.control("u", lower=-1.0, upper=1.0)
problem.dynamics = [0.9 * x + u]
problem.stage_cost = weight * x**2 + u**2
problem.terminal_cost = json.loads(Path(__file__).with_name("data.json").read_text()) * x**2
"""

RUN = """
import sys
from mpcgen.cli import main
main(sys.argv[1:], standalone_mode=False)
print("the specification was run" if "sympy" in sys.modules else "nothing was run")
"""


class Project:
    """A folder with a specification, and what `mpcgen build` says of it in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        gcc = shutil.which("gcc") or shutil.which("cc")
        (folder / "cc").write_text(COMPILER.format(folder=folder, gcc=gcc))
        (folder / "cc").chmod(0o755)
        (folder / "version").write_text("gcc 1\n")
        self.write("spec.py", SPEC)
        self.write("helper.py", "weight = 1.0\n")
        self.write("data.json", "2.0\n")
        self.build()
        self.write("stop", "")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def build(self, **variables: str) -> str:
        time.sleep(0.1)  # what has just been written may be written again without a later date
        mine = {"CC": str(self.folder / "cc"), "MPCGEN_CACHE_DIR": str(self.folder / "cache")}
        command = [sys.executable, "-c", RUN, "build", "spec.py", "-o", "out", "--dtypes", "float64"]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **mine, **variables},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout + done.stderr

    def is_known(self, **variables: str) -> bool:
        """Whether the package is said to be up to date at once."""
        said = self.build(**variables)
        assert "toy is up to date" in said
        return "nothing was run" in said

    def is_rebuilt(self, **variables: str) -> bool:
        said = self.build(**variables)
        return "told to stop" in said and "up to date" not in said


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    if not (shutil.which("gcc") or shutil.which("cc")):
        pytest.skip("no C compiler")
    return Project(tmp_path_factory.mktemp("project")).folder


@pytest.fixture
def project(built):
    """What has been built, put back afterwards as it was."""
    names = ("spec.py", "helper.py", "data.json", "version")
    texts = {name: (built / name).read_text() for name in names}
    found = Project.__new__(Project)
    found.folder = built
    yield found
    for name, text in texts.items():
        found.write(name, text)
    shutil.rmtree(built / "helper", ignore_errors=True)


def test_what_is_unchanged_is_known_without_running_the_specification(project):
    assert project.is_known()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("spec.py", SPEC.replace("0.9", "0.8")),
        ("helper.py", "weight = 3.0\n"),
        ("data.json", "4.0\n"),
        ("version", "gcc 2\n"),
        ("helper/__init__.py", "weight = 5.0\n"),
    ],
    ids=["specification", "module", "data", "compiler", "module in its place"],
)
def test_what_has_changed_is_rebuilt(project, name, text):
    assert project.is_known() or project.is_known()
    (project.folder / name).parent.mkdir(exist_ok=True)
    project.write(name, text)
    assert project.is_rebuilt()


def test_a_change_that_changes_nothing_is_looked_at_once(project):
    project.write("helper.py", "weight = 1.0  # kg\n")
    assert not project.is_known() and project.is_known()
    assert not project.is_known(SYMPY_USE_CACHE="no")


def test_a_package_that_was_changed_is_not_up_to_date(project):
    text = project.folder / "out" / "toy" / "toy.h"
    text.write_text(text.read_text() + "\n")
    assert "from the cache" in project.build() and project.is_known()


@pytest.mark.parametrize(
    "line",
    ["import os", "Path('note').write_text('written')", "import click"],
)
def test_a_specification_that_may_depend_on_more_than_files_is_run_each_time(project, line):
    project.write("spec.py", f"{SPEC}\n{line}\n")
    assert not project.is_known() and not project.is_known()


def test_what_a_specification_names_and_does_not_run_counts_as_far_as_it_could():
    named = named_by(
        b"import mpcgen\ndef draw(time):\n    import torch.nn as nn\n    return nn.Linear(1, time)\n"
    )
    assert named is not None and named.packages == {"mpcgen", "torch"}
    assert named.is_harmless(frozenset({"os"})) and not named.is_harmless(frozenset({"torch"}))
    assert named_by(b"1 +") is None


@pytest.mark.parametrize(
    "line",
    [
        "from time import time as now",
        "numpy.random.rand()",
        "numpy.testing.time",
        "import os.path",
        "Path('data.json').exists()",
        "getattr(mpcgen, '__builtins__')",
        "from functools import sys",
        "from importlib import import_module as load",
    ],
)
def test_what_reads_more_than_files_is_no_harmless_text(line):
    named = named_by(line.encode())
    assert named is not None and not named.is_harmless(frozenset({"time", "os", "sys", "importlib"}))


def test_what_cannot_be_read_again_is_not_noted(monkeypatch):
    def refuse(*_):
        raise PermissionError("gone")

    request = unchanged.Request("spec.py", "out", ("cpu",), None, ("float64",))
    noted = []
    monkeypatch.setattr(unchanged, "named_by", refuse)
    monkeypatch.setattr(unchanged.cache, "note", lambda *given: noted.append(given))
    observed = Observed(frozenset(), frozenset(), {__file__})
    unchanged.remember(request, observed, time.time_ns(), None)
    assert not noted


def test_sources_and_templates_that_changed_are_looked_at(project, tmp_path):
    checkout, package = tmp_path / "checkout", Path(mpcgen.__file__).parent
    for folder in (package, package.parent / "templates"):
        shutil.copytree(folder, checkout / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    where = {"PYTHONPATH": str(checkout)}
    assert not project.is_known(**where) and project.is_known(**where)
    header = checkout / "templates" / "runtime" / "mpcgen_lane.h"
    header.write_text(header.read_text() + "/* new */\n")
    assert project.is_rebuilt(**where)
    header.write_text((package.parent / "templates" / "runtime" / "mpcgen_lane.h").read_text())
    assert not project.is_known(**where) and project.is_known(**where)
    (checkout / "mpcgen" / "passes" / "newer.py").write_text("")
    assert "the specification was run" in project.build(**where)
