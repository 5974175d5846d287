"""Running compilers: several commands at a time, and their words in an error."""

import os
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mpcgen.build.toolchain import run_compiler
from mpcgen.errors import BuildError

_MOST_LINES_SHOWN = 60
_LOAD = Path("/proc/loadavg")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def run_all(commands: Sequence[list[str]], directory: Path) -> list[str]:
    """Run compiler commands on all cores; returns what each said on stderr, in the order of the commands."""
    with ThreadPoolExecutor(max_workers=cores()) as pool:
        jobs = [pool.submit(run_one, command, directory) for command in commands]
        try:
            return [job.result() for job in jobs]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_one(command: list[str], directory: Path, what: str = "") -> str:
    """Run a compiler's command; returns what it said on stderr.

    what: is compiled, if that is not plain to see. Raises BuildError with it, the command and the compiler's words.
    """
    process = run_compiler(command, directory)
    if process.returncode == 0:
        return process.stderr
    words = (process.stderr or process.stdout).strip() or "(it said nothing)"
    lines = words.splitlines()
    shown = "\n".join(lines[:_MOST_LINES_SHOWN])
    if len(lines) > _MOST_LINES_SHOWN:
        shown += f"\n... {len(lines) - _MOST_LINES_SHOWN} more lines"
    raise BuildError(
        f"the C compiler ended with exit code {process.returncode}{what and f' on {what}'}.\n"
        f"Command:\n  {shlex.join(command)}\nIt said:\n{shown}"
    )


def cores() -> int:
    """Cores that this process may use; of a container that is granted parts of cores, as many as come whole, or one."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        granted, period = _QUOTA.read_text(encoding="ascii").split()
        return max(1, min(count, int(granted) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # none is said, or "max"
        return count


def idle_core() -> bool:
    """Whether there is a core that nothing runs on, as far as Linux says."""
    try:
        running = int(_LOAD.read_text(encoding="ascii").split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return False
    return running < (os.cpu_count() or 1)
