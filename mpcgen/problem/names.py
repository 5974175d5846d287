"""Which names a problem and its symbols may have: any Python identifier, used once."""

import difflib
import keyword
import sys
import unicodedata
from collections.abc import Iterable

from mpcgen.errors import SpecError

# Keyword arguments of the controller's call: a parameter of that name could not be passed.
_CALL_ARGUMENTS = frozenset(("self", "x0", "u0", "u_init", "x_init", "horizon", "warm_start", "shift"))

# A folder `generated/<name>` on the module path would hide these.
_MODULES = frozenset(sys.stdlib_module_names) | {"cffi", "mpcgen", "numpy", "torch"}


def check_problem_name(name: object) -> str:
    """Return ``name`` if it can name a package, else raise SpecError."""
    text = check_identifier(name, "problem")
    if text.startswith("__") and text.endswith("__"):
        raise SpecError(f"problem name {text!r} is one that Python keeps for itself; rename it")
    if text in _MODULES:
        raise SpecError(
            f"problem name {text!r} would hide the Python module {text!r}; "
            f"choose another name, for example {text + '_mpc'!r}"
        )
    return text


def check_parameter_name(name: object) -> str:
    """Return ``name`` if it can be a keyword argument of the controller's call, else raise SpecError."""
    text = check_identifier(name, "parameter")
    if text in _CALL_ARGUMENTS:
        raise SpecError(
            f"parameter name {text!r} is reserved: the controller's call has an argument of that name; "
            f"rename the parameter, for example {text + '_value'!r}"
        )
    return text


def check_identifier(name: object, role: str) -> str:
    """Return ``name`` if it is a Python identifier, as Python itself reads it, else raise SpecError.

    What C would take for something else is called otherwise there: see `mpcgen.runtime.naming`.
    """
    if not isinstance(name, str):
        raise SpecError(f"{role} name {name!r} is {type(name).__name__}; expected a string")
    problem = _objection(name)
    if problem is not None:
        raise SpecError(f"{role} name {name!r} {problem}; rename it")
    return name


def _objection(name: str) -> str | None:
    if not name.isidentifier():
        return "is not an identifier; expected letters, digits and underscores, not starting with a digit"
    if keyword.iskeyword(name):
        return "is a Python keyword"
    normal = unicodedata.normalize("NFKC", name)
    if normal != name:
        return f"is written with characters that Python replaces: it reads {normal!r}"
    return None


def split_names(names: object, role: str) -> list[str]:
    """Split ``"x v omega"`` (spaces or commas) or a sequence of strings into names; not empty."""
    if isinstance(names, str):
        parts = names.replace(",", " ").split()
    elif isinstance(names, list | tuple):
        parts = list(names)
    else:
        raise SpecError(f"{role} names {names!r}: expected a string such as 'x v omega' or a list of strings")
    if not parts:
        raise SpecError(f"no {role} names given: expected a string such as 'x v omega'")
    return parts


def near_name(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'mass'?"`` for a close match among ``known``, else an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


class NameTable:
    """The names in use, each with what it names. A vector takes its own name and those of its entries."""

    def __init__(self) -> None:
        self._taken: dict[str, str] = {}

    def claim(self, names: Iterable[tuple[str, str]]) -> None:
        """Register (name, description) pairs, all or none; SpecError where one is in use already."""
        fresh: dict[str, str] = {}
        for name, description in names:
            owner = self._taken.get(name) or fresh.get(name)
            if owner is not None:
                raise SpecError(
                    f"the name {name!r} ({description}) is used twice: it is already {owner}; rename one"
                )
            fresh[name] = description
        self._taken.update(fresh)
