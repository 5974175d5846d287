"""Differentiation on the expression graph: a rule table, forward and reverse passes, matrices."""

from mpcgen.derivative.forward import tangents
from mpcgen.derivative.matrices import Matrix, hessian, jacobian, sparsity
from mpcgen.derivative.reverse import gradient, vjp

__all__ = ["Matrix", "gradient", "hessian", "jacobian", "sparsity", "tangents", "vjp"]
