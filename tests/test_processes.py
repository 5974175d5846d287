"""Controllers in other processes and in several threads: forked, spawned, loading data, distributed."""

import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch.utils.data import DataLoader, Dataset

from mpcgen.build import find_toolchain
from mpcgen.build.digest import HEADER_FOLDER
from mpcgen.build.toolchain import run_compiler
from mpcgen.runtime.importing import COMPILED_PACKAGE, import_folder

ROOT = Path(__file__).parent.parent
STRICT = ("-Wall", "-Wextra", "-Wconversion", "-Werror")
START_METHODS = [
    # Python 3.12 warns of every fork beside threads; that a child does without ours is what is tested
    pytest.param("fork", marks=pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")),
    "spawn",
]

SHARED = 1000
"""Problems of a batch that two threads share, in forward and backward passes."""


def starts(count: int, shift: float = 0.0) -> torch.Tensor:
    angle = torch.linspace(-1.0, 1.0, count, dtype=torch.float64) + shift
    return torch.stack([angle.cos(), angle.sin(), 0.1 * angle], dim=-1)


def controls_and_gradient(mpc: torch.nn.Module, x0: torch.Tensor) -> tuple[list, list]:
    """As lists, which travel between processes without shared memory."""
    x0 = x0.clone().requires_grad_()
    u = mpc(x0).u
    wanted = [x0, *mpc.parameters()]
    return u.tolist(), [g.tolist() for g in torch.autograd.grad(u.square().sum(), wanted)]


def answer(queue, mpc: torch.nn.Module, x0: torch.Tensor) -> None:
    queue.put(controls_and_gradient(mpc, x0))


class Expert(Dataset):
    """Initial states and the controls that a controller finds for them."""

    def __init__(self, mpc: torch.nn.Module, x0: torch.Tensor) -> None:
        self.mpc, self.x0 = mpc, x0

    def __len__(self) -> int:
        return len(self.x0)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return self.x0[index], self.mpc(self.x0[index]).u


def learning(pendulum) -> torch.nn.Module:
    return pendulum.mpc(learn={"mass": "positive", "p": None}, threads=2)


@pytest.mark.parametrize("method", START_METHODS)
def test_other_processes_solve_and_differentiate_alike(pendulum, method):
    mpc, x0 = learning(pendulum), starts(SHARED)
    here = controls_and_gradient(mpc, x0)
    context = mp.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=answer, args=(queue, mpc, x0))
    process.start()
    there = queue.get()
    process.join()
    assert process.exitcode == 0
    assert there == here


@pytest.mark.parametrize("method", START_METHODS)
def test_workers_of_a_data_loader_solve(pendulum, method):
    mpc, x0 = learning(pendulum), starts(8)
    loader = DataLoader(Expert(mpc, x0), batch_size=4, num_workers=1, multiprocessing_context=method)
    states, controls = map(torch.cat, zip(*loader, strict=True))
    assert torch.equal(states, x0)
    assert torch.equal(controls, torch.stack([mpc(x).u.detach() for x in x0]))


def test_threads_share_a_module(pendulum):
    mpc = learning(pendulum)
    batches = [starts(SHARED, shift) for shift in torch.linspace(-1, 1, 6).tolist()]
    alone = [controls_and_gradient(mpc, x0) for x0 in batches]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda x0: controls_and_gradient(mpc, x0), batches * 4))
    assert together == alone * 4


COUNT_THREADS = """
import os, torch
mpc, batch = torch.load("mpc.pt", weights_only=False)
torch.set_num_threads(1)
counts = [len(os.listdir("/proc/self/task"))]
with torch.no_grad():
    for x0 in (batch[:1], batch[:16], batch, batch):
        mpc(x0)
        counts.append(len(os.listdir("/proc/self/task")))
print(*(count - counts[0] for count in counts[1:]))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="this system does not list threads in /proc")
def test_only_a_large_batch_takes_threads_and_they_stay(pendulum, tmp_path):
    torch.save((pendulum.mpc(threads=3), starts(SHARED)), tmp_path / "mpc.pt")
    done = subprocess.run(
        [sys.executable, "-c", COUNT_THREADS], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "0", "2", "2"]


@pytest.mark.skipif(os.name != "posix", reason="the program forks")
def test_the_pool_does_every_piece_once_in_the_callers_environment(tmp_path):
    """`pool.c`: calls from several threads at once, in children of a fork, and with another rounding mode."""
    compiler, program = find_toolchain().compiler, tmp_path / "pool"
    flags = ["-O1", "-std=gnu11", *STRICT, "-pthread", f"-I{HEADER_FOLDER}", str(ROOT / "tests" / "pool.c")]
    built = run_compiler([*compiler.command, *flags, "-o", str(program), "-lm"])
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_threads_that_import_a_package_at_once_see_all_of_it(tmp_path):
    (tmp_path / "__init__.py").write_text("import time\ntime.sleep(0.2)\nMPC = object()\n")
    name, barrier = f"{COMPILED_PACKAGE}.slow_{os.getpid()}", threading.Barrier(4)

    def found(_: int) -> object:
        barrier.wait()
        return import_folder(tmp_path, name).MPC

    try:
        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(found, range(4)))) == 1
    finally:
        del sys.modules[name]


def test_saved_module_loads_in_a_fresh_process(pendulum, tmp_path):
    mpc = learning(pendulum)
    torch.save((mpc, starts(3), mpc(starts(3)).u.detach()), tmp_path / "mpc.pt")
    script = "import torch; mpc, x0, u = torch.load('mpc.pt', weights_only=False); print(torch.equal(mpc(x0).u, u))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"


def test_distributed_processes_learn_as_one_process_does():
    from examples import distributed

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, "examples/distributed.py"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    one, other = sorted(line for line in done.stdout.splitlines() if line.startswith("process"))
    assert one.removeprefix("process 0") == other.removeprefix("process 1")  # to the last digit
    first, half_way, last = (float(number) for number in re.findall(r"\d+\.\d+", one)[:3])
    masses = distributed.train(0, 1, lambda controller: controller)
    expected = [masses[0].item(), masses[distributed.STEPS // 2].item(), masses[-1].item()]
    # half of the sum of two means differs from the mean by rounding, and the solutions by tol = 1e-8
    assert [first, half_way, last] == pytest.approx(expected, rel=1e-9)
    assert last == pytest.approx(distributed.EXPERT_MASS, rel=1e-6)
