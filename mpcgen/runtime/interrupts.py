"""Signals during a long call of the kernels: Python's handlers run meanwhile, and what they raise ends the call.

A kernel runs without Python's lock. Every 80 ms the thread that called it asks here whether to go on
(`mpcgen_parallel.h`), and on the way into Python the interpreter runs the handlers of signals that have arrived, if
that is the main thread: Ctrl-C's, which raises KeyboardInterrupt, or a program's own. Nothing is installed: handlers
and `signal.set_wakeup_fd` stay as the program has them.
"""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from mpcgen.errors import InternalError
from mpcgen.runtime.forks import Lock

STOPPED = 2
"""What an entry point returns whose call was stopped, as in `mpcgen_parallel.h`."""

CDEF = 'uintptr_t mpcgen_use_pool(uintptr_t pool);\nextern "Python" int mpcgen_asked(void);'
"""What an extension declares for `watch`, in cffi's language."""

GLUE = """
__attribute__((weak)) void *mpcgen_join(void *pool, int (*poll)(void));
static int mpcgen_asked(void);
static uintptr_t mpcgen_use_pool(uintptr_t pool)
{
    return mpcgen_join ? (uintptr_t)mpcgen_join((void *)pool, mpcgen_asked) : pool;
}
"""
"""What it defines besides, in C; a library without kernels of its own has no pool."""

_GO_ON, _STOP, _ASK_NO_MORE = 0, 1, -1
_raised: list[BaseException] = []
"""What handlers raised whose calls have not returned yet: one, but for handlers that call kernels themselves."""


_lock = Lock()  # reentrant: a handler that runs meanwhile may load a library
_pool = 0
"""Address of the pool of threads that all kernels of this process share: the first library's (`mpcgen_parallel.h`)."""


def watch(ffi: Any, lib: Any) -> None:
    """Let an extension's kernels ask whether to go on, and use the process's threads."""
    ffi.def_extern(name="mpcgen_asked", onerror=_keep)(_ask)
    join_pool(lib.mpcgen_use_pool)


def join_pool(join: Callable[[int], int]) -> None:
    """Let a library's kernels use the process's threads. join: takes the pool, or 0, and returns what is used."""
    global _pool
    with _lock:
        _pool = join(_pool)


def end_call() -> NoReturn:
    """Raise what stopped the call that has just returned `STOPPED`."""
    if not _raised:
        raise InternalError("a kernel was stopped, but nothing says why")
    raise _raised.pop()


def _ask() -> int:
    # Handlers ran before this line. Another thread has none to run, and would only wait for Python's lock.
    return _GO_ON if threading.current_thread() is threading.main_thread() else _ASK_NO_MORE


def _keep(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> int:
    _raised.append(error.with_traceback(traceback))
    return _STOP
