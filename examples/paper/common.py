"""What the experiments share: results on disk, figures, claims and progress bars."""

import csv
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.bench.timing import machine_name

FOLDER = Path(__file__).resolve().parent
PAPER_COLOUR = "0.35"  # of the paper's values, in every figure

mpl.rcParams["svg.hashsalt"] = "mpcgen"  # the same figure gives the same file


@dataclass(frozen=True)
class Claim:
    """A statement about an experiment, with its figures, and whether the results bear it out."""

    text: str
    holds: bool


@dataclass(frozen=True)
class Trial:
    """What a trial computed, any JSON value, and what it took: wall seconds, and those of all cores."""

    value: Any
    wall_seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Results:
    """Files of one experiment: trials that are kept, figures and numbers.

    folder: for figures and numbers, ``<experiment>*.png``, ``.svg``, ``.json``, ``.csv``; the trials are in
    ``folder/trials/<experiment>/``. quick: whether the experiment is to be the short one. variants: whether it is to
    have the trials too that the paper does not.
    """

    experiment: str
    folder: Path
    quick: bool = False
    variants: bool = False

    def trial(
        self, name: str, settings: Mapping[str, Any], compute: Callable[..., Any], *arguments: Any
    ) -> Trial:
        """Return the trial kept under this name if its settings were the same, else ``compute(*arguments)``.

        settings, and what ``compute`` returns, are JSON values. An interrupted experiment goes on where it was.
        """
        kept = self.kept(name, settings)
        if kept:
            return kept
        wall, cpu = time.perf_counter(), time.process_time()
        value = compute(*arguments)
        trial = Trial(value, time.perf_counter() - wall, time.process_time() - cpu)
        _write(self._file(name), json.dumps({"settings": dict(settings), **asdict(trial)}))
        return trial

    def kept(self, name: str, settings: Mapping[str, Any]) -> Trial | None:
        """Return the trial kept under this name if its settings were the same."""
        file = self._file(name)
        if not file.exists():
            return None
        record = json.loads(file.read_text(encoding="utf-8"))
        if record.pop("settings") != json.loads(json.dumps(dict(settings))):
            return None
        return Trial(**record)

    def _file(self, name: str) -> Path:
        return self.folder / "trials" / self.experiment / f"{name}.json"

    def save_figure(self, figure: Figure, suffix: str = "") -> None:
        """Write a figure as PNG and SVG."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = self.folder / f"{self.experiment}{suffix}"
        figure.savefig(stem.with_suffix(".png"), dpi=120)
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})

    def save_numbers(
        self, rows: Sequence[Mapping[str, Any]], claims: Sequence[Claim] = (), suffix: str = "", **about: Any
    ) -> None:
        """Write rows of numbers as CSV, and as JSON together with claims, machine and ``about``."""
        record = {
            "experiment": self.experiment,
            "quick": self.quick,
            "machine": machine_name(),
            "torch": torch.__version__,
            **about,
            "claims": [asdict(claim) for claim in claims],
        }
        stem = self.folder / f"{self.experiment}{suffix}"
        lines = ",\n".join("  " + json.dumps(dict(row)) for row in rows)
        head = json.dumps(record, indent=1).removesuffix("\n}")
        _write(stem.with_suffix(".json"), f'{head},\n "rows": [\n{lines}\n ]\n}}\n')
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with stem.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    def save_table(self, markdown: str) -> None:
        """Write the table that a page shows."""
        _write(self.folder / f"{self.experiment}.md", markdown)


def _write(file: Path, text: str) -> None:
    """Write all of a file or nothing, so that an interrupted run leaves no half of one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(file.name + ".part")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, file)


def seconds_of(trials: Mapping[str, Trial]) -> dict[str, dict[str, float]]:
    """Wall and processor seconds of each trial and of all, for `Results.save_numbers`."""
    times = {name: {"wall": trial.wall_seconds, "cpu": trial.cpu_seconds} for name, trial in trials.items()}
    return times | {"all": {kind: sum(t[kind] for t in times.values()) for kind in ("wall", "cpu")}}


def progress() -> Progress:
    """Bars with count and time."""
    return Progress(
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )


def tidy(axes: Axes) -> None:
    """Frame left and below only, a faint grid behind the lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
