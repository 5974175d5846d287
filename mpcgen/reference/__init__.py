"""Box-iLQR in plain PyTorch, differentiable by unrolling: the readable statement of the algorithm.

It needs neither a C compiler nor a build, and is slow. Start reading in `mpcgen.reference.ilqr`.
"""

from mpcgen.reference.module import MPC

__all__ = ["MPC"]
