"""An exported controller beside the package of the same problem: the same solves, to the bit."""

from __future__ import annotations

import ctypes
import platform
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpcgen.build.compiling import run_one
from mpcgen.build.driver import compile as compile_package
from mpcgen.build.toolchain import find_compiler
from mpcgen.codegen.export import NUMBERS, ExportOptions
from mpcgen.errors import SpecError
from mpcgen.export.writing import Exported, strict_flags
from mpcgen.problem.spec import Spec
from mpcgen.runtime.status import Status

PLAIN_CPU = {"x86_64": "x86-64", "amd64": "x86-64"}
"""Instruction sets without fused multiply-adds, by machine: where there are any, a compiler rounds as it fuses."""

_RUN = """
#include <string.h>
#include "{stem}.h"
void run(int count, const {number} *x0, const {number} *const *values, {number} *x, {number} *u, int32_t *status,
         int32_t *passes);
void run(int count, const {number} *x0, const {number} *const *values, {number} *x, {number} *u, int32_t *status,
         int32_t *passes) {{
  static struct {stem} c;
  (void)values;
  for (int i = 0; i < count; i++) {{
    {stem}_init(&c);
{copies}
    status[i] = {stem}_solve(&c, x0 + i * {stem}_states);
    passes[i] = c.iterations;
    memcpy(x + (size_t)i * sizeof c.x / sizeof *x, c.x, sizeof c.x);
    memcpy(u + (size_t)i * sizeof c.u / sizeof *u, c.u, sizeof c.u);
  }}
}}
"""


@dataclass(frozen=True)
class Check:
    """What `check` found over ``count`` problems.

    ``differing``: problems whose status, passes, states or controls are not those of the package, to the bit.
    ``statuses``: how often each occurred. ``passes``: (count,) of each problem, in the exported controller.
    """

    count: int
    differing: int
    statuses: dict[str, int]
    passes: Any


def check(exported: Exported, spec: Spec, x0: Any, parameters: Mapping[str, Any] | None = None) -> Check:
    """Solve the problems of the states x0 (count, n) with an exported controller and with the package, one by one.

    Both are compiled for this machine's plainest instruction set: without fused multiply-adds there is one right
    rounding of everything. On machines whose plainest has them, single bits may differ. parameters: values of those
    that are not to have their defaults, of their own shape, per-stage ones with the axis of stages. Raises SpecError
    where bits have reasons to differ: see `require_comparable`.
    """
    require_comparable(exported.options, spec)
    dtype = np.dtype(exported.options.dtype)
    starts = np.ascontiguousarray(x0, dtype=dtype)
    values = {name: np.ascontiguousarray(value, dtype=dtype) for name, value in (parameters or {}).items()}
    own = solve_exported(exported, starts, values)
    theirs = _solve_with_package(exported, spec, starts, values)
    same = np.ones(len(starts), dtype=bool)
    for mine, other in zip(own, theirs, strict=True):
        same &= (
            mine.view(np.uint8).reshape(len(starts), -1) == other.view(np.uint8).reshape(len(starts), -1)
        ).all(1)
    counts = Counter(Status(int(status)).name for status in own[2])
    return Check(len(starts), int((~same).sum()), dict(counts), own[3])


def require_comparable(options: ExportOptions, spec: Spec) -> None:
    """Raise SpecError where an exported controller rightly rounds otherwise than the package, or does less."""
    if options.constants:
        raise SpecError(
            f"{', '.join(options.constants)} of {spec.name!r} are constants, with which it is calculated ahead and "
            "rounded otherwise than the package; check an export without constants"
        )
    if options.method == "interior_point" and not spec.constraints:
        raise SpecError(
            f"the package polishes what the interior point finds of {spec.name!r} by box-DDP, which the export "
            "has not, so that they agree to the tolerance only; check an export with method='ddp'"
        )


def solve_exported(exported: Exported, x0: Any, parameters: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Compile an exported controller for this machine; return states, controls, statuses and passes from each x0."""
    options = exported.options
    number = NUMBERS[options.dtype]
    names = list(parameters)
    places = [f"c.parameters.{exported.members[name]}" for name in names]
    copies = [f"    memcpy(&{place}, values[{at}], sizeof {place});" for at, place in enumerate(places)]
    text = _RUN.format(stem=options.prefix, number=number, copies="\n".join(copies))
    with tempfile.TemporaryDirectory(prefix="mpcgen-export-") as folder:
        (Path(folder) / "run.c").write_text(text, encoding="utf-8")
        plain = PLAIN_CPU.get(platform.machine().lower())
        target = (f"-march={plain}",) if plain else ()
        flags = [
            *strict_flags(find_compiler()),
            "-O2",
            "-shared",
            "-fPIC",
            *target,
            f"-I{exported.path.resolve()}",
        ]
        sources = ["run.c", str(exported.source.resolve())]
        run_one([*find_compiler().command, *flags, *sources, "-o", "run.so", "-lm"], Path(folder))
        library = ctypes.CDLL(str(Path(folder) / "run.so"))
    count, n = x0.shape
    steps = options.horizon
    controls = exported.controls
    x = np.empty((count, steps + 1, n), x0.dtype)
    u = np.empty((count, steps, controls), x0.dtype)
    status, passes = np.empty(count, np.int32), np.empty(count, np.int32)
    arrays = [np.ascontiguousarray(parameters[name], dtype=x0.dtype) for name in names]
    values = (ctypes.c_void_p * max(len(arrays), 1))(*(array.ctypes.data for array in arrays))
    results = (x, u, status, passes)
    library.run(count, _address(x0), values, *map(_address, results))
    return x, u, status, passes


def _solve_with_package(
    exported: Exported, spec: Spec, x0: Any, parameters: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The same from the package, one problem a call."""
    import torch

    options = exported.options
    dtype = getattr(torch, options.dtype)
    module = compile_package(spec, dtypes=(options.dtype,), march=PLAIN_CPU.get(platform.machine().lower()))
    mpc = module.MPC(
        method=options.method,
        hessian=options.hessian,
        gradient=options.hessian,
        max_iterations=options.max_iterations,
        on_unconverged="ignore",
        threads=1,
    )
    given = {name: torch.as_tensor(value) for name, value in parameters.items()}
    rows = []
    with torch.no_grad():
        for start in torch.as_tensor(x0):
            solution = mpc(start.to(dtype), horizon=options.horizon, **given)
            rows.append(tuple(getattr(solution, name).numpy() for name in ("x", "u", "status", "iterations")))
    return tuple(np.stack(column) for column in zip(*rows, strict=True))


def _address(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
