"""The fingerprint of a specification: equal ones derive and render to the same text."""

from __future__ import annotations

import dataclasses
import hashlib

import sympy as sp

from mpcgen.problem.spec import Spec


def fingerprint(spec: Spec) -> str:
    """Sha256 (hex) of all that a specification says, and of the version of sympy; nothing is lowered for it."""
    text = "\n".join([*canonical_lines(spec), sp.__version__])
    return hashlib.sha256(text.encode()).hexdigest()


def canonical_lines(spec: Spec) -> list[str]:
    """A specification as text that is the same in every process.

    Each distinct subexpression takes one line, so that shared ones cost nothing; the last line has the
    specification's fields, which name expressions by their lines' numbers.
    """
    lines: list[str] = []
    numbers: dict[sp.Basic, int] = {}
    structure = _structure(spec, lines, numbers)
    return [*lines, structure]


def _structure(value: object, lines: list[str], numbers: dict[sp.Basic, int]) -> str:
    if isinstance(value, sp.Basic):
        return f"#{_number(value, lines, numbers)}"
    if isinstance(value, tuple):
        return f"({', '.join(_structure(item, lines, numbers) for item in value)})"
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return ", ".join(
            f"{field.name}={_structure(getattr(value, field.name), lines, numbers)}" for field in fields
        )
    return repr(value)


def _number(expression: sp.Basic, lines: list[str], numbers: dict[sp.Basic, int]) -> int:
    """Append the lines of an expression, arguments first, and return the number of its own."""
    stack = [expression]
    while stack:
        node = stack[-1]
        waiting = [argument for argument in node.args if argument not in numbers]
        if node not in numbers and waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        if node not in numbers:
            numbers[node] = len(lines)
            arguments = " ".join(f"#{numbers[argument]}" for argument in node.args)
            lines.append(f"{type(node).__name__} {arguments}" if node.args else sp.srepr(node))
    return numbers[expression]
