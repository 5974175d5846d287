"""Random specifications that once were not what CasADi says, or ended in an error that is not ours."""

import pytest
from fuzz_specs import examine


@pytest.mark.parametrize(
    "seed",
    [
        111,  # substeps as a loop
        1761,  # x**0.75 times a step
        1800,  # acot where its argument is 0
        3791,  # acot of what is not real, in the check for jumps
        4436,  # second derivatives of a branch that is not taken and not finite
        8877,  # 1/sqrt(v) * sqrt(v) at v < 0
    ],
)
def test_a_seed_that_failed_once(seed):
    assert examine(seed, compiled=False) == "rendered"
