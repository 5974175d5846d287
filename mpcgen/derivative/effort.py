"""How much a derivation may spend on trying, counted rather than timed: the text must not depend on the machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class Effort:
    """A number of terms, entries of a matrix of second derivatives that are added to, that may still be formed.

    One takes about 5 microseconds (a core of an AMD EPYC, CPython 3.11).
    """

    def __init__(self, left: float = math.inf) -> None:
        self.left = left
        self.spent = 0.0

    def spend(self, terms: float) -> bool:
        """Whether there is enough left for the terms, which are then paid for."""
        if terms > self.left:
            return False
        self.left -= terms
        self.spent += terms
        return True

    def pay(self, terms: int) -> None:
        """Spend what has been done already, to the last of what is left."""
        self.spend(min(terms, self.left))

    def share(self, among: int, attempt: Callable[[Effort], Result]) -> Result:
        """The result of an attempt that gets an equal share of what is left; what it does not need stays."""
        part = Effort(self.left / among)
        result = attempt(part)
        self.spend(part.spent)
        return result
