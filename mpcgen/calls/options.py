"""The options of a controller, checked once and passed on as one value."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import math
import operator
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any

import torch

from mpcgen.errors import ParameterError

DEFAULT_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
"""KKT residual that each precision can bear."""

_CHOICES = {
    "method": ("auto", "ddp", "interior_point"),
    "hessian": ("exact", "gauss_newton"),
    "gradient": ("exact", "gauss_newton", "unrolled"),
    "on_unconverged": ("warn", "raise", "ignore"),
    "unconverged_gradient": ("zero", "keep", "nan"),
    "smooth": ("differential", "solve"),
}


def no_such_option(name: str, module: type) -> str:
    """What to say of an option that the constructor of ``module`` does not have."""
    options = [p.name for p in inspect.signature(module).parameters.values() if p.kind is p.KEYWORD_ONLY]
    # for tolerance, difflib would find nothing, or learn before tol
    begun = [option for option in options if name.startswith(option) or option.startswith(name)]
    near = begun or difflib.get_close_matches(name, options, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"MPC has no option {name!r}; {hint}its options are {', '.join(options)}"


@dataclass(frozen=True)
class Options:
    """Options of `mpcgen.autograd.MPC`; raises ParameterError for one outside its range.

    quiet: none of a user's; nobody is told how a solve ended, as the caller tells of several together.
    """

    tol: float | None = None
    max_iterations: int = 200
    hessian: str = "exact"
    gradient: str = "exact"
    on_unconverged: str = "warn"
    unconverged_gradient: str = "zero"
    smoothing: float = 0.0
    threads: int | None = None
    smooth: str = "differential"
    method: str = "auto"
    quiet: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                expected = ", ".join(map(repr, choices))
                raise ParameterError(f"{name}={getattr(self, name)!r}; expected one of {expected}")
        tol, smoothing = as_number(self.tol), as_number(self.smoothing)
        if self.tol is not None and (tol is None or tol <= 0):
            raise ParameterError(f"tol={self.tol!r}; a positive number is expected, e.g. 1e-8")
        if smoothing is None or smoothing < 0:
            raise ParameterError(
                f"smoothing={self.smoothing!r}; a number of at least 0 is expected, e.g. 1e-3"
            )
        object.__setattr__(self, "tol", tol)
        object.__setattr__(self, "smoothing", smoothing)
        if self.smooth == "solve" and smoothing == 0:
            raise ParameterError(
                "smooth='solve' needs the barrier's mu; pass smoothing above 0 too, e.g. 1e-3"
            )
        if self.is_interior_point:
            self._check_interior_point()
        self._check_count("max_iterations", 0)
        if self.threads is not None:
            self._check_count("threads", 1)

    def _check_interior_point(self) -> None:
        for name, only in (("hessian", "exact"), ("smooth", "differential")):
            if getattr(self, name) != only:
                raise ParameterError(
                    f"{name}={getattr(self, name)!r} is box-DDP's; method='interior_point' has {name}={only!r} only"
                )

    def _check_count(self, name: str, least: int) -> None:
        object.__setattr__(self, name, checked_count(name, getattr(self, name), least))

    @property
    def is_interior_point(self) -> bool:
        """Whether the solver is the interior point; else it is box-DDP."""
        return self.method == "interior_point"

    @property
    def hands_over(self) -> bool:
        """Whether box-DDP leaves to the interior point what it does not get on with; that knows no other options."""
        return self.method == "auto" and self.hessian == "exact" and self.smooth == "differential"

    def tolerance(self, dtype: torch.dtype) -> float:
        """KKT residual to reach: as asked, or what the precision can bear."""
        return DEFAULT_TOLERANCE[dtype] if self.tol is None else self.tol

    def thread_count(self) -> int:
        """Threads for the next call."""
        return torch.get_num_threads() if self.threads is None else self.threads

    @property
    def text(self) -> str:
        """The options as a string, the only kind of value that a registered operator can carry."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    @functools.lru_cache(maxsize=256)
    def from_text(text: str) -> Options:
        """Read back `text`."""
        return Options(**json.loads(text))


_OF_CONTROLLERS = (
    *(field.name for field in fields(Options) if field.name != "quiet"),
    *("history", "restarts", "seed", "unroll", "problem", "learn", "initial"),
)
"""Names of the options of `mpcgen.autograd.MPC`."""


def belongs_elsewhere(name: str) -> str:
    """Where a name belongs that was given to a call and is no parameter; empty where that is not known."""
    if name in ("lower", "upper"):
        return (
            "bounds that vary from call to call are parameters of the problem, as in "
            f"problem.controls(..., {name}=problem.parameter({name!r})); "
        )
    if name in _OF_CONTROLLERS:
        return f"it is an option of the controller, MPC({name}=...); "
    return ""


def checked_count(name: str, value: Any, least: int) -> int:
    """The whole number that an option has; raises ParameterError where it is none, or less than ``least``."""
    count = as_count(value)
    if count is None or count < least:
        raise ParameterError(f"{name}={value!r}; a whole number of at least {least} is expected")
    if count >= 2**31:
        raise ParameterError(f"{name}={value!r}; a number below 2**31 is expected")
    return count


def as_count(value: Any) -> int | None:
    """A whole number of any type, NumPy's for one, as int; None for anything else, and for True and False."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def as_number(value: Any) -> float | None:
    """A finite number of any real type, NumPy's for one, as float; None for anything else, and for True and False."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
