"""Whether modules still compute what was compiled of them.

A compiled problem is found by what a module holds and reads. What a module reads in a way that cannot be seen would
leave a problem in use that is another one by now, and no residual would tell.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpcgen.compat.problems import Models, precision_of
from mpcgen.compat.structure import as_it_was
from mpcgen.errors import ParameterError

_ALLOWED = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Relative differences that rounding explains, by the coarser of the call's precision and the module's."""


@torch.no_grad()
def check(models: Models, x: Tensor, u: Tensor, costs: Tensor, solved: Tensor) -> None:
    """Compare x (T, B, n) and costs (B,) with what the modules say along x and u (T, B, m), where ``solved`` (B,).

    Raises ParameterError where they differ.
    """
    of_dynamics, of_cost = models.structures
    if of_dynamics is not None:
        _check_dynamics(models.dynamics, x.detach(), u.detach(), solved, precision_of(of_dynamics, x.dtype))
    if of_cost is not None:
        tau = torch.cat((x, u), -1).detach()
        _check_cost(models.cost, tau, costs.detach(), solved, precision_of(of_cost, x.dtype))


def _check_dynamics(module: Any, x: Tensor, u: Tensor, solved: Tensor, dtype: torch.dtype) -> None:
    before, expected, controls = x[:-1].flatten(0, 1), x[1:].flatten(0, 1), u[:-1].flatten(0, 1)
    following = _values(module, (before.to(dtype), controls.to(dtype)))
    if following is None or following.shape != expected.shape:
        return
    scale = 1 + torch.cat((before, controls, expected), -1).abs().amax(-1)
    off = (following - expected).abs().amax(-1) / scale
    _compare("dx", off.reshape(-1, len(solved)).amax(0), solved, dtype, x.dtype)


def _check_cost(module: Any, tau: Tensor, costs: Tensor, solved: Tensor, dtype: torch.dtype) -> None:
    values = _values(module, (tau.flatten(0, 1).to(dtype),))
    if values is None or values.numel() != len(tau) * len(costs):
        return
    values = values.reshape(-1, len(costs))
    off = (values.sum(0) - costs).abs() / (1 + values.abs().sum(0) + costs.abs())
    _compare("cost", off, solved, dtype, tau.dtype)


def _values(module: Any, inputs: tuple[Tensor, ...]) -> Tensor | None:
    """What the module makes of a batch; None where it takes no such batch, as it was followed with a batch of one."""
    if len(inputs[0]) == 0:
        return None
    try:
        with as_it_was(module):
            found = module(*inputs)
    except Exception:  # the user's code; it has been followed before, with a batch of one
        return None
    return found if isinstance(found, Tensor) else None


def _compare(name: str, off: Tensor, solved: Tensor, *dtypes: torch.dtype) -> None:
    wrong = solved & ~(off <= max(_ALLOWED.get(dtype, 1e-3) for dtype in dtypes))
    if bool(wrong.any()):
        raise ParameterError(
            f"{name} now computes something else than what was compiled of it (up to {off[wrong].max():.1e} off, "
            "relative): it reads what cannot be seen to have changed, such as class attributes, globals or attributes "
            "of other modules that it looks up by name, or it mixes the problems of a batch; make what it reads an "
            "attribute of the module"
        )
