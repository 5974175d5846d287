"""Building: what makes a build stale, what a failure says, and that processes can share the cache."""

import ast
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from toy_package import SUFFIXES, toy_rendered, toy_spec

from mpcgen.build import cache, digest, driver, zig
from mpcgen.build.extension import VARIANTS, compile_extension, compile_variants
from mpcgen.build.manifest import Manifest
from mpcgen.build.target import known_targets, select_target
from mpcgen.build.toolchain import SMALL_GCC_FLAGS, find_compiler, find_toolchain
from mpcgen.errors import BuildError, CompilerNotFoundError, SpecError
from mpcgen.problem.fingerprint import canonical_lines, fingerprint
from mpcgen.runtime import cpu

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MPCGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(driver, "render_spec", lambda spec: toy_rendered())


@pytest.fixture
def compiler_log(tmp_path, monkeypatch):
    """A C compiler that notes its arguments; returns a function that lists the files it compiled so far."""
    log = tmp_path / "compiler.log"
    script = tmp_path / "logging-cc"
    script.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {find_compiler().command[0]} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(script))

    def compiled():
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if " -c " in f" {line} " or " -o " in f" {line} "]

    return compiled


def build_in(directory, **options):
    return driver.build(toy_spec(), directory, **options)


def test_every_variant_computes_in_its_own_precision(tmp_path):
    module = driver.compile(toy_spec())
    for suffix in SUFFIXES:
        number = np.float64 if suffix.startswith("f64") else np.float32
        assert module.MPC(suffix, 3.0) == float(number(0.1) * number(3.0))


def test_build_makes_an_importable_package(tmp_path):
    result = build_in(tmp_path / "out")
    command = "from out import toy; print(toy.MPC('f64_batch', 5.0))"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == 0.5
    assert result.path == tmp_path / "out" / "toy"
    assert not result.up_to_date and not result.from_cache


def test_manifest_tells_what_was_built(tmp_path):
    manifest = Manifest.read(build_in(tmp_path).path)
    target = select_target()
    assert manifest.problem == "toy"
    assert manifest.target == target.name
    assert manifest.lanes == {"f64": target.vector_bytes // 8, "f32": target.vector_bytes // 4}
    assert manifest.sizes == {"states": 1}
    assert sorted(manifest.files) == sorted(["toy.h", "toy.c", "__init__.py", manifest.library])
    assert find_compiler().version in manifest.compiler


def test_unchanged_build_compiles_nothing(tmp_path, compiler_log):
    build_in(tmp_path)
    before = compiler_log()
    again = build_in(tmp_path)
    assert before and compiler_log() == before
    assert again.up_to_date


def test_unchanged_build_renders_nothing(tmp_path, monkeypatch):
    build_in(tmp_path)
    monkeypatch.delattr(driver, "render_spec")
    assert build_in(tmp_path).up_to_date


def test_second_directory_is_served_from_the_cache(tmp_path, compiler_log):
    build_in(tmp_path / "one")
    before = compiler_log()
    result = build_in(tmp_path / "two")
    assert result.from_cache and not result.up_to_date
    assert compiler_log() == before


def test_force_compiles_again(tmp_path, compiler_log):
    build_in(tmp_path)
    before = compiler_log()
    result = build_in(tmp_path, force=True)
    assert not result.from_cache and not result.up_to_date
    assert len(compiler_log()) > len(before)


def test_edited_text_is_put_back_by_building_again(tmp_path):
    path = build_in(tmp_path).path
    original = (path / "toy.c").read_text()
    (path / "toy.c").write_text("/* edited */\n" + original)
    assert not build_in(tmp_path).up_to_date
    assert (path / "toy.c").read_text() == original


def test_damaged_cache_entry_is_built_anew(tmp_path):
    manifest = build_in(tmp_path / "one").manifest
    (cache.entry_path("toy", manifest.digest) / manifest.library).write_bytes(b"damaged")
    result = build_in(tmp_path / "two")
    assert not result.from_cache
    assert result.manifest.is_intact(result.path)


def test_committed_text_does_not_depend_on_the_target(tmp_path):
    texts = []
    for target in known_targets():
        path = build_in(tmp_path / target.name, march=target.name).path
        texts.append([(path / file).read_bytes() for file in ("toy.h", "toy.c", "__init__.py")])
    assert all(text == texts[0] for text in texts)


def test_output_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match=r"file.*-o"):
        build_in(tmp_path / "file")


def test_compile_returns_one_module_per_problem():
    module = driver.compile(toy_spec())
    assert driver.compile(toy_spec()) is module
    assert module.__name__.startswith("mpcgen_compiled.toy_")


def test_compile_takes_a_changed_problem_in_the_same_process(monkeypatch):
    first = driver.compile(toy_spec())
    monkeypatch.setattr(driver, "render_spec", lambda spec: toy_rendered("0.25"))
    second = driver.compile(toy_spec(weight=2.0))
    assert (first.MPC("f64_batch", 1.0), second.MPC("f64_batch", 1.0)) == (0.1, 0.25)


def test_build_does_not_import_torch(tmp_path):
    script = (
        "import sys; from mpcgen.build import driver; from toy_package import *\n"
        "driver.render_spec = lambda spec: toy_rendered()\n"
        f"driver.build(toy_spec(), {str(tmp_path)!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=TESTS, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


# --- failures ---------------------------------------------------------------------------------------------


def test_missing_compiler_says_what_was_looked_for_and_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(zig, "find", lambda: None)
    with pytest.raises(CompilerNotFoundError, match=r"looked for gcc, clang, cc.*[Ii]nstall"):
        build_in(tmp_path)


def test_wrong_CC_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(CompilerNotFoundError, match="CC=no-such-compiler -m64"):
        build_in(tmp_path)


def test_CC_that_is_no_command_is_named(monkeypatch):
    monkeypatch.setenv("CC", "'gcc")
    with pytest.raises(CompilerNotFoundError, match=r"CC='gcc is no command.*gcc -m64"):
        find_compiler()


def test_CC_that_is_no_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CC", "false")
    with pytest.raises(CompilerNotFoundError, match="false --version failed with exit code 1"):
        find_toolchain()


def test_compile_failure_shows_command_and_compilers_words_and_keeps_the_source(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "render_spec", lambda spec: toy_rendered("no_such_constant"))
    with pytest.raises(BuildError) as caught:
        build_in(tmp_path)
    message = str(caught.value)
    assert "-DMPCGEN_PRECISION=64 -DMPCGEN_BATCH=1" in message
    assert "'no_such_constant' undeclared" in message or "undeclared identifier 'no_such_constant'" in message
    kept = Path(message.rsplit("kept in ", 1)[1])
    assert "no_such_constant" in (kept / "toy.c").read_text()


def test_failed_build_leaves_neither_package_nor_cache_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "render_spec", lambda spec: toy_rendered("no_such_constant"))
    with pytest.raises(BuildError):
        build_in(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "cache" / "builds").iterdir()) == []


def test_failed_rebuild_keeps_the_working_package(tmp_path, monkeypatch):
    working = build_in(tmp_path)
    monkeypatch.setattr(driver, "render_spec", lambda spec: toy_rendered("no_such_constant"))
    with pytest.raises(BuildError):
        build_in(tmp_path, force=True)
    assert working.manifest.is_intact(working.path)


def test_unknown_target_lists_the_known_ones():
    with pytest.raises(BuildError, match=f"--march pentium.*{known_targets()[-1].name}"):
        select_target("pentium")


def test_extra_flags_reach_every_variant(tmp_path):
    narrowing = toy_rendered("1; float y = x; return y")
    with pytest.raises(BuildError, match=r"-Werror=float-conversion|-Wimplicit-float-conversion"):
        compile_variants(narrowing, tmp_path, extra_flags=("-Wconversion", "-Werror"))
    objects = compile_variants(toy_rendered(), tmp_path, extra_flags=("-O0",))
    assert [path.name for path in objects] == [f"toy_{variant}.o" for variant, _ in VARIANTS]
    assert all(path.is_file() for path in objects)


def test_compilers_warnings_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "render_spec", lambda spec: toy_rendered("1; int unused; return (number)2"))
    lines: list[str] = []
    build_in(tmp_path, report=lines.append)
    assert "unused" in lines[-1]


# --- two processes ----------------------------------------------------------------------------------------


def test_two_processes_build_the_same_thing_at_once(tmp_path):
    script = (
        "import sys; from mpcgen.build import driver; from toy_package import *\n"
        "driver.render_spec = lambda spec: toy_rendered()\n"
        f"sys.stdin.readline(); print(driver.build(toy_spec(), {str(tmp_path / 'out')!r}).manifest.digest)"
    )
    command = [sys.executable, "-c", script]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=TESTS, **pipes) for _ in range(2)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert build_in(tmp_path / "out").up_to_date


def test_the_loser_of_a_race_uses_the_winners_build(tmp_path):
    toolchain = find_toolchain()
    rendered = toy_rendered()
    key = digest.build_digest(rendered, toolchain)

    def fill(folder):
        compile_extension(rendered, folder, key, toolchain=toolchain)
        return driver._manifest(folder, rendered, toolchain, "key", key)

    def fill_while_another_wins(folder):
        manifest = fill(folder)
        cache.make_entry("toy", key, fill)
        winners.append(cache.entry_path("toy", key).stat().st_ino)
        return manifest

    winners: list[int] = []
    path = cache.make_entry("toy", key, fill_while_another_wins)
    assert [path.stat().st_ino] == winners
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


# --- digests ----------------------------------------------------------------------------------------------


def test_digest_changes_with_a_bundled_header(tmp_path):
    headers = tmp_path / "runtime"
    shutil.copytree(digest.HEADER_FOLDER, headers)
    (headers / "extra.h").write_text("/* one */\n")
    toolchain = find_toolchain()
    before = digest.build_digest(toy_rendered(), toolchain, headers)
    (headers / "extra.h").write_text("/* two */\n")
    assert digest.build_digest(toy_rendered(), toolchain, headers) != before


def test_digest_changes_with_text_target_and_compiler(monkeypatch):
    toolchain = find_toolchain()
    digests = {digest.build_digest(toy_rendered(), toolchain)}
    digests.add(digest.build_digest(toy_rendered("0.5"), toolchain))
    others = [target.name for target in known_targets() if target != toolchain.target]
    digests.update(digest.build_digest(toy_rendered(), find_toolchain(march=name)) for name in others)
    monkeypatch.setenv("CC", f"{find_compiler().command[0]} -g")
    digests.add(digest.build_digest(toy_rendered(), find_toolchain()))
    assert len(digests) == 3 + len(others)


@pytest.mark.parametrize(("version", "own"), [("gcc 12.2.0", True), ("Apple clang version 17.0.0", False)])
def test_stages_of_many_operations_are_optimised_less(version, own):
    found = find_toolchain()
    toolchain = replace(found, compiler=replace(found.compiler, version=version))
    small, large = toolchain.flags_for(small=True), toolchain.flags_for(small=False)
    assert [flag for flag in small if flag.startswith("-O")] == ["-O3"]
    assert [flag for flag in large if flag.startswith("-O")] == ["-O2"]
    assert ("-fno-gcse" in large) == ("-fno-ipa-cp-clone" in small) == own
    assert set(small) - set(large) - set(SMALL_GCC_FLAGS) == {"-O3"}


def test_spec_key_changes_with_the_costs_and_the_horizon():
    toolchain = find_toolchain()
    x = sp.Symbol("x", real=True)
    plain = toy_spec()
    specs = [
        plain,
        toy_spec(weight=2.0),
        type(plain)(**{**vars(plain), "horizon": 4}),
        type(plain)(**{**vars(plain), "terminal_cost": plain.terminal_cost + sp.Abs(x)}),
    ]
    assert len({digest.spec_key(fingerprint(spec), toolchain) for spec in specs}) == len(specs)


def test_every_module_that_rendering_imports_is_part_of_the_spec_key():
    code = (
        "import sys, mpcgen\n"
        "from mpcgen.compiler import render_spec\n"
        "render_spec(mpcgen.lqr(1, 1, horizon=2).spec())\n"
        "print([module.__file__ for name, module in sys.modules.items() if name.startswith('mpcgen')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {Path(file) for file in ast.literal_eval(done.stdout)} - {
        digest.TEMPLATE_FOLDER / "__init__.py"
    }
    assert imported <= set(digest.pipeline_sources())
    assert len(imported) > 20


def test_spec_key_does_not_depend_on_the_hash_seed():
    script = (
        "import sympy as sp; from mpcgen.build import digest, toolchain; from toy_package import toy_spec\n"
        "from mpcgen.problem.fingerprint import fingerprint\n"
        "a, b = sp.symbols('x u', real=True); c = a + 1; spec = toy_spec()\n"
        "cost = sp.Max(a, b, c * a, sp.Min(b, c)) + sp.Piecewise((0, (a < 0) | (b < 0)), (a * b, True))\n"
        "spec = type(spec)(**{**vars(spec), 'stage_cost': cost})\n"
        "print(digest.spec_key(fingerprint(spec), toolchain.find_toolchain()))"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", script], cwd=TESTS, env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("0", "1", "2", "3")
    }  # fmt: skip
    assert len(keys) == 1


def test_shared_subexpressions_cost_one_line_of_the_spec_key():
    x = sp.Symbol("x", real=True)
    deep = x
    for _ in range(60):
        deep = sp.sin(deep) * sp.cos(deep)  # 2**60 nodes as a tree
    plain = toy_spec()
    spec = type(plain)(**{**vars(plain), "stage_cost": deep})
    assert len(canonical_lines(spec)) < 300


# --- CPU features -----------------------------------------------------------------------------------------


def test_the_default_target_is_the_widest_that_the_cpu_runs(monkeypatch):
    if known_targets()[0].name != "x86-64-v4":
        pytest.skip("needs an x86-64 machine")
    for features, name in ((cpu.X86_64_V4, "x86-64-v4"), (cpu.X86_64_V3, "x86-64-v3"), (("sse2",), "x86-64")):
        monkeypatch.setattr(cpu, "cpu_features", lambda present=features: frozenset(present))
        assert select_target().name == name


def test_features_are_read_from_cpuinfo(tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    monkeypatch.setattr(cpu, "_CPUINFO", cpuinfo)
    cpu.cpu_features.cache_clear()
    try:
        assert cpu.cpu_features() == frozenset(["fpu", "avx2", "fma"])
        assert cpu.missing_features(("avx512f", "fma", "avx2", "abm")) == ("avx512f", "abm")
    finally:
        cpu.cpu_features.cache_clear()


def test_what_is_no_problem_is_refused():
    with pytest.raises(SpecError, match=r"'examples/car.py' is a str; an mpcgen.Problem is expected"):
        driver.compile("examples/car.py")
