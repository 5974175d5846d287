"""Python's garbage collector, which would look through expressions and modules again and again that all stay."""

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

_turned_off_by: set[int] = set()
"""Threads that have turned the collector off, and will turn it on again."""


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Leave the collector off meanwhile, unless it is; reference counts still free what they can."""
    was_on, thread = gc.isenabled(), threading.get_ident()
    try:
        if was_on:
            _turned_off_by.add(thread)
        gc.disable()
        yield
    finally:
        if was_on:
            _turned_off_by.discard(thread)
            gc.enable()


def _turn_on_in_child() -> None:
    """Turn the collector on in the child of a fork, where those are missing that would do so."""
    missing = _turned_off_by - {threading.get_ident()}
    if missing:
        _turned_off_by.difference_update(missing)
        gc.enable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_turn_on_in_child)
