"""The benchmark on a device: over CUDA's shim, on prepared packages, and what it says where there is no device."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from examples.bench import packages as packages_module
from examples.bench.cells import CORE_BATCH, Cell, Iterations, Measurement, cells, groups, select
from examples.bench.device import describe, kernel_on, require_device
from examples.bench.device_peak import DevicePeak
from examples.bench.packages import COMPILED_HERE, Packages
from examples.bench.problems import load
from examples.bench.results import Environment, Results
from examples.bench.targets import judge
from examples.bench.timing import clock
from examples.check_cuda import main as check_cuda
from mpcgen.build import cuda
from mpcgen.cli import main
from mpcgen.errors import DeviceError, ParameterError

EXAMPLES = Path(__file__).parent.parent / "examples"
H100 = SimpleNamespace(
    name="H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=80 * 2**30,
    warp_size=32,
    max_threads_per_multi_processor=2048,
    shared_memory_per_multiprocessor=228 * 1024,
)
without_gpu = pytest.mark.skipif(
    torch.cuda.is_available(), reason="this machine has the GPU that must be missing"
)


def bench(*options: object):
    return CliRunner().invoke(main, ["bench", "--examples", str(EXAMPLES), *map(str, options)])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    done = bench("--device", "cuda-host", "--problem", "pendulum", "--packages", folder, "--prepare")
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def tiny_run(prepared, tmp_path_factory):
    """Return the output of a run on prepared packages, and the content of its JSON file."""
    folder = tmp_path_factory.mktemp("bench")
    options = ("--quick", "--device", "cuda-host", "--problem", "pendulum", "--batch", 8, "--repetitions", 3)
    done = bench(*options, "--packages", prepared, "-o", folder)
    assert done.exit_code == 0, done.output
    return done.output, json.loads((folder / "bench.json").read_text(encoding="utf-8"))


def test_a_run_has_the_device_beside_one_core(tiny_run):
    output, content = tiny_run
    rows = {
        (row["cell"]["device"], row["cell"]["dtype"], row["cell"]["what"]): row
        for row in content["measurements"]
        if row["cell"]["start"] == "cold"
    }
    assert {device for device, _, _ in rows} == {"cpu", "cuda-host"}
    assert "Device beside one CPU core" in output and "Peers" not in output
    assert len(content["beside_a_core"]) == len(rows) / 2
    for pair in content["beside_a_core"]:
        key = (pair["device"]["dtype"], pair["device"]["what"])
        device, core = rows["cuda-host", *key], rows["cpu", *key]
        assert pair["times"] == pytest.approx(core["seconds"] / device["seconds"])
        assert device["share_of_peak"] > 0 and core["peak"] is None
    for dtype in ("float64", "float32"):
        # The same problems in other lanes.
        own, theirs = (rows[device, dtype, "forward"]["iterations"] for device in ("cuda-host", "cpu"))
        assert own["converged"] == theirs["converged"] == 1.0
        assert own["mean"] == pytest.approx(theirs["mean"], rel=0.01)
    assert content["device"]["kernels"] == [] and content["targets"] == []


def test_prepared_packages_need_no_compiler(prepared, monkeypatch):
    monkeypatch.setattr(packages_module.driver, "compile", lambda *_, **__: pytest.fail("it was compiled"))
    (problem,) = load(["pendulum"], EXAMPLES, Packages(prepared))
    monkeypatch.setenv("PATH", "")
    assert {kind: problem.package_for(kind).MPC.controller.library.kind for kind in ("cpu", "cuda-host")} == {
        "cpu": "cpu",
        "cuda-host": "cuda-host",
    }
    run, operations = DevicePeak("cuda-host", Packages(prepared)).task(32, True, 1)
    assert run() == operations > 0
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setitem(sys.modules, "ziglang", None)  # pip's compiler
    assert Environment.now().compiler == "no C compiler"


def test_what_was_not_prepared_is_said(prepared, tmp_path):
    (problem,) = load(["cartpole"], EXAMPLES, Packages(prepared))
    with pytest.raises(ParameterError, match=r"cartpole holds no package built for cuda-host.*--prepare"):
        problem.package_for("cuda-host")
    with pytest.raises(ParameterError, match=r"_peak_cuda_host.so is missing.*--prepare"):
        DevicePeak("cuda-host", Packages(tmp_path))
    with pytest.raises(ParameterError, match=r"pendulum holds no package built for cuda;"):
        load(["pendulum"], EXAMPLES, Packages(prepared))[0].package_for("cuda")


@without_gpu
def test_without_a_device_the_command_says_so_and_what_can_be_done():
    done = bench("--device", "cuda", "--quick")
    assert done.exit_code == 2 and "--packages DIR --prepare" in done.output
    done = CliRunner().invoke(check_cuda, ["pendulum"])
    assert done.exit_code == 1 and "CUDA" in done.output


def test_a_torch_without_cuda_is_told_from_a_machine_without_a_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for version, words in ((None, "built without CUDA"), ("13.0", "finds no CUDA device")):
        monkeypatch.setattr(torch.version, "cuda", version)
        with pytest.raises(DeviceError, match=words):
            require_device("cuda")
    require_device("cuda-host")


def test_preparing_without_nvcc_says_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(cuda, "_pip_nvccs", list)
    monkeypatch.setenv("PATH", "")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    done = bench("--device", "cuda", "--quick", "--packages", tmp_path, "--prepare")
    assert done.exit_code == 1 and "no nvcc found" in done.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--device", "gpu"), "no device 'gpu'"),
        (("--device", "cuda", "--threads", "2"), "leave --clock and --threads out"),
        (("--device", "cuda", "--clock", "cpu"), "leave --clock and --threads out"),
        (("--device", "cuda-host", "--growth"), "--growth, --loop and --build measure the CPU"),
        (("--device", "cuda-host", "--prepare"), "--packages None"),
        (("--prepare", "--packages", "here"), "--device cpu"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, words):
    done = bench(*options)
    assert done.exit_code == 2 and words in " ".join(done.output.split())


def test_packages_of_the_other_kind_of_kernel_are_refused(prepared):
    (problem,) = load(["pendulum"], EXAMPLES, Packages(prepared, cuda_kernel="warp"))
    with pytest.raises(ParameterError, match=r"was built with a thread per problem.*--cuda-kernel warp"):
        problem.package_for("cuda-host")


def test_one_core_stands_beside_every_batch_it_can_be_compared_with():
    chosen = select(device="cuda", batches=[64, 8192, 65536], dtypes=["float32"], passes=["forward"])
    found = {batch: cells(chosen, "car", batch) for name, batch in groups(chosen) if name == "car"}
    cores = {batch: [c.batch for c in row if c.device == "cpu"] for batch, row in found.items()}
    assert cores == {64: [64], 8192: [CORE_BATCH], 65536: []}
    assert all(c.device == "cuda" for row in found.values() for c in row if c.batch > CORE_BATCH)


@pytest.mark.parametrize(
    ("registers", "shared", "threads"),
    [
        (255, 0, 256),  # 8,160 registers a warp, given out as 8,192: 8 warps
        (38, 0, 1536),  # 1,216 as 1,280: 51 warps, 48 on four schedulers
        (16, 0, 2048),  # more than the multiprocessor takes
        (16, 2000, 1024),  # 32 blocks of a warp
        (16, 17000, 384),  # with 1,024 bytes of CUDA's own 12 of them
    ],
)
def test_threads_of_a_multiprocessor_by_hand(registers, shared, threads):
    row = {"kernel": "solve_kernel", "precision": 32, "registers": registers, "stack": 0, "shared": shared}
    kernel = kernel_on(H100, "pendulum", row | {"spill_stores": 4, "spill_loads": 8})
    assert (kernel.threads, kernel.occupancy) == (threads, threads / 2048)
    assert (kernel.spill_stores, kernel.spill_loads) == (4, 8)


def test_the_kernels_described_are_those_of_the_present_architecture(monkeypatch):
    sizes = {"kernel": "solve_kernel", "precision": 64, "stack": 0, "spill_stores": 0, "spill_loads": 0}
    sizes["shared"] = 0
    resources = [sizes | {"architecture": a, "registers": r} for a, r in (("sm_80", 100), ("sm_90", 128))]
    manifest = {"problem": "p", "compiler": "nvcc", "target": "sm_80, sm_90", "resources": resources}
    module = SimpleNamespace(
        MPC=SimpleNamespace(controller=SimpleNamespace(library=SimpleNamespace(manifest=manifest)))
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: H100)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    device = describe("cuda", [SimpleNamespace(package_for=lambda kind: module)])
    assert "H100, 132 multiprocessors, 80 GiB" in device.name
    assert [(k.registers, k.threads) for k in device.kernels] == [(128, 512)]


def test_the_clock_of_a_device_is_in_seconds(monkeypatch):
    done = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            done.append("record")

        def synchronize(self):
            done.append("synchronize")

        def elapsed_time(self, other):
            return 2.0  # ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert clock(lambda: done.append("task"), "cuda") == pytest.approx(2e-3)
    assert done == ["record", "task", "record", "synchronize"]


def measured(name, device, batch, what, seconds, mean=4.0):
    """A cell in float32 that takes ``seconds`` for the whole batch."""
    iterations = Iterations(mean, 9.0, 12, 1.0) if what == "forward" else None
    cell = Cell(name, batch, 1, "float32", what, "cold", device=device)
    return Measurement(cell, seconds / batch, seconds / batch, 0.0, 5, iterations, 1.0, 1.0, None)


def test_targets_of_a_device_are_judged():
    rows = (
        measured("pendulum", "cpu", 4096, "forward", 4096e-6),
        measured("pendulum", "cuda", 65536, "forward", 65536e-6 / 31),
        measured("pendulum", "cpu", 4096, "backward", 4096e-6),
        measured("pendulum", "cuda", 65536, "backward", 65536e-6 / 29),
        measured("quadrotor", "cpu", 4096, "forward", 0.5, mean=4.0),
        measured("quadrotor", "cuda", 4096, "forward", 0.2, mean=9.0),
        measured("box_lq", "cuda", 64, "forward", 0.5e-3),
        measured("box_lq", "cuda", 64, "backward", 0.4e-3),
    )
    environment = Environment("", "", "", "", (), "", {})
    verdicts = judge(Results(environment, select(device="cuda"), rows))
    found = {(v.problem, v.target): v for v in verdicts}
    times = found["pendulum", "times one core, batch 65536, float32"]
    assert times.measured == pytest.approx(29) and times.met is False and "backward" in times.where
    share = found["quadrotor", "time per iteration over one core's, batch 4096, float32"]
    assert share.measured == pytest.approx(0.2 / 10 / (0.5 / 5)) and share.met is True
    assert found["box_lq", "ms, batch 64, float32, forward"].met is True
    assert found["box_lq", "ms, batch 64, float32, backward"].met is False
    assert not any(v.problem in ("cartpole", "free_lq") for v in verdicts)
    assert judge(Results(environment, select(device="cuda-host"), rows)) == []


def test_the_check_of_the_kernels_runs_over_the_shim():
    done = CliRunner().invoke(check_cuda, ["pendulum", "--device", "cuda-host", "--count", "64"])
    assert done.exit_code == 0, done.output
    assert "NOT MET" not in done.output and done.output.count("met") >= 8


def test_packages_are_compiled_where_no_folder_is_given():
    assert COMPILED_HERE.folder is None
    (problem,) = load(["pendulum"], EXAMPLES)
    assert problem.package is problem.package_for("cpu")


def test_a_run_on_prepared_packages_needs_neither_casadi_nor_cffis_compiler(prepared, tmp_path):
    script = "import sys; sys.modules.update(dict.fromkeys(('casadi', 'cffi', 'pycparser', 'matplotlib')))\n"
    script += "from mpcgen.cli import main; main(sys.argv[1:])"
    options = ["--quick", "--problem", "pendulum", "--batch", "8", "--dtype", "float32", "--repetitions", "2"]
    options += ["--device", "cuda-host", "--packages", str(prepared)]
    options += ["--examples", str(EXAMPLES), "-o", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", script, "bench", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Device beside one CPU core" in done.stdout
