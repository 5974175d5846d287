"""The scalar expression graph: hash-consed nodes, simplified at construction, and walks over them.

Sympy is met in `mpcgen.graph.lowering` only, which is imported by name.
"""

from mpcgen.graph.evaluate import PYTHON, Backend, evaluate, torch_backend
from mpcgen.graph.expr import Expr, Graph
from mpcgen.graph.integrators import integrate
from mpcgen.graph.model import Model
from mpcgen.graph.ops import LEAVES, OPERATIONS, Operation
from mpcgen.graph.printer import listing, summary
from mpcgen.graph.walk import flops, operation_count, rebuild, substitute, symbols_of, topological

__all__ = [
    "LEAVES",
    "OPERATIONS",
    "PYTHON",
    "Backend",
    "Expr",
    "Graph",
    "Model",
    "Operation",
    "evaluate",
    "flops",
    "integrate",
    "listing",
    "operation_count",
    "rebuild",
    "substitute",
    "summary",
    "symbols_of",
    "topological",
    "torch_backend",
]
