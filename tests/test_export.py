"""Exported controllers: the package's results to the bit, nearly so elsewhere, small enough for microcontrollers."""

import ctypes
import dataclasses
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
import torch
from click.testing import CliRunner

import mpcgen
from mpcgen.baseline.problems import random_problems
from mpcgen.build.toolchain import find_compiler
from mpcgen.cli import main
from mpcgen.errors import SpecError
from mpcgen.export import export, export_library
from mpcgen.export.check import check, solve_exported
from mpcgen.export.report import measure

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent / "export"
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wdouble-promotion", "-Werror")
LENIENT = ("-std=c99", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
HARD_FLOAT = ("-mthumb", "-mfloat-abi=hard")
CORTEX = {
    "mps2-an386": ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", *HARD_FLOAT),
    "mps2-an500": ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", *HARD_FLOAT),
}
"""Boards of QEMU's, and what their processors are to the compiler."""
SPECS = {
    "pendulum": ROOT / "examples" / "pendulum.py",
    "cartpole": ROOT / "examples" / "cartpole.py",
    "hover": HERE / "hover.py",
    "obstacle": ROOT / "examples" / "obstacle.py",
}
STEPS, STARTS = 100, 2
"""Of the closed loops."""
EACH_STEP = {"obstacle": "controller.parameters.goal[0] += 0.06f"}
"""What happens before a step.

The car's goal drives ahead at 0.6 m/s: a car at rest cannot be steered, so that near a goal that stands still what to
do about a disturbance is hardly determined, in float64 as little as in float32.
"""


USE = """#include <math.h>
#include "{name}.h"
void apply(const float *u);
void apply_what_is_safe(void);
void sample(const float *x0);
void sample(const float *x0) {{
  {body}
}}
"""
"""What is shown in a header, in a file that has to compile."""


def _needs(*tools):
    """Skip where a tool is not installed; the export is for those machines whether or not this one can try them."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exports by name, made when first asked for."""
    made = {}

    def make(name):
        if name not in made:
            problem, start = mpcgen.load_problem(SPECS[name]), random_problems(SPECS[name], 1, 0).x0[0]
            made[name] = export(problem, tmp_path_factory.mktemp("exported") / name, start=start.tolist())
        return made[name]

    return make


def _run(*command, cwd=None):
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("name", ["pendulum", "obstacle"])
def test_solves_are_those_of_the_package_to_the_bit(name, exported):
    problems = random_problems(SPECS[name], 100, 0)
    found = check(exported(name), problems.spec, problems.x0)
    assert found.differing == 0
    assert found.statuses["CONVERGED"] >= 75


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("name", ["hover", "obstacle"])
def test_the_text_is_strict_c(name, compiler, exported, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} not installed")
    out = exported(name)
    _run(compiler, *STRICT, "-Os", "-c", out.source, "-o", tmp_path / "strict.o")
    _run(compiler, *STRICT, "-O2", "-c", out.path / "example.c", "-o", tmp_path / "example.o")


@pytest.mark.parametrize("name", ["hover", "obstacle"])
def test_the_use_that_a_header_shows_is_strict_c(name, exported, tmp_path):
    out = exported(name)
    lines = (out.path / f"{name}.h").read_text().splitlines()
    shown = [line.removeprefix(" *   ") for line in lines if line.startswith(" *   ") and line.endswith(";")]
    assert len(shown) == 6 and ("violation" in shown[3]) == (name == "obstacle")
    (tmp_path / "main.c").write_text(USE.format(name=name, body="\n  ".join(shown)))
    _run(find_compiler().command[0], *STRICT, "-fsyntax-only", "-I", out.path, tmp_path / "main.c")


@_needs("cppcheck")
@pytest.mark.parametrize("name", list(SPECS))
def test_cppcheck_finds_nothing(name, exported):
    """Of one configuration, gcc's: the others that it would try lack what the compiler defines."""
    checks = ("--enable=warning,portability,performance", "--inline-suppr", "--error-exitcode=1", "--quiet")
    out = exported(name)
    _run("cppcheck", "--std=c99", "-D__GNUC__=12", *checks, out.source, out.path / "example.c")


@_needs("g++")
def test_the_text_is_cplusplus_too(exported, tmp_path):
    for name in ("hover", "obstacle"):
        _run(
            "g++", "-x", "c++", "-std=c++20", "-O1", "-w", "-c", exported(name).source, "-o", tmp_path / "x.o"
        )


@_needs("make")
def test_the_folder_builds_and_runs_by_itself(exported, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(exported("hover").path, folder)
    _run("make", "example", f"CC={find_compiler().command[0]}", cwd=folder)
    lines = _run(folder / "example").stdout.splitlines()
    assert len(lines) == 20
    assert all("status 0" in line for line in lines)


@_needs("arm-none-eabi-gcc", "arm-none-eabi-nm", "arm-none-eabi-objdump")
@pytest.mark.parametrize("name", list(SPECS))
def test_objects_for_a_cortex_allocate_nothing_and_know_no_doubles(name, exported, tmp_path):
    target = CORTEX["mps2-an386"]
    _run("arm-none-eabi-gcc", *LENIENT, "-Os", *target, "-c", exported(name).source, "-o", tmp_path / "x.o")
    wanted = _run("arm-none-eabi-nm", "-u", tmp_path / "x.o").stdout.split()
    allowed = {
        "cosf",
        "sinf",
        "tanf",
        "logf",
        "expf",
        "powf",
        "sqrtf",
        "atan2f",
        "memset",
        "memcpy",
        "memmove",
    }
    assert {word for word in wanted if word != "U"} <= allowed
    assert ".f64" not in _run("arm-none-eabi-objdump", "-d", tmp_path / "x.o").stdout
    sections = _run("arm-none-eabi-size", "-A", tmp_path / "x.o").stdout
    sizes = {line.split()[0]: int(line.split()[1]) for line in sections.splitlines() if line.startswith(".")}
    assert sizes[".data"] == 0  # nothing is written outside of the struct
    assert sizes[".bss"] == 0


@_needs("arm-none-eabi-gcc")
def test_a_quadrotor_fits_a_small_microcontroller(exported):
    """12 states, 4 controls, N = 10: 40 kB of flash and 8 kB of memory, what it takes of the stack included."""
    footprint = measure(exported("hover"), ["arm-none-eabi-gcc"], ["-Os", *CORTEX["mps2-an386"]])
    assert footprint.code <= 40_000
    assert footprint.stack is not None
    assert footprint.memory + footprint.stack <= 8192


def _program(compiler, flags, out, name, more, to):
    """Compile the closed loop of tests/export/loop.c."""
    prefix = out.options.prefix
    each = EACH_STEP.get(name, "(void)0")
    starts = np.float32(random_problems(SPECS[name], STARTS, 3).x0)
    rows = ", ".join("{" + ", ".join(f"{x:.9g}" if "." in f"{x:.9g}" or "e" in f"{x:.9g}" else f"{x:.9g}.0"
                                     for x in row) + "}" for row in starts)  # fmt: skip
    header = to.with_suffix(".starts.h")
    header.write_text(f'#include "{prefix}.h"\n#define START_STATES {rows}\n')
    _run(compiler, *LENIENT, *flags, f"-DNAME={prefix}", f'-DCONTROLLER_H="{header}"', f"-I{out.path}",
         f"-DSTEPS={STEPS}", "-DDISTURBANCE=0.003f", f"-DEACH_STEP={each}",
         HERE / "loop.c", out.source, *more, "-lm", "-o", to)  # fmt: skip


def _steps(text):
    """Of each step of the closed loops (status, passes, ticks), and the controls."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    numbers = [[struct.unpack("!f", bytes.fromhex(word))[0] for word in row[3:]] for row in rows]
    return np.array([[int(word, 16) for word in row[:3]] for row in rows]), np.array(numbers)


def _compare(name, own, other):
    """The same statuses, and controls to 1e-4, at every step."""
    (ends, controls), (other_ends, other_controls) = _steps(own), _steps(other)
    assert len(ends) == STEPS * STARTS
    assert (ends[:, 0] == other_ends[:, 0]).all()
    assert np.isfinite(controls).all()
    np.testing.assert_allclose(other_controls, controls, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def on_the_host(exported, tmp_path_factory):
    """What the closed loops print on this machine."""
    printed = {}

    def run(name):
        if name not in printed:
            program = tmp_path_factory.mktemp("host") / "program"
            flags = [*find_compiler().command[1:], "-O2"]
            _program(find_compiler().command[0], flags, exported(name), name, [HERE / "hosted.c"], program)
            printed[name] = _run(program).stdout
        return printed[name]

    return run


INSTRUCTIONS_PER_TICK = 40
"""The boards' clock has 25 MHz, and with -icount shift=0 an instruction takes a nanosecond."""
INSTRUCTIONS_PER_OPERATION = 4
"""What docs/export.md says an operation takes at most, of those that the bounds of all loops allow."""
INSTRUCTIONS_PER_PASS = {"pendulum": 16_500, "cartpole": 29_000, "hover": 230_000, "obstacle": 740_000}
"""What docs/export.md says a pass takes at most, of as many as a solve says and two more."""


@_needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("board", list(CORTEX))
@pytest.mark.parametrize("name", list(SPECS))
def test_closed_loops_on_a_cortex(name, board, exported, on_the_host, tmp_path):
    image = tmp_path / "image.elf"
    start = [HERE / "cortex.c", "-nostartfiles", "-T", HERE / "cortex.ld"]
    _program("arm-none-eabi-gcc", ["-Os", *CORTEX[board]], exported(name), name, start, image)
    done = _run("qemu-system-arm", "-M", board, "-nographic", "-icount", "shift=0",
                "-semihosting-config", "enable=on,target=native", "-kernel", image)  # fmt: skip
    _compare(name, on_the_host(name), done.stderr)  # where semihosting writes
    ends, _ = _steps(done.stderr)
    instructions = ends[:, 2] * INSTRUCTIONS_PER_TICK
    assert (instructions > 0).all()
    assert (instructions <= INSTRUCTIONS_PER_PASS[name] * (ends[:, 1] + 2)).all()
    most = [exported(name).most_operations(int(passes)) for passes in ends[:, 1]]
    assert (instructions <= INSTRUCTIONS_PER_OPERATION * np.array(most)).all()


@pytest.mark.parametrize("machine", ["aarch64", "riscv64"])
@pytest.mark.parametrize("name", list(SPECS))
def test_closed_loops_on_other_processors(name, machine, exported, on_the_host, tmp_path):
    compiler, emulator = f"{machine}-linux-gnu-gcc", f"qemu-{machine}"
    if shutil.which(compiler) is None or shutil.which(emulator) is None:
        pytest.skip(f"{compiler} or {emulator} not installed")
    program = tmp_path / "program"
    _program(compiler, ["-O2", "-static"], exported(name), name, [HERE / "hosted.c"], program)
    _compare(name, on_the_host(name), _run(emulator, program).stdout)


CONSUMER = """
cmake_minimum_required(VERSION 3.16)
project(consumer LANGUAGES CXX)
find_package(cartpole REQUIRED)
add_executable(consumer main.cpp)
target_link_libraries(consumer PRIVATE cartpole::cartpole)
"""


@_needs("cmake", "make")
def test_the_cmake_package_is_found_and_solves_as_the_module_does(tmp_path):
    start = random_problems(SPECS["cartpole"], 1, 0).x0[0]
    folder, build, prefix = tmp_path / "cartpole", tmp_path / "build", tmp_path / "prefix"
    export_library(mpcgen.load_problem(SPECS["cartpole"]), folder, start=start.tolist())
    options = ["-Wno-dev", "-DCARTPOLE_EXAMPLE=OFF", "-DCMAKE_BUILD_TYPE=Release"]
    _run("cmake", "-S", folder, "-B", build, *options)
    _run("cmake", "--build", build, "-j2")
    _run("cmake", "--install", build, "--prefix", prefix)
    consumer = tmp_path / "consumer"
    consumer.mkdir()
    (consumer / "CMakeLists.txt").write_text(CONSUMER)
    shutil.copy(folder / "example.cpp", consumer / "main.cpp")
    _run("cmake", "-S", consumer, "-B", consumer / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    _run("cmake", "--build", consumer / "build")
    rows = [line.split() for line in _run(consumer / "build" / "consumer").stdout.splitlines()]
    assert len(rows) == 64
    assert (
        len({tuple(row) for row in rows}) == 1
    )  # the same problem has the same result everywhere in a batch
    mpc = mpcgen.compile(mpcgen.load_problem(SPECS["cartpole"])).MPC()
    solution = mpc(torch.as_tensor(start)[None].expand(64, -1))
    status, passes, cost, force = rows[0]
    assert (int(status), int(passes)) == (int(solution.status[0]), int(solution.iterations[0]))
    assert float(cost) == pytest.approx(solution.cost[0].item(), rel=1e-12)
    assert float(force) == pytest.approx(solution.u[0, 0, 0].item(), rel=1e-9)


def test_parameters_that_are_constants_and_those_that_are_not(tmp_path):
    problem = mpcgen.load_problem(SPECS["hover"])
    fixed = export(problem, tmp_path / "fixed", constants=["goal"], small=True)
    assert (
        "parameters"
        not in (fixed.path / "hover.h").read_text().partition("struct hover {")[2].partition("}")[0]
    )
    free = export(problem, tmp_path / "free", small=True)
    x0 = np.float32(random_problems(SPECS["hover"], 4, 0).x0)
    _, u, status, _ = solve_exported(fixed, x0, {})
    free_x, free_u, _, _ = solve_exported(free, x0, {})
    assert (status == 0).all()
    np.testing.assert_allclose(free_u, u, atol=2e-3)
    moved_x, moved_u, _, _ = solve_exported(free, x0, {"goal": np.float32([0.3, 0.0, 0.0])})
    assert np.abs(moved_u - free_u).max() > 1e-3
    assert np.abs(moved_x[:, -1, 0] - free_x[:, -1, 0]).min() > 0.05


DIFFERENTIATE = """
#include "{stem}.h"
static struct {stem} c;
int solve(const double *x0) {{
  {stem}_init(&c);
  return {stem}_solve(&c, x0);
}}
int differentiate(const void *by_x, const void *by_u, double by_cost, struct {stem}_gradient *to) {{
  return {stem}_differentiate(&c, by_x, by_u, by_cost, to);
}}
"""


@pytest.mark.parametrize("name", ["cartpole", "obstacle"])
def test_gradients_are_those_of_the_module(name, tmp_path):
    problem = mpcgen.load_problem(SPECS[name])
    out = export(problem, tmp_path / "out", dtype="float64", gradient=True)
    (tmp_path / "run.c").write_text(DIFFERENTIATE.format(stem=name))
    _run(find_compiler().command[0], *STRICT[:4], "-O1", "-shared", "-fPIC", f"-I{out.path}", tmp_path / "run.c",
         out.source, "-o", tmp_path / "run.so", "-lm")  # fmt: skip
    library = ctypes.CDLL(str(tmp_path / "run.so"))
    start = np.ascontiguousarray(random_problems(SPECS[name], 1, 0).x0[0])
    assert library.solve(ctypes.c_void_p(start.ctypes.data)) == mpcgen.Status.CONVERGED

    mpc = mpcgen.compile(problem, dtypes=torch.float64).MPC(method=out.options.method)
    parameters = {p.name: torch.tensor(p.default, dtype=torch.float64).reshape(p.shape).requires_grad_()
                  for p in problem.spec().parameters}  # fmt: skip
    x0 = torch.tensor(start, requires_grad=True)
    solution = mpc(x0, **parameters)
    by_x, by_u = (torch.linspace(-1, 1, part.numel(), dtype=torch.float64).reshape(part.shape)
                  for part in (solution.x, solution.u))  # fmt: skip
    loss = (by_x * solution.x).sum() + (by_u * solution.u).sum() + 0.5 * solution.cost
    wanted = torch.autograd.grad(loss, (x0, *parameters.values()), allow_unused=True)
    expected = torch.cat([value.reshape(-1) for value in wanted]).numpy()

    found = np.zeros(expected.size)
    places = [ctypes.c_void_p(part.data_ptr()) for part in (by_x, by_u)]
    assert library.differentiate(*places, ctypes.c_double(0.5), ctypes.c_void_p(found.ctypes.data)) == 0
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())

    assert (
        library.solve(ctypes.c_void_p(np.full_like(start, np.nan).ctypes.data)) == mpcgen.Status.INVALID_INPUT
    )
    assert library.differentiate(*places, ctypes.c_double(0.5), ctypes.c_void_p(found.ctypes.data)) == 1
    assert not found.any()


@pytest.mark.parametrize("name", ["pendulum", "obstacle"])
def test_a_controller_recovers_from_a_state_that_is_no_number(name, exported, tmp_path):
    """Nothing of an earlier solve is left in the struct but the controls."""
    out = exported(name)
    start = ", ".join(map(repr, random_problems(SPECS[name], 1, 0).x0[0].tolist()))
    text = (HERE / "recovery.c").read_text().replace("NAME", out.options.prefix).replace("START", start)
    (tmp_path / "main.c").write_text(text)
    compiler, *flags = find_compiler().command
    sources = [tmp_path / "main.c", out.source]
    _run(compiler, *flags, *LENIENT, "-O2", f"-I{out.path}", *sources, "-lm", "-o", tmp_path / "main")
    assert _run(tmp_path / "main").stdout == "0 3 0 0 1 1 1 3"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": torch.float16}, "float64 or float32"),
        ({"horizon": 0}, "at least 1"),
        ({"max_iterations": 0}, "from 1"),
        ({"method": "newton"}, "ddp, interior_point"),
        ({"hessian": "none"}, "exact, gauss_newton"),
        ({"method": "interior_point", "hessian": "gauss_newton"}, "for method='ddp'"),
        ({"gradient": True, "hessian": "gauss_newton"}, "needs second derivatives"),
        ({"constants": ["weight"]}, "no parameter 'weight'"),
        ({"prefix": "mpcgen_x"}, "an identifier of C"),
        ({"prefix": "two words"}, "an identifier of C"),
        ({"prefix": "double"}, "an identifier of C"),
        ({"prefix": "stdint"}, "an identifier of C"),
        ({"prefix": "example"}, "an identifier of C"),
        ({"horizon": True}, "at least 1"),
        ({"constants": "goal"}, "a list of names"),
        ({"start": [float("nan")] * 12}, "finite numbers"),
        ({"start": [0.0]}, "12 states"),
    ],
)
def test_options_that_do_not_fit(options, words, tmp_path):
    with pytest.raises(SpecError, match=words):
        export(mpcgen.load_problem(SPECS["hover"]), tmp_path, **options)


def test_box_ddp_is_refused_where_there_are_constraints(tmp_path):
    with pytest.raises(SpecError, match="box-DDP does not know"):
        export(mpcgen.load_problem(SPECS["obstacle"]), tmp_path, method="ddp")


def test_a_constant_needs_a_default(tmp_path):
    problem = mpcgen.Problem("tracking", horizon=4)
    (x,), (u,) = problem.states("x"), problem.controls("u")
    target = problem.parameter("target")
    problem.dynamics = [x + u]
    problem.stage_cost = (x - target) ** 2 + u**2
    problem.terminal_cost = 0
    with pytest.raises(SpecError, match="'target' of 'tracking' has no default"):
        export(problem, tmp_path, constants=["target"])
    out = export(problem, tmp_path, dtype="float64")
    _, _, status, _ = solve_exported(out, np.zeros((1, 1)), {})
    assert status[0] == mpcgen.Status.INVALID_INPUT  # a parameter that nobody has set is no number
    _, u, status, _ = solve_exported(out, np.zeros((1, 1)), {"target": np.array(1.0)})
    assert status[0] == mpcgen.Status.CONVERGED
    assert u[0, 0, 0] > 0.5


@pytest.mark.parametrize("name", ["pendulum", "cartpole"])
def test_long_horizons_meet_no_limit_of_passes(name, tmp_path):
    """In float32: what ends otherwise than solved has come to the end of its precision, or to a saddle."""
    problem, x0 = mpcgen.load_problem(SPECS[name]), random_problems(SPECS[name], 1024, 0, 100).x0
    out = export(problem, tmp_path, horizon=100, method="interior_point", max_iterations=1500)
    _, _, status, passes = solve_exported(out, x0.astype(np.float32), {})
    assert (status != mpcgen.Status.MAX_ITERATIONS).all() and passes.max() < 1500
    assert (status == mpcgen.Status.CONVERGED).mean() >= 0.99


def test_a_controller_at_rest_is_solved(exported):
    """Nothing is left of the cost there but rounding, of the thrusts that hold the weight."""
    size = 10.0 ** -np.arange(1, 9)[:, None]
    x0 = np.concatenate([np.zeros((1, 12)), size * np.random.default_rng(0).standard_normal((8, 12))])
    _, u, status, passes = solve_exported(exported("hover"), x0.astype(np.float32), {})
    assert (status == mpcgen.Status.CONVERGED).all()
    assert passes.max() < 50
    np.testing.assert_allclose(u[0], 0.027 * 9.81 / 4, rtol=1e-6)


@pytest.fixture(scope="module")
def tank(tmp_path_factory):
    """A tank with limits of its level, (float32, float64); ``a`` is the inflow's unit, ``s`` the cost's."""
    problem = mpcgen.Problem("tank", horizon=30)
    level = problem.state("level", lower=0.05, upper=0.6)  # m
    a, s = problem.parameters("a s", default=[1.0, 1.0])
    inflow = problem.control("inflow", lower=0, upper=0.02 * a)  # m³/s
    outflow = 0.004 * sp.sqrt(2 * 9.81 * level)
    problem.dynamics = mpcgen.rk4(problem, [(inflow / a - outflow) / 0.5], dt=5.0)
    problem.stage_cost = s * ((level - 0.58) ** 2 + 10 * (inflow / a) ** 2)
    problem.terminal_cost = 10 * s * (level - 0.58) ** 2
    return [export(problem, tmp_path_factory.mktemp("tank"), dtype=dtype) for dtype in ("float32", "float64")]


UNITS = [(1, 1), (1e-6, 1), (1e6, 1), (1, 1e-6), (1, 1e6), (1e3, 1e-3)]


def test_float32_ends_where_rounding_leaves_no_better_step(tank):
    """In every unit of inflow and cost, though its largest costates round by more than the tolerance."""
    x0 = np.float32(np.random.default_rng(0).uniform(0.05, 0.6, (64, 1)))
    _, wanted, status, _ = solve_exported(tank[1], x0.astype(float), {})
    assert (status == mpcgen.Status.CONVERGED).all()
    for a, s in UNITS:
        _, u, status, passes = solve_exported(tank[0], x0, {"a": np.float32(a), "s": np.float32(s)})
        assert (status == mpcgen.Status.CONVERGED).all(), (a, s, status)
        assert passes.max() < 60
        np.testing.assert_allclose(u.astype(float) / a, wanted, rtol=0, atol=5e-3 * 0.02)


def test_float32_solves_what_float64_does_beside_curved_rows(exported):
    x0 = random_problems(SPECS["obstacle"], 256, 1).x0
    _, _, status, passes = solve_exported(exported("obstacle"), x0.astype(np.float32), {})
    assert (status == mpcgen.Status.CONVERGED).mean() >= 0.99
    assert passes.mean() < 30


def test_the_bound_of_operations_has_all_of_newtons_steps(tmp_path):
    """Of an implicit step's equations, which are solved at most 260 times, as a whole and in parts."""
    spec = mpcgen.load_problem(ROOT / "examples" / "cstr.py").spec()
    few = dataclasses.replace(spec, dynamics=dataclasses.replace(spec.dynamics, newton=3))
    made = [export(each, tmp_path / str(each.dynamics.newton)) for each in (spec, few)]
    assert made[0].operations == made[1].operations
    step = (made[0].most - made[1].most) / (spec.dynamics.newton - 3) / 260
    assert made[0].operations > 4 * step > 0.5 * made[0].operations
    assert made[0].most_operations(20) == 2 * 22 * made[0].most


def test_the_command_prints_what_a_controller_takes(tmp_path):
    run = CliRunner().invoke(main, ["export", str(SPECS["pendulum"]), "-o", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    for words in ("flash", "memory", "stack", "operations a pass", "1024 CONVERGED", "passes"):
        assert words in run.output
    refused = CliRunner().invoke(
        main, ["export", str(SPECS["pendulum"]), "-o", str(tmp_path), "--dtype", "int8"]
    )
    assert refused.exit_code == 2
    assert "float64 or float32" in refused.output


BLIND = """
import sympy as sp

import mpcgen

problem = mpcgen.Problem("swing", horizon=20)
angle, rate = problem.states("angle rate")
(torque,) = problem.controls("torque", lower=-1, upper=1)
problem.dynamics = [angle + 0.2 * rate, rate + 0.2 * (sp.sin(angle) + torque)]
problem.stage_cost = angle**2 + 0.1 * torque**2
problem.terminal_cost = angle**2
"""


def test_the_command_says_what_to_try_where_few_random_states_are_solved(tmp_path):
    (tmp_path / "swing.py").write_text(BLIND)
    command = ["export", str(tmp_path / "swing.py"), "-o", str(tmp_path / "out")]
    solved = CliRunner().invoke(main, command)
    assert (
        "1024 states from N(0, 1), SPEC having no initial_states(count, seed): 1024 CONVERGED"
        in solved.output
    )
    assert "try" not in solved.output
    stopped = CliRunner().invoke(main, [*command, "--max-iterations", "1"]).output
    assert "CONVERGED: try --dtype float64, or initial_states(count, seed) in SPEC" in stopped
    with (tmp_path / "swing.py").open("a") as file:
        file.write("\n\ndef initial_states(count, seed):\n    return [[1.0, 0.0]] * count\n")
    double = CliRunner().invoke(main, [*command, "--max-iterations", "1", "--dtype", "float64"]).output
    assert "1024 random states: 1024 MAX_ITERATIONS" in double
    assert "0.0% CONVERGED: try a larger --max-iterations" in double
