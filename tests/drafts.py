"""A valid problem for tests to spoil in one place, and what refusing it must say."""

import re

import pytest

import mpcgen
from mpcgen import SpecError


class Draft:
    """A valid problem, to be spoiled in one place."""

    def __init__(self):
        self.problem = mpcgen.Problem("draft", horizon=5)
        self.x, self.v = self.problem.states("x velocity")
        (self.u,) = self.problem.controls("force", lower=-1, upper=1)
        (self.mass,) = self.problem.parameters("mass", default=2.0)
        self.problem.dynamics = [self.x + self.v, self.v + self.u / self.mass]
        self.problem.stage_cost = self.x**2 + self.u**2


def refused(*words: str, kind: type[SpecError] = SpecError):
    """Expect an error whose message contains all the words, in that order."""
    return pytest.raises(kind, match="(?s)" + ".*".join(map(re.escape, words)))
