"""Imitation learning of sections 5.3 and 5.4, several learners as one batch.

The S learners of a batch differ in their seed, which draws their data and shuffles it. Their parameters have a
leading dimension S, as their problems have: one call solves the minibatches of all of them. The loss is the sum
over the learners, and torch's optimisers work entry by entry, so that nothing of one learner reaches another.

A policy here is a module with `begin(epoch)`, `loss(data, rows, batch)`, the (S,) losses of a minibatch, and
`plan(x0)`, the controls (S, B, N, m) for initial states (S, B, n).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from examples.paper.systems import HORIZON, Data, System, next_state

BATCH = 32  # trajectories
TURN = 10  # epochs in which only p, or only q, is learned
RESET = 50  # epochs after which the warm starts are forgotten


def imitation_loss(u: Tensor, expert: Tensor) -> Tensor:
    """(S,) mean squared difference of controls (S, B, N, m)."""
    return (u - expert).square().mean(dim=(1, 2, 3))


class MPCPolicy(torch.nn.Module):
    """S controllers that learn as ``method`` says; see the paper's section 5.3.

    "sysid" and "mpc.dx" learn the parameters of the dynamics, "mpc.cost" the cost, "mpc.cost.dx" both; "sysid"
    by the squared error of the next state, the others by that of the controls. start: (S, parameters) of the
    dynamics, default the system's. q = sigmoid(q_logit) and p = √q · p_learned start at zero logits and p_learned.
    """

    def __init__(
        self, mpc: Any, system: System, method: str, learners: int, start: Tensor | None = None
    ) -> None:
        super().__init__()
        self.mpc, self.method = mpc, method
        self.names = list(system.start)
        self.next_state = next_state(system.problem)
        spec = system.problem.spec()
        width = len(spec.states) + len(spec.controls)
        self.dynamics = self.q_logit = self.p_learned = None
        if method != "mpc.cost":
            default = torch.tensor(list(system.start.values()), dtype=torch.float64).repeat(learners, 1)
            self.dynamics = torch.nn.Parameter(default if start is None else start.clone())
        if method in ("mpc.cost", "mpc.cost.dx"):
            self.q_logit = torch.nn.Parameter(torch.zeros(learners, width, dtype=torch.float64))
            self.p_learned = torch.nn.Parameter(torch.zeros(learners, width, dtype=torch.float64))
        self.warm_start: Tensor | None = None
        self.unconverged = 0

    def begin(self, epoch: int) -> None:
        """Begin an epoch: p and q take turns, p first; at times the warm starts are forgotten."""
        if epoch % RESET == 0:
            self.warm_start = None
        if self.q_logit is not None:
            turn_of_q = epoch // TURN % 2 == 1
            self.q_logit.requires_grad_(turn_of_q)
            self.p_learned.requires_grad_(not turn_of_q)

    def arguments(self) -> dict[str, Tensor]:
        """What the controllers are called with, each (S, 1, ...); what is known is the problem's default."""
        arguments = {}
        if self.dynamics is not None:
            arguments |= zip(self.names, self.dynamics[:, None].unbind(-1), strict=True)
        if self.q_logit is not None:
            q = torch.sigmoid(self.q_logit)
            arguments |= {"q": q[:, None], "p": (q.sqrt() * self.p_learned)[:, None]}
        return arguments

    def plan(self, x0: Tensor) -> Tensor:
        """Plan from zero controls, as the expert did."""
        return self.mpc(x0, horizon=HORIZON, **self.arguments()).u

    def loss(self, data: Data, rows: Tensor, batch: Tensor) -> Tensor:
        """(S,) losses of the trajectories data.x[rows, batch]; each plan starts from that trajectory's last."""
        x, u = data.x[rows, batch], data.u[rows, batch]
        if self.method == "sysid":
            return self.next_state_loss(x, u)
        if self.warm_start is None:
            self.warm_start = torch.zeros_like(data.u)
        solution = self.mpc(x[:, :, 0], u_init=self.warm_start[rows, batch], **self.arguments())
        self.warm_start[rows, batch] = solution.u.detach()
        self.unconverged += int(solution.status.count_nonzero())
        return imitation_loss(solution.u, u)

    def summary(self) -> dict[str, Any]:
        """What was learned, as the controller's arguments, and how many solves had no gradient."""
        with torch.no_grad():
            learned = {name: value[:, 0].tolist() for name, value in self.arguments().items()}
        return {"learned": learned, "unconverged": self.unconverged}

    def next_state_loss(self, x: Tensor, u: Tensor) -> Tensor:
        """(S,) mean squared error of the next states along trajectories x (S, B, N+1, n), u (S, B, N, m)."""
        parameters = dict(zip(self.names, self.dynamics[:, None, None].unbind(-1), strict=True))
        return (self.next_state(x[:, :, :-1], u, parameters) - x[:, :, 1:]).square().mean(dim=(1, 2, 3))


@dataclass
class Best:
    """Of each learner the best validation loss (S,), its epoch (S,) and the policy's state then."""

    loss: Tensor
    epoch: Tensor
    state: dict[str, Tensor]

    def update(self, loss: Tensor, epoch: int, policy: torch.nn.Module) -> None:
        """Take what is better."""
        better = loss < self.loss
        self.loss = torch.where(better, loss, self.loss)
        self.epoch[better] = epoch
        for name, value in policy.state_dict().items():
            self.state[name][better] = value[better]


@dataclass
class Curves:
    """Losses of S learners, a row (S,) for each epoch: train, the mean over its minibatches; validation."""

    train: list[Tensor] = field(default_factory=list)
    validation: list[Tensor] = field(default_factory=list)


def evaluate(policy: Any, data: Data) -> Tensor:
    """(S,) imitation losses."""
    with torch.no_grad():
        return imitation_loss(policy.plan(data.x[:, :, 0]), data.u)


def train(
    policy: Any,
    optimizer: torch.optim.Optimizer,
    training: Data,
    validation: Data,
    seeds: Sequence[int],
    epochs: int,
    patience: int | None = None,
    after_epoch: Callable[[int], Any] = lambda epoch: None,
) -> tuple[Best, Curves]:
    """Train, and leave the policy with its parameters of best validation loss.

    patience: stop when no learner has improved its validation loss for so many epochs.
    """
    count = training.u.shape[1]
    rows = torch.arange(len(seeds))[:, None]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    curves = Curves()
    loss = evaluate(policy, validation)
    best = Best(loss, torch.zeros(len(seeds)), {k: v.clone() for k, v in policy.state_dict().items()})
    for epoch in range(1, epochs + 1):
        policy.begin(epoch - 1)
        order = torch.stack([torch.randperm(count, generator=generator) for generator in generators])
        mean = torch.zeros_like(loss)
        for batch in order.split(BATCH, dim=1):
            loss = policy.loss(training, rows, batch)
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            mean += loss.detach() * (batch.shape[1] / count)
        curves.train.append(mean)
        curves.validation.append(evaluate(policy, validation))
        best.update(curves.validation[-1], epoch, policy)
        after_epoch(epoch)
        if patience and epoch - int(best.epoch.max()) >= patience:
            break
    policy.load_state_dict(best.state)
    return best, curves
