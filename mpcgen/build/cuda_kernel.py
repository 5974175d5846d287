"""The choice between CUDA's two kinds of kernel: a thread per problem, or a warp.

The choice rests on counts, not on measurements: no GPU was at hand when it was made. `mpcgen bench --device cuda
--cuda-kernel thread` and `--cuda-kernel warp` measure both, and `thread_registers` is where their result belongs.
"""

from __future__ import annotations

from mpcgen.errors import BuildError

KERNELS = ("thread", "warp")
CHOICES = ("auto", *KERNELS)

REGISTERS = 255
"""32-bit registers of a thread, on every architecture that CUDA 13 builds for."""
SHARED_BYTES = 48 * 1024
"""Shared memory that a block, here a warp, may have without asking for more."""
_STATE_BYTES = 2048
"""Room for what a warp keeps in shared memory beside its matrices: a few hundred bytes of pointers and scalars."""
_DOUBLE_BYTES = 8
_REGISTER_BYTES = 4


def thread_registers(n: int, m: int) -> int:
    """Registers for what a step of the Riccati recursion has at hand in float64: V and Q (triangles), and F.

    n: states. m: controls. A thread that needs more than `REGISTERS` keeps the rest in local memory, that of 32
    problems for each warp, and reads it anew in every product. A warp that shares a problem keeps one problem's
    matrices in shared memory, and divides their products by 32; but the rollout and the box QP, which are not divided,
    it does with one lane of 32, and a small problem is little else.
    """
    width = n + m
    numbers = n * (n + 1) // 2 + n * width + width * (width + 1) // 2
    return numbers * _DOUBLE_BYTES // _REGISTER_BYTES


def warp_bytes(n: int, m: int) -> int:
    """Shared memory of a warp in float64: V as triangle and whole, F, VF, Q, and vectors.

    It is what `team_memory`, `value_model` and `stage_model` of the runtime headers take.
    """
    width = n + m
    matrices = n * (n + 1) // 2 + n * n + 2 * n * width + width * (width + 1) // 2
    vectors = 6 * n + 2 * width + m * (m + 1) + 5 * m
    return (matrices + vectors) * _DOUBLE_BYTES + _STATE_BYTES


def choose_kernel(n: int, m: int, wanted: str = "auto", constrained: bool = False) -> str:
    """Return "thread" or "warp" for n states and m controls; ``wanted``: of `CHOICES`.

    Automatically: a warp where a thread's registers do not hold a step and a warp's shared memory does. Problems with
    constraints get a thread: one lane of a warp does an interior point's work, and only the differentials are divided.
    Raises BuildError for another choice, and for a warp whose matrices do not fit.
    """
    if wanted not in CHOICES:
        raise BuildError(f"unknown CUDA kernel {wanted!r}; expected of {', '.join(CHOICES)}")
    fits = warp_bytes(n, m) <= SHARED_BYTES
    if wanted == "warp" and not fits:
        raise BuildError(
            f"a warp per problem keeps {warp_bytes(n, m)} bytes of {n} states and {m} controls in shared memory, of "
            f"which it has {SHARED_BYTES}; build with --cuda-kernel thread"
        )
    if wanted != "auto":
        return wanted
    return "warp" if fits and not constrained and thread_registers(n, m) > REGISTERS else "thread"
