"""The CUDA device of a run: whether there is one, what it is, and how much of it each kernel can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from examples.bench.problems import Problem
from mpcgen.errors import DeviceError

_REGISTERS = 65_536
"""Of a multiprocessor, on every architecture that CUDA 13 builds for."""
_REGISTERS_APIECE = 256
"""A warp's registers are given out in pieces of so many."""
_SCHEDULERS = 4
"""Of a multiprocessor: its warps are spread evenly over them."""
_BLOCKS = 32
"""Of a multiprocessor at most, of sm_80 and sm_90; a block of a kernel with shared memory is one warp."""
_SHARED_RESERVED = 1024
"""Bytes of a block's shared memory that CUDA keeps for itself."""


@dataclass(frozen=True)
class Kernel:
    """What a kernel takes of a multiprocessor, as its assembler said: registers per thread, bytes of stack and spills.

    ``shared``: bytes of shared memory of a block. ``threads``: how many its registers and shared memory let one
    multiprocessor of this device hold; ``occupancy``: their share of what it could hold at most.
    """

    problem: str
    kernel: str
    precision: int
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int
    threads: int
    occupancy: float


@dataclass(frozen=True)
class Device:
    """A CUDA device: its name, e.g. "NVIDIA H100, 132 multiprocessors", its architecture, and the kernels' compiler."""

    name: str
    architecture: str
    compiler: str
    target: str
    kernels: tuple[Kernel, ...] = ()


def require_device(kind: str) -> None:
    """Raise DeviceError where torch finds no device for these kernels: cpu, cuda or cuda-host."""
    if kind != "cuda" or torch.cuda.is_available():
        return
    why = "torch finds no CUDA device here"
    if torch.version.cuda is None:
        why = f"this torch, {torch.__version__}, is built without CUDA"
    raise DeviceError(
        f"{why}, and `mpcgen bench --device cuda` measures on one; `--packages DIR --prepare` builds here what a "
        "machine with a device then measures with `--packages DIR`"
    )


def describe(kind: str, problems: list[Problem]) -> Device:
    """Describe torch's current device and the problems' kernels on it; over the shim there is neither."""
    manifests = [p.package_for(kind).MPC.controller.library.manifest for p in problems]
    compiler, target = manifests[0]["compiler"], manifests[0]["target"]
    if kind != "cuda":
        return Device("CUDA's shim on the CPU", "", compiler, target)
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    architecture = f"sm_{properties.major}{properties.minor}"
    name = (
        f"{properties.name}, {properties.multi_processor_count} multiprocessors, "
        f"{properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    )
    rows = {
        (manifest["problem"], row["kernel"], row["precision"]): kernel_on(
            properties, manifest["problem"], row
        )
        for manifest in manifests
        for row in manifest["resources"]
        if row["architecture"] in (architecture, f"{architecture}a")
    }
    return Device(name, architecture, compiler, target, tuple(rows.values()))


def kernel_on(properties: Any, problem: str, row: dict[str, Any]) -> Kernel:
    """Work out what a multiprocessor holds of a kernel: ``row`` of a manifest's resources, torch's properties."""
    warp = properties.warp_size
    pieces = -(-row["registers"] * warp // _REGISTERS_APIECE)
    warps = _REGISTERS // (pieces * _REGISTERS_APIECE)
    most = properties.max_threads_per_multi_processor
    if row["shared"]:
        blocks = properties.shared_memory_per_multiprocessor // (row["shared"] + _SHARED_RESERVED)
        warps = min(warps, blocks, _BLOCKS)
    threads = min(warps // _SCHEDULERS * _SCHEDULERS * warp, most)
    sizes = {name: row[name] for name in ("registers", "stack", "spill_stores", "spill_loads", "shared")}
    return Kernel(
        problem, row["kernel"], row["precision"], **sizes, threads=threads, occupancy=threads / most
    )
