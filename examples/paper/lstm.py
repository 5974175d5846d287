"""The paper's neural baseline `nn`: an LSTM that unrolls controls from the initial state, for S seeds at once."""

from typing import Any

import torch
from torch import Tensor

from examples.paper.imitation import imitation_loss
from examples.paper.systems import HORIZON, Data

WIDTH = 256


class Linear(torch.nn.Module):
    """S linear layers as one, with torch's initial values: (S, B, inputs) -> (S, B, outputs)."""

    def __init__(self, learners: int, inputs: int, outputs: int) -> None:
        super().__init__()
        limit = inputs**-0.5
        self.weight = torch.nn.Parameter(torch.empty(learners, inputs, outputs).uniform_(-limit, limit))
        self.bias = torch.nn.Parameter(torch.empty(learners, 1, outputs).uniform_(-limit, limit))

    def forward(self, x: Tensor) -> Tensor:
        """Apply each layer to its own rows."""
        return torch.baddbmm(self.bias, x, self.weight)


def three_layers(learners: int, inputs: int, outputs: int) -> torch.nn.Sequential:
    """Return three layers with ReLU between them."""
    return torch.nn.Sequential(
        Linear(learners, inputs, WIDTH),
        torch.nn.ReLU(),
        Linear(learners, WIDTH, WIDTH),
        torch.nn.ReLU(),
        Linear(learners, WIDTH, outputs),
    )


class LSTMPolicy(torch.nn.Module):
    """S networks from initial states (S, B, n) to controls (S, B, N, m).

    An embedding of the initial state feeds the LSTM cell at the first step, one of its own last control at the
    later ones; a decoder reads the controls from the cell state. Weights are float32, and their products bfloat16,
    which halves the time where the processor has the instructions; the rounding is far below the losses.
    """

    def __init__(self, learners: int, states: int, controls: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed_state = three_layers(learners, states, WIDTH)
        self.embed_control = three_layers(learners, controls, WIDTH)
        self.decode = three_layers(learners, WIDTH, controls)
        self.from_input = Linear(learners, WIDTH, 4 * WIDTH)
        self.from_hidden = Linear(learners, WIDTH, 4 * WIDTH)

    def begin(self, epoch: int) -> None:
        """Nothing changes from epoch to epoch."""

    @torch.autocast("cpu", torch.bfloat16)
    def plan(self, x0: Tensor) -> Tensor:
        """Unroll the cell from zero hidden and cell states."""
        fed = self.embed_state(x0.float())
        hidden = cell = torch.zeros_like(fed)
        controls: list[Tensor] = []
        for _ in range(HORIZON):
            if controls:
                fed = self.embed_control(controls[-1])
            gates = self.from_input(fed) + self.from_hidden(hidden)
            take, forget, offer, show = gates.chunk(4, dim=-1)
            cell = forget.sigmoid() * cell + take.sigmoid() * offer.tanh()
            hidden = show.sigmoid() * cell.tanh()
            controls.append(self.decode(cell))
        return torch.stack(controls, dim=2).float()

    def summary(self) -> dict[str, Any]:
        """Nothing to tell of 1.5 million weights."""
        return {}

    def loss(self, data: Data, rows: Tensor, batch: Tensor) -> Tensor:
        """(S,) imitation losses of the trajectories data.x[rows, batch]."""
        return imitation_loss(self.plan(data.x[rows, batch, 0]), data.u[rows, batch].float())
