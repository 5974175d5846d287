"""Controllers that several test files use, compiled once per session, and hypothesis on fixed examples."""

import os

import pytest
from controllers import NONLINEAR, Example, example
from drafts import Draft
from hypothesis import HealthCheck, settings

# The same examples in every run, and no deadline: a first example compiles, and two workers share the cores.
settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def pendulum() -> Example:
    return example("pendulum")


@pytest.fixture(scope="session")
def cartpole() -> Example:
    return example("cartpole")


@pytest.fixture(scope="session")
def car() -> Example:
    return example("car")


@pytest.fixture(scope="session")
def lqr() -> Example:
    return example("lqr")


@pytest.fixture(scope="session", params=NONLINEAR)
def nonlinear(request: pytest.FixtureRequest) -> Example:
    """Pendulum, cartpole and car, in turn."""
    return example(request.param)


@pytest.fixture
def draft() -> Draft:
    return Draft()
