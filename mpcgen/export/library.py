"""Writing a controller as a library for batches: a CMake package with a C++17 header."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from mpcgen.build.toolchain import find_compiler
from mpcgen.codegen.export_batch import library_text
from mpcgen.compiler import Compilation
from mpcgen.export.writing import included_headers, license_text, write_files
from mpcgen.problem.problem import Problem
from mpcgen.problem.spec import Spec, spec_of


def export_library(
    problem: Problem | Spec, directory: str | Path, *, start: Sequence[float] | None = None
) -> tuple[str, ...]:
    """Write ``problem`` to the folder ``directory`` as a CMake package; returns the files' places in it.

    It makes a static library that solves batches in either precision, in vectors and on threads, with a header for
    C++17, and an example. Both methods are in it, and problems without constraints get "auto". start: the state, n
    numbers, that the example begins at; default: zero. Raises BuildError where the folder cannot be written, and
    CompilerNotFoundError.
    """
    spec = spec_of(problem)
    compilation = Compilation(spec)
    rendered = compilation.rendered
    release = ".".join(version("mpcgen").split(".")[:3])
    texts = library_text(compilation.derived, release, start)
    texts |= {f"include/{rendered.stem}.h": rendered.header, f"src/{rendered.stem}.c": rendered.source}
    with tempfile.TemporaryDirectory(prefix="mpcgen-export-") as folder:
        trial = Path(folder)
        write_files(trial, {f"{rendered.stem}.h": rendered.header, f"{rendered.stem}.c": rendered.source})
        # Headers of any instruction set that the library may be built for.
        definitions = ["-std=gnu11", "-DMPCGEN_PRECISION=64", "-DMPCGEN_BATCH=1", "-D__FMA__=1"]
        headers = included_headers(find_compiler(), trial, f"{rendered.stem}.c", definitions)
    texts |= {f"src/{name}": text for name, text in headers.items()} | {"LICENSE": license_text()}
    write_files(Path(directory), texts)
    return tuple(sorted(texts))
