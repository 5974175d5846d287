"""Kernels that are compiled when they are first called: a library, a unit, for each part of each variant."""

import ctypes
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mpcgen.runtime import interrupts
from mpcgen.runtime.forks import Lock
from mpcgen.runtime.naming import c_stem
from mpcgen.runtime.parts import PARTS, part_of

GLUE = """
static int mpcgen_call(uintptr_t entry, void *arguments)
{
    return ((int (*)(const void *))entry)(arguments);
}
static uintptr_t mpcgen_asked_address(void) { return (uintptr_t)mpcgen_asked; }
"""
"""What the extension of such a package defines in place of the kernels, in C."""

CDEF = "int mpcgen_call(uintptr_t entry, void *arguments);\nuintptr_t mpcgen_asked_address(void);"
"""The same in cffi's language."""


_lock = Lock()
"""Held while a unit is compiled and loaded."""


class Units:
    """The units of a package; several threads may ask for one at once, and it is compiled once."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], ffi: Any, lib: Any) -> None:
        self._folder, self._manifest, self._ffi, self._lib = folder, manifest, ffi, lib
        self._addresses: dict[tuple[str, str], int] = {}

    def function(self, verb: str, variant: str) -> Callable[[Any], int]:
        """Return an entry point. Raises BuildError and its kin where its unit cannot be compiled here."""
        return functools.partial(self._lib.mpcgen_call, self.address(verb, variant))

    def address(self, verb: str, variant: str) -> int:
        """Return an entry point's address; raises as `function` does."""
        found = self._addresses.get((verb, variant))
        if found is not None:
            return found
        with _lock:
            if (verb, variant) not in self._addresses:
                self._load(part_of(verb), variant)
            return self._addresses[verb, variant]

    def _load(self, part: str, variant: str) -> None:
        library = ctypes.CDLL(str(_compiled(self._folder, self._manifest, part, variant)))
        join = library.mpcgen_join
        join.argtypes, join.restype = (ctypes.c_void_p, ctypes.c_void_p), ctypes.c_void_p
        asked = int(self._ffi.cast("uintptr_t", self._lib.mpcgen_asked_address()))
        interrupts.join_pool(lambda pool: join(pool, asked))
        for verb in PARTS[part]:
            function = getattr(library, f"{c_stem(self._manifest['problem'])}_{verb}_{variant}", None)
            if function is None:  # closed loops are of some problems alone
                continue
            self._addresses[verb, variant] = ctypes.cast(function, ctypes.c_void_p).value or 0


def _compiled(folder: Path, manifest: Mapping[str, Any], part: str, variant: str) -> Path:
    # Not at the top: a package that is compiled whole needs nothing that compiles.
    from mpcgen.build.units import obtain_unit

    return obtain_unit(folder, manifest, part, variant)
