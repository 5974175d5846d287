"""The front end: what users write, checked and frozen into a `Spec`; `lowering` takes it to the graph."""

from mpcgen.problem.integrators import euler, midpoint, rk4
from mpcgen.problem.linear_quadratic import lqr
from mpcgen.problem.loading import load_problem
from mpcgen.problem.problem import Problem
from mpcgen.problem.spec import Constraint, ControlSpec, DynamicsSpec, ParameterSpec, Spec
from mpcgen.problem.tables import lookup

__all__ = [
    "Constraint",
    "ControlSpec",
    "DynamicsSpec",
    "ParameterSpec",
    "Problem",
    "Spec",
    "euler",
    "load_problem",
    "lookup",
    "lqr",
    "midpoint",
    "rk4",
]
