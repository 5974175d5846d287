"""The cache: what is damaged, foreign or closed in it is no obstacle, or a sentence; what it holds, and clearing it."""

import json
import os
import shutil
import stat

import pytest
from click.testing import CliRunner
from test_cli import SPEC
from toy_package import toy_rendered, toy_spec

from mpcgen.build import cache, driver, toolchain
from mpcgen.cli import main
from mpcgen.errors import BuildError, StaleBuildError
from mpcgen.runtime.importing import execute_folder


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MPCGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(driver, "render_spec", lambda spec: toy_rendered())
    return tmp_path / "cache"


def test_a_cache_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MPCGEN_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(BuildError, match=r"cannot write the build to .*file.*set MPCGEN_CACHE_DIR"):
        driver.compile(toy_spec())
    with pytest.raises(BuildError, match="set MPCGEN_CACHE_DIR"):
        driver.build(toy_spec(), tmp_path / "out")


def test_a_package_in_a_cache_that_takes_no_notes_is_served(root, tmp_path):
    toolchain._has_libmvec.cache_clear()  # what the process itself remembers
    driver.build(toy_spec(), tmp_path / "one")
    toolchain._has_libmvec.cache_clear()
    for part in ("keys", "toolchain"):
        for path in (root / part).iterdir():
            path.unlink()
        (root / part).rmdir()
        (root / part).write_text("in the way, as what another user may not write is")
    assert driver.build(toy_spec(), tmp_path / "two").from_cache


@pytest.mark.parametrize("noted", [b"\xff\xfe", b"", b"../../etc/passwd", b"\x00" * 64, b"0" * 64])
def test_a_damaged_note_is_as_good_as_none(root, tmp_path, noted):
    driver.build(toy_spec(), tmp_path / "one")
    (key,) = (root / "keys").iterdir()
    good = key.read_bytes()
    key.write_bytes(noted)
    assert driver.build(toy_spec(), tmp_path / "two").from_cache
    assert key.read_bytes() == good


def test_a_cache_in_a_folder_that_users_share_is_theirs_together(root, tmp_path):
    root.mkdir()
    root.chmod(0o1777)
    before = os.umask(0o077)
    toolchain._has_libmvec.cache_clear()
    try:
        driver.build(toy_spec(), tmp_path / "out")
    finally:
        os.umask(before)
    for part in ("builds", "keys"):
        assert stat.S_IMODE((root / part).stat().st_mode) == 0o1777
    (entry,) = (root / "builds").iterdir()
    files = [*entry.iterdir(), *(root / "keys").iterdir(), *(root / "toolchain").iterdir()]
    assert len(files) > 5
    assert all(path.stat().st_mode & stat.S_IROTH for path in files)
    assert entry.stat().st_mode & 0o005 == 0o005


FIELDS = [
    ("files", None), ("files", ["toy.c"]), ("files", {"../toy.c": "0"}), ("files", {"toy.c": 3}),
    ("cpu_features", 5), ("cpu_features", [1]), ("problem", 3), ("abi", "5"), ("digest", None), ("target", []),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), FIELDS)
def test_a_damaged_field_of_a_manifest_is_named_and_building_mends_it(tmp_path, field, value):
    folder = driver.build(toy_spec(), tmp_path).path
    recorded = json.loads((folder / "build.json").read_text())
    (folder / "build.json").write_text(json.dumps(recorded | {field: value}))
    with pytest.raises(StaleBuildError, match=f"build.json is damaged: {field} is .*run `mpcgen build"):
        execute_folder(folder, "damaged_toy")
    result = driver.build(toy_spec(), tmp_path)
    assert not result.up_to_date and result.manifest.is_intact(folder)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]", b"null", b"{", b""])
def test_a_manifest_that_is_none_is_named(tmp_path, content):
    folder = driver.build(toy_spec(), tmp_path).path
    (folder / "build.json").write_bytes(content)
    with pytest.raises(StaleBuildError, match=r"build\.json.*run `mpcgen build"):
        execute_folder(folder, "damaged_toy")


def test_a_damaged_manifest_in_the_cache_is_built_anew(root, tmp_path):
    driver.build(toy_spec(), tmp_path / "one")
    (entry,) = (root / "builds").iterdir()
    recorded = json.loads((entry / "build.json").read_text())
    (entry / "build.json").write_text(json.dumps(recorded | {"files": None}))
    result = driver.build(toy_spec(), tmp_path / "two")
    assert not result.from_cache and result.manifest.is_intact(result.path)


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_shows_and_clears_the_cache_and_nothing_else(root, tmp_path):
    (tmp_path / "toy_spec.py").write_text(SPEC)
    assert run("cache").output == f"{root}: 0 packages, 0.0 MiB\n"
    run("build", tmp_path / "toy_spec.py", "-o", tmp_path / "out")
    (root / "mine.txt").write_text("no part of the cache")
    shown = run("cache").output.splitlines()
    assert shown[0].startswith(f"{root}: 1 package, ") and shown[1:] == ["  toy"]
    assert cache.contents().size > 10_000
    assert run("cache", "--clear").output.endswith("\ncleared\n")
    assert sorted(path.name for path in root.iterdir()) == ["mine.txt"]
    assert toolchain.find_toolchain()  # what it notes is made anew


def test_what_another_process_removes_meanwhile_is_not_counted(root, monkeypatch):
    (root / "units" / "scratch").mkdir(parents=True)
    (root / "units" / "unit.so").write_bytes(b"kept")
    (root / "units" / "scratch" / "unit.o").write_bytes(b"removed")
    found = [list(os.walk(root / part)) for part in cache.PARTS]
    shutil.rmtree(root / "units" / "scratch")
    monkeypatch.setattr(os, "walk", lambda folder: found.pop(0))
    assert cache.contents().size == 4


def test_a_cache_is_cleared_although_other_processes_work_in_it(root, monkeypatch):
    rmdir, late = os.rmdir, []

    def busy(path, **given):
        """Remove a folder, while somebody puts a file beside the first."""
        if not late:
            late.append(root / "units" / "late")
            late[0].touch()
        rmdir(path, **given)

    (root / "units" / "scratch").mkdir(parents=True)
    monkeypatch.setattr(os, "rmdir", busy)
    cache.clear()
    assert late and not list(root.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
def test_a_note_on_a_full_disk_leaves_nothing(root, monkeypatch):
    def on_full_disk(descriptor, *given, **options):
        os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)
        return open(descriptor, *given, **options)

    monkeypatch.setattr(cache, "open", on_full_disk, raising=False)
    cache.note(root / "keys" / "key", "text")
    assert list((root / "keys").iterdir()) == []


# ---- what is said meanwhile ----


@pytest.mark.parametrize(("terminal", "progress", "says"), [
    (True, None, True), (False, None, False), (False, True, True), (True, False, False),
])  # fmt: skip
def test_compile_says_what_takes_long_on_a_terminal(capsys, monkeypatch, terminal, progress, says):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    driver.compile(toy_spec(), progress=progress)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" for ")[0] for line in lines] == says * [
        "mpcgen: deriving and rendering toy",
        "mpcgen: compiling toy",
    ]
    driver.compile(toy_spec(), progress=progress)  # from the cache: at once, and so silently
    assert capsys.readouterr().err == ""


def test_a_report_takes_the_place_of_progress(capsys):
    lines = []
    driver.compile(toy_spec(), report=lines.append, progress=True)
    assert len(lines) == 2 and capsys.readouterr().err == ""


def test_progress_is_true_false_or_none():
    with pytest.raises(BuildError, match="progress='loud'"):
        driver.compile(toy_spec(), progress="loud")
