"""Run the experiments of Amos et al. (2018), "Differentiable MPC for End-to-end Planning and Control".

All of them, or those that are named. Trials that are already in the results are not repeated. Figures go to
examples/paper/results/, those of --quick to pictures/paper_quick/.
"""

import importlib
import shutil
import time
from pathlib import Path

import click
from rich.console import Console

from examples.paper.common import FOLDER, Results

EXPERIMENTS = {
    "figure2": "time and memory over the iterations: fixed point against unrolling",
    "figure3": "LQR imitation: eight learners, seeded",
    "recovery": "beyond figure 3: what recovers the learners left in local minima",
    "figure4": "imitation of pendulum and cartpole: five methods, 10 to 100 trajectories, four seeds",
    "figure5": "imitation of a pendulum that the learner cannot be",
    "figure6": "training and test losses of figure 4's trials",
    "closed_loop": "gymnasium under closed-loop control, and a cost that learns",
}
"""Name of an experiment, which is its module's, and what it shows."""
VARIANTS = """Figures 4 and 6 also with the paper's gradient, with a decaying learning rate, and where trajectories are
few on four data sets: 50 more cells of four trials, some 45 minutes of processor time."""


def explanation() -> str:
    """Return the help text with the table of experiments."""
    table = "\n".join(f"{name:<14}{what}" for name, what in EXPERIMENTS.items())
    return f"{__doc__}\n\n\b\n{table}"


@click.command(help=explanation())
@click.argument("names", nargs=-1, type=click.Choice(list(EXPERIMENTS)))
@click.option("--quick", is_flag=True, help="Short versions: all within two minutes on 2 cores.")
@click.option("--variants", is_flag=True, help=VARIANTS)
@click.option("--fresh", is_flag=True, help="Repeat the trials of the experiments named.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the results.")
def main(names: tuple[str, ...], quick: bool, variants: bool, fresh: bool, output: Path | None) -> None:
    """Run, and say which of the claims hold; exit status 1 if one does not."""
    console = Console()
    if quick and variants:
        raise click.UsageError("--quick has no variants; leave out one of --quick and --variants")
    folder = output or (Path("pictures/paper_quick") if quick else FOLDER / "results")
    failed = 0
    for name in names or EXPERIMENTS:
        console.rule(f"{name}: {EXPERIMENTS[name]}", align="left")
        if fresh:
            shutil.rmtree(folder / "trials" / name, ignore_errors=True)
        began = time.perf_counter()
        claims = importlib.import_module(f"examples.paper.{name}").run(Results(name, folder, quick, variants))
        for claim in claims:
            console.print("[green]holds[/]" if claim.holds else "[red]fails[/]", claim.text, highlight=False)
        failed += sum(not claim.holds for claim in claims)
        console.print(f"{time.perf_counter() - began:.1f} s, {folder / name}.*", style="dim", highlight=False)
    if failed:
        raise SystemExit(f"{failed} claims fail")


if __name__ == "__main__":
    main()
