"""mpcgen: compile symbolic MPC problems to differentiable solvers.

The names below are imported on first use, so that `import mpcgen` costs neither sympy nor torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mpcgen.errors import (
    BuildError,
    CompilerNotFoundError,
    DeviceError,
    DtypeError,
    InternalError,
    MpcgenError,
    ParameterError,
    SecondDerivativeError,
    ShapeError,
    SpecError,
    StaleBuildError,
    UnconvergedError,
    UnsupportedExpressionError,
)

if TYPE_CHECKING:
    __version__: str
    import mpcgen.reference as reference
    from mpcgen.autograd.closed_loop import PerStep
    from mpcgen.build.driver import compile
    from mpcgen.diagnosis.diagnose import diagnose
    from mpcgen.diagnosis.plot import plot
    from mpcgen.problem.casadi_model import casadi_cost, casadi_expressions, casadi_model
    from mpcgen.problem.implicit import implicit_midpoint, radau
    from mpcgen.problem.integrators import euler, midpoint, rk4
    from mpcgen.problem.linear_quadratic import lqr
    from mpcgen.problem.loading import load_problem
    from mpcgen.problem.mechanics import mechanics
    from mpcgen.problem.problem import Problem
    from mpcgen.problem.rates import rate
    from mpcgen.problem.running import running_cost
    from mpcgen.problem.solve import solve
    from mpcgen.problem.tables import lookup
    from mpcgen.problem.torch_model import torch_cost, torch_expressions, torch_model
    from mpcgen.runtime.status import Status, UnconvergedWarning
    from mpcgen.runtime.weights import torch_parameters

# Public name -> the module that defines it; None: the name is a module itself.
_LAZY: dict[str, str | None] = {
    "PerStep": "mpcgen.autograd.closed_loop",
    "Problem": "mpcgen.problem.problem",
    "Status": "mpcgen.runtime.status",
    "UnconvergedWarning": "mpcgen.runtime.status",
    "casadi_cost": "mpcgen.problem.casadi_model",
    "casadi_expressions": "mpcgen.problem.casadi_model",
    "casadi_model": "mpcgen.problem.casadi_model",
    "compile": "mpcgen.build.driver",
    "diagnose": "mpcgen.diagnosis.diagnose",
    "euler": "mpcgen.problem.integrators",
    "implicit_midpoint": "mpcgen.problem.implicit",
    "load_problem": "mpcgen.problem.loading",
    "lookup": "mpcgen.problem.tables",
    "lqr": "mpcgen.problem.linear_quadratic",
    "mechanics": "mpcgen.problem.mechanics",
    "midpoint": "mpcgen.problem.integrators",
    "plot": "mpcgen.diagnosis.plot",
    "radau": "mpcgen.problem.implicit",
    "rate": "mpcgen.problem.rates",
    "reference": None,
    "rk4": "mpcgen.problem.integrators",
    "running_cost": "mpcgen.problem.running",
    "solve": "mpcgen.problem.solve",
    "torch_cost": "mpcgen.problem.torch_model",
    "torch_expressions": "mpcgen.problem.torch_model",
    "torch_model": "mpcgen.problem.torch_model",
    "torch_parameters": "mpcgen.runtime.weights",
}

__all__ = [
    "BuildError",
    "CompilerNotFoundError",
    "DeviceError",
    "DtypeError",
    "InternalError",
    "MpcgenError",
    "ParameterError",
    "PerStep",
    "Problem",
    "SecondDerivativeError",
    "ShapeError",
    "SpecError",
    "StaleBuildError",
    "Status",
    "UnconvergedError",
    "UnconvergedWarning",
    "UnsupportedExpressionError",
    "__version__",
    "casadi_cost",
    "casadi_expressions",
    "casadi_model",
    "compile",
    "diagnose",
    "euler",
    "implicit_midpoint",
    "load_problem",
    "lookup",
    "lqr",
    "mechanics",
    "midpoint",
    "plot",
    "radau",
    "rate",
    "reference",
    "rk4",
    "running_cost",
    "solve",
    "torch_cost",
    "torch_expressions",
    "torch_model",
    "torch_parameters",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("mpcgen")
    if name not in _LAZY:
        raise AttributeError(f"module 'mpcgen' has no attribute {name!r}")
    source = _LAZY[name]
    if source is None:
        return _import(f"mpcgen.{name}")
    value = getattr(_import(source), name)
    globals()[name] = value
    return value


def _import(name: str) -> Any:
    """Import a module without the garbage collector, which would look through what sympy makes, all of which stays."""
    from mpcgen.garbage import without_collector  # not for generated packages

    with without_collector():
        return importlib.import_module(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
