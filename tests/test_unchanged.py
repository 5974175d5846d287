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
from mpcgen.build.observed import Observed, are_harmless, named_by

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
from beside import offset
from helper import weight
from package import share

problem = mpcgen.Problem("toy", horizon=3)
x = problem.state("x")
u = problem.control("u", lower=-1.0, upper=1.0)
problem.dynamics = [0.9 * x + u]
problem.stage_cost = weight * offset * share * x**2 + u**2
problem.terminal_cost = json.loads(Path(__file__).with_name("data.json").read_text()) * x**2
"""

PACKAGE = """
try:
    from package.local import weight as share
except ImportError:
    try:
        from .near import weight as share
    except ImportError:
        share = 1.0
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
        self.write("beside.py", "offset = 1.0\n")
        (folder / "beside").mkdir()
        (folder / "package").mkdir()
        self.write("package/__init__.py", PACKAGE)
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
    for name in ("beside/__init__.py", "package/local.py", "package/near.py"):
        (built / name).unlink(missing_ok=True)


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
        ("beside/__init__.py", "offset = 5.0\n"),
        ("package/local.py", "weight = 5.0\n"),
        ("package/near.py", "weight = 5.0\n"),
    ],
    ids=[
        "specification",
        "module",
        "data",
        "compiler",
        "in its place",
        "in a folder",
        "of a package",
        "relative",
    ],
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


@pytest.mark.parametrize("name", ["cartpole", "quadrotor", "lqr"])
def test_examples_read_files_alone(name):
    text = Path(__file__).parents[1].joinpath("examples", f"{name}.py").read_bytes()
    named = named_by(text)
    assert named is not None and named.is_harmless(frozenset({"time", "os", "sys", "importlib"}))


@pytest.mark.parametrize(
    "line",
    ["import os", "open(0)", "Path('note').write_text('written')", "import click"],
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
        "sympy.randMatrix(2)",
        "import mpmath as m; m.rand()",
        "numpy.datetime64('now')",
        "hash('a')",
        "Path('out').mkdir()",
        "sympy.sympify('__import__(\"time\").time()')",
    ],
)
def test_what_reads_more_than_files_is_no_harmless_text(line):
    named = named_by(line.encode())
    assert named is not None and not named.is_harmless(frozenset({"time", "os", "sys", "importlib"}))


@pytest.mark.parametrize(
    ("line", "opened", "is_harmless"),
    [
        ("numpy.loadtxt('a.txt')", "a.txt", True),
        ("numpy.loadtxt('a.txt')", "a.txt.gz", False),
        ("try: numpy.loadtxt('a.txt')\nexcept OSError: pass", "b.txt", False),
        ("with suppress(OSError): numpy.genfromtxt('a.txt')", "b.txt", False),
        ("try: open('a.txt')\nexcept OSError: pass", "b.txt", True),
    ],
)
def test_numpy_looks_for_files_that_it_does_not_open(line, opened, is_harmless):
    assert are_harmless([named_by(line)], frozenset(), [opened]) == is_harmless


def test_what_cannot_be_read_again_is_not_noted(monkeypatch):
    def refuse(*_):
        raise PermissionError("gone")

    request = unchanged.Request(__file__, "out", ("cpu",), None, ("float64",))
    observed = Observed(frozenset(), frozenset(), {__file__})
    monkeypatch.setattr(unchanged, "named_by", refuse)
    assert unchanged.look(request, observed, time.time_ns()) is None


def test_byte_code_stands_for_the_source_that_an_import_that_failed_leaves_unnamed(tmp_path):
    observed = Observed(frozenset())
    observed.note(str(tmp_path / "__pycache__" / "helper.cpython-311.pyc"), "rb", 0)
    observed.note(str(tmp_path / "__pycache__" / "helper.cpython-311.pyc.123"), None, os.O_WRONLY)
    assert observed.opened == {str(tmp_path / "helper.py")} and not observed.does_more


def test_a_folder_that_a_link_now_leads_elsewhere_is_another(tmp_path):
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "spec.py").write_text("import mpcgen\n")
    link = tmp_path / "current"
    link.symlink_to("1")
    observed = Observed(frozenset(), frozenset(), {str(link / "spec.py")})
    request = unchanged.Request(str(link / "spec.py"), "out", ("cpu",), None, ("float64",))
    noted = unchanged.look(request, observed, time.time_ns() + 10**9)
    assert noted is not None and unchanged._is_as_it_was(noted)
    link.unlink()
    link.symlink_to("2")
    assert not unchanged._is_as_it_was(noted)


def test_a_specification_among_installed_packages_is_looked_at_too(tmp_path, monkeypatch):
    monkeypatch.setattr(unchanged, "is_installed", lambda path: True)
    spec = tmp_path / "spec.py"
    request = unchanged.Request(str(spec), "out", ("cpu",), None, ("float64",))
    for text, is_known in (("import mpcgen\n", True), ("import os\n", False)):
        spec.write_text(text)
        observed = Observed(frozenset(), frozenset({"os"}), {str(spec)})
        assert (unchanged.look(request, observed, time.time_ns() + 10**9) is not None) == is_known


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
