"""What the systems share: their costs, and pictures of a rod."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def quadratic(goal: Tensor, weights: Tensor, penalty: float, controls: int) -> tuple[Tensor, Tensor]:
    """Return q = (weights, penalty) and p = (-√weights · goal, 0), the paper's cost about a goal."""
    q = torch.cat((weights, weights.new_full((controls,), penalty)))
    return q, torch.cat((-weights.sqrt() * goal, weights.new_zeros(controls)))


def draw_rod(base: float, direction: Tensor, length: float, reach: float, axes: Any) -> tuple[Any, Any]:
    """A rod from (base, 0); direction: cosine and sine of its angle from upright. reach: of the picture, in lengths."""
    if axes is None:
        from matplotlib.figure import Figure

        axes = Figure(figsize=(6, 6)).subplots()
    cosine, sine = direction.detach().tolist()
    axes.plot((base, base + length * sine), (0.0, length * cosine), color="k")
    axes.set(xlim=(-reach * length, reach * length), ylim=(-reach * length, reach * length))
    return axes.get_figure(), axes
