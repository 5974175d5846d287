"""What mpcgen needs and finds on this machine, and what to do about what is missing: `mpcgen doctor`."""

import importlib.metadata
import importlib.util
import platform
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mpcgen
from mpcgen.build import cache, zig
from mpcgen.build.compiling import cores, run_one
from mpcgen.build.cuda import find_cuda_toolchain
from mpcgen.build.target import known_targets, select_target
from mpcgen.build.toolchain import Toolchain, find_compiler, find_toolchain
from mpcgen.errors import MpcgenError, pip_install
from mpcgen.runtime.cpu import describe_cpu
from mpcgen.runtime.loading import ABI

OPTIONAL = {
    "casadi": ("baseline", "models from CasADi, `mpcgen compare` and the baseline"),
    "numpy": ("baseline", "the baseline and `mpcgen export`"),
    "matplotlib": ("plot", "`mpcgen.plot`"),
    "gymnasium": ("rl", "the paper's experiments and examples/reinforcement_learning.py"),
    "ray": ("ray", "examples/sweep_ray.py"),
    "pyarrow": ("ray", "the files of examples/sweep_ray.py"),
}
"""Packages that parts of mpcgen need: the extra that installs each, and what for."""

_ONE_LINE = """#include <math.h>
double probe(double x);
__attribute__((visibility("default"))) double probe(double x) { return sqrt(x) + exp(x - 4.0); }
"""
_CALL = """
import ctypes, sys
probe = ctypes.CDLL(sys.argv[1]).probe
probe.restype, probe.argtypes = ctypes.c_double, [ctypes.c_double]
print(probe(4.0))
"""


@dataclass(frozen=True)
class Found:
    """One thing that was looked for: what was found, or None; what to do; whether mpcgen works without it."""

    name: str
    value: str | None
    remedy: str = ""
    needed: bool = True

    @property
    def is_lacking(self) -> bool:
        """Whether mpcgen cannot work so."""
        return self.needed and self.value is None

    def __str__(self) -> str:
        mark = "FAIL" if self.is_lacking else "ok  " if self.value is not None else "-   "
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{mark} {self.name:<16} {self.value or 'none'}{remedy}"


def examine() -> Iterator[Found]:
    """Look at Python, cache, compiler, instruction set, torch, CUDA and optional packages, one after the other.

    What is lacking is found, not raised. Compiles and runs a one-line program.
    """
    yield Found("mpcgen", f"{mpcgen.__version__}, interface {ABI}, in {Path(mpcgen.__file__).parent}")
    yield Found("Python", f"{platform.python_version()}, {sys.executable}")
    yield _headers()
    yield _cache()
    compiler = _compiler()
    yield compiler
    yield _instruction_set()
    if not compiler.is_lacking:
        yield _try_out()
    yield _torch()
    yield from _cuda()
    for package, (extra, purpose) in OPTIONAL.items():
        found = _release(package)
        remedy = "" if found else f"for {purpose}: {pip_install(extra)}"
        yield Found(package, found, remedy, needed=False)


def _headers() -> Found:
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    remedy = (
        f"{header} is missing: `apt install python3-dev` or `dnf install python3-devel`; without the rights to, "
        "a Python of `uv python install` or conda has them"
    )
    return (
        Found("Python's headers", str(header))
        if header.is_file()
        else Found("Python's headers", None, remedy)
    )


def _compiler() -> Found:
    try:
        compiler = find_compiler()
    except MpcgenError as error:
        return Found("C compiler", None, str(error))
    return Found("C compiler", f"{compiler.version} for {compiler.triple}, {shlex.join(compiler.command)}")


def _instruction_set() -> Found:
    names = ", ".join(target.name for target in known_targets())
    return Found(
        "instruction set", f"{select_target()}; the CPU has {describe_cpu()}; --march can be {names}"
    )


def _try_out() -> Found:
    """Compile a line with the kernels' flags, link it, and call it in a process of its own."""
    name = "a trial"
    try:
        toolchain = find_toolchain()
        with tempfile.TemporaryDirectory(prefix="mpcgen-doctor-") as folder:
            answer = _answer_of(toolchain, Path(folder))
    except (MpcgenError, OSError) as error:
        return Found(name, None, f"a one-line program cannot be compiled: {error}")
    if answer.strip() == "3.0":
        maths = "with" if toolchain.libmvec else "without"
        return Found(name, f"a one-line program compiles and runs, {maths} glibc's vector library")
    remedy = f"a one-line program compiles, but does not run; it said {answer.strip()!r}; set CC to another compiler"
    return Found(name, None, remedy)


def _answer_of(toolchain: Toolchain, folder: Path) -> str:
    (folder / "probe.c").write_text(_ONE_LINE, encoding="utf-8")
    command = toolchain.compiler.command
    run_one([*command, *toolchain.compile_flags, "-c", "probe.c", "-o", "probe.o"], folder)
    run_one([*command, *toolchain.link_flags, "probe.o", "-o", "probe.so", *toolchain.libraries], folder)
    process = subprocess.run(
        [sys.executable, "-c", _CALL, str(folder / "probe.so")], capture_output=True, text=True, check=False
    )
    return process.stdout if process.returncode == 0 else process.stderr or f"exit code {process.returncode}"


def _cache() -> Found:
    root = cache.cache_root()
    remedy = f"{root} cannot be written; set MPCGEN_CACHE_DIR to a folder that you can write"
    try:
        cache.require_writable()
        found = cache.contents()
    except OSError as error:
        return Found("cache", None, f"{remedy} ({error})")
    return Found(
        "cache", f"{root}, writable, {sum(found.packages.values())} packages, {found.size / 2**20:.1f} MiB"
    )


def _torch() -> Found:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Found("torch", None, f"it cannot be imported ({error}); pip install torch")
    return Found("torch", f"{torch.__version__}, {torch.get_num_threads()} threads of {cores()} cores")


def _cuda() -> Iterator[Found]:
    if importlib.util.find_spec("torch") is not None:
        import torch

        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        why = "" if names else "problems are solved on the CPU"
        if not names and torch.version.cuda is None:
            why += "; this torch is built without CUDA"
        yield Found("CUDA devices", ", ".join(names) or None, why, needed=False)
    try:
        toolchain = find_cuda_toolchain()
        yield Found("nvcc", f"{toolchain.version}, {shlex.join(toolchain.command)}", needed=False)
    except MpcgenError:
        remedy = f"to build for CUDA: {pip_install('cuda')}, or set CUDA_HOME"
        yield Found("nvcc", None, remedy, needed=False)
    remedy = f"a C compiler where there is none: {pip_install('compiler')}"
    version = _release("ziglang") if zig.find() else None
    yield Found("ziglang", version, "" if version else remedy, needed=False)


def _release(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
