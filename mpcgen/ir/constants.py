"""Parameters that become numbers: for controllers whose parameters are known when they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from mpcgen.errors import SpecError
from mpcgen.ir.expr import Expr
from mpcgen.ir.model import Model
from mpcgen.ir.walk import substitute


def with_constants(model: Model, names: Sequence[str]) -> Model:
    """Return the model with the defaults of the parameters ``names`` in their places.

    Raises SpecError for a name that is none of a parameter, and for a parameter without a default.
    """
    if not names:
        return model
    values: dict[Expr, Expr] = {}
    kept = []
    at = 0
    for parameter in model.signature.parameters:
        symbols = model.parameters[at : at + parameter.size]
        at += parameter.size
        if parameter.name not in names:
            kept.append((parameter, symbols))
        elif parameter.default is None:
            raise SpecError(
                f"parameter {parameter.name!r} of {model.signature.name!r} has no default to be a constant of; "
                "give it one, or leave it a parameter"
            )
        else:
            values |= {
                symbol: model.graph.const(value)
                for symbol, value in zip(symbols, parameter.default, strict=True)
            }
    known = [parameter.name for parameter in model.signature.parameters]
    for name in names:
        if name not in known:
            raise SpecError(
                f"{model.signature.name!r} has no parameter {name!r} to make a constant; it has "
                f"{', '.join(known) or 'none'}"
            )
    return replace(
        _replaced(model, values),
        parameters=tuple(symbol for _, symbols in kept for symbol in symbols),
        signature=replace(model.signature, parameters=tuple(parameter for parameter, _ in kept)),
    )


def _replaced(value: Any, values: Mapping[Expr, Expr]) -> Any:
    """A model, or a part of one, with nodes replaced wherever it has expressions."""
    if isinstance(value, Expr):
        return substitute([value], values)[0]
    if isinstance(value, tuple) and value and all(isinstance(item, Expr) for item in value):
        return tuple(substitute(value, values))
    if isinstance(value, tuple):
        return tuple(_replaced(item, values) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: _replaced(getattr(value, field.name), values) for field in fields(value)}
        return replace(value, **changed)
    return value
