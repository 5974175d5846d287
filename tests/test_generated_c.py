"""The examples' C compiles without a warning for every target, and runs clean under sanitizers."""

import dataclasses
import math
import runpy
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
import torch
from controllers import random_lq

import mpcgen
from mpcgen.build import Toolchain, compile_variants, driver, find_toolchain
from mpcgen.build import toolchain as toolchain_module
from mpcgen.build.extension import HEADER_FOLDER, VARIANTS, write_sources
from mpcgen.build.target import known_targets
from mpcgen.build.toolchain import COMPILERS, run_compiler
from mpcgen.compiler import Compilation, render_spec

TESTS = Path(__file__).parent
EXAMPLES = TESTS.parent / "examples"
SMALL = ("pendulum", "cartpole", "car", "lqr")
STRICT = ("-Wall", "-Wextra", "-Wconversion", "-Werror")
# -O0, where the compiler has not yet made use of undefined behaviour, and compiles fastest.
SANITIZE = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# Some of gcc's warnings come from the flow analysis of -O1; clang's, and what a target or a header changes, from the
# front end alone, which takes a tenth of the time. The sanitizers' programs below are compiled with the same warnings.
FLOW, FRONT_END = "-O1", "-fsyntax-only"

compiler_exists = pytest.mark.skipif(
    not any(map(shutil.which, COMPILERS)), reason="no C compiler on this machine"
)
pytestmark = compiler_exists


@cache
def specification(name):
    return mpcgen.load_problem(EXAMPLES / f"{name}.py").spec()


@cache
def rendered(name):
    return render_spec(specification(name))


def compile_strictly(name, directory, toolchain, depth=FRONT_END):
    compile_variants(rendered(name), directory, (depth, *STRICT), toolchain)


# ---- warnings ----


@pytest.mark.parametrize("name", ["lqr", "building"])
def test_compiles_without_a_warning(name, tmp_path):
    compile_strictly(name, tmp_path, find_toolchain(), FLOW)


# A target differs in the lanes' width, and in how the headers load, select and call functions of the vector library.
@pytest.mark.parametrize(
    ("name", "target"),
    [*(("cartpole", target) for target in known_targets()), ("safe_cartpole", known_targets()[0])],
    ids=lambda value: getattr(value, "name", value),
)
def test_compiles_without_a_warning_for_every_target(name, target, tmp_path):
    found = find_toolchain()
    compile_strictly(name, tmp_path, Toolchain(found.compiler, target, found.libmvec))


def test_compiles_without_a_warning_where_the_vector_math_library_is_missing(tmp_path):
    found = find_toolchain()
    compile_strictly("cartpole", tmp_path, Toolchain(found.compiler, known_targets()[-1], libmvec=False))


@pytest.mark.skipif(shutil.which("clang") is None, reason="clang is not installed")
@pytest.mark.parametrize("name", ["cartpole", "lqr", "building"])
def test_compiles_without_a_warning_with_clang(name, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "clang")
    compile_strictly(name, tmp_path, find_toolchain())


def test_looped_products_compile_without_a_warning(tmp_path):
    looped = Compilation(specification("car"), fused_limit=0).rendered
    assert "mpcgen_products.h" in looped.source
    compile_variants(looped, tmp_path, (FRONT_END, *STRICT))


# ---- sanitizers ----


@pytest.mark.parametrize("name", ["pendulum", "lqr", "safe_cartpole", "building"])
def test_runs_clean_under_the_address_and_undefined_behaviour_sanitizers(name, tmp_path):
    """`exercise.c` checks statuses and gradients; the sanitizers check every access."""
    program = sanitized_program(name, tmp_path)
    run = subprocess.run([program], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == len(VARIANTS)
    sums = [float(line.split()[-1]) for line in lines]
    assert sums[0] == pytest.approx(sums[2], rel=1e-2)  # f64: batch and single, printed to three digits


def sanitized_program(name, directory):
    toolchain = find_toolchain()
    if not links_with(SANITIZE, toolchain, directory):
        pytest.skip("this compiler has no sanitizers")
    write_sources(rendered(name), directory)
    (directory / "values.h").write_text(values_header(name))
    flags = [*toolchain.compile_flags, *STRICT, *SANITIZE]
    flags += ["-I.", f"-I{HEADER_FOLDER}", f'-DKERNELS="{name}.c"', '-DVALUES_HEADER="values.h"']
    with ThreadPoolExecutor() as pool:
        commands = (
            [*toolchain.compiler.command, *flags, *own_flags(variant, definitions), TESTS / "exercise.c"]
            for variant, definitions in VARIANTS
        )
        for process in pool.map(lambda command: run_compiler(command, directory), commands):
            assert process.returncode == 0, process.stderr
    objects = [f"{variant}.o" for variant, _ in VARIANTS]
    link = [
        *toolchain.compiler.command,
        *SANITIZE,
        "-pthread",
        *objects,
        "-o",
        "program",
        *toolchain.libraries,
    ]
    subprocess.run(link, cwd=directory, check=True)
    return directory / "program"


def own_flags(variant, definitions):
    main = ("-DMAIN",) if variant == VARIANTS[0][0] else ()
    return (*definitions, f"-DEXERCISE=exercise_{variant}", *main, "-c", "-o", f"{variant}.o")


def links_with(flags, toolchain, directory):
    (directory / "probe.c").write_text("int main(void) { return 0; }\n")
    command = [*toolchain.compiler.command, *flags, "probe.c", "-o", "probe"]
    return subprocess.run(command, cwd=directory, capture_output=True).returncode == 0


def values_header(name):
    values = [number for p in specification(name).parameters for number in default_or_near_identity(p)]
    initial = runpy.run_path(str(EXAMPLES / f"{name}.py"))["initial_states"](1)[0].tolist()
    return (
        f"static const double PARAMETER_VALUES[] = {{{', '.join(map(c_number, [*values, 0.0]))}}};\n"
        f"static const double INITIAL_STATE[] = {{{', '.join(map(c_number, initial))}}};\n"
    )


def default_or_near_identity(parameter):
    """A positive definite cost, and dynamics that are stable enough for a short horizon."""
    if parameter.default is not None:
        return parameter.default
    rows, columns = parameter.shape
    return [1.0 if i == j else 0.1 for i in range(rows) for j in range(columns)]


def c_number(value):
    return repr(float(value)) if math.isfinite(value) else ("INFINITY" if value > 0 else "-INFINITY")


# ---- products by loops ----


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of this test's own, so that what it compiles in its own ways is not found by others."""
    monkeypatch.setenv("MPCGEN_CACHE_DIR", str(tmp_path))


def test_products_by_loops_give_the_unrolled_solution_and_gradients(car, own_cache, monkeypatch):
    """Both sum the same products, in different orders: from solutions to 1e-12, agreement to 1e-10."""
    monkeypatch.setattr(driver, "render_spec", lambda spec: Compilation(spec, fused_limit=0).rendered)
    looped = mpcgen.compile(dataclasses.replace(car.spec, name="car_looped"), dtypes=("float64",))
    assert riccati_products(car.module) == "unrolled"
    assert riccati_products(looped) == "loops"
    starts = car.starts(64, 0)
    first, second = (solve_and_differentiate(module, starts) for module in (car.module, looped))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def riccati_products(module):
    return module.CONTROLLER.library.manifest["sizes"]["Riccati products"]


def solve_and_differentiate(module, starts):
    """x, u, cost, and gradients of a weighted sum of them with respect to x0 and every parameter."""
    x0 = starts.clone().requires_grad_()
    parameters = {
        p.name: torch.tensor(p.default, dtype=torch.float64).reshape(p.shape).requires_grad_()
        for p in module.CONTROLLER.parameters
    }
    solution = module.MPC(tol=1e-12, on_unconverged="raise")(x0, **parameters)
    outputs = (solution.x, solution.u, solution.cost)
    loss = sum((part * torch.linspace(-1, 1, part.numel()).reshape(part.shape)).mean() for part in outputs)
    gradients = torch.autograd.grad(loss, [x0, *parameters.values()])
    return [part.detach() for part in (*outputs, *gradients)]


def test_a_problem_with_37_states_and_12_controls_builds_and_solves(own_cache, monkeypatch):
    """Against the dense solution of the problem condensed to its controls."""
    monkeypatch.setattr(toolchain_module, "LARGE_FLAGS", ("-O0",))
    n, m, horizon, count = 37, 12, 3, 9
    module = mpcgen.compile(mpcgen.lqr(n, m, horizon=horizon), dtypes=("float64",))
    problem = random_lq(n, m, horizon, seed=0)
    x0 = torch.randn(count, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tol = 1e-9
    solution = module.MPC(tol=tol, on_unconverged="raise")(x0, **problem)
    dense = condensed_solution(x0, **problem)
    # the condensed Hessian is at least that of C's control block, which is at least I, so |du| <= |dL/du|
    assert (solution.u - dense).flatten(1).norm(dim=1).max() <= tol * math.sqrt(horizon * m)


def condensed_solution(x0, C, c, F, f):
    """U (count, N, m) of the unbounded problem: states are affine in all controls, the cost quadratic."""
    horizon, n, width = F.shape
    m = width - n
    count = x0.shape[0]
    by_u = torch.zeros(n, horizon * m, dtype=x0.dtype)
    constant = x0
    hessian = torch.zeros(horizon * m, horizon * m, dtype=x0.dtype)
    gradient = torch.zeros(count, horizon * m, dtype=x0.dtype)
    for t in range(horizon + 1):
        last = t == horizon
        pick = torch.zeros(m, horizon * m, dtype=x0.dtype)
        if not last:
            pick[:, t * m : (t + 1) * m] = torch.eye(m, dtype=x0.dtype)
        tau_by_u = torch.cat([by_u, pick])
        tau = torch.cat([constant, torch.zeros(count, m, dtype=x0.dtype)], dim=1)
        weight = torch.zeros_like(C[t])
        size = n if last else n + m
        weight[:size, :size] = C[t, :size, :size]
        linear = torch.where(torch.arange(n + m) < size, c[t], 0.0)
        hessian += tau_by_u.mT @ weight @ tau_by_u
        gradient += (tau @ weight + linear) @ tau_by_u
        if not last:
            by_u, constant = F[t] @ tau_by_u, tau @ F[t].mT + f[t]
    return -torch.linalg.solve(hessian, gradient.mT).mT.reshape(count, horizon, m)
