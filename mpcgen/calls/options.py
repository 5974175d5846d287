"""The options of a controller, checked once and passed on as one value."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import asdict, dataclass

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


@dataclass(frozen=True)
class Options:
    """Options of `mpcgen.autograd.MPC`; raises ParameterError for one outside its range."""

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

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                expected = ", ".join(map(repr, choices))
                raise ParameterError(f"{name}={getattr(self, name)!r}; expected one of {expected}")
        if self.tol is not None and not (_is_number(self.tol) and self.tol > 0):
            raise ParameterError(f"tol={self.tol!r}; a positive number is expected, e.g. 1e-8")
        if not (_is_number(self.smoothing) and self.smoothing >= 0):
            raise ParameterError(
                f"smoothing={self.smoothing!r}; a number of at least 0 is expected, e.g. 1e-3"
            )
        if self.smooth == "solve" and self.smoothing == 0:
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
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ParameterError(f"{name}={value!r}; a whole number of at least {least} is expected")
        if value >= 2**31:
            raise ParameterError(f"{name}={value!r}; a number below 2**31 is expected")

    @property
    def is_interior_point(self) -> bool:
        """Whether the solver is the interior point; else it is box-DDP."""
        return self.method == "interior_point"

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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
