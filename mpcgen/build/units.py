"""Compile a part of a package's kernels when it is first called: a shared library in the cache, a unit."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpcgen.build import cache
from mpcgen.build.compiling import run_one
from mpcgen.build.digest import folder_digest
from mpcgen.build.extension import HEADER_FOLDER, unit_flags
from mpcgen.build.progress import Report, reporter
from mpcgen.build.toolchain import Toolchain, identify
from mpcgen.errors import BuildError, CompilerNotFoundError, StaleBuildError
from mpcgen.runtime.loading import file_sha256, has_sha256
from mpcgen.runtime.naming import c_stem

_reports: dict[str, Report | None] = {}

_MEANINGS = {"solve": "solver", "interior_point": "interior point", "sensitivities": "derivatives"}


def recipe(toolchain: Toolchain) -> dict[str, str | list[str]]:
    """Return what a manifest says of units that are still to be compiled: with what, and from which headers."""
    return {
        "compiler": list(toolchain.compiler.command),
        "link_flags": list(toolchain.link_flags),
        "libraries": list(toolchain.libraries),
        "headers": folder_digest(HEADER_FOLDER),
    }


def report_to(digest: str, report: Report | None) -> None:
    """Say who is told in this process that a part of a package is compiled; None: nobody."""
    _reports[digest] = report


def obtain_unit(folder: Path, manifest: Mapping[str, Any], part: str, variant: str) -> Path:
    """Return the library of a part of a variant, from the cache, or compiled from the package's text in ``folder``.

    Raises StaleBuildError where the text or mpcgen's headers are not what the package was made of, BuildError where
    the compiler fails or the cache cannot be written.
    """
    name, digest = manifest["problem"], manifest["digest"]
    path = cache.cache_root() / "units" / f"{name}-{digest}-{variant}-{part}.so"
    if _is_intact(path):
        return path
    _require_unchanged(folder, manifest)
    say = _reports.get(digest, reporter(None, None))
    if say is not None:
        say(f"compiling the {_MEANINGS[part]} of {name}, {variant.replace('_', ' ')}")
    try:
        cache.make_folder(path.parent)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=path.parent) as scratch:
            _compile(folder, manifest, part, variant, Path(scratch))
            _move(Path(scratch) / _LIBRARY, path)
    except OSError as error:
        raise BuildError(
            f"cannot write the kernels of {name} to {path}: {error}; set MPCGEN_CACHE_DIR to a folder that you can "
            f"write, or compile with on_demand=False"
        ) from error
    return path


_LIBRARY = "unit.so"


def _compile(folder: Path, manifest: Mapping[str, Any], part: str, variant: str, scratch: Path) -> None:
    with_what = manifest["on_demand"]
    _require_compiler(manifest)
    compiler, source = with_what["compiler"], folder.resolve() / f"{c_stem(manifest['problem'])}.c"
    flags = [*manifest["flags"], *unit_flags(variant, part)]
    run_one([*compiler, *flags, "-c", str(source), "-o", "unit.o"], scratch)
    run_one([*compiler, *with_what["link_flags"], "unit.o", "-o", _LIBRARY, *with_what["libraries"]], scratch)


def _require_compiler(manifest: Mapping[str, Any]) -> None:
    """Raise unless the compiler is the one that the package was made for."""
    name, command = manifest["problem"], tuple(manifest["on_demand"]["compiler"])
    remedy = "set CC and call mpcgen.compile again, with on_demand=False where later calls find no compiler"
    try:
        found = identify(command).identity
    except CompilerNotFoundError as error:
        raise CompilerNotFoundError(
            f"kernels of {name} that were not compiled yet cannot be: {error}; {remedy}"
        ) from error
    if found != manifest["compiler"]:
        raise StaleBuildError(
            f"kernels of {name} that were not compiled yet cannot be: the package was made with "
            f"{manifest['compiler']}, and {' '.join(command)} now is {found}; {remedy}"
        )


def _move(library: Path, path: Path) -> None:
    """Put a library into its place, and beside it what its bytes are: first the one, so that both or none count."""
    library.chmod(0o755)
    sum_of_bytes = file_sha256(library)
    os.replace(library, path)
    cache.note(_sum_of(path), sum_of_bytes)


def _is_intact(path: Path) -> bool:
    try:
        return has_sha256(path, _sum_of(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _sum_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _require_unchanged(folder: Path, manifest: Mapping[str, Any]) -> None:
    for file, recorded in manifest["files"].items():
        if not has_sha256(folder / file, recorded):
            raise StaleBuildError(
                f"{manifest['problem']}: kernels that were not compiled yet cannot be, since {folder / file} is gone "
                f"or changed; call mpcgen.compile again"
            )
    if manifest["on_demand"]["headers"] != folder_digest(HEADER_FOLDER):
        raise StaleBuildError(
            f"{manifest['problem']}: kernels that were not compiled yet cannot be, since mpcgen was updated after this "
            f"package was made; call mpcgen.compile again in a new process"
        )
