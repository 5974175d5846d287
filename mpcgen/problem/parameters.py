"""The symbols of a problem, and parameters as its methods declare them."""

from typing import Any

import sympy as sp

from mpcgen.problem import values
from mpcgen.problem.spec import ParameterSpec


def real_symbol(name: str) -> sp.Symbol:
    """The symbol that a problem makes of a name."""
    return sp.Symbol(name, real=True)


def parameter_spec(
    name: str, shape: tuple[int, ...], default: Any = None, per_stage: bool = False
) -> ParameterSpec:
    """Return a parameter whose uses (`in_terminal`, `only_bounds`) are not known yet."""
    if len(shape) == 2:
        labels = [f"{name}_{row}_{column}" for row in range(shape[0]) for column in range(shape[1])]
    elif len(shape) == 1:
        labels = [f"{name}_{index}" for index in range(shape[0])]
    else:
        labels = [name]
    return ParameterSpec(
        name=name,
        shape=shape,
        symbols=tuple(real_symbol(label) for label in labels),
        default=None if default is None else values.as_default(default, shape, name),
        per_stage=per_stage,
        in_terminal=False,
        only_bounds=False,
    )
