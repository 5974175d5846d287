"""Whether a specification file's package is up to date, known without running the file, which would import sympy.

A build from the command line notes in the cache what it read: the specification, the modules of the user's that it
imports, and files that it opens, by their sha256; Python's modules, those of installed packages and mpcgen's own
sources by what the file system says of them; and where modules were looked for. It looks right after the specification
has run, before the compiler does. If all that is as it was, the compiler too, so is the package. A specification that
may depend on more (`mpcgen.build.observed`) is run each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpcgen.build import cache
from mpcgen.build.manifest import Manifest
from mpcgen.build.observed import (
    PURE,
    Observed,
    are_harmless,
    file_of,
    installed_folders,
    is_installed,
    named_by,
)
from mpcgen.build.toolchain import find_toolchain
from mpcgen.runtime.loading import DTYPES

if TYPE_CHECKING:
    from mpcgen.build.driver import BuildResult

_SETTLED = 50_000_000
"""Nanoseconds that a file must be older than the run that read it: file systems' clocks may lag behind by some."""
_VARIABLES = ("LANG", "LC_", "MPCGEN", "MPMATH", "NUMPY", "NPY", "PYTHON", "SYMPY")
"""What the names of environment variables begin with that Python and the packages read."""

_OF_PYTHON = ("__init__", "sitecustomize", "usercustomize")
"""Modules that Python looks for by itself."""
_DEPTH = 8
"""Folders in folders that modules are looked for in: links may lead round and round."""

Signature = list[int] | None


@dataclass(frozen=True)
class Request:
    """What `mpcgen build` is asked for."""

    spec: str
    output: str
    targets: tuple[str, ...]
    march: str | None
    dtypes: tuple[str, ...]
    cuda_kernel: str = "auto"

    @property
    def note(self) -> Path:
        """Where it is noted what the build read."""
        words = json.dumps([os.getcwd(), sys.executable, asdict(self)])
        return cache.cache_root() / "unchanged" / f"{hashlib.sha256(words.encode()).hexdigest()}.json"


def recall(request: Request) -> Path | None:
    """The package that a build before has made, where nothing has changed since; None where that is not known."""
    try:
        noted = json.loads(request.note.read_text(encoding="utf-8"))
        if noted["setting"] != _setting() or not _is_as_it_was(noted):
            return None
        destination, key, compiler = Path(noted["package"]), noted["spec_key"], noted["toolchain"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    installed = Manifest.read(destination)
    if installed is None or installed.spec_key != key or not installed.is_intact(destination):
        return None
    return destination if _toolchain_of(request) == compiler else None


def look(request: Request, observed: Observed, begin: int) -> dict[str, Any] | None:
    """What a run of the specification that began at ``begin`` (nanoseconds) has read; None where it may depend on more.

    For a package on CPUs. Of a file that is gone by now nothing is known: the build is good, and the next one runs.
    """
    if request.targets != ("cpu",) or set(request.dtypes) - set(DTYPES):
        return None
    try:
        return _read_by(request.spec, observed, begin - _SETTLED)
    except OSError:
        return None


def remember(request: Request, noted: dict[str, Any], result: BuildResult) -> None:
    """Note what the run for a build has read, as `look` has it."""
    made = {
        "package": os.path.abspath(result.path),
        "spec_key": result.manifest.spec_key,
        "toolchain": _toolchain_of(request),
    }
    cache.note(request.note, json.dumps(noted | made))


def begin() -> int:
    """The time, as `look` wants it."""
    return time.time_ns()


def _setting() -> list[Any]:
    """What Python runs with."""
    variables = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
    return json.loads(json.dumps([sys.version, sys.executable, list(sys.flags), sys.path, variables]))


def _toolchain_of(request: Request) -> str:
    wanted = tuple(name for name in DTYPES if name in request.dtypes)
    return replace(find_toolchain(request.march), dtypes=wanted).identity


def _is_as_it_was(noted: dict[str, Any]) -> bool:
    if any(_signature(path) != found for path, found in noted["installed"].items()):
        return False
    if any(_source(path) != found for path, found in noted["sources"].items()):
        return False
    names = set(noted["names"])
    return all(_listing(folder, names) == found for folder, found in noted["folders"].items())


def _read_by(spec: str, observed: Observed, before: int) -> dict[str, Any] | None:
    """What was read; None where a package may depend on more, or where something changed meanwhile."""
    files = {name: file for name in observed.loaded if name != "__main__" and (file := file_of(name))}
    read = {*files.values(), *observed.opened}
    sources = sorted({path for path in read if not is_installed(path)} | {os.path.abspath(spec)})
    own = {name.partition(".")[0] for name, file in files.items() if not is_installed(file)}
    if observed.does_more or observed.imported_others() or not all(map(os.path.isfile, sources)):
        return None
    if any(not file.endswith(".py") and not is_installed(file) for file in files.values()):
        return None
    programs = [named_by(Path(path).read_bytes()) for path in sources if path.endswith(".py")]
    loaded = frozenset(name.partition(".")[0] for name in observed.loaded) - own - PURE
    if not are_harmless(programs, loaded, observed.opened):
        return None
    imported = {name.partition(".")[0] for name in observed.loaded}
    names = sorted(imported.union(PURE, _OF_PYTHON, *(program.modules for program in programs if program)))
    places = [place for path in sources for place in (path, os.path.realpath(path))]
    searched = [folder or os.getcwd() for folder in sys.path] + [os.path.dirname(place) for place in places]
    installed = {*read.difference(sources), *installed_folders(), *_own_files()}
    noted = {
        "setting": _setting(),
        "sources": {path: _source(path) for path in sources},
        "installed": {path: _signature(path) for path in sorted(installed)},
        "folders": {folder: _listing(folder, set(names)) for folder in sorted({*searched})},
        "names": names,
    }
    times = [_signature(path) for path in (*sources, *installed)]
    return noted if all(found is None or max(found[1:3]) < before for found in times) else None


def _own_files() -> Iterable[str]:
    """The sources and templates of mpcgen, and the folders that they lie in."""
    from mpcgen.build.digest import PACKAGE_FOLDER, pipeline_sources
    from mpcgen.codegen.template_folder import TEMPLATE_FOLDER

    templates = [path for path in TEMPLATE_FOLDER.rglob("*") if path.suffix != ".pyc" and path.is_file()]
    files = [*pipeline_sources(), *templates]
    beside = PACKAGE_FOLDER.parent / "templates" / "runtime" / "mpcgen_lane.h"
    return {str(path) for path in (*files, *(path.parent for path in files), beside)}


def _signature(path: str) -> Signature:
    """Size, times of the last changes, of content and of all, and place; None where there is nothing."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _source(path: str) -> list[str] | None:
    """Where a file really lies, beside which modules may be looked for, and its digest; None where there is none."""
    try:
        return [os.path.realpath(path), hashlib.sha256(Path(path).read_bytes()).hexdigest()]
    except OSError:
        return None


def _listing(folder: str, names: set[str], depth: int = _DEPTH) -> list[str] | Signature:
    """What an import of one of these names could find in a folder, or in folders there, or what else is there."""
    try:
        found = sorted(entry for entry in os.listdir(folder) if entry.partition(".")[0] in names)
    except OSError:
        return _signature(folder)  # of an archive
    inner = []
    for entry in found:
        path = os.path.join(folder, entry)
        if depth and os.path.isdir(path) and not is_installed(path + os.sep):
            listed = _listing(path, names, depth - 1) or ()
            inner += [f"{entry}/{name}" for name in listed]
    return found + inner
