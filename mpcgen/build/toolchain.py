"""The C compiler of this machine and every flag that it is given."""

import functools
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mpcgen.build import zig
from mpcgen.build.cache import cache_root, note, working_folder
from mpcgen.build.target import Target, select_target
from mpcgen.errors import BuildError, CompilerNotFoundError, pip_install
from mpcgen.runtime.loading import DTYPES

COMPILERS = ("gcc", "clang", "cc")
# Not -ffast-math: the solver's tests for NaN and infinity must mean what they say.
BASE_FLAGS = ("-std=gnu11", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
# Problems whose stage is many operations take a third less of gcc's time so, lqr(8, 4) 2.7 s per precision instead of
# 4.0, and run 2 % slower; small ones would lose 4 to 20 %. The three passes that gcc leaves out bring nothing on
# straight-line code.
SMALL_FLAGS = ("-O3",)
# Kernels are written in vectors, so the loops over single numbers that are left load and store problems: vectors of
# those, and copies of functions for the arguments of some calls, are a tenth of the machine code and bring nothing.
SMALL_GCC_FLAGS = ("-fno-tree-loop-vectorize", "-fno-ipa-cp-clone")
LARGE_FLAGS = ("-O2",)
LARGE_GCC_FLAGS = ("-fno-gcse", "-fno-tree-vrp", "-fno-schedule-insns2")
# One problem is scalar code: looking for vectors in it takes a third of gcc's time at n = 37 and finds next to nothing.
SINGLE_FLAGS = ("-fno-tree-vectorize",)
HIDDEN_FLAGS = ("-fvisibility=hidden",)
# gcc (12.2 is one) gives arrays of a loop's body and arrays that live around the loop the same memory where it has made
# the latter's addresses multiples of the counter: a product of two implicit steps was overwritten. Frames are larger
# so, and nothing that was measured is slower.
GCC_FLAGS = ("-fstack-reuse=none",)
# clang warns of loops that it unrolled in part only, as if that were a fault.
CLANG_FLAGS = ("-Wno-pass-failed",)
WARNING_FLAGS = ("-Wall", "-Wextra", "-Werror=implicit-function-declaration")
# Importing an extension runs its glue on whatever CPU is there, so it gets no flag of an instruction set.
GLUE_FLAGS = ("-O1", "-std=gnu11", "-fPIC", "-fvisibility=hidden")

LIBMVEC_PROBE = """
typedef double pair __attribute__((vector_size(16)));
pair _ZGVbN2v_sin(pair);
pair _ZGVbN2v_tan(pair);
pair _ZGVbN2v_erf(pair);
pair _ZGVbN2vv_atan2(pair, pair);
int main(void)
{
    pair x = {0.5, 0.25};
    x = _ZGVbN2vv_atan2(_ZGVbN2v_sin(x), _ZGVbN2v_tan(_ZGVbN2v_erf(x)));
    return x[0] > 1.0;
}
"""
"""Links where glibc's vector math library is complete: glibc 2.35 or later on x86-64."""
ANSWER_SECONDS = 60.0
"""Time for a compiler to say who it is: zig's first answer on a slow disk takes seconds."""


@dataclass(frozen=True)
class Compiler:
    """A C compiler: the command that starts it, its version's first line and the machine it compiles for."""

    command: tuple[str, ...]
    version: str
    triple: str

    @property
    def is_clang(self) -> bool:
        """Whether this is clang, by whatever name it is called."""
        return "clang" in self.version

    @property
    def is_zig(self) -> bool:
        """Whether this is zig, which is clang besides."""
        return self.version.startswith("zig ")

    def machine_flags(self, flags: Sequence[str] = ()) -> tuple[str, ...]:
        """Flags of an instruction set, such as -march=x86-64-v3, as this compiler has them; none: for any CPU."""
        return zig.machine_flags(flags) if self.is_zig else tuple(flags)

    @property
    def libmvec(self) -> tuple[str, ...]:
        """What links glibc's vector math library."""
        return zig.LIBMVEC if self.is_zig else ("-lmvec",)

    @property
    def identity(self) -> str:
        """What distinguishes this compiler from another, in one line."""
        return f"{' '.join(self.command)}; {self.version}; {self.triple}"


@dataclass(frozen=True)
class Toolchain:
    """A compiler, a target, whether glibc's vector math library can be linked, and the precisions to compile.

    ``on_demand``: kernels are compiled when they are first called.
    """

    compiler: Compiler
    target: Target
    libmvec: bool
    dtypes: tuple[str, ...] = DTYPES
    on_demand: bool = False

    kind: ClassVar[str] = "cpu"

    @property
    def description(self) -> str:
        """Target and compiler, for a message."""
        return f"{self.target} with {self.compiler.version}"

    @property
    def compile_flags(self) -> tuple[str, ...]:
        """Flags for the numerical kernels of a problem whose stage is few operations."""
        return self.flags_for(small=True)

    def flags_for(self, small: bool) -> tuple[str, ...]:
        """Flags for the kernels of a problem whose stage is few operations, or many."""
        clang = self.compiler.is_clang
        level = SMALL_FLAGS if small else LARGE_FLAGS
        gcc_level = SMALL_GCC_FLAGS if small else LARGE_GCC_FLAGS
        own = CLANG_FLAGS if clang else (*gcc_level, *GCC_FLAGS)
        machine = self.compiler.machine_flags(self.target.flags)
        libmvec = ("-DMPCGEN_HAVE_LIBMVEC=1",) if self.libmvec else ()
        return (
            *level,
            *BASE_FLAGS,
            *HIDDEN_FLAGS,
            *WARNING_FLAGS,
            *own,
            *self._zig_flags,
            *machine,
            *libmvec,
        )

    @property
    def glue_flags(self) -> tuple[str, ...]:
        """Flags for cffi's wrapper: no instruction set, so that loading it runs on any CPU."""
        paths = sysconfig.get_paths()
        includes = dict.fromkeys((paths["include"], paths["platinclude"]))
        plain = (*self._zig_flags, *self.compiler.machine_flags())
        return (*GLUE_FLAGS, *plain, *(f"-I{path}" for path in includes))

    @property
    def _zig_flags(self) -> tuple[str, ...]:
        return zig.FLAGS if self.compiler.is_zig else ()

    @property
    def link_flags(self) -> tuple[str, ...]:
        """Flags that make the linker write an extension."""
        shared = ("-bundle", "-undefined", "dynamic_lookup") if sys.platform == "darwin" else ("-shared",)
        return (*shared, "-pthread", *(zig.LINK_FLAGS if self.compiler.is_zig else ()))

    @property
    def libraries(self) -> tuple[str, ...]:
        """Libraries to link, after the objects that need them."""
        return (*self.compiler.libmvec, "-lm") if self.libmvec else ("-lm",)

    @property
    def identity(self) -> str:
        """Compiler, target and every flag: what of the toolchain can change the machine code."""
        flags = (
            *SMALL_FLAGS,
            *self.flags_for(small=False),
            *SINGLE_FLAGS,
            *self.glue_flags,
            *self.link_flags,
            *self.libraries,
        )
        when = ("on demand",) if self.on_demand else ()
        return "\n".join((self.compiler.identity, self.target.name, *self.dtypes, *when, *flags))


def find_toolchain(march: str | None = None) -> Toolchain:
    """The toolchain of this machine for the target ``march`` (default: the widest this CPU runs).

    Raises CompilerNotFoundError, and BuildError for an unknown target or where Python has no headers.
    """
    target = select_target(march)
    compiler = find_compiler()
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        raise BuildError(
            f"Python's C headers are missing ({header}); install them, e.g. `apt install python3-dev` "
            f"or `dnf install python3-devel`"
        )
    return Toolchain(compiler, target, _has_libmvec(compiler))


def find_compiler() -> Compiler:
    """The compiler named by the environment variable CC, else the first of `COMPILERS` on the PATH, else pip's zig."""
    named = os.environ.get("CC", "").strip()
    candidates = [split_command("CC", named)] if named else [[name] for name in COMPILERS]
    for command in candidates:
        path = shutil.which(command[0])
        if path is not None:
            return identify((path, *command[1:]))
    pip_compiler = None if named else zig.find()
    if pip_compiler is not None:
        return identify(tuple(pip_compiler))
    places = f"on the PATH ({os.environ.get('PATH', '')!r})"
    if named:
        raise CompilerNotFoundError(
            f"no C compiler found: CC={named} names none {places}; unset CC, or set it to a compiler and its flags, "
            f"e.g. CC=gcc"
        )
    raise CompilerNotFoundError(
        f"no C compiler found: looked for {', '.join(COMPILERS)} {places}. "
        f"Install one, e.g. `{pip_install('compiler')}`, which needs no rights, `apt install gcc`, "
        f"`dnf install gcc` or `xcode-select --install`, or set CC to its path"
    )


def split_command(variable: str, value: str) -> list[str]:
    """Words of a command that an environment variable holds. Raises CompilerNotFoundError where it is none."""
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise CompilerNotFoundError(
            f"{variable}={value} is no command: {error}; set it to a compiler and its flags, e.g. {variable}='gcc -m64'"
        ) from error
    return words or [value]


def run_compiler(
    command: list[str], directory: Path | None = None, seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a compiler's command line, its words in English and captured.

    ``seconds``: time that it has, without limit by default. Raises CompilerNotFoundError where it does not start, or
    has not ended by then.
    """
    try:
        return subprocess.run(
            command,
            cwd=directory,
            env=_environment(),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise CompilerNotFoundError(
            f"{shlex.join(command)} has not ended after {seconds:g} s; run it by hand to see why, or set CC to another "
            f"compiler"
        ) from error
    except OSError as error:
        raise CompilerNotFoundError(
            f"the C compiler {command[0]} does not start ({error}); reinstall it or set CC to another one"
        ) from error


def start_compiler(command: Sequence[str], directory: Path) -> subprocess.Popen[bytes]:
    """Start a shell that runs compilers, which answers by pipes, in a group of its own, which no terminal interrupts.

    What a compiler keeps meanwhile is in ``directory``, too: one that is killed removes nothing. Raises OSError where
    it does not start.
    """
    return subprocess.Popen(
        command,
        cwd=directory,
        env={**_environment(), "TMPDIR": str(directory)},
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", **zig.environment(working_folder("zig"))}


def identify(command: tuple[str, ...]) -> Compiler:
    """The compiler that a command starts. Raises CompilerNotFoundError where it is none."""
    said = _ask(command, "--version")
    version, triple = said.splitlines()[0], _ask(command, "-dumpmachine").splitlines()[0]
    question = zig.version_command(command) if "clang" in version else None
    own = (
        zig.full_version(run_compiler(question, seconds=ANSWER_SECONDS).stdout, version) if question else None
    )
    return Compiler(command, own or version, (zig.triple(said) if own else None) or triple)


def _ask(command: tuple[str, ...], option: str) -> str:
    process = run_compiler([*command, option], seconds=ANSWER_SECONDS)
    if process.returncode != 0 or not process.stdout.strip():
        raise CompilerNotFoundError(
            f"{shlex.join(command)} {option} failed with exit code {process.returncode}, so it is no "
            f"C compiler that mpcgen can use; unset CC, or set it to gcc or clang. "
            f"It said: {process.stderr.strip() or 'nothing'}"
        )
    return process.stdout.strip()


@functools.cache
def _has_libmvec(compiler: Compiler) -> bool:
    if not compiler.triple.startswith("x86_64") or "linux" not in compiler.triple:
        return False
    key = hashlib.sha256((compiler.identity + LIBMVEC_PROBE).encode()).hexdigest()
    memo = cache_root() / "toolchain" / f"{key}.json"
    try:
        return bool(json.loads(memo.read_text(encoding="utf-8"))["libmvec"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not probed yet, or an unreadable memo: probe
    found = _probe_libmvec(compiler)
    note(memo, json.dumps({"compiler": compiler.identity, "libmvec": found}))
    return found


def _probe_libmvec(compiler: Compiler) -> bool:
    with tempfile.TemporaryDirectory(prefix="mpcgen-probe-") as folder:
        source = Path(folder) / "probe.c"
        source.write_text(LIBMVEC_PROBE, encoding="utf-8")
        flags = zig.LINK_FLAGS if compiler.is_zig else ()
        program = str(Path(folder) / "probe")
        command = [*compiler.command, *flags, str(source), "-o", program, *compiler.libmvec, "-lm"]
        return run_compiler(command).returncode == 0
