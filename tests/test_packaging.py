"""Packaging: the templates are part of every installation."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mpcgen
from mpcgen.build.driver import build

ROOT = Path(__file__).parent.parent
TEMPLATES = sorted(
    path.relative_to(ROOT / "templates").as_posix()
    for folder in ("c", "python", "runtime")
    for path in (ROOT / "templates" / folder).rglob("*")
    if path.is_file() and path.suffix != ".pyc"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, so that setuptools' build folder neither touches the checkout nor brings old files along.
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "mpcgen", "templates"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "-w", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, cwd=folder)
    (path,) = folder.glob("mpcgen-*.whl")
    return path


def test_there_are_templates_to_ship():
    assert {Path(template).parts[0] for template in TEMPLATES} == {"c", "python", "runtime"}


def test_wheel_holds_every_template(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert [template for template in TEMPLATES if f"mpcgen/templates/{template}" not in names] == []


def test_wheel_holds_every_module(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    modules = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "mpcgen").rglob("*.py"))
    assert [module for module in modules if module not in names] == []


def test_wheel_holds_the_licence_and_the_type_marker(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "mpcgen/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_benchmark_stays_in_the_checkout_and_an_installed_command_says_so(wheel, tmp_path):
    names = zipfile.ZipFile(wheel).namelist()
    assert not any("bench" in name for name in names)
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); from mpcgen.cli import main; main(['bench'])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "clone its repository" in done.stderr


def test_unpacked_wheel_finds_its_headers_from_another_directory(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "from mpcgen.build.digest import HEADER_FOLDER as folder\n"
        "print(folder); print(len(list(folder.glob('*.h'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    folder, count = done.stdout.split()
    assert folder.startswith(str(tmp_path))
    assert int(count) == len(list((ROOT / "templates" / "runtime").glob("*.h")))


def test_editable_install_finds_the_templates_from_another_directory(tmp_path):
    script = "import mpcgen.templates; print(mpcgen.templates.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == ROOT / "templates" / "__init__.py"


def test_generated_package_needs_torch_and_the_runtime_only(tmp_path):
    """Its import looks at no module that is loaded besides, of which there may be thousands."""
    build(mpcgen.load_problem(ROOT / "examples" / "pendulum.py"), tmp_path)
    script = (
        f"import sys, torch; sys.path.insert(0, {str(tmp_path)!r})\n"
        "class Watched(type(sys)):\n"
        "    def __getattribute__(self, name):\n"
        "        if name == '__file__': asked.append(name)\n"
        "        return super().__getattribute__(name)\n"
        "asked, sys.modules['watched'] = [], Watched('watched')\n"
        "import pendulum\n"
        "print(asked)\n"
        "x0 = torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64, requires_grad=True)\n"
        "pendulum.MPC()(x0).cost.backward()\n"
        "outside = ('sympy', 'casadi', 'jinja2', 'cffi', 'click', 'rich', 'matplotlib', 'filelock', 'platformdirs')\n"
        "print(sorted(set(outside) & set(sys.modules)))\n"
        "print(sorted({name.split('.')[1] for name in sys.modules if name.startswith('mpcgen.')}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]", "[]", "['autograd', 'calls', 'errors', 'runtime']"]


def test_a_checkout_beside_an_installed_package_finds_its_own_templates(wheel, tmp_path):
    """`python -m examples.demo` there imports the checkout's package, whatever is installed."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    for name in ("mpcgen", "templates"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(tmp_path)], check=True)
    script = (
        "from mpcgen.build.digest import HEADER_FOLDER, PACKAGE_FOLDER as p; print(p); print(HEADER_FOLDER)"
    )
    # -S: none of the editable install's finders; the installed package comes after the current folder
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(tmp_path / "mpcgen"), str(tmp_path / "templates" / "runtime")]
