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


def check(models: Models, x: Tensor, u: Tensor, costs: Tensor, solved: Tensor) -> None:
    """Compare x (T, B, n) and costs (B,) with what the modules say along x and u (T, B, m), where ``solved`` (B,).

    Raises ParameterError where they differ.
    """
    if models.dynamics is None and models.cost is None:
        return
    finite = x.isfinite().all(-1).all(0) & u.isfinite().all(-1).all(0) & costs.isfinite()
    of_dynamics, of_cost = models.structures
    if of_dynamics is not None:
        _check_dynamics(models.dynamics, x, u, solved & finite, precision_of(of_dynamics, x.dtype))
    if of_cost is not None:
        _check_cost(models.cost, x, u, costs, solved & finite, precision_of(of_cost, x.dtype))


@torch.no_grad()
def _check_dynamics(module: Any, x: Tensor, u: Tensor, counts: Tensor, dtype: torch.dtype) -> None:
    x, u = x[:, counts].detach(), u[:, counts].detach()
    inputs = torch.cat((x[:-1], u[:-1]), -1).flatten(0, 1)
    n = x.shape[-1]
    following = _values(module, (inputs[:, :n].to(dtype), inputs[:, n:].to(dtype)))
    expected = x[1:].flatten(0, 1)
    if following is None or following.shape != expected.shape:
        return
    scale = 1 + torch.cat((inputs, expected), -1).abs().amax(-1, keepdim=True)
    _compare("dx", following.to(expected), expected, scale, dtype)


@torch.no_grad()
def _check_cost(module: Any, x: Tensor, u: Tensor, costs: Tensor, counts: Tensor, dtype: torch.dtype) -> None:
    tau = torch.cat((x[:, counts], u[:, counts]), -1).detach()
    values = _values(module, (tau.flatten(0, 1).to(dtype),))
    if values is None or values.numel() != tau[..., 0].numel():
        return
    values = values.reshape(tau.shape[:-1]).to(costs)
    expected = costs[counts].detach()
    scale = 1 + values.abs().sum(0) + expected.abs()
    _compare("cost", values.sum(0), expected, scale, dtype)


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


def _compare(name: str, values: Tensor, expected: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
    allowed = max(_ALLOWED.get(dtype, 1e-3), _ALLOWED[expected.dtype])
    off = (values - expected).abs() / scale
    if not bool((off <= allowed).all()):
        raise ParameterError(
            f"{name} now computes something else than what was compiled of it (up to {off.max():.1e} off, relative): "
            "it reads what cannot be seen to have changed, such as class attributes, globals or attributes of other "
            "modules that it looks up by name, or it mixes the problems of a batch; make what it reads an attribute of "
            "the module"
        )
