"""The user's cache of compiled packages, shared by processes without locks.

A package is made in a temporary folder and renamed into place; where two processes make the same one,
the first to rename wins and the other takes the winner's. `install` copies an entry to where it is wanted.
"""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
from filelock import FileLock

from mpcgen.build.manifest import Manifest
from mpcgen.errors import BuildError
from mpcgen.runtime.loading import MANIFEST_FILES


def cache_root() -> Path:
    """The folder of the cache: the environment variable MPCGEN_CACHE_DIR, or the user's cache folder."""
    named = os.environ.get("MPCGEN_CACHE_DIR")
    return Path(named).resolve() if named else Path(platformdirs.user_cache_dir("mpcgen", appauthor=False))


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
    path.parent.mkdir(parents=True, exist_ok=True)
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
    """Note that what ``spec_key`` names renders and compiles to the package of this digest."""
    path = cache_root() / "keys" / spec_key
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(digest)
    os.replace(file.name, path)


def recall_key(spec_key: str) -> str | None:
    """The digest noted for ``spec_key``."""
    try:
        return (cache_root() / "keys" / spec_key).read_text(encoding="utf-8")
    except OSError:
        return None


@contextlib.contextmanager
def install_lock(destination: Path) -> Iterator[None]:
    """Keep other processes from installing into ``destination`` (made if missing) meanwhile."""
    destination.mkdir(parents=True, exist_ok=True)
    with FileLock(destination / ".lock"):
        yield


def install(entry: Path, destination: Path, manifest: Manifest) -> None:
    """Copy a cached package to ``destination``; call it under `install_lock`.

    Each file appears whole, the text first, then the library, its manifest last, so that a reader
    meets either a complete build or one whose checks fail.
    """
    files = sorted(file for file in manifest.files if file != manifest.library)
    for file in (*files, manifest.library):
        _replace(destination / file, (entry / file).read_bytes(), mode=(entry / file).stat().st_mode)
    with tempfile.TemporaryDirectory(dir=destination, prefix=".manifest-") as folder:
        manifest.write(Path(folder))
        file = MANIFEST_FILES[manifest.kind]
        os.replace(Path(folder) / file, destination / file)
    if manifest.kind != "cpu":
        return
    for other in destination.glob(f"_{manifest.problem}.*"):
        if other.name != manifest.library:
            other.unlink()


def with_spec_key(manifest: Manifest, spec_key: str) -> Manifest:
    """The manifest of an entry, for a specification or sources of mpcgen that gave the same text."""
    return dataclasses.replace(manifest, spec_key=spec_key)


def _move_into_place(folder: Path, path: Path, manifest: Manifest) -> None:
    # mkdtemp makes private folders; a cache entry is as readable as any file of its user.
    folder.chmod(0o755)
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
    if not path.exists():
        raise BuildError(f"cannot replace the damaged cache entry {path}; delete it")


def _keep_failed(folder: Path, name: str, digest: str) -> Path:
    kept = cache_root() / "failed" / f"{name}-{digest[:12]}"
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(kept, ignore_errors=True)
    # Where another process keeps the same failure meanwhile, its folder serves as well.
    with contextlib.suppress(OSError):
        folder.rename(kept)
    return kept


def _replace(path: Path, content: bytes, mode: int) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        file.write(content)
    os.chmod(file.name, mode & 0o777)
    os.replace(file.name, path)
