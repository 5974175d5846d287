"""The command line: what it prints and how it ends."""

import subprocess
import sys
import types
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner
from toy_package import toy_rendered

import mpcgen.compiler
from mpcgen.build import driver, zig
from mpcgen.build.target import known_targets
from mpcgen.cli import main
from mpcgen.errors import InternalError

SPEC = """
import mpcgen

problem = mpcgen.Problem("toy", horizon=3)
(x,) = problem.states("x")
(u,) = problem.controls("u", lower=-1, upper=1)
problem.dynamics = [x + u]
problem.stage_cost = x**2 + u**2
problem.terminal_cost = x**2
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.setenv("MPCGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(driver, "render_spec", lambda spec: toy_rendered())
    path = tmp_path / "toy_spec.py"
    path.write_text(SPEC)
    return path


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_build_prints_sizes_and_where_the_package_is(spec, tmp_path):
    result = run("build", spec, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "states" in result.output
    assert f"{tmp_path / 'out' / 'toy'} compiled in" in result.output
    assert (tmp_path / "out" / "toy" / "build.json").is_file()


def test_second_build_says_up_to_date(spec, tmp_path):
    run("build", spec, "-o", tmp_path)
    result = run("build", spec, "-o", tmp_path)
    assert result.exit_code == 0
    assert "is up to date" in result.output


def test_build_of_changed_spec_is_not_up_to_date(spec, tmp_path):
    run("build", spec, "-o", tmp_path)
    spec.write_text(SPEC.replace("x + u", "x - u"))
    assert "up to date" not in run("build", spec, "-o", tmp_path).output


def test_march_chooses_the_target(spec, tmp_path):
    target = known_targets()[-1].name
    result = run("build", spec, "-o", tmp_path, "--march", target)
    assert f"for {target} " in result.output


def test_build_writes_to_generated_by_default(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("build", spec).exit_code == 0
    assert (tmp_path / "generated" / "toy" / "toy.c").is_file()
    assert (tmp_path / "generated" / "__init__.py").is_file()


def test_users_mistake_ends_with_code_2_and_a_message(spec):
    spec.write_text(SPEC.replace("[x + u]", "[x + u, x]"))
    result = run("build", spec)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output


def test_missing_file_ends_with_code_2(tmp_path):
    result = run("build", tmp_path / "nothing.py")
    assert result.exit_code == 2
    assert "nothing.py" in result.stderr


def test_build_failure_ends_with_code_1_and_the_compilers_words(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "render_spec", lambda spec: toy_rendered("no_such_constant"))
    result = run("build", spec, "-o", tmp_path)
    assert result.exit_code == 1
    assert "no_such_constant" in result.stderr
    assert "Traceback" not in result.stderr


def test_missing_compiler_ends_with_code_1(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(zig, "find", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    result = run("build", spec, "-o", tmp_path)
    assert result.exit_code == 1
    assert "no C compiler found" in result.stderr


def test_a_bug_of_ours_keeps_its_traceback(spec, tmp_path, monkeypatch):
    def render(spec):
        raise InternalError("broken")

    monkeypatch.setattr(driver, "render_spec", render)
    assert isinstance(run("build", spec, "-o", tmp_path).exception, InternalError)


def test_inspect_prints_the_stage_asked_for(spec, monkeypatch):
    monkeypatch.setattr(mpcgen.compiler, "inspect", lambda spec, stage: f"{stage} of {spec.name}")
    assert run("inspect", spec, "--stage", "graph").output == "graph of toy\n"
    assert run("inspect", spec).output == "None of toy\n"


def test_compare_passes_its_options(tmp_path, monkeypatch):
    calls = []
    module = types.ModuleType("mpcgen.baseline.report")
    module.main_compare = lambda path, **options: calls.append((path, options))
    monkeypatch.setitem(sys.modules, "mpcgen.baseline.report", module)
    options = ("--count", "5", "--seed", "7", "--tol", "1e-6", "--spec", "toy.py")
    assert run("compare", tmp_path, *options).exit_code == 0
    assert calls == [(tmp_path, {"count": 5, "seed": 7, "tol": 1e-6, "spec": Path("toy.py")})]


def test_installed_command_starts_without_sympy_torch_or_rich():
    script = (
        "import sys; from mpcgen.cli import main; main(['--help'], standalone_mode=False)\n"
        "print([name for name in ('sympy', 'torch', 'casadi', 'rich', 'cffi') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_command_is_installed():
    command = Path(sys.executable).parent / "mpcgen"
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert version("mpcgen") in done.stdout


def test_piped_output_cuts_no_name(spec, tmp_path, monkeypatch):
    label, value = "a label " * 12, "a_name_" * 30
    sizes = ((label, value),)
    monkeypatch.setattr(driver, "render_spec", lambda spec: replace(toy_rendered(), sizes=sizes))
    monkeypatch.setenv("COLUMNS", "40")
    result = run("build", spec, "-o", tmp_path / ("out" * 30))
    assert label in result.output and value in result.output and str(tmp_path / ("out" * 30)) in result.output
    assert "…" not in result.output


def test_help_cuts_no_summary_short():
    lines = [line for line in run("--help").output.splitlines() if line.startswith("  ")]
    assert {"build", "bench", "doctor"} <= {line.split()[0] for line in lines}
    assert not any(line.endswith("...") for line in lines)


def test_help_of_export_has_the_number_of_passes():
    from mpcgen.codegen.export import MAX_ITERATIONS

    assert f"Default: {MAX_ITERATIONS}." in " ".join(run("export", "--help").output.split())
