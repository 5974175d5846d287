"""Pickles whose expressions sympy does not evaluate anew when they are loaded: of shared ones it would for minutes."""

from __future__ import annotations

import io
import pickle
from typing import Any, Self

import sympy as sp

_EVALUATED = (sp.Add, sp.Mul, sp.Pow, sp.Function)


class Unevaluated:
    """What is pickled with its expressions as they are; what its parts share is shared in the copy."""

    def __copy__(self) -> Self:
        made = type(self).__new__(type(self))
        vars(made).update(vars(self))
        return made

    def __getstate__(self) -> bytes:
        buffer = io.BytesIO()
        _Pickler(buffer).dump(vars(self))
        return buffer.getvalue()

    def __setstate__(self, state: bytes) -> None:
        vars(self).update(pickle.loads(state))


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, _EVALUATED):
            return NotImplemented
        slots = {"is_commutative": value.is_commutative}  # of sums, products and powers
        known = dict(vars(value)) if isinstance(value, sp.Function) else slots
        return _as_it_was, (type(value), value.args, known)


def _as_it_was(kind: type[sp.Expr], args: tuple[sp.Expr, ...], known: dict[str, Any]) -> sp.Expr:
    """What sympy makes in the end, past its evaluation and its cache, which compares keys level by level."""
    made = sp.Expr.__new__(kind, *args)
    for name, value in known.items():
        setattr(made, name, value)
    return made
