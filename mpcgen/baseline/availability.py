"""CasADi is an optional dependency: importing this module says so where it is missing."""

from mpcgen.errors import MpcgenError, pip_install


class BaselineUnavailableError(MpcgenError, ImportError):
    """CasADi, which the baseline needs, is not installed."""


try:
    import casadi  # noqa: F401
except ImportError as error:
    raise BaselineUnavailableError(
        f"mpcgen.baseline needs CasADi and it could not be imported ({error}); "
        f"install it with: {pip_install('baseline')}"
    ) from error
