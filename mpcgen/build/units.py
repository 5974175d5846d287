"""Compile a part of a package's kernels when it is first called: a shared library in the cache, a unit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpcgen.build import ahead, cache
from mpcgen.build.compiling import cores, idle_core, run_one
from mpcgen.build.digest import folder_digest
from mpcgen.build.extension import HEADER_FOLDER, unit_flags
from mpcgen.build.progress import Report, reporter
from mpcgen.build.toolchain import Toolchain, identify
from mpcgen.codegen.rendered import Rendered
from mpcgen.errors import BuildError, CompilerNotFoundError, StaleBuildError
from mpcgen.runtime.loading import bits_of, has_sha256
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


def begin_units(rendered: Rendered, toolchain: Toolchain, digest: str) -> None:
    """Let compilers begin with what a first call needs, where this process has more than one core.

    That is the solver; and the interior point, which the solver may leave problems to, of problems that take a second,
    where a core is idle, and this process has not begun as many compilers as it has cores, for problems before this.
    """
    count = cores()
    if count < 2:
        return
    wanted = ["solve"]
    if "interior_point" in rendered.parts and rendered.small and ahead.at_work() + 2 <= count and idle_core():
        wanted.append("interior_point")
    variant, flags = first_variant(toolchain.dtypes), toolchain.flags_for(rendered.small)
    texts = {file: text for file, text in rendered.files if file.endswith((".c", ".h"))}
    with_what = recipe(toolchain)
    for part in wanted:
        path = _path_of(rendered.name, digest, part, variant)
        if not cache.has_library(path):
            ahead.begin(path, texts, _commands(with_what, flags, part, variant, f"{rendered.stem}.c"))


def first_variant(dtypes: Sequence[str]) -> str:
    """The variant that is compiled first of these precisions: the first one's for batches."""
    return f"f{bits_of(dtypes[0])}_batch"


def obtain_unit(folder: Path, manifest: Mapping[str, Any], part: str, variant: str) -> Path:
    """Return the library of a part of a variant: from the cache, begun before, or compiled from the text in ``folder``.

    Raises StaleBuildError where the text or mpcgen's headers are not what the package was made of, BuildError where
    the compiler fails or the cache cannot be written.
    """
    name, digest = manifest["problem"], manifest["digest"]
    path = _path_of(name, digest, part, variant)
    if cache.has_library(path):
        return path
    _require_unchanged(folder, manifest)
    what = f"the {_MEANINGS[part]} of {name}, {variant.replace('_', ' ')}"
    say = _reports.get(digest, reporter(None, None))
    if say is not None:
        say(f"compiling {what}")
    ahead.wait_for(path)
    if cache.has_library(path):
        return path
    _require_compiler(manifest)
    source = folder.resolve() / f"{c_stem(name)}.c"
    commands = _commands(manifest["on_demand"], manifest["flags"], part, variant, str(source))
    try:
        with cache.scratch(path.parent, name) as scratch:
            for command in commands:
                run_one(command, scratch, what)
            cache.put_library(scratch / ahead.LIBRARY, path)
    except OSError as error:
        raise BuildError(
            f"cannot write the kernels of {name} to {path}: {error}; set MPCGEN_CACHE_DIR to a folder that you can "
            f"write, or compile with on_demand=False"
        ) from error
    return path


def _path_of(name: str, digest: str, part: str, variant: str) -> Path:
    return cache.cache_root() / "units" / f"{name}-{digest}-{variant}-{part}.so"


def _commands(
    with_what: Mapping[str, Any], flags: Sequence[str], part: str, variant: str, source: str
) -> tuple[list[str], list[str]]:
    """What compiles a unit, as the part of a whole extension is compiled, and what links it.

    Two commands: zig would compile by the linker's flags, too.
    """
    compiler, linked = with_what["compiler"], ["unit.o", "-o", ahead.LIBRARY, *with_what["libraries"]]
    return (
        [*compiler, *flags, *unit_flags(variant, part), "-c", source, "-o", "unit.o"],
        [*compiler, *with_what["link_flags"], *linked],
    )


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
