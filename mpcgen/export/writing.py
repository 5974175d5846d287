"""Writing a controller as a folder of C99."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from mpcgen.build.compiling import run_one
from mpcgen.build.digest import HEADER_FOLDER
from mpcgen.build.toolchain import GCC_FLAGS, Compiler, find_compiler
from mpcgen.codegen.export import (
    MAX_ITERATIONS,
    NUMBERS,
    UNKNOWN_WORKSPACE,
    ExportOptions,
    default_prefix,
    is_taken,
    struct_members,
)
from mpcgen.codegen.problem_text import stage_operations
from mpcgen.compiler import Compilation
from mpcgen.derivative.kernels import FUSED_LIMIT
from mpcgen.errors import BuildError, SpecError
from mpcgen.problem.problem import Problem
from mpcgen.problem.spec import Spec, spec_of

METHODS = ("ddp", "interior_point")
HESSIANS = ("exact", "gauss_newton")
SMALL_FUSED_LIMIT = 500
"""Largest number of products in F'VF that is written out where code is to be small: Cortex-M4, gcc 12 -Os, float32.

An explicit Euler step of a quadrotor with 12 states takes 21.8 kB with loops and 36.3 kB without; cartpole 9.9 kB
either way, and a pendulum 6.5 kB with loops and 6.2 kB without.
"""
STRICT_FLAGS = ("-std=c99", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
"""What the exported Makefile gives the compiler: no -ffast-math."""


def strict_flags(compiler: Compiler) -> tuple[str, ...]:
    """`STRICT_FLAGS`, and what gcc gets besides, as in the Makefile."""
    return STRICT_FLAGS if compiler.is_clang else (*STRICT_FLAGS, *GCC_FLAGS)


SWEEPS_A_PASS = {"ddp": 2, "interior_point": 42}
"""Most backward sweeps of a pass that counts, by method, each with at most one evaluation of the horizon beside it.

Box-DDP's passes are a rollout and a sweep, and where second derivatives overflow another of each, without them. The
interior point sweeps again where a Hessian is refused: once without second derivatives, and with shifts that grow
eightfold from 1e-17 at least to 1e18 at most, which are 39; and once more to certify a solution. It evaluates 13
lengths of a step, and 15 rollouts in a restoration.
"""
PASSES_BESIDE = {"ddp": 2, "interior_point": 10}
"""Passes that a solve does not count: to begin and to certify; to begin each of the interior point's attempts."""

_LICENSE = """The files of this folder were written by mpcgen and are yours. Those whose names begin with
mpcgen_ are part of it, and come under its licence:

"""


@dataclass(frozen=True)
class Exported:
    """An exported controller: its folder, what its files begin with, and what it was made for.

    ``files``: names, in the folder. ``workspace``: numbers that a solve works in, of the struct. ``operations``: of a
    pass over the horizon, about; ``most``: the same where Newton's method takes all the steps that it may, of an
    implicit integrator. ``controls``: m. ``members``: of the struct's parameters, what each is called there.
    """

    path: Path
    files: tuple[str, ...]
    options: ExportOptions
    workspace: int
    operations: int
    most: int
    controls: int
    members: dict[str, str]

    def most_operations(self, passes: int) -> int:
        """Operations of the stage functions, at most, in a solve that counts so many passes.

        Derived from the bounds of the solver's loops. Linear algebra between the stage functions is not in it.
        """
        method = self.options.method
        return SWEEPS_A_PASS[method] * (passes + PASSES_BESIDE[method]) * self.most

    @property
    def source(self) -> Path:
        """The C file."""
        return self.path / f"{self.options.prefix}.c"


def export(
    problem: Problem | Spec,
    directory: str | Path,
    *,
    dtype: Any = "float32",
    horizon: int | None = None,
    method: str | None = None,
    hessian: str = "exact",
    constants: Sequence[str] = (),
    small: bool = False,
    gradient: bool = False,
    prefix: str | None = None,
    max_iterations: int = MAX_ITERATIONS,
    start: Sequence[float] | None = None,
) -> Exported:
    """Write ``problem`` to the folder ``directory`` as C99 that needs a compiler and libm, no heap and no files.

    dtype: torch.float32 or torch.float64, or its name. horizon: N; default: the problem's. method: "ddp" or
    "interior_point"; default: the latter if there are constraints besides bounds of controls, which take it. hessian:
    "gauss_newton" leaves out the second derivatives of the dynamics, for box-DDP alone: less code, more passes.
    constants: parameters that become their defaults; others stay members of the struct. small:
    loops in place of long products, for less code and some more time. gradient: a function
    besides that differentiates a loss through the solution, by x0 and the parameters. prefix: what files and
    functions begin with; default: the problem's name. max_iterations: most passes of a solve, a
    member of the struct that begins with this value. start: the state, n numbers, that the example begins at;
    default: zero.

    The folder may exist; files of these names in it are written over. Raises SpecError for options that do not fit the
    problem, BuildError where the folder cannot be written or the compiler does not take the text, and
    CompilerNotFoundError.
    """
    spec = spec_of(problem)
    if start is not None and len(start) != len(spec.states):
        raise SpecError(f"start={list(start)!r}; the {len(spec.states)} states of {spec.name!r} are expected")
    if start is not None and not all(map(isfinite, start)):
        raise SpecError(f"start={list(start)!r}; finite numbers are expected")
    options = export_options(spec, dtype, horizon, method, hessian, constants, prefix)
    if gradient and hessian != "exact":
        raise SpecError("gradient=True needs second derivatives; leave hessian='exact'")
    if type(max_iterations) is not int or not 1 <= max_iterations < 2**31:
        raise SpecError(f"max_iterations={max_iterations!r}; a whole number from 1 to 2^31 - 1 is expected")
    options = replace(options, gradient=gradient, max_iterations=max_iterations)
    limit = SMALL_FUSED_LIMIT if small else FUSED_LIMIT
    compilation = Compilation(spec, limit, options.constants)
    compiler = find_compiler()
    with tempfile.TemporaryDirectory(prefix="mpcgen-export-") as folder:
        trial = Path(folder)
        write_files(trial, compilation.exported(options, UNKNOWN_WORKSPACE))
        workspace = _workspace(compiler, trial, options)
        headers = included_headers(compiler, trial, f"{options.prefix}.c", ["-std=c99"])
    texts = compilation.exported(options, workspace, start) | {"LICENSE": license_text()}
    path = Path(directory)
    write_files(path, texts | headers)
    stage = (compilation.derived, compilation.passes)
    operations, most = (options.horizon * stage_operations(*stage, most=each) for each in (False, True))
    members = struct_members(compilation.graph.signature.parameters)
    return Exported(
        path,
        tuple(sorted(texts | headers)),
        options,
        workspace,
        operations,
        most,
        len(spec.controls),
        members,
    )


def export_options(
    spec: Spec,
    dtype: Any,
    horizon: int | None,
    method: str | None,
    hessian: str,
    constants: Sequence[str],
    prefix: str | None,
) -> ExportOptions:
    """Return what `export` makes a controller for. Raises SpecError for options that do not fit the problem."""
    name = str(dtype).removeprefix("torch.")
    if name not in NUMBERS:
        raise SpecError(f"dtype={dtype!r}; expected {' or '.join(NUMBERS)}")
    if horizon is not None and (type(horizon) is not int or horizon < 1):
        raise SpecError(f"horizon={horizon!r}; a whole number of at least 1 is expected")
    chosen = method or ("interior_point" if spec.constraints else "ddp")
    if chosen not in METHODS:
        raise SpecError(f"method={method!r}; expected of {', '.join(METHODS)}")
    if chosen == "ddp" and spec.constraints:
        raise SpecError(
            f"{spec.name!r} has constraints besides the bounds of its controls, which box-DDP does not know; "
            "export it with method='interior_point'"
        )
    if hessian not in HESSIANS:
        raise SpecError(f"hessian={hessian!r}; expected of {', '.join(HESSIANS)}")
    if hessian == "gauss_newton" and chosen != "ddp":
        raise SpecError(
            "hessian='gauss_newton' is for method='ddp'; the interior point has second derivatives"
        )
    if isinstance(constants, str):
        raise SpecError(f"constants={constants!r}; a list of names is expected, such as [{constants!r}]")
    stem = default_prefix(spec.name) if prefix is None else prefix
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", stem) or stem.startswith("mpcgen") or is_taken(stem):
        raise SpecError(
            f"prefix={prefix!r}; an identifier of C is expected that does not begin with mpcgen and is the name of no "
            "header of C's nor 'example', such as 'controller'"
        )
    return ExportOptions(
        name, horizon or spec.horizon, chosen, hessian, tuple(dict.fromkeys(constants)), stem
    )


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files by their places in a folder, which is made. Raises BuildError where it cannot be written."""
    try:
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise BuildError(f"cannot write to {folder}: {error}; choose another folder with -o") from error


def license_text() -> str:
    """Whose the exported files are, and the licence of those that are mpcgen's."""
    beside = Path(__file__).parents[2] / "LICENSE"
    if beside.is_file():
        return _LICENSE + beside.read_text(encoding="utf-8")
    from importlib.metadata import distribution

    text = distribution("mpcgen").read_text("licenses/LICENSE")
    return _LICENSE + (text or "MIT\n")


def _workspace(compiler: Compiler, folder: Path, options: ExportOptions) -> int:
    """Numbers that a solve works in, as the compiler counts them."""
    (folder / "mpcgen_count.c").write_text(
        f'#include "{options.prefix}.c"\n#include <stdio.h>\n'
        'int main(void) { printf("%lu\\n", (unsigned long)workspace_numbers()); return 0; }\n',
        encoding="utf-8",
    )
    command = [
        *compiler.command,
        "-std=c99",
        "-O0",
        f"-I{HEADER_FOLDER}",
        "mpcgen_count.c",
        "-o",
        "mpcgen_count",
        "-lm",
    ]
    run_one(command, folder)
    return int(subprocess.run([folder / "mpcgen_count"], check=True, capture_output=True, text=True).stdout)


def included_headers(compiler: Compiler, folder: Path, source: str, flags: Sequence[str]) -> dict[str, str]:
    """The runtime headers that a source includes, in turn those that they do, with their text."""
    run_one([*compiler.command, *flags, "-MM", f"-I{HEADER_FOLDER}", source, "-MF", "needs"], folder)
    words = (folder / "needs").read_text(encoding="utf-8").replace("\\\n", " ").split()
    names = sorted(Path(word).name for word in words if Path(word).parent == HEADER_FOLDER)
    return {name: (HEADER_FOLDER / name).read_text(encoding="utf-8") for name in names}
