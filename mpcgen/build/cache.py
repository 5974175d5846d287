"""The user's cache of compiled packages, shared by processes without locks, and by users if its folder is.

A package is made in a temporary folder and renamed into place; where two processes make the same one,
the first to rename wins and the other takes the winner's. Folders in it get the permissions of the cache's own, and
what is written there anyone may read who reaches it. What cannot be noted there, because it is read-only or another
user's, is found out again the next time.
"""

import atexit
import collections
import contextlib
import dataclasses
import functools
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

from mpcgen.build.manifest import Manifest
from mpcgen.errors import BuildError
from mpcgen.runtime.loading import file_sha256, has_sha256

PARTS = ("builds", "units", "keys", "packages", "failed", "toolchain", "unchanged", "zig")
"""The folders that mpcgen makes in the cache's."""
_DIGEST = re.compile("[0-9a-f]{64}")
_MOST_REMOVALS = 10
"""Times that a folder is removed from which other processes may remove files, too, or where they make some."""


def cache_root() -> Path:
    """The folder of the cache: the environment variable MPCGEN_CACHE_DIR, or the user's cache folder."""
    named = os.environ.get("MPCGEN_CACHE_DIR")
    return (
        Path(named).expanduser().resolve()
        if named
        else Path(platformdirs.user_cache_dir("mpcgen", appauthor=False))
    )


def entry_path(name: str, digest: str) -> Path:
    """Where the cache keeps the package of this digest."""
    return cache_root() / "builds" / f"{name}-{digest}"


def find_entry(name: str, digest: str, kind: str = "cpu") -> Path | None:
    """The cached package of this digest; None if there is none, or if someone changed its files."""
    path = entry_path(name, digest)
    manifest = Manifest.read(path, kind)
    if manifest is None or manifest.digest != digest or not manifest.is_intact(path):
        return None
    return path


def discard_entry(name: str, digest: str) -> None:
    """Remove a package from the cache, if it is there."""
    shutil.rmtree(entry_path(name, digest), ignore_errors=True)


def make_entry(name: str, digest: str, fill: Callable[[Path], Manifest]) -> Path:
    """Make a package and put it into the cache; returns its path there.

    ``fill`` writes the package's files into the folder it is given and returns their manifest. If it
    raises BuildError, the folder is kept and named in the error.
    """
    path = entry_path(name, digest)
    make_folder(path.parent)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=path.parent))
    try:
        manifest = fill(folder)
        manifest.write(folder)
        _move_into_place(folder, path, manifest)
    except BuildError as error:
        kept = _keep_failed(folder, name, digest)
        raise BuildError(f"{error}\nThe source is kept in {kept}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def remember_key(spec_key: str, digest: str) -> None:
    """Note that what ``spec_key`` names renders and compiles to the package of this digest, if it can be written."""
    note(cache_root() / "keys" / spec_key, digest)


def recall_key(spec_key: str) -> str | None:
    """The digest noted for ``spec_key``; None where nothing is, or nothing that is a digest."""
    try:
        noted = (cache_root() / "keys" / spec_key).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return noted if _DIGEST.fullmatch(noted) else None


def note(path: Path, text: str) -> None:
    """Write a file of the cache that only saves work; where that is impossible, nothing happens."""
    with contextlib.suppress(OSError):
        make_folder(path.parent)
        descriptor, name = tempfile.mkstemp(dir=path.parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(name, 0o644)  # a temporary file is its owner's alone
            os.replace(name, path)
        finally:  # where the disk is full, for one
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def put_library(library: Path, path: Path) -> None:
    """Put a library into its place, and beside it what its bytes are: first the one, so that both or none count."""
    library.chmod(0o755)
    sum_of_bytes = file_sha256(library)
    os.replace(library, path)
    note(_sum_of(path), sum_of_bytes)


def has_library(path: Path) -> bool:
    """Whether `put_library` has put a library there that nobody changed since."""
    try:
        return has_sha256(path, _sum_of(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _sum_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


def make_folder(folder: Path) -> None:
    """Make a folder of the cache, with the permissions that the cache's own folder has."""
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # another user's, who was faster
            folder.chmod(stat.S_IMODE(root.stat().st_mode))


@contextlib.contextmanager
def scratch(beside: Path, name: str) -> Iterator[Path]:
    """Make a temporary folder in a folder of the cache. Raises OSError where that cannot be written.

    Not by `tempfile.TemporaryDirectory`: the child of a fork removes its parent's when it ends.
    """
    make_folder(beside)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=beside))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_writable() -> None:
    """Make the cache's folder where there is none. Raises OSError where nothing can be written there."""
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=root):
        pass


def working_folder(part: str) -> Path:
    """Where a compiler keeps what it makes: in the cache, or in a temporary folder where that cannot be written."""
    folder = cache_root() / part
    try:
        require_writable()
        if folder.exists():
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError:
        return _temporary_folder(part)
    return folder


@functools.cache
def _temporary_folder(part: str) -> Path:
    """A folder that goes when this process ends."""
    folder = tempfile.mkdtemp(prefix=f"mpcgen-{part}-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@dataclasses.dataclass(frozen=True)
class Contents:
    """What the cache holds: packages by name of the problem, and bytes of all its files."""

    root: Path
    packages: dict[str, int]
    size: int


def contents() -> Contents:
    """Count what the cache holds."""
    root, packages = cache_root(), collections.Counter[str]()
    for path in sorted((root / "builds").glob("*-*")):
        if not path.name.startswith("."):
            packages[path.name.rpartition("-")[0]] += 1
    return Contents(root, dict(packages), sum(_size_of(root / part) for part in PARTS))


def _size_of(folder: Path) -> int:
    """Bytes of all files in a folder, but for those that other processes remove meanwhile."""
    size = 0
    for place, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):
                size += os.stat(os.path.join(place, file)).st_size
    return size


def clear() -> None:
    """Delete what mpcgen keeps in the cache's folder, and nothing else there. Raises BuildError where it may not."""
    try:
        for part in PARTS:
            _remove(cache_root() / part)
    except OSError as error:
        raise BuildError(f"cannot clear the cache {cache_root()}: {error}; delete it by hand") from error


def _remove(folder: Path) -> None:
    """Remove a folder, although other processes work in it: their files come and go between a look and a removal."""
    for _ in range(_MOST_REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
    shutil.rmtree(folder)


def with_spec_key(manifest: Manifest, spec_key: str) -> Manifest:
    """The manifest of an entry, for a specification or sources of mpcgen that gave the same text."""
    return dataclasses.replace(manifest, spec_key=spec_key)


def _move_into_place(folder: Path, path: Path, manifest: Manifest) -> None:
    # mkdtemp makes private folders, as some users' masks do; a cache's own folder decides who gets here.
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o755 if file.suffix == ".so" else 0o644)
    for _ in range(2):
        try:
            folder.rename(path)
            return
        except OSError as error:
            if not path.exists():
                raise BuildError(f"cannot move the build from {folder} to {path}: {error}") from error
            if find_entry(manifest.problem, manifest.digest, manifest.kind) is not None:
                return
            # What is there is damaged: make room and try once more.
            shutil.rmtree(path, ignore_errors=True)
    raise BuildError(
        f"cannot replace the damaged cache entry {path}; delete it, or set MPCGEN_CACHE_DIR to another folder"
    )


def _keep_failed(folder: Path, name: str, digest: str) -> Path:
    kept = cache_root() / "failed" / f"{name}-{digest[:12]}"
    # Where another process or user keeps the same failure meanwhile, that folder serves as well.
    with contextlib.suppress(OSError):
        make_folder(kept.parent)
        shutil.rmtree(kept, ignore_errors=True)
        folder.chmod(0o755)
        folder.rename(kept)
    return kept
