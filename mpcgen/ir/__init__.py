"""The scalar expression graph: hash-consed nodes, simplified at construction, walks over them, functions, schedules.

Knows neither sympy nor what a problem is beyond its `Model`.
"""

from mpcgen.ir.evaluate import PYTHON, Backend, evaluate, torch_backend
from mpcgen.ir.expr import Expr, Graph
from mpcgen.ir.model import Model
from mpcgen.ir.ops import LEAVES, OPERATIONS, Operation
from mpcgen.ir.printer import listing, summary
from mpcgen.ir.walk import (
    behind,
    degree,
    flops,
    operation_count,
    rebuild,
    substitute,
    symbols_of,
    topological,
    unrolled,
)

__all__ = [
    "LEAVES",
    "OPERATIONS",
    "PYTHON",
    "Backend",
    "Expr",
    "Graph",
    "Model",
    "Operation",
    "behind",
    "degree",
    "evaluate",
    "flops",
    "listing",
    "operation_count",
    "rebuild",
    "substitute",
    "summary",
    "symbols_of",
    "topological",
    "torch_backend",
    "unrolled",
]
