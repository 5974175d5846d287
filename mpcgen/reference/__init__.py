"""The algorithms in plain PyTorch, to be read and compared with: they need no C compiler and no build, and are slow.

`MPC` is box-iLQR, differentiable by unrolling: start reading in `mpcgen.reference.ilqr`. `InteriorPoint` is for
problems with constraints: `mpcgen.reference.interior_point`.
"""

from mpcgen.reference.constrained import ConstrainedSolution, InteriorPoint
from mpcgen.reference.module import MPC

__all__ = ["MPC", "ConstrainedSolution", "InteriorPoint"]
