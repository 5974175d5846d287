"""The peak rate of multiply-adds of a CUDA device, measured by a kernel compiled as the solver's are."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from examples.bench.packages import Packages
from examples.bench.peak import enough_rounds
from mpcgen.build.compiling import run_all, run_one
from mpcgen.build.cuda import (
    PRECISIONS,
    CudaToolchain,
    compile_command,
    find_cuda_toolchain,
    find_shim_toolchain,
)
from mpcgen.errors import DeviceError, ParameterError

SOURCE = Path(__file__).with_name("device_peak.c")
LIBRARIES = {"cuda": "_peak_cuda.so", "cuda-host": "_peak_cuda_host.so"}
"""File of the compiled micro-kernel beside prepared packages, by device."""


class DevicePeak:
    """The micro-kernel on torch's current CUDA device, or over the shim."""

    def __init__(self, kind: str, packages: Packages) -> None:
        self._kind = kind
        with tempfile.TemporaryDirectory(prefix="mpcgen-peak-") as folder:
            # An opened library stays mapped after its file is gone.
            self._library = _open(_prepared(kind, packages.folder) or _compiled(kind, packages, Path(folder)))
        self._rounds: dict[int, int] = {}

    def task(self, bits: int, vector: bool, threads: int) -> tuple[Callable[[], Any], int]:
        """See `examples.bench.peak.PeakRate`."""
        run = getattr(self._library, f"peak_run_f{bits}_cuda")

        def start(rounds: int) -> int:
            stream = torch.cuda.current_stream().cuda_stream if self._kind == "cuda" else None
            operations = int(run(rounds, stream))
            if operations <= 0:
                raise DeviceError(
                    f"the device refuses the kernel that measures its peak, CUDA error {-operations}: was it built for "
                    "another architecture? build it anew there, or with --arch"
                )
            return operations

        if bits not in self._rounds:
            start(1)
            self._rounds[bits] = enough_rounds(start, "cuda" if self._kind == "cuda" else "wall")
        rounds = self._rounds[bits]
        return lambda: start(rounds), start(rounds)


def compile_peak(toolchain: CudaToolchain, output: Path) -> None:
    """Compile the micro-kernel in both precisions into the library ``output``. Raises BuildError."""
    with tempfile.TemporaryDirectory(prefix="mpcgen-peak-") as name:
        folder = Path(name)
        objects = [f"peak_{precision}.o" for precision in PRECISIONS]
        commands = [
            [*compile_command(toolchain, precision, ""), str(SOURCE), "-o", target]
            for precision, target in zip(PRECISIONS, objects, strict=True)
        ]
        run_all(commands, folder)
        run_one([*toolchain.command, *toolchain.link_flags, *objects, "-o", str(output.resolve())], folder)


def device_toolchain(kind: str, packages: Packages) -> CudaToolchain:
    """Return nvcc, or the compiler for the shim. Raises CompilerNotFoundError."""
    return find_cuda_toolchain(packages.architectures) if kind == "cuda" else find_shim_toolchain()


def _prepared(kind: str, folder: Path | None) -> Path | None:
    if folder is None:
        return None
    path = folder / LIBRARIES[kind]
    if not path.is_file():
        raise ParameterError(
            f"{path} is missing; make it with `mpcgen bench --device {kind} --packages {folder} --prepare`, where its "
            "compiler is"
        )
    return path


def _compiled(kind: str, packages: Packages, folder: Path) -> Path:
    path = folder / LIBRARIES[kind]
    compile_peak(device_toolchain(kind, packages), path)
    return path


def _open(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for precision in PRECISIONS:
        function = getattr(library, f"peak_run_f{precision}_cuda")
        function.argtypes, function.restype = (ctypes.c_int32, ctypes.c_void_p), ctypes.c_int64
    return library
