"""What this machine's CPU can do, by the names that Linux gives its features in /proc/cpuinfo."""

import functools
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

# The micro-architecture levels of the x86-64 psABI, as far as a compiler makes use of them.
X86_64_V3 = ("abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
X86_64_V4 = (*X86_64_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")

_CPUINFO = Path("/proc/cpuinfo")
_SYSCTL_KEYS = ("machdep.cpu.features", "machdep.cpu.leaf7_features", "machdep.cpu.extfeatures")
# Names that macOS gives to features that Linux knows under another one.
_SYSCTL_NAMES = {"avx1.0": "avx", "lzcnt": "abm"}
_TORCH_CAPABILITIES = {"AVX512": X86_64_V4, "AVX2": X86_64_V3}


@functools.cache
def cpu_features() -> frozenset[str]:
    """Names of this CPU's features; empty where the operating system does not say.

    Linux: /proc/cpuinfo, from which the kernel has struck what it does not save on a context switch.
    macOS: sysctl. Elsewhere: what torch found, if torch is loaded.
    """
    found = _from_cpuinfo()
    if not found and sys.platform == "darwin":
        found = _from_sysctl()
    return found or _from_torch()


def missing_features(required: Iterable[str]) -> tuple[str, ...]:
    """The features among ``required`` that this CPU lacks, in the given order."""
    present = cpu_features()
    return tuple(feature for feature in required if feature not in present)


def describe_cpu() -> str:
    """This CPU's widest instruction set, in words for a message."""
    if not missing_features(X86_64_V4):
        return "x86-64-v4 (AVX-512)"
    if not missing_features(X86_64_V3):
        return "x86-64-v3 (AVX2)"
    return platform.machine() or "an unknown instruction set"


def _from_cpuinfo() -> frozenset[str]:
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        label, _, value = line.partition(":")
        if label.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _from_sysctl() -> frozenset[str]:
    command = ["/usr/sbin/sysctl", "-n", *_SYSCTL_KEYS]
    try:
        # Apple silicon knows none of these keys and says so on stderr: then there is nothing to list.
        text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return frozenset()
    names = (name.lower() for name in text.split())
    return frozenset(_SYSCTL_NAMES.get(name, name) for name in names)


def _from_torch() -> frozenset[str]:
    torch = sys.modules.get("torch")
    if torch is None:
        return frozenset()
    return frozenset(_TORCH_CAPABILITIES.get(torch.backends.cpu.get_cpu_capability(), ()))
