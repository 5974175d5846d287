"""Pip's zig as the C compiler where there is no other: it is found, and what it makes computes the same."""

import pytest
import torch
from controllers import EXAMPLES

import mpcgen
from mpcgen.build import zig
from mpcgen.build.cache import cache_root, working_folder
from mpcgen.build.target import known_targets
from mpcgen.build.toolchain import Compiler, find_compiler, find_toolchain, run_compiler

needs_zig = pytest.mark.skipif(
    zig.find() is None, reason="ziglang is not installed: pip install 'mpcgen[compiler]'"
)


@pytest.fixture
def no_other(tmp_path, monkeypatch):
    """A machine without gcc and clang."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)


@needs_zig
def test_zig_is_found_where_there_is_no_other(no_other):
    compiler = find_compiler()
    assert compiler.is_zig and compiler.is_clang
    assert "musl" not in compiler.triple or "musl" in run_compiler([*compiler.command, "--version"]).stdout


@needs_zig
def test_an_installed_compiler_comes_first(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    assert not find_compiler().is_zig


@needs_zig
def test_zig_by_its_name_in_CC_is_known_for_what_it_is(monkeypatch):
    monkeypatch.setenv("CC", f"{zig.find()[0]} cc -g")
    assert find_compiler().is_zig


@pytest.mark.parametrize("flags", [flags for target in known_targets() for flags in [target.flags]])
def test_other_compilers_get_the_flags_of_a_target_as_they_are(flags):
    assert Compiler(("gcc",), "gcc 12.2.0", "x86_64-linux-gnu").machine_flags(flags) == flags


def test_zig_never_compiles_for_the_cpu_that_it_happens_to_run_on():
    assert zig.machine_flags(()) == ("-mcpu=baseline",)
    assert zig.machine_flags(("-march=x86-64-v4", "-mprefer-vector-width=512")) == (
        "-mcpu=x86_64_v4",
        "-mprefer-vector-width=512",
    )


@needs_zig
@pytest.mark.parametrize("target", [target.name for target in known_targets()])
def test_every_target_compiles(target, no_other, tmp_path):
    toolchain = find_toolchain(target)
    (tmp_path / "line.c").write_text("double line(double x);\ndouble line(double x) { return x * x + x; }\n")
    command = [*toolchain.compiler.command, *toolchain.compile_flags, "-c", "line.c", "-o", "line.o"]
    process = run_compiler(command, tmp_path)
    assert process.returncode == 0 and not process.stderr


@needs_zig
@pytest.mark.parametrize("name", ["pendulum", "cartpole"])
def test_statuses_and_gradients_are_those_of_the_other_compiler(name, tmp_path, monkeypatch):
    problem = mpcgen.load_problem(EXAMPLES / f"{name}.py")
    x0 = (
        0.3 * torch.randn(64, len(problem.spec().states), generator=torch.Generator().manual_seed(0)).double()
    )
    theirs = mpcgen.compile(problem, dtypes="float64")
    other_u, other_status, other_gradient = solved(theirs, x0)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    ours = mpcgen.compile(problem, dtypes="float64")
    u, status, gradient = solved(ours, x0)
    assert ours is not theirs
    assert torch.equal(status, other_status) and (status == mpcgen.Status.CONVERGED).all()
    # Both end below tol; rounding moves controls, and gradients by the solution's sensitivity to it.
    assert (u - other_u).abs().max() < 1e-10
    scale = other_gradient.abs().amax(dim=1, keepdim=True)  # 0 where bounds hold every control
    assert ((gradient - other_gradient).abs() <= 1e-10 * scale).all()


def solved(module, x0):
    """Controls, statuses, and the gradient of the sum of squares of the controls by the initial states."""
    leaf = x0.clone().requires_grad_()
    solution = module.MPC()(leaf)
    solution.u.square().sum().backward()
    return solution.u.detach(), solution.status, leaf.grad


@needs_zig
def test_what_zig_keeps_lies_in_mpcgens_cache(monkeypatch):
    for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
        assert zig.environment(working_folder("zig"))[name] == str(cache_root() / "zig")
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", "elsewhere")
    assert "ZIG_GLOBAL_CACHE_DIR" not in zig.environment(working_folder("zig"))


def test_where_the_cache_cannot_be_written_zig_gets_a_folder_that_can(tmp_path, monkeypatch):
    """It would try for ever to write to one that cannot."""
    (tmp_path / "file").write_text("")
    for cache in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("MPCGEN_CACHE_DIR", str(cache))
        folder = working_folder("zig")
        (folder / "probe").write_text("")
        assert tmp_path not in folder.parents


@needs_zig
def test_zig_is_found_where_the_cache_cannot_be_written(no_other, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MPCGEN_CACHE_DIR", str(tmp_path / "file"))
    assert find_compiler().is_zig
