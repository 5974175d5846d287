"""CUDA builds: nvcc takes every example without a warning, and what is built says what it is and where it runs."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from controllers import EXAMPLES
from torch._subclasses.fake_tensor import FakeTensorMode

import mpcgen
from examples.bench.device_peak import SOURCE as PEAK_SOURCE
from mpcgen.build import cuda, driver
from mpcgen.build.cuda import (
    compile_command,
    find_cuda_toolchain,
    map_architectures,
    read_resources,
    source_file,
)
from mpcgen.build.cuda_kernel import warp_bytes
from mpcgen.build.extension import write_sources
from mpcgen.build.manifest import Manifest
from mpcgen.build.toolchain import run_compiler
from mpcgen.calls import devices
from mpcgen.errors import BuildError, CompilerNotFoundError, DeviceError
from mpcgen.runtime.loading import load_kind

ARCHITECTURES = ("sm_80", "sm_90")
WARNINGS = ("-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-Werror")
FOR_SM_80 = {"targets": ("cuda",), "architectures": ("sm_80+PTX",), "dtypes": torch.float32}
# What code is generated is not the question here, and the device's assembler takes most of the time.
QUICK = ("-Xcicc", "-O0", "-Xptxas", "-O0")

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None and not cuda._pip_nvccs(),
    reason="no nvcc here: install NVIDIA's CUDA toolkit or mpcgen[cuda] to compile the kernels for CUDA",
)


# Nvcc takes up to a minute for each: either kernel, either precision, with and without constraints; a warp's products
# are loops.
COMPILED = [
    ("cartpole", 32, "thread"),
    ("safe_cartpole", 64, "thread"),
    ("safe_cartpole", 32, "warp"),
]


@needs_nvcc
@pytest.mark.parametrize(("name", "precision", "kernel"), COMPILED)
def test_nvcc_takes_every_example_without_a_warning(name, precision, kernel, tmp_path):
    architectures = ARCHITECTURES[-1:]
    toolchain = dataclasses.replace(find_cuda_toolchain(architectures), kernel=kernel)
    spec = mpcgen.load_problem(EXAMPLES / f"{name}.py").spec()
    package = driver.render_for(spec, toolchain)
    write_sources(package, tmp_path)
    command = [
        *compile_command(toolchain, precision, "digest"),
        *WARNINGS,
        *QUICK,
        source_file(package, toolchain),
        "-o",
        "out.o",
    ]
    process = run_compiler(command, tmp_path)
    assert process.returncode == 0, process.stderr
    rows = read_resources(process.stderr, precision)
    assert {row.architecture for row in rows} == set(architectures)
    solver = "interior_point_kernel" if spec.constraints else "solve_kernel"
    assert {solver, "gradient_kernel", "tangent_kernel", "examine_kernel"} <= {row.kernel for row in rows}
    shared = max(row.shared for row in rows)
    assert 0 < shared <= warp_bytes(len(spec.states), len(spec.controls)) if kernel == "warp" else shared == 0


@needs_nvcc
@pytest.mark.parametrize("precision", cuda.PRECISIONS)
def test_nvcc_takes_the_kernel_that_measures_the_peak(precision, tmp_path):
    command = compile_command(find_cuda_toolchain(ARCHITECTURES), precision, "")
    process = run_compiler([*command, *WARNINGS, str(PEAK_SOURCE), "-o", "out.o"], tmp_path)
    assert process.returncode == 0, process.stderr
    rows = read_resources(process.stderr, precision)
    assert [row.kernel for row in rows] == ["peak_kernel"] * len(ARCHITECTURES)
    assert all(row.spill_stores == row.spill_loads == row.stack == 0 for row in rows)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The pendulum, built for sm_80 and later devices only."""
    folder = tmp_path_factory.mktemp("generated")
    driver.build(mpcgen.load_problem(EXAMPLES / "pendulum.py"), folder, **FOR_SM_80)
    return folder / "pendulum"


@needs_nvcc
def test_a_machine_without_a_gpu_builds_and_loads_a_library_and_says_what_it_lacks(built):
    manifest = Manifest.read(built, "cuda")
    library = load_kind(built, "pendulum", manifest.source_digest, "cuda")
    assert manifest.target == "sm_80+PTX"
    assert {row["architecture"] for row in manifest.resources} == {"sm_80"}
    assert all(0 < row["registers"] <= 255 for row in manifest.resources)
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so nothing is lacking")
    entry = devices.Cuda(library, torch.device("cpu")).entry("solve", torch.float32, 4)
    arguments = library.ffi.new("pendulum_solve_arguments *")
    arguments.batch, arguments.horizon = 4, 19
    with pytest.raises(DeviceError, match=r"CUDA finds no device.*built for sm_80\+PTX"):
        entry(arguments)


@needs_nvcc
def test_an_unchanged_cuda_build_is_up_to_date(built):
    problem = mpcgen.load_problem(EXAMPLES / "pendulum.py")
    again = driver.build(problem, built.parent, **FOR_SM_80)
    assert again.up_to_date


@needs_nvcc
def test_a_package_for_cuda_only_says_so_to_a_cpu_tensor(built):
    from mpcgen.runtime.importing import execute_folder

    module = execute_folder(built, "pendulum_for_cuda_only")
    with pytest.raises(
        DeviceError, match=r"x0 is on cpu, but this module was built for CUDA only.*--target cpu,cuda"
    ):
        module.MPC()(torch.zeros(2, 3))


def test_a_cuda_tensor_given_to_a_cpu_build_is_told_what_to_build(pendulum):
    with FakeTensorMode(), pytest.raises(DeviceError, match=r"built for the CPU only.*--target cpu,cuda"):
        pendulum.module.MPC()(torch.zeros(2, 3, device="cuda"))


@pytest.mark.parametrize("name", ["90", "sm90", "compute_90", "sm_90,sm_80", ""])
def test_a_name_that_is_no_architecture_is_refused(name):
    with pytest.raises(BuildError, match="expected names such as sm_90"):
        map_architectures((name,))


def test_ptx_is_added_where_it_is_asked_for():
    flags = map_architectures(("sm_80+PTX", "sm_90"))
    assert flags[1::2] == (
        "arch=compute_80,code=sm_80",
        "arch=compute_80,code=compute_80",
        "arch=compute_90,code=sm_90",
    )


def test_without_nvcc_the_error_says_where_to_get_it(monkeypatch):
    monkeypatch.setattr(cuda, "_pip_nvccs", list)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    with pytest.raises(CompilerNotFoundError, match=r"no nvcc found.*pip install 'mpcgen\[cuda\]'"):
        find_cuda_toolchain()


def test_an_unknown_target_is_refused(tmp_path):
    with pytest.raises(BuildError, match="unknown target 'gpu'; expected of cpu, cuda"):
        driver.build(mpcgen.load_problem(EXAMPLES / "pendulum.py"), tmp_path, targets=("gpu",))
