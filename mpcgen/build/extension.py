"""Compile a rendered package: four variants of each part of the kernels, cffi's glue, one extension.

The parts are object files of their own also where all of them are linked, so that machine code and results are the same
as of kernels that are compiled when they are first called (`mpcgen.build.units`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from mpcgen.build.compiling import run_all, run_one
from mpcgen.build.digest import HEADER_FOLDER
from mpcgen.build.toolchain import SINGLE_FLAGS, Toolchain, find_toolchain
from mpcgen.codegen.rendered import Rendered
from mpcgen.errors import BuildError
from mpcgen.runtime import interrupts, units
from mpcgen.runtime.loading import bits_of, extension_name
from mpcgen.runtime.parts import BITS

VARIANTS = (
    ("f64_batch", ("-DMPCGEN_PRECISION=64", "-DMPCGEN_BATCH=1")),
    ("f32_batch", ("-DMPCGEN_PRECISION=32", "-DMPCGEN_BATCH=1")),
    ("f64_single", ("-DMPCGEN_PRECISION=64", "-DMPCGEN_BATCH=0", *SINGLE_FLAGS)),
    ("f32_single", ("-DMPCGEN_PRECISION=32", "-DMPCGEN_BATCH=0", *SINGLE_FLAGS)),
)
"""Suffix, definitions and flags of each variant of a source."""

_DIGEST_DECLARATION = "const char *mpcgen_build_digest(void);"


def write_sources(rendered: Rendered, directory: Path) -> None:
    """Write the package's text files into ``directory``."""
    for file, text in rendered.files:
        (directory / file).write_text(text, encoding="utf-8", newline="\n")


def compile_variants(
    rendered: Rendered,
    directory: Path,
    extra_flags: Sequence[str] = (),
    toolchain: Toolchain | None = None,
) -> tuple[Path, ...]:
    """Compile each part of the source once per variant, on all cores; returns the object files, in `VARIANTS`' order.

    ``extra_flags`` come last. Raises BuildError with the command and the compiler's words.
    """
    toolchain = toolchain or find_toolchain()
    write_sources(rendered, directory)
    commands = _variant_commands(rendered, toolchain, extra_flags)
    run_all(commands, directory)
    return tuple(directory / file for file in _objects(rendered, toolchain))


def compile_extension(
    rendered: Rendered,
    directory: Path,
    digest: str,
    extra_flags: Sequence[str] = (),
    toolchain: Toolchain | None = None,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Write the package into ``directory`` and compile its extension there; returns the extension's path.

    ``digest`` is compiled in, so that a loaded extension can be told from its successor. ``extra_flags``
    go to the compiler and the linker. ``report`` is called with the compiler's warnings. Raises BuildError.
    """
    toolchain = toolchain or find_toolchain()
    write_sources(rendered, directory)
    glue = _write_glue(rendered, directory, digest, toolchain)
    objects = () if toolchain.on_demand else _objects(rendered, toolchain)
    commands = _variant_commands(rendered, toolchain, extra_flags) if objects else []
    compiler = toolchain.compiler.command
    commands.append([*compiler, *toolchain.glue_flags, *_includes(), *extra_flags, "-c", glue])
    warnings = "".join(run_all(commands, directory))
    objects = (*objects, str(Path(glue).with_suffix(".o")))
    extension = extension_name(rendered.name)
    link = [*compiler, *toolchain.link_flags, *extra_flags, *objects, "-o", extension, *toolchain.libraries]
    warnings += run_one(link, directory)
    if warnings and report is not None:
        report(warnings)
    for temporary in (*objects, glue):
        (directory / temporary).unlink()
    return directory / extension


def _variant_commands(
    rendered: Rendered, toolchain: Toolchain, extra_flags: Sequence[str]
) -> list[list[str]]:
    start = [*toolchain.compiler.command, *toolchain.flags_for(rendered.small), *extra_flags]
    # The longest first, so that no core is left with one at the end.
    return [
        [
            *start,
            *unit_flags(variant, part),
            "-c",
            f"{rendered.stem}.c",
            "-o",
            _object(rendered, variant, part),
        ]
        for part in _parts(rendered)
        for variant, _ in _variants(toolchain)
    ]


def _variants(toolchain: Toolchain) -> list[tuple[str, tuple[str, ...]]]:
    """Those of the precisions that are wanted."""
    wanted = tuple(f"f{bits_of(dtype)}_" for dtype in toolchain.dtypes)
    return [variant for variant in VARIANTS if variant[0].startswith(wanted)]


def _includes() -> tuple[str, ...]:
    """Not the package's folder: its header is beside what includes it, and must not pass for one of the system."""
    return (f"-I{HEADER_FOLDER}",)


def _parts(rendered: Rendered) -> tuple[str, ...]:
    """The parts that are compiled apart; of a text that has none, the whole, which is called nothing."""
    return rendered.parts or ("",)


def unit_flags(variant: str, part: str) -> tuple[str, ...]:
    """Flags that compile a part of a variant, after those that all have."""
    definition = (f"-DMPCGEN_PART={BITS[part]}",) if part else ()
    return (*_includes(), *dict(VARIANTS)[variant], *definition)


def _objects(rendered: Rendered, toolchain: Toolchain) -> tuple[str, ...]:
    return tuple(
        _object(rendered, variant, part) for variant, _ in _variants(toolchain) for part in _parts(rendered)
    )


def _object(rendered: Rendered, variant: str, part: str) -> str:
    return f"{'_'.join(filter(None, (rendered.stem, variant, part)))}.o"


def _write_glue(rendered: Rendered, directory: Path, digest: str, toolchain: Toolchain) -> str:
    """Write cffi's wrapper of the header into ``directory``, of what is compiled; returns its file name."""
    # Importing cffi takes longer than an unchanged build should.
    import cffi

    builder = cffi.FFI()
    caller = units.CDEF if toolchain.on_demand else ""
    try:
        builder.cdef(
            "\n".join((_declarations(rendered, toolchain), _DIGEST_DECLARATION, interrupts.CDEF, caller))
        )
    except (cffi.FFIError, cffi.CDefError) as error:
        raise BuildError(f"cffi cannot read the declarations of {rendered.stem}.h: {error}") from error
    definition = f'static {_DIGEST_DECLARATION[:-1]}\n{{\n    return "{digest}";\n}}\n'
    preamble = f'#include "{rendered.stem}.h"\n\n{definition}{interrupts.GLUE}{units.GLUE if caller else ""}'
    builder.set_source(f"_{rendered.stem}", preamble, compiler_verbose=0)
    file = f"_{rendered.stem}.c"
    builder.emit_c_code(str(directory / file))
    return file


def _declarations(rendered: Rendered, toolchain: Toolchain) -> str:
    """The header's, but for functions of variants that are left out."""
    kept = set() if toolchain.on_demand else {variant for variant, _ in _variants(toolchain)}
    absent = tuple(f"_{variant}(" for variant, _ in VARIANTS if variant not in kept)
    lines = rendered.cdef.splitlines()
    return "\n".join(line for line in lines if not any(name in line for name in absent))
