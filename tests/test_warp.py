"""The kernels with a warp per problem: chosen by size, and their lanes wait for each other where they must."""

import shlex
import subprocess

import pytest
from controllers import EXAMPLES
from test_generated_c import TESTS, values_header

import mpcgen
from mpcgen.build.cuda import CudaToolchain, compile_command, find_shim_toolchain, source_file
from mpcgen.build.cuda_kernel import SHARED_BYTES, choose_kernel, thread_registers, warp_bytes
from mpcgen.build.driver import build, render_for
from mpcgen.build.extension import write_sources
from mpcgen.errors import BuildError

SHIM = find_shim_toolchain()
WARP = CudaToolchain(SHIM.command, SHIM.version, (), kernel="warp")
THREAD_SANITIZER = ("-fsanitize=thread", "-g")
QUIET = "-Wno-missing-field-initializers"  # what C leaves out of a struct is zero in C++ too


def exercise(name, directory, flags=()):
    """Compile tests/exercise.c with a problem's warp kernels, and run it; returns what it printed."""
    rendered = render_for(mpcgen.load_problem(EXAMPLES / f"{name}.py").spec(), WARP)
    write_sources(rendered, directory)
    (directory / "values.h").write_text(values_header(name))
    source = source_file(rendered, WARP)
    definitions = (
        QUIET,
        "-iquote",
        ".",
        f'-DKERNELS="{source}"',
        '-DVALUES_HEADER="values.h"',
        "-DEXERCISE=exercise",
    )
    compile_it = [
        *compile_command(WARP, 64, ""),
        *definitions,
        *flags,
        str(TESTS / "exercise.c"),
        "-o",
        "p.o",
    ]
    link = [*SHIM.command, *flags, "-pthread", "p.o", "-o", "program"]
    for command in (compile_it, link):
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"
    run = subprocess.run([directory / "program"], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    return run.stdout


def has_thread_sanitizer(directory):
    (directory / "probe.c").write_text("int main(void) { return 0; }\n")
    command = [*SHIM.command, "-x", "c++", *THREAD_SANITIZER, "probe.c", "-o", "probe"]
    if subprocess.run(command, cwd=directory, capture_output=True).returncode != 0:
        return False
    return subprocess.run([directory / "probe"], capture_output=True).returncode == 0


@pytest.mark.parametrize("name", ["car", "building"])
def test_the_lanes_of_a_warp_do_not_race_and_find_what_one_lane_finds(name, tmp_path):
    if not has_thread_sanitizer(tmp_path):
        pytest.skip("this compiler has no sanitizer for threads")
    together = exercise(name, tmp_path, ("-DMPCGEN_SHIM_LANES=32", *THREAD_SANITIZER))
    assert together == exercise(name, tmp_path)


def test_a_problem_whose_step_outgrows_a_threads_registers_gets_a_warp():
    assert thread_registers(5, 1) < 255 < thread_registers(8, 4)
    assert choose_kernel(5, 1) == "thread"
    assert choose_kernel(8, 4) == choose_kernel(13, 4) == choose_kernel(21, 3) == "warp"


def test_constraints_get_a_thread_unless_a_warp_is_asked_for():
    assert choose_kernel(13, 4, constrained=True) == "thread"
    assert choose_kernel(13, 4, "warp", constrained=True) == "warp"


def test_what_does_not_fit_into_shared_memory_gets_threads_and_cannot_be_forced():
    assert warp_bytes(37, 12) > SHARED_BYTES
    assert choose_kernel(37, 12) == "thread"
    with pytest.raises(BuildError, match=r"of 37 states and 12 controls.*--cuda-kernel thread"):
        choose_kernel(37, 12, "warp")


def test_an_unknown_kernel_is_refused():
    with pytest.raises(BuildError, match="unknown CUDA kernel 'block'; expected of auto, thread, warp"):
        choose_kernel(3, 1, "block")


def test_the_choice_can_be_forced_and_the_manifest_says_it(tmp_path):
    problem = mpcgen.load_problem(EXAMPLES / "pendulum.py")
    for kernel in ("warp", "thread"):
        result = build(problem, tmp_path, targets=("cuda-host",), cuda_kernel=kernel)
        assert result.manifest.kernel == kernel
    assert build(problem, tmp_path, targets=("cuda-host",)).up_to_date  # auto is a thread
