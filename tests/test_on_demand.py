"""Kernels that are compiled when they are first called: which, when, and that nothing else depends on it."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import warnings

import pytest
import sympy as sp
import torch

import mpcgen
from mpcgen.build import cache, driver, extension, units
from mpcgen.build.toolchain import find_toolchain
from mpcgen.errors import BuildError, CompilerNotFoundError, StaleBuildError


def problem(weight=0.5):
    p = mpcgen.Problem("on_demand", horizon=4)
    (x,), (u,) = p.states("x"), p.controls("u", lower=-1, upper=1)
    p.dynamics = [x + 0.3 * sp.sin(u)]
    p.stage_cost = x**2 + weight * u**2
    p.terminal_cost = x**2
    return p


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A cache of its own, so that what is in it says what was compiled, by a machine that has no core idle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "idle_core", lambda: False)
        patch.setenv("MPCGEN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def module(cached):
    return mpcgen.compile(problem())


def compiled():
    """Parts of variants that the cache holds."""
    return {path.stem.split("-", 2)[2] for path in (cache.cache_root() / "units").glob("*.so")}


X0 = torch.tensor([[0.5], [-2.0], [3.0]], dtype=torch.float64)


def test_each_part_is_compiled_when_it_is_first_called(module):
    assert compiled() == {"f64_batch-solve"}
    mpc = module.MPC()
    mpc(X0)
    assert compiled() == {"f64_batch-solve"}
    mpc(X0[0])
    assert compiled() == {"f64_batch-solve", "f64_single-solve"}
    mpc(X0.clone().requires_grad_()).cost.sum().backward()
    assert compiled() == {"f64_batch-solve", "f64_single-solve", "f64_batch-sensitivities"}
    module.MPC(method="interior_point")(X0[0])
    assert compiled() == {
        "f64_batch-solve", "f64_single-solve", "f64_batch-sensitivities", "f64_single-interior_point"
    }  # fmt: skip


def test_results_are_those_of_a_package_that_is_compiled_whole(module):
    whole = mpcgen.compile(problem(), on_demand=False)
    for options in ({}, {"method": "interior_point"}):
        grown = []
        for each in (module, whole):
            x0 = X0.clone().requires_grad_()
            solution = each.MPC(**options)(x0)
            solution.u.sum().backward()
            single = each.MPC(**options)(X0[1])
            grown.append((solution.x, solution.u, solution.iterations, x0.grad, single.u))
        for one, other in zip(*grown, strict=True):
            assert torch.equal(one, other)


def test_threads_that_ask_at_once_get_one_library(module, monkeypatch):
    calls = []
    run_one = units.run_one
    monkeypatch.setattr(units, "run_one", lambda *given: (calls.append(given[2]), run_one(*given)))
    results = [None] * 4

    def solve(place):
        results[place] = module.MPC()(X0.float()).u

    workers = [threading.Thread(target=solve, args=(place,)) for place in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert calls == 2 * ["the solver of on_demand, f32 batch"]  # compiled, linked
    assert all(torch.equal(results[0], result) for result in results)


def test_another_process_finds_the_package_and_compiles_what_it_needs(module, tmp_path):
    (tmp_path / "mpc.pickle").write_bytes(pickle.dumps(module.MPC()))
    script = (
        "import pickle, sys, torch; mpc = pickle.load(open(sys.argv[1], 'rb')); assert 'sympy' not in sys.modules; "
        "print(mpc(torch.tensor([[0.5], [-2.0]], dtype=torch.float64).requires_grad_()).u.sum().item()); "
        "assert 'sympy' not in sys.modules"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "mpc.pickle")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
    assert float(printed) == pytest.approx(module.MPC()(X0[:2]).u.sum().item(), abs=1e-12)


def test_a_library_that_someone_changed_is_compiled_anew(cached):
    fresh = mpcgen.compile(problem(0.25))
    (path,) = (cache.cache_root() / "units").glob(f"*{fresh.CONTROLLER.library.manifest['digest']}*.so")
    path.write_bytes(b"no library")
    assert fresh.MPC()(X0).converged.all()


def test_without_its_text_a_package_says_what_to_do(cached):
    lost = mpcgen.compile(problem(0.125))
    lost.MPC()(X0)
    shutil.rmtree(lost.CONTROLLER.library.path.parent)
    assert lost.MPC()(X0).converged.all()
    with pytest.raises(StaleBuildError, match=r"is gone or changed; call mpcgen\.compile again$"):
        lost.MPC()(X0[0])
    assert mpcgen.compile(problem(0.125)) is lost
    assert lost.MPC()(X0[0]).converged


def test_headers_of_another_version_are_not_mixed_in(cached, monkeypatch):
    old = mpcgen.compile(problem(0.75))
    monkeypatch.setattr(units, "folder_digest", lambda folder: "another")
    with pytest.raises(StaleBuildError, match="mpcgen was updated"):
        old.MPC()(X0[0])


def test_a_compiler_that_is_gone_is_named_with_a_remedy(cached, monkeypatch):
    mpc = mpcgen.compile(problem(1.25)).MPC()
    library = mpc.controller.library
    monkeypatch.setitem(library.manifest["on_demand"], "compiler", ["false"])
    with pytest.raises(CompilerNotFoundError, match=r"not compiled yet.*call mpcgen\.compile again"):
        mpc(X0[0])


def test_another_version_of_the_compiler_is_not_mixed_in(cached, monkeypatch):
    mpc = mpcgen.compile(problem(1.5)).MPC()
    monkeypatch.setitem(mpc.controller.library.manifest, "compiler", "cc; cc 1.0; x86_64")
    with pytest.raises(StaleBuildError, match=r"was made with cc; cc 1\.0.* now is .*mpcgen\.compile again"):
        mpc(X0[0])


def test_text_that_does_not_compile_is_quoted(cached, monkeypatch):
    mpc = mpcgen.compile(problem(1.75)).MPC()
    monkeypatch.setitem(mpc.controller.library.manifest, "flags", ["-DMPCGEN_LAYOUT_H"])
    with pytest.raises(BuildError, match="exit code 1 on the solver of on_demand, f64 single"):
        mpc(X0[0])


def test_a_fork_while_a_part_is_compiled_leaves_the_child_free_to_compile(cached, monkeypatch):
    mpc = mpcgen.compile(problem(2.25)).MPC()
    compiling, run_one = threading.Event(), units.run_one

    def slow(*given):
        compiling.set()
        run_one(*given)

    monkeypatch.setattr(units, "run_one", slow)
    worker = threading.Thread(target=lambda: mpc(X0[0]))
    worker.start()
    compiling.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 says what is tested
        child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if mpc(X0.float()).converged.all() else 1)
    worker.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(("cores", "idle", "at_work", "begun"), [
    (1, True, 0, []), (2, False, 0, ["solve"]), (2, True, 0, ["solve", "interior_point"]), (2, True, 1, ["solve"]),
])  # fmt: skip
def test_compilers_begin_ahead_where_there_are_cores(cached, monkeypatch, cores, idle, at_work, begun):
    seen = []
    monkeypatch.setattr(units, "cores", lambda: cores)
    monkeypatch.setattr(units, "idle_core", lambda: idle)
    monkeypatch.setattr(units.ahead, "at_work", lambda: at_work)
    monkeypatch.setattr(units.ahead, "begin", lambda path, texts, commands: seen.append(path.stem))
    rendered = driver.render_spec(problem().spec())
    units.begin_units(rendered, find_toolchain(), "a digest")
    assert seen == [f"on_demand-a digest-f64_batch-{part}" for part in begun]


def test_a_part_is_compiled_alone_as_it_is_in_a_whole_extension(cached):
    rendered, toolchain = driver.render_spec(problem().spec()), find_toolchain()
    whole = extension._variant_commands(rendered, toolchain, ())[0]
    alone, _ = units._commands(
        units.recipe(toolchain), toolchain.flags_for(rendered.small), "solve", "f64_batch", "on_demand.c"
    )
    assert whole[-1] == "on_demand_f64_batch_solve.o"
    assert alone[:-1] == whole[:-1]


def test_what_was_begun_ahead_is_what_is_compiled_later(cached, monkeypatch):
    monkeypatch.setattr(units, "cores", lambda: 2)
    monkeypatch.setattr(units, "idle_core", lambda: True)
    monkeypatch.setattr(units.ahead, "at_work", lambda: 0)
    mpc = mpcgen.compile(problem(2.5)).MPC(method="interior_point")
    library = mpc.controller.library
    path = units._path_of("on_demand", library.manifest["digest"], "interior_point", "f64_batch")
    units.ahead.wait_for(path)
    begun = path.read_bytes()
    path.unlink()
    mpc(X0)
    assert path.read_bytes() == begun
    assert [each.name for each in path.parent.iterdir() if each.name.startswith(".")] == []


def test_a_part_that_was_begun_in_vain_is_compiled_when_it_is_called(cached, monkeypatch):
    monkeypatch.setattr(units, "cores", lambda: 2)
    begin = units.ahead.begin
    monkeypatch.setattr(
        units.ahead,
        "begin",
        lambda path, texts, commands: begin(path, dict.fromkeys(texts, "no C"), commands),
    )
    assert mpcgen.compile(problem(2.75)).MPC()(X0).converged.all()


def test_two_processes_that_compile_at_once_get_the_same(cached):
    def solve(pipe):
        signal.alarm(120)
        os.write(pipe, mpcgen.compile(problem(3.0)).MPC()(X0).u.numpy().tobytes())

    pipes, children = [], []
    for _ in range(2):
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on threads at a fork
            child = os.fork()
        if child == 0:
            solve(write)
            os._exit(0)
        os.close(write)
        pipes.append(read)
        children.append(child)
    results = [os.read(pipe, 1 << 16) for pipe in pipes]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert len(results[0]) == 3 * 4 * 8
    assert results[0] == results[1]


def test_on_demand_is_for_compile(module, tmp_path):
    built = driver.build(problem(), tmp_path)
    assert json.loads((built.path / "build.json").read_text())["on_demand"] == {}
