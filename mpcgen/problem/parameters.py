"""The symbols of a problem, and parameters as its methods declare them."""

from itertools import product
from typing import Any

import sympy as sp

from mpcgen.errors import SpecError
from mpcgen.problem import values
from mpcgen.problem.spec import ParameterSpec


def real_symbol(name: str) -> sp.Symbol:
    """The symbol that a problem makes of a name."""
    return sp.Symbol(name, real=True)


def parameter_spec(
    name: str, shape: tuple[int, ...], default: Any = None, per_stage: bool = False
) -> ParameterSpec:
    """Return a parameter whose uses (`in_terminal`, `only_bounds`) are not known yet."""
    if not isinstance(per_stage, bool):
        raise SpecError(f"per_stage of parameter {name!r} is {per_stage!r}; expected True or False")
    places = product(*(range(size) for size in shape))
    labels = ["_".join([name, *map(str, place)]) for place in places]
    return ParameterSpec(
        name=name,
        shape=shape,
        symbols=tuple(real_symbol(label) for label in labels),
        default=None if default is None else values.as_default(default, shape, name),
        per_stage=per_stage,
        in_terminal=False,
        only_bounds=False,
    )
