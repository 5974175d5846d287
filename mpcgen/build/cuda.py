"""The CUDA build of a controller: the same C text, compiled as CUDA C++ into a library that a plain C interface opens.

nvcc is that of the PATH, of CUDA_HOME, or of pip's packages (the extra ``mpcgen[cuda]``). CUDA's runtime is linked in
statically, its symbols hidden: the library needs nothing but the driver where it runs, and meets no second copy of a
shared runtime beside torch's. What both runtimes share, the device's primary context and its streams, is the driver's.

Of kernels there are two kinds, a thread per problem and a warp per problem; `mpcgen.build.cuda_kernel` chooses.

``cuda-host`` is the same text compiled by a C++ compiler over ``mpcgen_shim.h``: the CUDA kernels on the CPU, one
thread after the other. It exists for tests on machines without a GPU.
"""

import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpcgen.build.compiling import run_all, run_one
from mpcgen.build.digest import HEADER_FOLDER
from mpcgen.build.extension import write_sources
from mpcgen.build.toolchain import ANSWER_SECONDS, run_compiler, split_command
from mpcgen.codegen.rendered import Rendered
from mpcgen.errors import BuildError, CompilerNotFoundError, pip_install
from mpcgen.runtime.loading import DTYPES, bits_of, interface_name, library_name

DEFAULT_ARCHITECTURES = ("sm_80+PTX",)
PRECISIONS = tuple(map(bits_of, DTYPES))
HOST_COMPILERS = ("g++", "clang++", "c++")
# Not --use_fast_math: it would round sin, division and square root otherwise than the CPU does.
BASE_FLAGS = ("-std=c++20", "-DMPCGEN_CUDA=1")
NVCC_FLAGS = ("-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-Xptxas", "-v")
NVCC_LINK_FLAGS = ("-shared", "-cudart", "static", "-Xlinker", "--exclude-libs,ALL")
HOST_FLAGS = ("-O1", "-x", "c++", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")

_ARCHITECTURE = re.compile(r"sm_(\d{2,3}[af]?)(\+PTX)?")


@dataclass(frozen=True)
class Resources:
    """What ptxas gave a kernel: registers per thread, bytes of stack, bytes stored and loaded by spills.

    ``shared``: bytes of shared memory of a block.
    """

    kernel: str
    precision: int
    architecture: str
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int


@dataclass(frozen=True)
class CudaToolchain:
    """nvcc and the architectures to build for; or, without architectures, a C++ compiler and the shim.

    ``kernel``: what works on a problem, a "thread" or a "warp". ``dtypes``: the precisions to compile.
    """

    command: tuple[str, ...]
    version: str
    architectures: tuple[str, ...]
    library_folders: tuple[str, ...] = ()
    kernel: str = "thread"
    dtypes: tuple[str, ...] = DTYPES

    @property
    def precisions(self) -> tuple[int, ...]:
        """Bits of a number in each compilation."""
        return tuple(map(bits_of, self.dtypes))

    @property
    def is_shim(self) -> bool:
        """Whether the kernels are to run on the host."""
        return not self.architectures

    @property
    def kind(self) -> str:
        """Name of the target: ``cuda`` or ``cuda-host``."""
        return "cuda-host" if self.is_shim else "cuda"

    @property
    def target(self) -> str:
        """What the build is for, in words."""
        return "the host, over CUDA's shim" if self.is_shim else ", ".join(self.architectures)

    @property
    def description(self) -> str:
        """Target and compiler, for a message."""
        return f"{self.target} with {self.version}"

    @property
    def compile_flags(self) -> tuple[str, ...]:
        """Flags for the kernels."""
        base = (*BASE_FLAGS, f"-DMPCGEN_WARP={int(self.kernel == 'warp')}")
        if self.is_shim:
            return (*base, *HOST_FLAGS)
        return (*base, *NVCC_FLAGS, "-x", "cu", *map_architectures(self.architectures))

    @property
    def link_flags(self) -> tuple[str, ...]:
        """Flags that make the linker write the library."""
        if self.is_shim:
            return ("-shared",)
        return (*NVCC_LINK_FLAGS, *(f"-L{folder}" for folder in self.library_folders))

    @property
    def identity(self) -> str:
        """Compiler and every flag: what of the toolchain can change the machine code."""
        return "\n".join((*self.command, self.version, *self.dtypes, *self.compile_flags, *self.link_flags))


def map_architectures(architectures: Sequence[str]) -> tuple[str, ...]:
    """Flags of nvcc for names such as sm_90, or sm_80+PTX, which later devices compile anew when they load it."""
    flags = []
    for name in architectures:
        match = _ARCHITECTURE.fullmatch(name)
        if match is None:
            raise BuildError(
                f"unknown architecture {name!r}; expected names such as sm_90, or sm_80+PTX for devices to come"
            )
        number, ptx = match.groups()
        flags += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
        if ptx:
            flags += ["-gencode", f"arch=compute_{number},code=compute_{number}"]
    return tuple(flags)


def find_cuda_toolchain(architectures: Sequence[str] | None = None) -> CudaToolchain:
    """nvcc, for these architectures; default: those of the GPUs of this machine, else `DEFAULT_ARCHITECTURES`.

    Raises CompilerNotFoundError where there is no nvcc, BuildError for an architecture that is no name of one.
    """
    nvcc = _find_nvcc()
    chosen = tuple(architectures or _present_architectures() or DEFAULT_ARCHITECTURES)
    map_architectures(chosen)
    root = Path(nvcc).resolve().parent.parent
    folders = tuple(str(root / name) for name in ("lib64", "lib") if (root / name).is_dir())
    return CudaToolchain((nvcc,), _version((nvcc,)), chosen, folders)


def find_shim_toolchain() -> CudaToolchain:
    """A C++ compiler for the shim: CXX, else the first of `HOST_COMPILERS` on the PATH."""
    named = os.environ.get("CXX", "").strip()
    for command in [split_command("CXX", named)] if named else [[name] for name in HOST_COMPILERS]:
        path = shutil.which(command[0])
        if path is not None:
            return CudaToolchain((path, *command[1:]), _version((path, *command[1:])), ())
    if named:
        raise CompilerNotFoundError(
            f"no C++ compiler found: CXX={named} names none on the PATH; unset CXX, or set it to one, e.g. CXX=g++"
        )
    raise CompilerNotFoundError(
        f"no C++ compiler found: looked for {', '.join(HOST_COMPILERS)} on the PATH. Install one, e.g. "
        f"`apt install g++`, or set CXX to its path"
    )


def compile_cuda_library(
    rendered: Rendered,
    directory: Path,
    digest: str,
    toolchain: CudaToolchain,
    extra_flags: Sequence[str] = (),
    report: Callable[[str], None] | None = None,
) -> tuple[Resources, ...]:
    """Write the package's text into ``directory`` and compile its CUDA library there; returns what ptxas reported.

    ``digest`` is compiled in. ``extra_flags`` go to the compiler. ``report`` is called with warnings. Raises
    BuildError.
    """
    precisions = toolchain.precisions
    write_sources(rendered, directory)
    _write_interface(rendered, directory, toolchain.kind)
    commands = [
        [
            *compile_command(toolchain, precision, digest),
            *extra_flags,
            source_file(rendered, toolchain),
            "-o",
            _object(precision),
        ]
        for precision in precisions
    ]
    words = run_all(commands, directory)
    objects = [_object(precision) for precision in precisions]
    library = library_name(rendered.name, toolchain.kind)
    run_one([*toolchain.command, *toolchain.link_flags, *objects, "-o", library], directory)
    for temporary in objects:
        (directory / temporary).unlink()
    warnings = "".join(_without_resources(text) for text in words)
    if warnings and report is not None:
        report(warnings)
    return tuple(
        row
        for precision, text in zip(precisions, words, strict=True)
        for row in read_resources(text, precision)
    )


def source_file(rendered: Rendered, toolchain: CudaToolchain) -> str:
    """The file of a package that is compiled for the toolchain's kernels."""
    return rendered.warp_file if toolchain.kernel == "warp" else f"{rendered.stem}.c"


def compile_command(toolchain: CudaToolchain, precision: int, digest: str) -> list[str]:
    """The command that compiles a precision, but for its source and its object file."""
    definitions = [f"-DMPCGEN_PRECISION={precision}"]
    if precision == toolchain.precisions[0]:
        definitions.append(f'-DMPCGEN_DIGEST="{digest}"')
    return [*toolchain.command, *toolchain.compile_flags, *definitions, f"-I{HEADER_FOLDER}", "-c"]


def read_resources(text: str, precision: int) -> list[Resources]:
    """What `ptxas -v` says of each kernel."""
    rows = []
    entry = re.compile(
        r"Compiling entry function '(?:_ZN?\S*?\d+)?(?P<kernel>[a-z][a-z_]*_kernel)\S*' for '(?P<architecture>\w+)'"
        r".*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
        r".*?Used (?P<registers>\d+) registers(?:[^\n]*?(?P<shared>\d+) bytes smem)?",
        re.DOTALL,
    )
    for match in entry.finditer(text):
        sizes = (int(match[name] or 0) for name in ("registers", "stack", "stores", "loads", "shared"))
        rows.append(Resources(match["kernel"], precision, match["architecture"], *sizes))
    return rows


def _without_resources(text: str) -> str:
    quiet = re.compile(r"ptxas info|^\s*\d+ bytes stack frame|^\s*$|^\s*Function properties", re.MULTILINE)
    return "".join(f"{line}\n" for line in text.splitlines() if not quiet.search(line))


def _object(precision: int) -> str:
    return f"cuda_{precision}.o"


def _write_interface(rendered: Rendered, directory: Path, kind: str) -> None:
    """Write the library's declarations as the module that cffi opens it with, without a C parser at run time."""
    import cffi  # takes longer than an unchanged build should

    builder = cffi.FFI()
    try:
        builder.cdef(rendered.cdef + rendered.cuda_cdef)
    except (cffi.FFIError, cffi.CDefError) as error:
        raise BuildError(f"cffi cannot read the declarations of {rendered.stem}.h: {error}") from error
    file = interface_name(rendered.name, kind)
    builder.set_source(Path(file).stem, None, compiler_verbose=0)
    builder.emit_python_code(str(directory / file))


def _find_nvcc() -> str:
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    places = [shutil.which(str(Path(home) / "bin" / "nvcc")) for home in homes]
    places += [shutil.which("nvcc"), *(shutil.which(path) for path in _pip_nvccs())]
    found = next((place for place in places if place), None)
    if found is None:
        raise CompilerNotFoundError(
            "no nvcc found: looked in CUDA_HOME, on the PATH and among this Python's packages. Install NVIDIA's CUDA "
            f"toolkit, or its compiler from pip with `{pip_install('cuda')}`"
        )
    return found


def _pip_nvccs() -> list[str]:
    """Where pip's packages put nvcc: nvidia/cu13/bin, and nvidia/cuda_nvcc/bin before CUDA 13."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return [str(path) for folder in folders for path in sorted(Path(folder).glob("*/bin/nvcc"), reverse=True)]


@functools.cache
def _present_architectures() -> tuple[str, ...]:
    """Those of this machine's GPUs, each once; none where the driver's tool is missing or finds none."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ()
    lines = (line.strip() for line in process.stdout.splitlines())
    capabilities = (line.replace(".", "") for line in lines if re.fullmatch(r"\d+\.\d+", line))
    return tuple(dict.fromkeys(f"sm_{capability}" for capability in capabilities))


@functools.cache
def _version(command: tuple[str, ...]) -> str:
    process = run_compiler([*command, "--version"], seconds=ANSWER_SECONDS)
    lines = process.stdout.strip().splitlines()
    if process.returncode != 0 or not lines:
        raise CompilerNotFoundError(
            f"{shlex.join(command)} --version failed with exit code {process.returncode}; "
            f"it said: {process.stderr.strip() or 'nothing'}"
        )
    return next(
        (line for line in lines if "release" in line), lines[0]
    )  # nvcc's first line is its name alone
