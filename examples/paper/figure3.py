"""Figure 3: eight LQR learners recover the dynamics of an expert from its trajectories, or fail to.

Expert and learner minimise ½ τᵀτ + pᵀτ over T = 5 stages and differ in the dynamics x⁺ = A x + B u only. The
learner follows the gradient of the imitation loss by its A and B (section 5.2). Two settings: that of the authors'
published code, which is seeded, so that its losses can be compared digit by digit; and that of the paper's text.
"""

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

import mpcgen
from examples.lqr import problem
from examples.paper.common import PAPER_COLOUR, Claim, Results, Trial, progress, seconds_of, tidy
from mpcgen.autograd import Solution

T, N_STATE, N_CTRL = 5, 3, 3
LEARNERS = 8
AVERAGED = 25  # steps, in every number reported


@dataclass(frozen=True)
class Setting:
    """bound: of every control, or infinite; batch: initial states per step; linear_cost: whether p is drawn or 0."""

    bound: float
    batch: int
    linear_cost: bool


SETTINGS = {"code": Setting(torch.inf, 128, True), "text": Setting(1.0, 32, False)}

# The code's setting is seeded. Learner -> losses at these steps, (imitation, model), each the mean of 25 steps.
SEEDED_STEPS = (25, 100, 400, 1000, 5000)
SEEDED = {
    0: (("1.09", ".326", ".228", ".192", ".164"), (".891", ".969", "2.51", "5.86", "17.9")),
    1: ((".668", ".070", ".0032", ".0023", ".0018"), (".525", ".196", ".0028", "6.7e-5", "5.5e-5")),
    2: (("1.28", ".358", ".0062", ".0018", ".0022"), ("1.41", "1.01", ".021", "5.9e-5", "7.4e-5")),
    3: ((".590", ".0079", ".0011", ".0010", ".0023"), (".297", ".023", "3.3e-5", "4.2e-5", "7.4e-5")),
}


def draw_dynamics() -> Tensor:
    """F = (A, B), (3, 6): A = I + 0.2 N(0, 1), B = N(0, 1)."""
    A = torch.eye(N_STATE) + 0.2 * torch.randn(N_STATE, N_STATE)
    return torch.cat([A, torch.randn(N_STATE, N_CTRL)], dim=1)


def draw_expert() -> tuple[Tensor, Tensor]:
    """F (3, 6) and the linear cost p (6,) of the published code's expert."""
    torch.manual_seed(42)
    torch.randn(N_STATE + N_CTRL)  # a draw that the code discards
    p = torch.randn(N_STATE + N_CTRL)
    return draw_dynamics(), p


def draw_learners() -> tuple[Tensor, list[torch.Generator]]:
    """F (8, 3, 6) that the learners start from, and the generators that their batches follow from."""
    F, generators = [], []
    for learner in range(LEARNERS):
        torch.manual_seed(learner)
        F.append(draw_dynamics())
        generators.append(torch.Generator().set_state(torch.get_rng_state()))
    return torch.stack(F), generators


def imitation_loss(ours: Solution, expert: Solution) -> Tensor:
    """Mean squared difference of T controls plus that of T states, of each learner, (8,).

    The last control acts on no state and is the same for both: it counts in the paper's mean and is not among ours.
    """
    controls = (ours.u - expert.u).square().mean(dim=(1, 2, 3)) * (T - 1) / T
    return controls + (ours.x - expert.x).square().mean(dim=(1, 2, 3))


def model_loss(F: Tensor, expert: Tensor) -> Tensor:
    """MSE(A) + MSE(B) of each learner, (8,); F is (8, 3, 6)."""
    A, B = (F - expert).square().split([N_STATE, N_CTRL], dim=-1)
    return A.mean(dim=(-2, -1)) + B.mean(dim=(-2, -1))


def learn(setting: Setting, steps: int, step_done: Callable[[], None]) -> dict[str, list[list[float]]]:
    """Losses of the eight learners, the means of 25 steps each: (steps / 25, 8).

    All learners are one batch. RMSprop works element by element, so that they stay independent of each other.
    """
    expert_F, p = draw_expert()
    F, generators = draw_learners()
    F.requires_grad_()
    bound = torch.full((T - 1, N_CTRL), setting.bound)
    cost = {"C": torch.eye(N_STATE + N_CTRL), "c": p if setting.linear_cost else torch.zeros_like(p)}
    known = {"horizon": T - 1, "lower": -bound, "upper": bound, **cost}

    # A diverged model is too badly scaled for float32's tolerance now and then. The gradient of a linear-quadratic
    # problem is as exact as its solution, so it is kept.
    mpc = mpcgen.compile(problem, dtypes=("float32",)).MPC(
        on_unconverged="ignore", unconverged_gradient="keep"
    )
    optimizer = torch.optim.RMSprop([F], lr=1e-2)
    imitation, model = [], []
    for _ in range(steps):
        x0 = torch.stack([torch.randn(setting.batch, N_STATE, generator=g) for g in generators])
        with torch.no_grad():
            expert = mpc(x0, F=expert_F, **known)
        ours = mpc(x0, F=F[:, None, None].expand(-1, -1, T - 1, -1, -1), **known)
        loss = imitation_loss(ours, expert)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        imitation.append(loss.detach())
        model.append(model_loss(F.detach(), expert_F))
        step_done()
    return {"imitation": _means(imitation), "model": _means(model)}


def _means(losses: list[Tensor]) -> list[list[float]]:
    return torch.stack(losses).reshape(-1, AVERAGED, LEARNERS).mean(dim=1).tolist()


def run(results: Results) -> list[Claim]:
    """Train, draw and write; 5,000 steps, or 400."""
    steps = 400 if results.quick else 5000
    trials = {}
    with progress() as bar:
        for name, setting in SETTINGS.items():
            task = bar.add_task(f"eight learners, the {name}'s setting", total=steps)
            trials[name] = results.trial(
                name,
                {**asdict(setting), "steps": steps},
                learn,
                setting,
                steps,
                functools.partial(bar.advance, task),
            )
            bar.update(task, completed=steps)
    numbers = rows(trials)
    results.save_figure(draw(numbers))
    claims = [*seeded_claims(trials["code"].value, steps), *half_converge(trials["code"].value)]
    claims.append(text_converges(trials["text"].value))
    results.save_numbers(numbers, claims, seconds=seconds_of(trials))
    return claims


def seeded_claims(losses: dict[str, list[list[float]]], steps: int) -> list[Claim]:
    """Whether learners 0 to 3 agree with the tabulated losses to the digits given."""
    claims = []
    for learner, tabulated in SEEDED.items():
        words, agree = [], True
        for kind, values in zip(("imitation", "model"), tabulated, strict=True):
            for step, value in zip(SEEDED_STEPS, values, strict=True):
                if step <= steps:
                    ours = losses[kind][step // AVERAGED - 1][learner]
                    agree &= agrees(ours, value)
                    words.append(f"{ours:.4g} ({value})")
        claims.append(Claim(f"learner {learner} follows the seeded losses: {', '.join(words)}", agree))
    return claims


def agrees(value: float, digits: str) -> bool:
    """Whether a value rounds to the digits given; float32 may move it by a tenth of the last one."""
    unit = 10.0 ** Decimal(digits).as_tuple().exponent
    return abs(value - float(digits)) <= (0.5 + 0.1) * unit


def half_converge(losses: dict[str, list[list[float]]]) -> list[Claim]:
    """What figure 3 shows: four models converge, the others diverge while their imitation loss stalls near 0.2."""
    first, last = torch.tensor(losses["model"])[[0, -1]]
    imitation = torch.tensor(losses["imitation"])[-1]
    converged = last < 0.05
    stalled = (last > first) & ((imitation - 0.2).abs() < 0.05)
    return [
        Claim(
            f"half of the learners converge: {converged.nonzero()[:, 0].tolist()}", int(converged.sum()) == 4
        ),
        Claim(
            f"the others stall near 0.2 while their model diverges: {stalled.nonzero()[:, 0].tolist()}",
            bool((stalled == ~converged).all()),
        ),
    ]


def text_converges(losses: dict[str, list[list[float]]]) -> Claim:
    """In the setting of the text more learners converge, given time."""
    converged = (torch.tensor(losses["model"])[-1] < 0.05).nonzero()[:, 0].tolist()
    return Claim(f"in the text's setting at least half converge: {converged}", len(converged) >= 4)


def rows(trials: dict[str, Trial]) -> list[dict[str, Any]]:
    """One row for each setting, learner and mean of 25 steps; of the later ones every fourth."""
    result = []
    for name, trial in trials.items():
        for i, losses in enumerate(zip(trial.value["imitation"], trial.value["model"], strict=True)):
            step = AVERAGED * (i + 1)
            if step <= 400 or step % 100 == 0:
                for learner, (imitation, model) in enumerate(zip(*losses, strict=True)):
                    result.append(
                        {
                            "setting": name,
                            "learner": learner,
                            "step": step,
                            "imitation": imitation,
                            "model": model,
                        }
                    )
    return result


def draw(numbers: list[dict[str, Any]]) -> Figure:
    """Draw both losses over the steps in both settings; crosses are the tabulated values."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    panels = figure.subplots(2, len(SETTINGS), sharex=True, sharey="row")
    titles = {
        "code": "published code: no bounds, batches of 128",
        "text": "paper's text: bounds ±1, batches of 32",
    }
    for column, name in enumerate(SETTINGS):
        for axes, kind in zip(panels[:, column], ("imitation", "model"), strict=True):
            for learner in range(LEARNERS):
                own = [r for r in numbers if (r["setting"], r["learner"]) == (name, learner)]
                steps = [r["step"] for r in own]
                line = [r[kind] for r in own]
                axes.loglog(steps, line, color=f"C{learner}", linewidth=1, label=f"learner {learner}")
            axes.xaxis.set_minor_formatter(NullFormatter())
            tidy(axes)
        panels[0, column].set_title(titles[name])
        panels[1, column].set_xlabel("step (means of 25)")
    for learner, tabulated in SEEDED.items():
        for axes, values in zip(panels[:, 0], tabulated, strict=True):
            shown = [(s, float(v)) for s, v in zip(SEEDED_STEPS, values, strict=True) if s <= steps[-1]]
            label = "the authors' seeds 0 to 3" if learner == 0 else None
            axes.plot(*zip(*shown, strict=True), "x", color=PAPER_COLOUR, zorder=3, label=label)
    panels[0, 0].set_ylabel("imitation loss")
    panels[1, 0].set_ylabel("model loss, MSE(A) + MSE(B)")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure
