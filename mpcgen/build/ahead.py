"""Compilers that work while this process does something else, on libraries that it is about to want.

Nothing depends on them: whoever wants a library waits for the compiler that works on it, and where that has failed
compiles it himself, which then says why.
"""

import atexit
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpcgen.build import cache
from mpcgen.build.toolchain import start_compiler
from mpcgen.runtime.forks import Lock

LIBRARY = "unit.so"
"""What commands that are begun leave in the folder that they run in."""


@dataclass(frozen=True)
class _Job:
    """A compiler at work, in a group of processes of its own, and what is set when all is done.

    An event, and not the thread that sets it: Python 3.11 takes a thread for ended whose `join` was interrupted.
    """

    process: subprocess.Popen[bytes]
    done: threading.Event


_jobs: dict[tuple[int, Path], _Job] = {}
"""By process, since the child of a fork has none of its parent's, and where the library belongs."""
_lock = Lock()


def begin(path: Path, texts: Mapping[str, str], commands: Sequence[Sequence[str]]) -> None:
    """Start a compiler's commands, one after the other, in a folder with these files.

    path: in the cache, where the library belongs that they make.
    """
    script = " && ".join(map(shlex.join, commands))
    with contextlib.suppress(OSError), _lock:
        if (os.getpid(), path) in _jobs:
            return
        cache.make_folder(path.parent)
        folder = Path(tempfile.mkdtemp(prefix=".ahead-", dir=path.parent))
        try:
            for file, text in texts.items():
                (folder / file).write_text(text, encoding="utf-8", newline="\n")
            process = start_compiler(["/bin/sh", "-c", script], folder)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            return
        job = _jobs[os.getpid(), path] = _Job(process, threading.Event())
        threading.Thread(target=_attend, args=(job, folder, path), daemon=True).start()


def wait_for(path: Path) -> None:
    """Wait until no compiler that this process has started works on a library."""
    job = _jobs.get((os.getpid(), path))
    if job is not None:
        job.done.wait()


def _attend(job: _Job, folder: Path, path: Path) -> None:
    """Put what a compiler makes into its place, if it makes anything, and remove its folder."""
    if job.process.wait() == 0:
        with contextlib.suppress(OSError):
            cache.put_library(folder / LIBRARY, path)
    shutil.rmtree(folder, ignore_errors=True)
    del _jobs[os.getpid(), path]
    job.done.set()


@atexit.register
def _stop_all() -> None:
    """Stop the compilers that still work when the process ends."""
    for (process_id, _), job in list(_jobs.items()):
        if process_id != os.getpid():
            continue
        if job.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.process.pid, signal.SIGKILL)
        job.done.wait()
