"""Which controls a cost module does not see with the weights that it has by now."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpcgen.compat.arguments import Sizes
from mpcgen.compat.problems import Models, precision_of
from mpcgen.compat.structure import as_it_was

_POINTS = 8
"""States and controls at which is looked, among them the origin."""


def unseen_by_module(models: Models, sizes: Sizes, like: Tensor) -> tuple[int, ...]:
    """Controls by which the slope of a cost module is zero wherever one looks, as where its own weight of one is zero.

    None where the cost is no module, or takes no batch: it was followed with a batch of one.
    """
    structure = models.structures[1]
    if structure is None:
        return ()
    generator = torch.Generator().manual_seed(0)
    tau = torch.randn(_POINTS, sizes.n + sizes.m, generator=generator, dtype=torch.float64)
    tau[0] = 0
    slope = _slope(models.cost, tau.to(like.device, precision_of(structure, like.dtype)))
    if slope is None:
        return ()
    return tuple((slope[:, sizes.n :] == 0).all(0).nonzero().flatten().tolist())


def _slope(module: Any, tau: Tensor) -> Tensor | None:
    """∂cost/∂τ of each, or None."""
    try:
        with as_it_was(module), torch.enable_grad():
            costs = module(tau.requires_grad_())
            return torch.autograd.grad(costs.sum(), tau, materialize_grads=True)[0]
    except Exception:  # the user's code; it has been followed before, with a batch of one
        return None
