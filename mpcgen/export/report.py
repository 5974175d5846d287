"""What an exported controller takes, by the compiler's own reports."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpcgen.build.compiling import run_one
from mpcgen.build.toolchain import identify, run_compiler
from mpcgen.errors import BuildError
from mpcgen.export.writing import Exported, strict_flags

_NODE = re.compile(r'node: \{ title: "([^"]+)" label: "([^"]*)"')
_EDGE = re.compile(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"')
_STACK = re.compile(r"(\d+) bytes \(")


@dataclass(frozen=True)
class Footprint:
    """Bytes that a controller takes on a target.

    ``code``: of flash: instructions and constants. ``memory``: of the struct. ``stack``: the most that its functions
    take, but for what ``outside`` takes, functions of the C library; None where the compiler does not report it.
    """

    code: int
    memory: int
    stack: int | None
    outside: tuple[str, ...]


def measure(exported: Exported, command: Sequence[str], flags: Sequence[str] = ("-Os",)) -> Footprint:
    """Compile an exported controller and return its `Footprint`.

    command: a C compiler for the target, such as ["arm-none-eabi-gcc"]; flags: those that choose it, and the level of
    optimisation. Raises BuildError, CompilerNotFoundError.
    """
    compiler = identify(tuple(command))
    with tempfile.TemporaryDirectory(prefix="mpcgen-export-") as folder:
        trial = Path(folder)
        report = () if compiler.is_clang else ("-fcallgraph-info=su",)
        stem = exported.options.prefix
        start = [*command, *strict_flags(compiler), *flags, f"-I{exported.path.resolve()}"]
        run_one([*start, *report, "-c", str(exported.source.resolve()), "-o", "controller.o"], trial)
        (trial / "size.c").write_text(
            f'#include "{stem}.h"\nconst char memory[sizeof(struct {stem})] = {{1}};\n', encoding="utf-8"
        )
        run_one([*start, "-c", "size.c", "-o", "size.o"], trial)
        code, _ = _sections(command, trial, "controller.o")
        memory, _ = _sections(command, trial, "size.o")
        graph = trial / "controller.ci"
        stack, outside = _deepest(graph.read_text(encoding="utf-8"), stem) if graph.exists() else (None, ())
        return Footprint(code, memory, stack, outside)


def _sections(command: Sequence[str], folder: Path, file: str) -> tuple[int, int]:
    """Bytes of what is only read, and of what is written, of an object file."""
    answer = run_compiler([*command, "-print-prog-name=size"]).stdout.strip() or "size"
    tool = shutil.which(answer) or shutil.which("size")
    if tool is None:
        raise BuildError(
            f"{answer}, which tells how large an object file is, was not found; install the binutils of {command[0]}"
        )
    words = run_compiler([tool, file], folder).stdout.split()
    if len(words) < 8 or not words[6].isdigit():
        raise BuildError(
            f"{tool} {file} said {' '.join(words)!r}; the sizes of text, data and bss are expected"
        )
    return int(words[6]), int(words[7]) + int(words[8])


def _deepest(graph: str, stem: str) -> tuple[int, tuple[str, ...]]:
    """The most stack of any chain of calls from the controller's functions, and the functions of others on any.

    graph: the compiler's call graph (-fcallgraph-info=su), in which every function of the file says what it takes.
    """
    own = {title: _STACK.search(label) for title, label in _NODE.findall(graph)}
    taken = {title: int(found.group(1)) for title, found in own.items() if found}
    calls: dict[str, set[str]] = defaultdict(set)
    for source, target in _EDGE.findall(graph):
        calls[source].add(target)
    depths: dict[str, int] = {}

    def depth(title: str, above: tuple[str, ...]) -> int:
        if title in above:
            raise BuildError(f"{title.rpartition(':')[2]} calls itself, so that its stack has no bound")
        if title not in depths:
            below = max((depth(called, (*above, title)) for called in calls[title]), default=0)
            depths[title] = taken.get(title, 0) + below
        return depths[title]

    entries = [
        title
        for title in taken
        if title.rpartition(":")[2] in {f"{stem}_solve", f"{stem}_shift", f"{stem}_init"}
    ]
    outside = sorted({title for title in set().union(*calls.values()) if title not in taken})
    return max((depth(title, ()) for title in entries), default=0), tuple(outside)
