"""Compilers that work while the process does something else: what becomes of what they make, and of them."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from mpcgen import garbage
from mpcgen.build import ahead, cache, compiling
from mpcgen.build.toolchain import find_compiler

TEXTS = {
    "unit.c": '#include "unit.h"\nint answer(void) { return ANSWER; }\n',
    "unit.h": "#define ANSWER 42\n",
}
SLEEP = [[sys.executable, "-c", "import time; time.sleep(60)"], ["true"]]


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("MPCGEN_CACHE_DIR", str(tmp_path))
    return tmp_path / "units" / "it.so"


def compiling_it():
    command = [*find_compiler().command, "-fPIC"]
    return [[*command, "-c", "unit.c"], [*command, "-shared", "unit.o", "-o", ahead.LIBRARY]]


def traces(path):
    return sorted(each.name for each in path.parent.iterdir())


def is_running(process):
    """Whether there is such a process that has not ended, as far as Linux says."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_what_is_made_is_put_into_its_place(path):
    ahead.begin(path, TEXTS, compiling_it())
    ahead.wait_for(path)
    assert cache.has_library(path)
    assert traces(path) == ["it.sha256", "it.so"]


@pytest.mark.parametrize("commands", [[["no-such-compiler"]], [["false"], ["true"]], [["true"]]])
def test_what_fails_leaves_no_trace(path, commands):
    ahead.begin(path, TEXTS, commands)
    ahead.wait_for(path)
    assert traces(path) == []


def test_a_library_is_begun_once(path):
    ahead.begin(path, TEXTS, SLEEP)
    ahead.begin(path, TEXTS, SLEEP)
    assert ahead.at_work() == len(traces(path)) == 1
    ahead._stop_all()
    assert traces(path) == []


def test_a_cache_that_cannot_be_written_is_no_matter(path):
    path.parent.write_text("no folder")
    ahead.begin(path, TEXTS, compiling_it())
    ahead.wait_for(path)


def run(script, *given, end="pass"):
    """Run a script in a process of its own that has begun a compiler, and the child of a fork meanwhile that ends."""
    script = (
        "import os, signal, sys, time; from pathlib import Path; from mpcgen.build import ahead\n"
        f"path, given = Path(sys.argv[1]), sys.argv[2:]\n{script}\n"
        "if not (child := os.fork()): sys.exit()\n"
        "assert os.waitpid(child, 0)[1] == 0 and len(list(path.parent.iterdir())) == 1\n"
        f"{end}"
    )
    command = [
        sys.executable,
        "-W",
        "error",
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        script,
        *map(str, given),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.parametrize(("end", "code"), [
    ("pass", 0), ("os._exit(0)", 0), ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
])  # fmt: skip
def test_at_the_end_of_a_process_its_compilers_stop(path, end, code):
    script = (
        "import os, signal, sys, time; from pathlib import Path; from mpcgen.build import ahead\n"
        'wait = \'import os, time; open("id", "w").write(str(os.getpid())); time.sleep(60)\'\n'
        "path = Path(sys.argv[1]); ahead.begin(path, {}, [[sys.executable, '-c', wait], ['true']])\n"
        "if not (child := os.fork()): sys.exit()\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "while not (noted := [f.read_text() for f in path.parent.glob('*/id')]): time.sleep(0.01)\n"
        f"print(noted[0], flush=True); {end}"
    )
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    assert end != "pass" or not traces(path)
    for _ in range(2000):
        if not is_running(int(done.stdout)) and not traces(path):
            return
        time.sleep(0.01)
    raise AssertionError("a compiler has outlived its process, or left something")


def test_what_a_compiler_keeps_meanwhile_goes_with_it(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    ahead.begin(path, {}, [["/bin/sh", "-c", 'touch "$TMPDIR/kept" && exec sleep 60'], ["true"]])
    while not list(path.parent.glob("*/kept")):
        time.sleep(0.01)
    ahead._stop_all()
    assert traces(path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nobody_waits_for_what_has_not_begun(path, monkeypatch, error):
    def fail(thread):
        raise error

    monkeypatch.setattr(threading.Thread, "start", fail)
    with contextlib.suppress(KeyboardInterrupt):
        ahead.begin(path, TEXTS, SLEEP)
    assert ahead.at_work() == 0
    ahead.wait_for(path)
    ahead._stop_all()


def test_the_child_of_a_fork_waits_for_none(path):
    ahead.begin(path, TEXTS, SLEEP)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on threads at a fork
        child = os.fork()
    if child == 0:
        signal.alarm(30)
        ahead.wait_for(path)
        ahead._stop_all()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    (job,) = ahead._jobs.values()
    assert job.process.poll() is None
    ahead._stop_all()


def test_an_interrupt_ends_the_wait_and_not_the_compiler(path):
    ahead.begin(path, TEXTS, SLEEP)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            ahead.wait_for(path)
    finally:
        signal.signal(signal.SIGALRM, before)
    (job,) = ahead._jobs.values()
    assert job.process.poll() is None
    ahead._stop_all()
    assert traces(path) == []


def said_by_linux(tmp_path, text):
    """A file with this text, or one that is not there."""
    file = tmp_path / "said"
    if text is not None:
        file.write_text(text)
    return file


@pytest.mark.parametrize(("load", "idle"), [
    ("0.10 0.20 0.30 1/200 123\n", True), ("0.10 0.20 0.30 2/200 123\n", False), ("nothing known\n", False),
    (None, False),
])  # fmt: skip
def test_a_core_is_idle_where_fewer_tasks_run_than_there_are_cores(tmp_path, monkeypatch, load, idle):
    monkeypatch.setattr(compiling, "_LOAD", said_by_linux(tmp_path, load))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert compiling.idle_core() is idle


@pytest.mark.parametrize(("quota", "cores"), [
    ("max 100000\n", 4), ("250000 100000\n", 2), ("50000 100000\n", 1), ("900000 100000\n", 4), ("odd", 4), (None, 4),
])  # fmt: skip
def test_cores_are_those_that_a_container_is_granted(tmp_path, monkeypatch, quota, cores):
    monkeypatch.setattr(compiling, "_QUOTA", said_by_linux(tmp_path, quota))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 5}, raising=False)
    assert compiling.cores() == cores


def test_the_collector_is_on_again_afterwards_if_it_was():
    with pytest.raises(KeyError), garbage.without_collector():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    with garbage.without_collector(), garbage.without_collector():
        pass
    assert gc.isenabled()
    gc.disable()
    try:
        with garbage.without_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_child_of_a_fork_has_the_collector_on_that_another_thread_has_turned_off():
    off, forked = threading.Event(), threading.Event()

    def derive():
        with garbage.without_collector():
            off.set()
            forked.wait()

    thread = threading.Thread(target=derive)
    thread.start()
    off.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on threads at a fork
        child = os.fork()
    if child == 0:
        os._exit(0 if gc.isenabled() else 1)
    assert not gc.isenabled()
    forked.set()
    thread.join()
    assert gc.isenabled()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
