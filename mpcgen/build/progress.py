"""What a build that takes a while says on the way."""

import os
import sys
from collections.abc import Callable

from mpcgen.errors import BuildError

Report = Callable[[str], None]


def reporter(report: Report | None, progress: bool | None) -> Report | None:
    """Return what receives the lines of a build: ``report``, or standard error, or nothing (None).

    progress: as `mpcgen.compile` takes it; None asks the surroundings.
    """
    if progress not in (None, True, False):
        raise BuildError(
            f"progress={progress!r}; True, False or None (on a terminal and in a notebook) is expected"
        )
    if report is not None:
        return report
    return _say if (_is_watched() if progress is None else progress) else None


def _say(line: str) -> None:
    print(f"mpcgen: {line}", file=sys.stderr, flush=True)


def _is_watched() -> bool:
    """Whether somebody sees standard error as it is written: a terminal, or a notebook."""
    if os.environ.get("TERM") == "dumb" or sys.stderr is None:
        return False
    return sys.stderr.isatty() or _is_notebook()


def _is_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"
