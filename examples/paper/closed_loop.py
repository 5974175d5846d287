"""Beyond the paper: gymnasium environments under closed-loop control, and a cost that learns from demonstrations.

A controller that looks far enough ahead swings pendulum and cartpole up. One that looks half as far never does. Its
cost, q and p, then learns through the solver to choose the first controls that the far-sighted one chose in the
same states (behaviour cloning). Every controller is warm-started from its last plan, shifted by a step.
"""

import dataclasses
import functools
import os
import time
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import sympy as sp
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

import mpcgen
from examples import cartpole, pendulum
from examples.paper import cartpole_env
from examples.paper.common import Claim, Results, progress, tidy

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # episodes are drawn into arrays, no screen is needed

PERIOD = 0.05  # s, between decisions in both environments
UPRIGHT = 0.95  # cos θ above which the pole counts as upright
BATCH, STEP_SIZE = 256, 0.03
# Where expert and learner are both at a bound there is no gradient, even if it is not the same bound. The barrier
# in place of the bounds, in the gradients only, leaves one.
SMOOTHING = 1e-2


@dataclass(frozen=True)
class Task:
    """An environment, horizons of expert and learner in stages, place of cos θ in the state, the control's unit."""

    environment: str
    spec: Any
    expert_horizon: int
    learner_horizon: int
    cosine: int
    unit: str

    @functools.cached_property
    def package(self) -> Any:
        """The compiled controller."""
        return mpcgen.compile(self.spec, dtypes=("float64",))


def with_force_limit(spec: Any, limit: float) -> Any:
    """Return the same problem with its controls between -limit and limit."""
    controls = tuple(
        dataclasses.replace(c, lower=sp.Float(-limit), upper=sp.Float(limit)) for c in spec.controls
    )
    return dataclasses.replace(spec, name=f"{spec.name}_limited", controls=controls)


TASKS = {
    "pendulum": Task("Pendulum-v1", pendulum.problem.spec(), 20, 10, 0, "N m"),
    "cartpole": Task(
        "mpcgen/CartpoleSwingUp-v0",
        with_force_limit(cartpole.problem.spec(), cartpole_env.FORCE),
        40,
        20,
        2,
        "N",
    ),
}


class Pilot:
    """Receding-horizon control: solve from the state observed, apply the first control, shift the plan."""

    def __init__(self, task: Task, horizon: int, cost: dict[str, Tensor]) -> None:
        self.mpc = task.package.MPC(tol=1e-3, max_iterations=30, threads=1, on_unconverged="ignore")
        self.horizon, self.cost = horizon, cost
        self.reset()

    def reset(self) -> None:
        """Forget the last plan."""
        self.plan = torch.zeros(self.horizon, 1, dtype=torch.float64)

    @torch.no_grad()
    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Return the control to apply, (1,)."""
        state = torch.as_tensor(observation, dtype=torch.float64)
        solution = self.mpc(state, u_init=self.plan, **self.cost)
        self.plan = torch.cat([solution.u[1:], solution.u[-1:]])
        return solution.u[0].numpy().astype(np.float32)


def fly(task: Task, pilot: Pilot, seeds: range) -> dict[str, Any]:
    """Fly one episode of 200 steps from each seed; states, plans and controls are (episodes, 200, ...) lists."""
    environment = gymnasium.make(task.environment)
    record: dict[str, list[Any]] = {
        "states": [],
        "plans": [],
        "controls": [],
        "returns": [],
        "seconds": [],
        "cpu": [],
    }
    for seed in seeds:
        observation, _ = environment.reset(seed=seed)
        pilot.reset()
        states, plans, controls, gained, over = [], [], [], 0.0, False
        while not over:
            states.append(observation.tolist())
            plans.append(pilot.plan.tolist())
            began, began_cpu = time.perf_counter(), time.thread_time()
            control = pilot(observation)
            record["seconds"].append(time.perf_counter() - began)
            record["cpu"].append(time.thread_time() - began_cpu)
            controls.append(control.tolist())
            observation, reward, _, over, _ = environment.step(control)
            gained += float(reward)
        record["returns"].append(gained)
        for name, values in (("states", states), ("plans", plans), ("controls", controls)):
            record[name].append(values)
    environment.close()
    return record


def upright(task: Task, states: Any) -> np.ndarray:
    """Share of each episode that was spent upright, (episodes,)."""
    return (np.array(states)[:, :, task.cosine] > UPRIGHT).mean(axis=1)


def clone(task: Task, record: dict[str, Any], steps: int) -> dict[str, Any]:
    """Fit the learner's q and p to the expert's first controls; returns them and the loss of each step.

    Episodes that the expert itself did not bring upright are no example.
    """
    torch.manual_seed(0)
    good = torch.tensor(np.array(record["states"])[:, -1, task.cosine] > UPRIGHT)
    states, plans, controls = (
        torch.tensor(record[name], dtype=torch.float64)[good].flatten(0, 1)
        for name in ("states", "plans", "controls")
    )
    plans = plans[:, : task.learner_horizon]
    mpc = task.package.MPC(
        tol=1e-4,
        max_iterations=30,
        smoothing=SMOOTHING,
        on_unconverged="ignore",
        learn={"q": "positive", "p": None},
    )
    optimizer = torch.optim.Adam(mpc.parameters(), lr=STEP_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(states), (BATCH,))
        ours = mpc(states[chosen], u_init=plans[chosen]).u[:, 0]
        loss = (ours - controls[chosen]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return {"q": mpc.q.tolist(), "p": mpc.p.tolist(), "losses": losses, "examples": len(states)}


def run(results: Results) -> list[Claim]:
    """Fly, learn, fly again, for both systems; draw, animate and write."""
    flights, rows, claims, learned = {}, [], [], {}
    with progress() as bar:
        watched = bar.add_task("", total=len(TASKS))
        for name, task in TASKS.items():
            bar.update(watched, description=f"{name}: fly, learn, fly")
            learned[name], flights[name] = before_and_after(results, name, task)
            own = [row_of(name, task, who, flight) for who, flight in flights[name].items()]
            rows += own
            claims += claims_of(name, own)
            bar.advance(watched)
    results.save_figure(draw(flights, learned))
    costs = {name: {key: value[key] for key in ("q", "p")} for name, value in learned.items()}
    results.save_numbers(rows, claims, period_s=PERIOD, learned=costs)
    return claims


def before_and_after(results: Results, name: str, task: Task) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what was learned, and the episodes of the expert and of the learner before and after."""
    # Half of the steps are not always enough: what is learned by then swings cartpole up from some random batches only.
    steps = 600
    episodes, demonstrations = (6, 12) if results.quick else (50, 24)
    settings = {"episodes": episodes, "demonstrations": demonstrations, "steps": steps}
    expert = Pilot(task, task.expert_horizon, {})
    shown = range(1000, 1000 + demonstrations)
    record = results.trial(f"{name}_demonstrations", settings, fly, task, expert, shown).value
    learned = results.trial(f"{name}_cloning", settings, clone, task, record, steps).value
    cost = {key: torch.tensor(learned[key], dtype=torch.float64) for key in ("q", "p")}
    pilots = {
        "expert": expert,
        "before": Pilot(task, task.learner_horizon, {}),
        "after": Pilot(task, task.learner_horizon, cost),
    }
    flown = {
        who: results.trial(f"{name}_{who}", settings, fly, task, pilot, range(episodes)).value
        for who, pilot in pilots.items()
    }
    animate(task, pilots, results.folder / f"closed_loop_{name}.gif", 10 if results.quick else 200)
    return learned, flown


def row_of(name: str, task: Task, who: str, flight: dict[str, Any]) -> dict[str, Any]:
    """One controller's episodes in figures; latency is that of a whole decision, from observation to control."""
    latency = 1e3 * np.array(flight["seconds"])
    share = upright(task, flight["states"])
    return {
        "system": name,
        "controller": who,
        "horizon": task.expert_horizon if who == "expert" else task.learner_horizon,
        "return_mean": float(np.mean(flight["returns"])),
        "return_worst": float(np.min(flight["returns"])),
        "upright_mean": float(share.mean()),
        "episodes_ending_upright": float((np.array(flight["states"])[:, -1, task.cosine] > UPRIGHT).mean()),
        "cpu_median_ms": 1e3 * float(np.median(flight["cpu"])),
        "cpu_p99_ms": 1e3 * float(np.quantile(flight["cpu"], 0.99)),
        "latency_median_ms": float(np.median(latency)),
        "latency_p99_ms": float(np.quantile(latency, 0.99)),
        "latency_worst_ms": float(latency.max()),
        "rate_hz": float(1e3 / np.median(latency)),
        "late": float((latency > 1e3 * PERIOD).mean()),
    }


def claims_of(name: str, rows: list[dict[str, Any]]) -> list[Claim]:
    """What learning the cost and warm starts are to bring."""
    expert, before, after = rows
    gained = (after["return_mean"] - before["return_mean"]) / (expert["return_mean"] - before["return_mean"])
    return [
        Claim(
            f"{name}: learning the cost closes {gained:.0%} of the short horizon's loss of return "
            f"({before['return_mean']:.0f} before, {after['return_mean']:.0f} after, expert "
            f"{expert['return_mean']:.0f})",
            gained > 0.25,
        ),
        Claim(
            f"{name}: upright {before['upright_mean']:.0%} of the time before, {after['upright_mean']:.0%} after, "
            f"expert {expert['upright_mean']:.0%}",
            after["upright_mean"] > before["upright_mean"] + 0.2,
        ),
        Claim(
            f"{name}: a decision takes {after['latency_median_ms']:.2f} ms (median) of the {1e3 * PERIOD:.0f} ms that "
            f"there are, and at most {after['cpu_p99_ms']:.2f} ms of processor time in 99 %",
            max(after["latency_median_ms"], after["cpu_p99_ms"]) < 1e3 * PERIOD / 5,
        ),
    ]


TITLES = {"before": "short horizon, before", "after": "short horizon, after", "expert": "long horizon"}


def animate(task: Task, pilots: dict[str, Pilot], file: Any, steps: int, seed: int = 2) -> None:
    """Write one episode of the three controllers side by side as a GIF, every second step, in real time."""
    columns = []
    for who, title in TITLES.items():
        environment = gymnasium.make(task.environment, render_mode="rgb_array")
        observation, _ = environment.reset(seed=seed)
        pilots[who].reset()
        frames = []
        for step in range(steps):
            observation, *_ = environment.step(pilots[who](observation))
            if step % 2 == 0:
                frames.append(captioned(environment.render(), title))
        environment.close()
        columns.append(frames)
    pictures = [
        Image.fromarray(np.concatenate(row, axis=1)).quantize(32) for row in zip(*columns, strict=True)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(
        file, save_all=True, append_images=pictures[1:], duration=round(2e3 * PERIOD), loop=0, optimize=True
    )


def captioned(frame: np.ndarray, title: str) -> np.ndarray:
    """Scale a frame to 240 pixels across and write above it."""
    picture = Image.fromarray(frame)
    picture = picture.resize((240, round(240 * picture.height / picture.width)))
    ImageDraw.Draw(picture).text((8, 6), title, fill=(0, 0, 0), font_size=14)
    return np.asarray(picture)


def draw(flights: dict[str, dict[str, Any]], learned: dict[str, dict[str, Any]]) -> Figure:
    """Draw cloning loss, angle over time and return of each system."""
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    grid = figure.subplots(len(flights), 3)
    colours = {"before": "C3", "after": "C0", "expert": "0.35"}
    for (name, flight), (left, middle, right) in zip(flights.items(), grid, strict=True):
        task = TASKS[name]
        losses = torch.tensor(learned[name]["losses"])
        left.semilogy(losses, color="C0", linewidth=0.5, alpha=0.4)
        left.semilogy(12 + torch.arange(len(losses) - 24), losses.unfold(0, 25, 1).mean(dim=1), color="C0")
        left.set(
            xlabel="step of Adam (line: means of 25)", ylabel=f"squared control difference ({task.unit})²"
        )
        left.set_title(f"{name}: cloning the expert's control")
        for who in TITLES:
            cosine = np.array(flight[who]["states"])[:, :, task.cosine]
            time_ = PERIOD * np.arange(cosine.shape[1])
            band = np.quantile(cosine, (0.25, 0.75), axis=0)
            middle.fill_between(time_, *band, color=colours[who], alpha=0.2, linewidth=0)
            middle.plot(time_, np.median(cosine, axis=0), color=colours[who], label=TITLES[who])
            order = np.sort(flight[who]["returns"])
            right.plot(
                order, np.arange(1, len(order) + 1) / len(order), color=colours[who], drawstyle="steps"
            )
        middle.set(
            xlabel="time (s)",
            ylabel="cos θ, 1 is upright",
            title=f"{len(cosine)} episodes: median and quartiles",
        )
        right.set(xlabel="return of an episode", ylabel="share of episodes with less", title="returns")
    for axes in grid.flat:
        tidy(axes)
    figure.legend(*middle.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
