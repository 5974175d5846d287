"""Import of packages that lie in the cache, under a name that no folder on the module path has."""

import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType

from mpcgen.errors import InternalError

COMPILED_PACKAGE = "mpcgen_compiled"
"""Parent, in `sys.modules` only, of what `mpcgen.compile` imports."""

# Reentrant: executing a package may import another.
_LOCK = threading.RLock()


def import_folder(folder: Path, name: str) -> ModuleType:
    """Import the package in ``folder`` as ``name``, a child of `COMPILED_PACKAGE`; once in a process.

    Threads may call it at once: none sees a module that is still being executed.
    """
    with _LOCK:
        if name in sys.modules:
            return sys.modules[name]
        if COMPILED_PACKAGE not in sys.modules:
            parent = ModuleType(COMPILED_PACKAGE, "Controllers compiled by `mpcgen.compile`.")
            parent.__path__ = []
            sys.modules[COMPILED_PACKAGE] = parent
        return execute_folder(folder, name)


def execute_folder(folder: Path, name: str) -> ModuleType:
    """Execute the package in ``folder`` anew and make it the module ``name``; a failed one leaves no trace."""
    location = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if location is None or location.loader is None:
        raise InternalError(f"{folder} cannot be imported as a package")
    module = importlib.util.module_from_spec(location)
    sys.modules[name] = module
    try:
        location.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
