"""What generated packages need at run time: loading and its checks, the problem's description, statuses."""

from mpcgen.runtime.controller import Constraint, Controller, Parameter
from mpcgen.runtime.status import Status, UnconvergedWarning

__all__ = ["Constraint", "Controller", "Parameter", "Status", "UnconvergedWarning"]
