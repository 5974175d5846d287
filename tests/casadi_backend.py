"""Expressions of the graph as CasADi's: its derivatives of them are the witness."""

import casadi as ca

from mpcgen.ir import OPERATIONS, Backend

CASADI = Backend(
    "casadi",
    {name: getattr(ca, name) for name in OPERATIONS if hasattr(ca, name)}
    | {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "neg": lambda a: -a,
        "pow": lambda a, b: a**b,
        "abs": ca.fabs,
        "length": ca.sqrt,
        "pinv": lambda a: 1 / a,
        "sigmoid": lambda a: 1 / (1 + ca.exp(-a)),
        "softplus": lambda a: ca.log1p(ca.exp(a)),
        "min": ca.fmin,
        "max": ca.fmax,
        "select": ca.if_else,
        "and": ca.logic_and,
        "or": ca.logic_or,
        "not": ca.logic_not,
    },
    lambda values: ca.SX,
)
