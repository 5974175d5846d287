"""The independent witness: CasADi models, solvers and gradients built straight from the specification.

Nothing here reads mpcgen's own graph, derivatives or kernels, so that an error there cannot hide here.
"""

from mpcgen.baseline.availability import BaselineUnavailableError
from mpcgen.baseline.finite_difference import FiniteDifference, finite_difference_gradient
from mpcgen.baseline.functions import Functions
from mpcgen.baseline.parameters import pack_parameters, unpack_gradient
from mpcgen.baseline.sensitivity import KktGradient, kkt_gradient, kkt_residual
from mpcgen.baseline.solver import Baseline, BatchSolution, Solution
from mpcgen.baseline.translate import Translator, discretise

__all__ = [
    "Baseline",
    "BaselineUnavailableError",
    "BatchSolution",
    "FiniteDifference",
    "Functions",
    "KktGradient",
    "Solution",
    "Translator",
    "discretise",
    "finite_difference_gradient",
    "kkt_gradient",
    "kkt_residual",
    "pack_parameters",
    "unpack_gradient",
]
