"""A linear-quadratic problem with 3 states and 3 controls: the paper's Module 1, sizes of its figure 3.

C, c, F and f are parameters, per stage; `lower` and `upper` bound the controls and are infinite unless given.
"""

import mpcgen

problem = mpcgen.lqr(3, 3, horizon=5, name="lqr")


def initial_states(count, seed=0, dtype=None):
    """(count, 3) float64 or ``dtype``: N(0, I)."""
    import torch

    dtype = torch.float64 if dtype is None else dtype
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=generator, dtype=torch.float64).to(dtype)
