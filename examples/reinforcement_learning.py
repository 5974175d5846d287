"""Train a controller by policy gradient, beside a plain network: PPO in one file, on a track that ends in walls.

    pip install '.[rl]'
    python -m examples.reinforcement_learning            # five seeds of each: pictures/reinforcement_learning.png
    python -m examples.reinforcement_learning --seeds 1 --iterations 20

A cart is to reach a goal and to stay there, in a headwind that it cannot see, and must not touch the walls near which
some goals lie. Both actors are normal distributions with a learned spread; critic, losses and budget are the same. One
actor's mean is a network of two layers. The other's is a model predictive controller that begins with the wrong mass,
little drag and no wind and with cost weights of 1, and learns all of these through the gradients of its first force.

The algorithm is proximal policy optimisation (Schulman et al. 2017) as CleanRL (Huang et al. 2022) lays it out:
rollouts, generalised advantages (Schulman et al. 2016), some epochs of minibatches over a clipped ratio.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import sympy as sp
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor, nn
from torch.distributions import Normal

import mpcgen

FORCE = 3.0  # N, the most
WALL = 1.0  # m, on both sides
DT = 0.1  # s
STEPS = 50  # of an episode
CRASH = -20.0  # reward of touching a wall, which ends the episode
MASS, DRAG, WIND = 1.6, 0.8, -0.9  # kg, N s²/m², N: the environment's


class Track(VectorEnv):
    """``count`` carts at a time. An observation is position (m), velocity (m/s) and goal (m); the action a force (N).

    The reward of a step is minus the cost of `stage_cost`. An episode that has ended begins anew in the same step.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, count: int) -> None:
        self.num_envs = count
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.single_action_space = gymnasium.spaces.Box(-FORCE, FORCE, (1,), np.float64)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, count)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, count)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin all episodes."""
        super().reset(seed=seed)
        self.state = np.zeros((self.num_envs, 3))
        self.steps = np.zeros(self.num_envs, dtype=int)
        self._begin(np.ones(self.num_envs, dtype=bool))
        return self.state.copy(), {}

    def _begin(self, where: np.ndarray) -> None:
        count = int(where.sum())
        draws = self.np_random.uniform([-0.9, -0.5, -0.95], [0.9, 0.5, 0.95], (count, 3))
        self.state[where], self.steps[where] = draws, 0

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Move on by DT; what lies beyond the bounds of the force is cut off."""
        force = np.clip(np.asarray(actions)[:, 0], -FORCE, FORCE)
        position, velocity, goal = self.state.T
        reward = -stage_cost(position, velocity, goal, force, (1.0, 0.1, 0.01))
        gust = 0.1 * self.np_random.standard_normal(self.num_envs)  # N
        velocity = velocity + DT * (force + WIND + gust - DRAG * velocity * np.abs(velocity)) / MASS
        position = position + DT * velocity
        self.state = np.stack([position, velocity, goal], axis=1)
        self.steps += 1
        crashed = np.abs(position) >= WALL
        ended = ~crashed & (self.steps >= STEPS)
        info = {"final_obs": self.state.copy()}
        self._begin(crashed | ended)
        return self.state.copy(), reward + CRASH * crashed, crashed, ended, info


def stage_cost(position: Any, velocity: Any, goal: Any, force: Any, weights: Any) -> Any:
    """Distance from the goal, velocity and force, squared and weighted."""
    return weights[0] * (position - goal) ** 2 + weights[1] * velocity**2 + weights[2] * force**2


def make_problem() -> mpcgen.Problem:
    """Two seconds ahead, with the walls as a constraint whose violation has a price."""
    problem = mpcgen.Problem("track", horizon=20)
    position, velocity = problem.states("position velocity")  # m, m/s
    force = problem.control("force", lower=-FORCE, upper=FORCE)  # N
    mass, drag, wind = problem.parameters("mass drag wind", default=[1.0, 0.1, 0.0])  # kg, N s²/m², N
    goal = problem.parameter("goal", default=0.0)  # m
    weights = problem.parameter("weights", shape=3, default=[1.0, 1.0, 1.0])
    smooth = velocity * sp.sqrt(velocity**2 + 0.05**2)
    velocity_next = velocity + DT * (force + wind - drag * smooth) / mass
    problem.dynamics = [position + DT * velocity_next, velocity_next]
    problem.stage_cost = stage_cost(position, velocity, goal, force, weights)
    problem.terminal_cost = stage_cost(position, velocity, goal, 0, weights)
    problem.constraint("walls", position, lower=-0.95 * WALL, upper=0.95 * WALL, soft=20.0)
    return problem


class Controller(nn.Module):
    """The first force of the controller's plan; its model and cost are learned."""

    def __init__(self) -> None:
        super().__init__()
        positive = dict.fromkeys(("mass", "drag", "weights"), "positive")
        module = mpcgen.compile(make_problem(), dtypes="float64")
        self.mpc = module.MPC(learn={**positive, "wind": None}, tol=1e-6, on_unconverged="ignore")

    def forward(self, observation: Tensor) -> Tensor:
        """(count, 3) -> (count, 1)."""
        return self.mpc(observation[:, :2], goal=observation[:, 2]).u[:, 0]


def layer(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """A linear layer with orthogonal weights, as PPO's networks have them."""
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


def network(gain: float) -> nn.Sequential:
    """Two layers of 64."""
    return nn.Sequential(
        layer(3, 64, 2**0.5), nn.Tanh(), layer(64, 64, 2**0.5), nn.Tanh(), layer(64, 1, gain)
    )


class Agent(nn.Module):
    """Actor and critic. kind: "controller" or "network", what the actor's mean is."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.mean = Controller() if kind == "controller" else network(0.01)
        self.log_spread = nn.Parameter(torch.full((1,), -0.5))
        self.critic = network(1.0)
        self.double()

    def actor(self, observation: Tensor) -> Normal:
        """The distribution of forces."""
        return Normal(self.mean(observation), self.log_spread.exp())


@dataclass(frozen=True)
class Settings:
    """Of PPO: the same for both actors, but for the step size."""

    envs: int = 16
    epochs: int = 4
    minibatches: int = 4
    discount: float = 0.97
    trace: float = 0.95
    clip: float = 0.2
    entropy: float = 0.002
    largest_gradient: float = 0.5


# Of 0.001, 0.003 and 0.01 the best for the network; the controller learns as well with 0.01 as with 0.03.
STEP_SIZES = {"controller": 1e-2, "network": 1e-2}


@dataclass
class Rollout:
    """What one iteration saw, each (STEPS, envs) or more; and mean return and crashes of the episodes that ended."""

    observation: Tensor
    action: Tensor
    log_probability: Tensor
    advantage: Tensor
    value: Tensor
    episode_return: float
    crashes: float


class Runner:
    """Plays episodes and keeps where they are."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings, self.envs = settings, Track(settings.envs)
        self.observation = torch.from_numpy(self.envs.reset(seed=seed)[0])
        self.running = np.zeros(settings.envs)

    @torch.no_grad()
    def play(self, agent: Agent) -> Rollout:
        """STEPS steps of every environment, with advantages by GAE(λ)."""
        rows, returns, crashes = [], [], 0
        for _ in range(STEPS):
            actor = agent.actor(self.observation)
            action = actor.sample()
            following, reward, crashed, ended, info = self.envs.step(action.numpy())
            self.running += reward
            done = crashed | ended
            returns += self.running[done].tolist()
            crashes += int(crashed.sum())
            self.running[done] = 0
            # An episode that was only cut off would have gone on: its last state's value belongs to its reward.
            beyond = agent.critic(torch.from_numpy(info["final_obs"]))[:, 0]
            gained = torch.from_numpy(reward) + self.settings.discount * torch.from_numpy(ended) * beyond
            value = agent.critic(self.observation)[:, 0]
            probability = actor.log_prob(action)[:, 0]
            rows.append((self.observation, action, probability, value, gained, torch.from_numpy(done)))
            self.observation = torch.from_numpy(following)
        observation, action, probability, value, reward, done = map(torch.stack, zip(*rows, strict=True))
        last = agent.critic(self.observation)[:, 0]
        advantage = self._advantages(value, last, reward, done)
        count = max(len(returns), 1)
        return Rollout(
            observation, action, probability, advantage, value, sum(returns) / count, crashes / count
        )

    def _advantages(self, value: Tensor, last: Tensor, reward: Tensor, done: Tensor) -> Tensor:
        advantage, following, carried = torch.zeros_like(value), last, torch.zeros_like(last)
        for step in reversed(range(STEPS)):
            goes_on = (~done[step]).double()
            surprise = reward[step] + self.settings.discount * goes_on * following - value[step]
            carried = surprise + self.settings.discount * self.settings.trace * goes_on * carried
            advantage[step], following = carried, value[step]
        return advantage


def improve(agent: Agent, optimizer: torch.optim.Optimizer, seen: Rollout, settings: Settings) -> None:
    """PPO's epochs over a rollout."""
    observation, action = seen.observation.flatten(0, 1), seen.action.flatten(0, 1)
    before, advantage = seen.log_probability.flatten(), seen.advantage.flatten()
    target = (seen.advantage + seen.value).flatten()
    for _ in range(settings.epochs):
        for part in torch.randperm(len(before)).chunk(settings.minibatches):
            actor = agent.actor(observation[part])
            ratio = (actor.log_prob(action[part])[:, 0] - before[part]).exp()
            gain = (advantage[part] - advantage[part].mean()) / (advantage[part].std() + 1e-8)
            clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
            policy_loss = -torch.minimum(ratio * gain, clipped * gain).mean()
            value_loss = 0.5 * (agent.critic(observation[part])[:, 0] - target[part]).square().mean()
            loss = policy_loss + 0.5 * value_loss - settings.entropy * actor.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), settings.largest_gradient)
            optimizer.step()


def train(kind: str, seed: int, iterations: int, settings: Settings | None = None) -> dict[str, list[float]]:
    """Train an agent; returns samples, seconds, CPU seconds, mean return and share of crashes, by iteration."""
    settings = settings or Settings()
    torch.manual_seed(seed)
    agent = Agent(kind)
    runner = Runner(settings, seed)
    optimizer = torch.optim.Adam(agent.parameters(), lr=STEP_SIZES[kind], eps=1e-5)
    log: dict[str, list[float]] = {name: [] for name in ("samples", "seconds", "cpu", "return", "crashes")}
    start, start_cpu = time.perf_counter(), time.process_time()
    for iteration in range(iterations):
        for group in optimizer.param_groups:
            group["lr"] = STEP_SIZES[kind] * (1 - iteration / iterations)
        seen = runner.play(agent)
        row = (
            (iteration + 1) * STEPS * settings.envs,
            time.perf_counter() - start,
            time.process_time() - start_cpu,
            seen.episode_return,
            seen.crashes,
        )
        for name, value in zip(log, row, strict=True):
            log[name].append(value)
        improve(agent, optimizer, seen, settings)
    if kind == "controller":
        mpc = agent.mean.mpc
        print(
            f"    learned mass {mpc.mass.item():.2f}, drag {mpc.drag.item():.2f}, wind {mpc.wind.item():.2f}"
        )
    return log


def plot(logs: dict[str, list[dict[str, list[float]]]], path: Path) -> None:
    """Return over samples and over time: the median of the seeds, and their range."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for kind, runs in logs.items():
        for axis, across, along in zip(
            axes, ("samples", "cpu", "samples"), ("return", "return", "crashes"), strict=True
        ):
            values = np.array([run[along] for run in runs])
            at = np.median([run[across] for run in runs], axis=0)
            (line,) = axis.plot(at, np.median(values, axis=0), label=kind)
            axis.fill_between(at, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2)
    for axis, label in zip(axes, ("samples", "CPU time / s", "samples"), strict=True):
        axis.set_xlabel(label)
    axes[0].set_ylabel("return of an episode")
    axes[1].set_ylabel("return of an episode")
    axes[2].set_ylabel("share of episodes that crash")
    axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=64, help="of 800 samples each")
    parser.add_argument("--output", type=Path, default=Path("pictures/reinforcement_learning.png"))
    options = parser.parse_args()
    for name in ("seeds", "iterations"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; expected at least 1")
    torch.set_num_threads(1)  # small batches
    logs: dict[str, list[dict[str, list[float]]]] = {kind: [] for kind in STEP_SIZES}
    for seed in range(options.seeds):
        for kind, runs in logs.items():
            runs.append(train(kind, seed, options.iterations))
            run = runs[-1]
            print(
                f"{kind:<10} seed {seed}: return {run['return'][0]:7.2f} -> {run['return'][-1]:7.2f}, crashes "
                f"{run['crashes'][0]:.0%} -> {run['crashes'][-1]:.0%}, {run['samples'][-1]:.0f} samples in "
                f"{run['cpu'][-1]:.1f} s of CPU time, {run['seconds'][-1]:.1f} s",
                flush=True,
            )
    plot(logs, options.output)


if __name__ == "__main__":
    main()
