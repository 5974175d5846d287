"""zig as the C compiler: clang with headers and linker in one pip package, ``mpcgen[compiler]``, which needs no other.

`zig cc` takes clang's flags and differs in four things, seen with ziglang 0.17.1. Without -march it compiles for the
CPU it runs on, where gcc and clang compile for any. It calls instruction sets x86_64_v3 and takes the hyphens of
x86-64-v3 for switches of single features. Without -O it adds checks for undefined behaviour that end the process, and
their run time. It keeps what it makes, some 50 MB, in a cache of its own, by default the user's.
"""

import importlib.util
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

PLAIN_CPU = "-mcpu=baseline"
"""Code for any CPU of this kind."""
FLAGS = ("-fno-sanitize=undefined",)
LINK_FLAGS = ("-O2", PLAIN_CPU, *FLAGS)
"""Linking compiles, too: the compiler's run time, once for each choice of these."""
LIBMVEC = ("-Wl,--allow-shlib-undefined", "-l:libmvec.so.1")
"""By its file's name, since only the C library's development package has a linker's. The linker does not know a symbol
that the library takes of its loader."""

_RELEASE = re.compile(r"\d+\.\d+\.\d+\S*")
_VERSIONED = re.compile(r"(linux|gnu|musl|macos)[\d.]+")


def find() -> list[str] | None:
    """The command that starts the pip package's compiler; None where it is not installed in this Python."""
    spec = importlib.util.find_spec("ziglang")
    folders = (spec.submodule_search_locations or []) if spec else []
    zig = shutil.which("zig", path=os.pathsep.join(folders)) if folders else None
    return [zig, "cc"] if zig else None


def version_command(command: Sequence[str]) -> list[str] | None:
    """What asks zig for its version, if ``command`` may be zig's: `zig version` for `zig cc`."""
    at = list(command).index("cc") if "cc" in command else 0
    return [*command[:at], "version"] if at else None


def full_version(answer: str, clang: str) -> str | None:
    """Name zig's and clang's versions, if ``answer`` is what `zig version` says; ``clang``: what --version said."""
    release = answer.strip()
    return f"zig {release}, {clang}" if _RELEASE.fullmatch(release) else None


def triple(words: str) -> str | None:
    """The machine that `zig cc --version` says it compiles for, without versions of kernel and C library.

    -dumpmachine names zig's own build instead, on Linux one with musl.
    """
    target = re.search(r"^Target: (\S+)", words, re.MULTILINE)
    return _VERSIONED.sub(r"\1", target.group(1)) if target else None


def machine_flags(flags: Sequence[str]) -> tuple[str, ...]:
    """Flags of an instruction set as zig has them; where there are none, those for any CPU."""
    own = tuple(f"-mcpu={f[7:].replace('-', '_')}" if f.startswith("-march=") else f for f in flags)
    return own if any(flag.startswith("-mcpu=") for flag in own) else (PLAIN_CPU, *own)


def environment(folder: Path) -> dict[str, str]:
    """Variables that let zig keep what it makes in ``folder``, unless the user has named a place.

    It has to be one that can be written: where it cannot, zig tries for ever.
    """
    names = ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")
    return {name: str(folder) for name in names if name not in os.environ}
