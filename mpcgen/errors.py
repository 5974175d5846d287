"""The errors users meet.

Every message says what was given, what was expected and what to do. Anything that is our own fault
raises `InternalError`, which says so.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any


def pip_install(extra: str) -> str:
    """The command that adds one of mpcgen's extras, in quotes where a shell needs them.

    mpcgen is on no package index. pip finds the one that is installed by its name, and takes no other; of one that runs
    from its sources without being installed it has to be shown the folder.
    """
    try:
        distribution("mpcgen")
    except PackageNotFoundError:
        return f"pip install '{Path(__file__).parents[1]}[{extra}]'"
    return f"pip install 'mpcgen[{extra}]'"


class MpcgenError(Exception):
    """Base class of every error that mpcgen raises on purpose."""


class SpecError(MpcgenError, ValueError):
    """A model specification that cannot be turned into a controller."""


class UnsupportedExpressionError(SpecError):
    """A sympy function that has no derivative, no real value, or no counterpart in C."""


class ShapeError(MpcgenError, ValueError):
    """A tensor whose shape does not fit the problem."""


class DtypeError(MpcgenError, TypeError):
    """A tensor whose dtype is not float32 or float64, or differs from that of x0."""


class DeviceError(MpcgenError, ValueError):
    """A tensor on a device for which the module was not built, or not on the device of x0."""


class LayoutError(MpcgenError, TypeError):
    """A tensor that is not dense numbers in memory: sparse, nested, masked, distributed, or without storage."""


class TracingError(MpcgenError, RuntimeError):
    """A tracer or transform of torch that cannot record what was asked of it."""


class ParameterError(MpcgenError, ValueError):
    """An unknown parameter name, a missing value, or an option outside its range."""


class UnconvergedError(MpcgenError, ArithmeticError):
    """Some problems of a batch did not converge and ``on_unconverged="raise"`` was asked for.

    solution: what was found all the same, with its statuses and without a graph: a `Solution` or a `ClosedLoop`. Under
    transforms of torch it is the bare outputs, x, u, cost, status and so on, of a flat batch. None where a gradient is
    refused, and of the reference solvers.
    """

    solution: Any = None


class SecondDerivativeError(MpcgenError, RuntimeError):
    """A second derivative of a solution was asked for; only first derivatives exist."""

    def __init__(self) -> None:
        super().__init__(
            "the second derivative of an MPC solution is not available (it needs third derivatives of the dynamics "
            "and cost); use first derivatives, or difference them"
        )


class BuildError(MpcgenError):
    """The generated source could not be compiled. Carries the command and the compiler's words."""


class CompilerNotFoundError(BuildError):
    """No C compiler on this machine."""


class StaleBuildError(BuildError):
    """A compiled module that does not belong to the text, Python or CPU it is loaded with."""


class CheckoutError(MpcgenError, FileNotFoundError):
    """Asked of an installed package: what only a checkout of the sources has."""


class InternalError(MpcgenError):
    """A bug in mpcgen, not in what the user wrote."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message} (this is a bug in mpcgen, please report it)")
