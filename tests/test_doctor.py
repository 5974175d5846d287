"""`mpcgen doctor`: what it finds, and how it ends where something is missing."""

import importlib.metadata
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import mpcgen
from mpcgen import errors
from mpcgen.build import toolchain, zig
from mpcgen.cli import main


def run(*arguments):
    return CliRunner().invoke(main, ["doctor", *arguments])


def test_where_mpcgen_works_it_ends_with_zero_and_names_what_it_found():
    result = run()
    assert result.exit_code == 0, result.output
    for part in (
        mpcgen.__version__,
        "C compiler",
        "instruction set",
        "compiles and runs",
        "writable",
        "threads",
        "nvcc",
    ):
        assert part in result.output


def test_json_has_every_part_with_what_to_do(monkeypatch):
    parts = {part["name"]: part for part in json.loads(run("--json").stdout)}
    assert {"Python", "C compiler", "cache", "torch", "casadi"} <= set(parts)
    assert all(set(part) == {"name", "value", "remedy", "needed"} for part in parts.values())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda patch, folder: patch.setenv("CC", "no-such-compiler"), "CC=no-such-compiler names none"),
        (lambda patch, folder: patch.setenv("CC", "no-such-compiler"), "unset CC, or set it to"),
        (lambda patch, folder: patch.setenv("CC", "true"), "so it is no C compiler"),
        (lambda patch, folder: patch.setenv("CC", "true"), "unset CC, or set it to"),
        (lambda patch, folder: patch.setenv("MPCGEN_CACHE_DIR", str(folder / "file" / "c")), "set MPCGEN_CACHE_DIR"),
        (lambda patch, folder: patch.setenv("MPCGEN_CACHE_DIR", str(folder / "file")), "set MPCGEN_CACHE_DIR"),
    ],
)  # fmt: skip
def test_what_is_lacking_is_named_with_what_to_do_and_ends_with_one(change, named, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(zig, "find", lambda: None)
    change(monkeypatch, tmp_path)
    result = run()
    assert result.exit_code == 1, result.output
    assert "FAIL" in result.output and named in result.output


def test_a_compiler_whose_programs_do_not_run_is_found_out(tmp_path, monkeypatch):
    """One that says it is gcc and links nothing."""
    script = tmp_path / "mute-cc"
    script.write_text(
        '#!/bin/sh\ncase "$1" in --version) echo gcc 12.2.0;; -dumpmachine) echo x86_64-linux-gnu;; esac\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    result = run()
    assert result.exit_code == 1, result.output
    assert "does not run" in result.output


def test_a_compiler_that_does_not_answer_is_named_with_its_command(tmp_path, monkeypatch):
    script = tmp_path / "slow-cc"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setattr(toolchain, "ANSWER_SECONDS", 0.2)
    result = run()
    assert result.exit_code == 1, result.output
    assert f"{script} --version has not ended after 0.2 s" in result.output


def test_a_cache_that_cannot_be_written_does_not_blame_the_compiler(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MPCGEN_CACHE_DIR", str(tmp_path / "file"))
    names = [line.split()[1] for line in run().output.splitlines() if line.startswith("FAIL")]
    assert names == ["cache"]


def test_the_command_that_installs_an_extra_is_one_that_works(monkeypatch):
    assert errors.pip_install("plot") == "pip install 'mpcgen[plot]'"  # of what is installed

    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(errors, "distribution", none)
    command = errors.pip_install("plot")
    folder = command.removeprefix("pip install '").removesuffix("[plot]'")
    assert (Path(folder) / "pyproject.toml").is_file()
