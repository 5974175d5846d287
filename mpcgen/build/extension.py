"""Compile a rendered package: four variants of the kernels, cffi's glue, one extension."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mpcgen.build.compiling import run_all, run_one
from mpcgen.build.digest import HEADER_FOLDER
from mpcgen.build.toolchain import SINGLE_FLAGS, Toolchain, find_toolchain
from mpcgen.codegen.rendered import Rendered
from mpcgen.errors import BuildError
from mpcgen.runtime import interrupts
from mpcgen.runtime.loading import bits_of, extension_name

VARIANTS = (
    ("f64_batch", ("-DMPCGEN_PRECISION=64", "-DMPCGEN_BATCH=1")),
    ("f32_batch", ("-DMPCGEN_PRECISION=32", "-DMPCGEN_BATCH=1")),
    ("f64_single", ("-DMPCGEN_PRECISION=64", "-DMPCGEN_BATCH=0", *SINGLE_FLAGS)),
    ("f32_single", ("-DMPCGEN_PRECISION=32", "-DMPCGEN_BATCH=0", *SINGLE_FLAGS)),
)
"""Suffix, definitions and flags of each compilation of the same source."""

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
    """Compile the source once per variant, on all cores; returns the object files, in `VARIANTS`' order.

    ``extra_flags`` come last. Raises BuildError with the command and the compiler's words.
    """
    toolchain = toolchain or find_toolchain()
    write_sources(rendered, directory)
    commands = _variant_commands(rendered, toolchain, extra_flags)
    run_all(commands, directory)
    return tuple(directory / _object(rendered, variant) for variant, _ in _variants(toolchain))


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
    commands = _variant_commands(rendered, toolchain, extra_flags)
    compiler = toolchain.compiler.command
    commands.append([*compiler, *toolchain.glue_flags, *_includes(), *extra_flags, "-c", glue])
    warnings = "".join(run_all(commands, directory))
    objects = [_object(rendered, variant) for variant, _ in _variants(toolchain)] + [
        str(Path(glue).with_suffix(".o"))
    ]
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
    start = [*toolchain.compiler.command, *toolchain.flags_for(rendered.small), *_includes()]
    return [
        [*start, *definitions, *extra_flags, "-c", f"{rendered.stem}.c", "-o", _object(rendered, variant)]
        for variant, definitions in _variants(toolchain)
    ]


def _variants(toolchain: Toolchain) -> list[tuple[str, tuple[str, ...]]]:
    """Those of the precisions that are wanted."""
    wanted = tuple(f"f{bits_of(dtype)}_" for dtype in toolchain.dtypes)
    return [variant for variant in VARIANTS if variant[0].startswith(wanted)]


def _includes() -> tuple[str, ...]:
    """Not the package's folder: its header is beside what includes it, and must not pass for one of the system."""
    return (f"-I{HEADER_FOLDER}",)


def _object(rendered: Rendered, variant: str) -> str:
    return f"{rendered.stem}_{variant}.o"


def _write_glue(rendered: Rendered, directory: Path, digest: str, toolchain: Toolchain) -> str:
    """Write cffi's wrapper of the header into ``directory``, of what is compiled; returns its file name."""
    # Importing cffi takes longer than an unchanged build should.
    import cffi

    builder = cffi.FFI()
    try:
        builder.cdef("\n".join((_declarations(rendered, toolchain), _DIGEST_DECLARATION, interrupts.CDEF)))
    except (cffi.FFIError, cffi.CDefError) as error:
        raise BuildError(f"cffi cannot read the declarations of {rendered.stem}.h: {error}") from error
    definition = f'static {_DIGEST_DECLARATION[:-1]}\n{{\n    return "{digest}";\n}}\n'
    preamble = f'#include "{rendered.stem}.h"\n\n{definition}{interrupts.GLUE}'
    builder.set_source(f"_{rendered.stem}", preamble, compiler_verbose=0)
    file = f"_{rendered.stem}.c"
    builder.emit_c_code(str(directory / file))
    return file


def _declarations(rendered: Rendered, toolchain: Toolchain) -> str:
    """The header's, but for functions of variants that are left out."""
    kept = {variant for variant, _ in _variants(toolchain)}
    absent = tuple(f"_{variant}(" for variant, _ in VARIANTS if variant not in kept)
    lines = rendered.cdef.splitlines()
    return "\n".join(line for line in lines if not any(name in line for name in absent))
