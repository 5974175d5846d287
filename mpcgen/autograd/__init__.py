"""The torch face: differentiable operators and the controller as a module."""

from mpcgen.autograd.mpc import MPC
from mpcgen.autograd.solution import Solution

__all__ = ["MPC", "Solution"]
