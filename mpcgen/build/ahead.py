"""Compilers that work while this process does something else, on libraries that it is about to want.

Nothing depends on them: whoever wants a library waits for the compiler that works on it, and where that has failed
compiles it himself, which then says why.
"""

import atexit
import contextlib
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mpcgen.build import cache
from mpcgen.build.toolchain import start_compiler

LIBRARY = "unit.so"
"""What commands that are begun leave in the folder that they run in."""

_SCRIPT = """
{{ ({}) </dev/null >&2; echo $?; }} &
read -r _ || {{ trap "" TERM; kill 0; wait; rm -rf "$1"; }}
"""
"""Runs commands and says how they ended; stops them and removes the folder if this process ends before it answers."""
_LONGEST_END = 5.0
"""Seconds that a process waits when it ends for its compilers to be gone."""


@dataclass
class _Job:
    """A compiler in a group of processes of its own, and what the thread that attends to it says of it.

    By events, and not by the thread's end: Python 3.11 takes a thread for ended whose `join` was interrupted.
    """

    process: subprocess.Popen[bytes] | None = None
    stopped: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    started: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    def start(self, commands: Sequence[Sequence[str]], folder: Path) -> None:
        script = _SCRIPT.format(" && ".join(map(shlex.join, commands)))
        with self.lock:
            if not self.stopped:
                self.process = start_compiler(["/bin/sh", "-c", script, "sh", str(folder)], folder)

    def stop(self) -> None:
        with self.lock, contextlib.suppress(OSError):
            self.stopped = True
            if self.process is not None and self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)

    def succeeds(self) -> bool:
        """Wait for the commands' end, and say whether they all did what they should."""
        return (
            self.process is not None
            and self.process.stdout is not None
            and self.process.stdout.readline() == b"0\n"
        )

    def dismiss(self) -> None:
        """Wait until the shell has ended, which is told that its folder is seen to."""
        if self.process is None:
            return
        with contextlib.suppress(OSError), self.process as process:
            if process.stdin is not None:
                process.stdin.write(b"\n")


_jobs: dict[tuple[int, Path], _Job] = {}
"""By process, since the child of a fork has none of its parent's, and where the library belongs."""


def begin(path: Path, texts: Mapping[str, str], commands: Sequence[Sequence[str]]) -> None:
    """Start a compiler's commands, one after the other, in a folder with these files.

    path: in the cache, where the library belongs that they make.
    """
    key, job = (os.getpid(), path), _Job()
    # All is the thread's, which no interrupt reaches, and no lock is held here: whoever waits for a job without a
    # thread, or for a lock that an interrupt has left held, waits for ever.
    thread = threading.Thread(target=_attend, args=(job, path, texts, commands), daemon=True)
    try:
        if _jobs.setdefault(key, job) is job:
            thread.start()
            job.started.wait()  # so that no fork comes between the making of a process and the closing of its pipes
    except RuntimeError:  # the system has no more threads, or Python ends
        return
    finally:
        if not thread.is_alive() and _jobs.get(key) is job:
            _jobs.pop(key, None)


def at_work() -> int:
    """Compilers that this process has started here and that still work."""
    return sum(process_id == os.getpid() for process_id, _ in list(_jobs))


def wait_for(path: Path) -> None:
    """Wait until no compiler that this process has started works on a library."""
    job = _jobs.get((os.getpid(), path))
    if job is not None:
        job.done.wait()


def _attend(job: _Job, path: Path, texts: Mapping[str, str], commands: Sequence[Sequence[str]]) -> None:
    """Start a compiler, and put what it makes into its place, if it makes anything."""
    try:
        with contextlib.suppress(OSError, RuntimeError), cache.scratch(path.parent, "ahead") as folder:
            for file, text in texts.items():
                (folder / file).write_text(text, encoding="utf-8", newline="\n")
            job.start(commands, folder)
            job.started.set()
            try:
                if job.succeeds():
                    cache.put_library(folder / LIBRARY, path)
            finally:
                job.dismiss()
    finally:
        _jobs.pop((os.getpid(), path), None)
        job.started.set()
        job.done.set()


@atexit.register
def _stop_all() -> None:
    """Stop the compilers that still work when the process ends."""
    mine = [job for (process_id, _), job in list(_jobs.items()) if process_id == os.getpid()]
    for job in mine:
        job.stop()
    for job in mine:
        job.done.wait(_LONGEST_END)
