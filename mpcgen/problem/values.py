"""What users may write where a number, an expression or a vector is expected."""

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import sympy as sp
from sympy.logic.boolalg import Boolean

from mpcgen.errors import SpecError


@runtime_checkable
class _SupportsToList(Protocol):
    """numpy arrays, torch tensors and sympy matrices."""

    def tolist(self) -> Any: ...


def as_integer(value: object, what: str, minimum: int) -> int:
    """Return a Python int >= ``minimum`` from any integer, numpy's included; SpecError for bool and 3.0."""
    try:
        integer = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        integer = None
    if integer is None or integer < minimum:
        raise SpecError(f"{what} is {value!r}; expected an integer >= {minimum}")
    return integer


def as_expression(value: object, what: str) -> sp.Expr:
    """Return one scalar sympy expression from a number, an expression or a 1x1 matrix."""
    if isinstance(value, sp.MatrixBase | sp.MatrixExpr):
        if value.shape != (1, 1):
            raise SpecError(f"{what} is a matrix of shape {value.shape}; expected a scalar (or a 1x1 matrix)")
        return as_expression(sp.Matrix(value)[0, 0], what)
    if value is None or isinstance(value, str | bool | list | tuple | dict):
        raise SpecError(f"{what} is {value!r}; expected a number or a sympy expression")
    try:
        expression = sp.sympify(value, strict=True)
    except (sp.SympifyError, TypeError, ValueError) as error:
        raise SpecError(
            f"{what} is {value!r} ({type(value).__name__}); expected a number or a sympy expression"
        ) from error
    if isinstance(expression, Boolean) and not isinstance(expression, sp.Symbol):
        raise SpecError(
            f"{what} is the comparison {expression}; expected a number: choose between values with "
            "sp.Piecewise((value, condition), (other, True))"
        )
    if not isinstance(expression, sp.Expr):
        raise SpecError(f"{what} is {value!r}; expected a scalar number or sympy expression")
    return expression


def as_number(value: object, what: str) -> float:
    """Return a float, ±inf included; SpecError for symbols, complex values and NaN."""
    expression = as_expression(value, what)
    if expression.free_symbols:
        raise SpecError(f"{what} is {expression}; expected a number without symbols")
    try:
        number = float(expression)
    except (TypeError, OverflowError) as error:
        raise SpecError(f"{what} is {expression}; expected a real number in double range") from error
    if math.isnan(number):
        raise SpecError(f"{what} is NaN; expected a number")
    return number


def as_nested(value: object) -> Any:
    """Return lists for list-like values (lists, tuples, arrays, matrices); scalars as they are."""
    if isinstance(value, _SupportsToList):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [as_nested(item) for item in value]
    return value


def as_vector(value: object, what: str) -> list[Any]:
    """Return the entries of a list, an array, or a column or row matrix; SpecError for other shapes."""
    nested = as_nested(value)
    if not isinstance(nested, list):
        raise SpecError(f"{what} is {value!r}; expected a list or a sympy column Matrix")
    if nested and all(isinstance(row, list) and len(row) == 1 for row in nested):
        return [row[0] for row in nested]
    if len(nested) == 1 and isinstance(nested[0], list):
        nested = nested[0]
    if any(isinstance(item, list) for item in nested):
        raise SpecError(f"{what} is a nested list or a matrix; expected one value per entry, in one column")
    return nested


def one_each(value: object, names: Sequence[str], what: str) -> list[sp.Expr]:
    """Return one expression per name from a scalar (for all of them) or a vector (one each)."""
    nested = as_nested(value)
    if not isinstance(nested, list):
        return [as_expression(nested, what)] * len(names)
    entries = as_vector(value, what)
    if len(entries) != len(names):
        raise SpecError(
            f"{what} has {len(entries)} entries; expected {len(names)}, one each for {', '.join(names)}, "
            "or a single number for all"
        )
    return [as_expression(entry, f"{what}, for {name},") for entry, name in zip(entries, names, strict=True)]


def as_mapping(value: object, what: str, example: str) -> Mapping[Any, Any]:
    """Return a mapping as it is; SpecError for lists, single symbols and the like. ``example`` is how to write one."""
    if not isinstance(value, Mapping):
        given = "None" if value is None else f"{value!r} ({type(value).__name__})"
        raise SpecError(f"{what} is {given}; expected a mapping, such as {example}")
    return value


def as_shape(shape: object, name: str) -> tuple[int, ...]:
    """Return (), (k,) or (r, c) from (), k, (k,) or (r, c)."""
    sizes = list(shape) if isinstance(shape, list | tuple) else [shape]
    if len(sizes) > 2:
        raise SpecError(f"parameter {name!r} has shape {shape!r}; expected (), k, (k,) or (rows, columns)")
    return tuple(as_integer(size, f"a size of parameter {name!r}, shape {shape!r},", 1) for size in sizes)


def as_default(value: object, shape: tuple[int, ...], name: str) -> tuple[float, ...]:
    """Return a flat row-major default; a scalar fills the shape, a (k, 1) column fits the shape (k,)."""
    what = f"the default of parameter {name!r}"
    nested = as_nested(value)
    if not isinstance(nested, list):
        return (as_number(nested, what),) * math.prod(shape)
    if len(shape) == 1:
        nested = as_vector(value, what)
    flat: list[float] = []
    given = _flatten(nested, what, flat)
    if given != shape:
        raise SpecError(f"{what} has shape {given}; expected {shape}, or a single number for all entries")
    return tuple(flat)


def _flatten(nested: Any, what: str, flat: list[float]) -> tuple[int, ...]:
    """Append the numbers of a nested list to ``flat`` and return its shape; SpecError where it is ragged."""
    if not isinstance(nested, list):
        flat.append(as_number(nested, what))
        return ()
    shapes = [_flatten(item, what, flat) for item in nested]
    if any(shape != shapes[0] for shape in shapes):
        raise SpecError(f"{what} is ragged: its rows have the shapes {shapes}; expected equal lengths")
    return (len(nested), *(shapes[0] if shapes else ()))
