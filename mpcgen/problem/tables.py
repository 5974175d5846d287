"""Tables: a spline through given points, as an expression."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import sympy as sp

from mpcgen.errors import SpecError
from mpcgen.problem import values as given

Polynomial = list[float]
"""Coefficients by ascending power of the distance from the left end of an interval."""


def lookup(x: Any, knots: Any, values: Any, degree: int = 1) -> sp.Expr:
    """Return the value at ``x`` of the spline through the points (knots[i], values[i]); outside its last piece goes on.

    Degree 1 is linear interpolation, whose slope jumps at the knots; 3 has two continuous derivatives, as the solver's
    Hessian likes them. The ends are de Boor's not-a-knot.

    Args:
        x: an expression.
        knots: n increasing numbers, n > degree.
        values: n numbers, or expressions in parameters: a table can be learned.
        degree: of the pieces, at least 1.

    Raises:
        SpecError: knots that do not increase, fewer than degree + 1 of them, another number of values.

    """
    argument = given.as_expression(x, "x of lookup")
    order = given.as_integer(degree, "the degree of lookup", 1)
    points = [given.as_number(knot, "a knot of lookup") for knot in given.as_vector(knots, "knots of lookup")]
    heights = [
        given.as_expression(value, "a value of lookup")
        for value in given.as_vector(values, "values of lookup")
    ]
    _check(points, heights, order)
    ends = _ends(points, order)
    weights = _solved(points, heights, ends, order)
    starts = [k for k in range(order, len(ends) - order - 1) if ends[k] < ends[k + 1]]
    pieces = [_piece(ends, order, k, weights) for k in starts]

    def chosen(entries: Sequence[sp.Expr]) -> sp.Expr:
        """The entry of the piece that ``x`` is in. Choosing coefficients, not values, lets derivatives share it."""
        pairs = [(entry, argument < ends[k + 1]) for entry, k in zip(entries[:-1], starts[:-1], strict=True)]
        return sp.Piecewise(*pairs, (entries[-1], True))

    distance = argument - chosen([sp.Float(ends[k]) for k in starts])
    value: sp.Expr = sp.S.Zero
    for power in reversed(range(order + 1)):
        value = chosen([piece[power] for piece in pieces]) + distance * value
    return value


def _check(points: Sequence[float], heights: Sequence[sp.Expr], degree: int) -> None:
    if len(points) != len(heights):
        raise SpecError(f"lookup has {len(points)} knots and {len(heights)} values; expected as many")
    if len(points) <= degree:
        raise SpecError(f"lookup of degree {degree} has {len(points)} knots; expected at least {degree + 1}")
    for left, right in pairwise(points):
        if not left < right:
            raise SpecError(f"knots of lookup: {right} follows {left}; expected increasing numbers")
    if not all(abs(point) < float("inf") for point in points):
        raise SpecError("knots of lookup are infinite; expected finite numbers")


def _ends(points: Sequence[float], degree: int) -> list[float]:
    """The ends of the pieces, the outer ones degree + 1 times, so that there are as many B-splines as points."""
    j = (degree + 1) // 2
    if degree % 2:
        inner = list(points[j:-j])
    else:
        inner = [(a + b) / 2 for a, b in zip(points[j : -j - 1], points[j + 1 : -j], strict=True)]
    return [points[0]] * (degree + 1) + inner + [points[-1]] * (degree + 1)


def _splines(ends: Sequence[float], degree: int, k: int) -> list[Polynomial]:
    """The degree + 1 B-splines that are not zero between ends k and k + 1, by de Boor's recursion."""
    found: list[Polynomial] = [[1.0]]
    for p in range(1, degree + 1):
        raised: list[Polynomial] = [[0.0] * (p + 1) for _ in range(p + 1)]
        for index, spline in enumerate(found):
            i = k - p + 1 + index
            width = ends[i + p] - ends[i]
            _add_product(raised[index + 1], spline, (ends[k] - ends[i]) / width, 1.0 / width)
            _add_product(raised[index], spline, (ends[i + p] - ends[k]) / width, -1.0 / width)
        found = raised
    return found


def _add_product(into: Polynomial, factor: Polynomial, constant: float, slope: float) -> None:
    for power, coefficient in enumerate(factor):
        into[power] += constant * coefficient
        into[power + 1] += slope * coefficient


def _solved(
    points: Sequence[float], heights: Sequence[sp.Expr], ends: Sequence[float], degree: int
) -> list[sp.Expr]:
    """The weights of the B-splines for which their sum meets the points: a banded system, no pivots needed."""
    n = len(points)
    rows: list[dict[int, float]] = []
    for point in points:
        k = max(i for i in range(degree, n) if ends[i] <= point)
        distance = point - ends[k]
        splines = _splines(ends, degree, k)
        at = [sum(c * distance**power for power, c in enumerate(spline)) for spline in splines]
        rows.append({k - degree + index: value for index, value in enumerate(at) if value != 0.0})
    right = list(heights)
    for pivot in range(n):
        for row in range(pivot + 1, min(n, pivot + degree + 1)):
            factor = rows[row].pop(pivot, 0.0) / rows[pivot][pivot]
            if factor:
                for column, value in rows[pivot].items():
                    if column > pivot:
                        rows[row][column] = rows[row].get(column, 0.0) - factor * value
                right[row] -= factor * right[pivot]
    for row in reversed(range(n)):
        behind = [right[column] * value for column, value in rows[row].items() if column > row]
        right[row] = sp.expand((right[row] - sp.Add(*behind)) / rows[row][row])
    return right


def _piece(ends: Sequence[float], degree: int, k: int, weights: Sequence[sp.Expr]) -> list[sp.Expr]:
    """The polynomial between ends k and k + 1: its coefficients by power of the distance from end k."""
    splines = _splines(ends, degree, k)
    near = weights[k - degree : k + 1]
    return [
        sp.expand(sp.Add(*(spline[power] * weight for spline, weight in zip(splines, near, strict=True))))
        for power in range(degree + 1)
    ]
