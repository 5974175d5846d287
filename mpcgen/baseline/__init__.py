"""The independent witness: CasADi models, solvers and gradients built straight from the specification.

Nothing here reads mpcgen's own graph, derivatives or kernels, so that an error there cannot hide here.
"""

from mpcgen.errors import MpcgenError


class BaselineUnavailableError(MpcgenError, ImportError):
    """CasADi, which the baseline needs, is not installed."""


try:
    import casadi as _casadi  # noqa: F401
except ImportError as error:
    raise BaselineUnavailableError(
        f"mpcgen.baseline needs CasADi and it could not be imported ({error}); "
        "install it with: pip install 'mpcgen[baseline]'"
    ) from error

from mpcgen.baseline.functions import Functions
from mpcgen.baseline.parameters import pack_parameters, unpack_gradient
from mpcgen.baseline.sensitivity import (
    FiniteDifference,
    KktGradient,
    finite_difference_gradient,
    kkt_gradient,
    kkt_residual,
)
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
