"""Plots of a tuning database: the best gain of every task over time, and times tuned and untuned."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import TuningError
from ..extras import needed_by
from ..printable import printable
from ..tuning_database.database import Database
from ..tuning_database.lookup import NOISE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..tuning_database.records import Record, TunedMachine

# Colours that most colour-blind readers can distinguish (Okabe and Ito).
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")


def draw(database: Database, folder: str | os.PathLike[str]) -> list[Path]:
    """Draw two plots for each machine of a database.

    Args:
        database: The measurements.
        folder: Folder of the plots; it is created if it does not exist.

    Returns:
        The files: ``progress-MACHINE.svg``, the best gain of each task over its measurements, and
        ``tuned-MACHINE.svg``, the time of each task tuned and untuned.

    Raises:
        TuningError: If there is nothing to plot, or the folder cannot be written.
    """
    warnings.filterwarnings("ignore", "Glyph .* missing from", module=__name__)  # the text is stored, not its glyphs
    with needed_by("plotting"):
        import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.fonttype"] = "none"  # text stays text: a tenth of the size
    from matplotlib import pyplot as plt

    if not any(record.gain for record in database.records):
        raise TuningError(f"{database.path} has no measurements to plot")
    files: list[Path] = []
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for number, machine in enumerate(database.machines()):
            tasks = _tasks(database, machine)
            if not tasks:
                continue
            name = f"{number}-{re.sub(r'[^A-Za-z0-9]+', '-', machine.cpu).strip('-')}"
            for kind, paint, height in (("progress", _progress, 4.0), ("tuned", _tuned, 1.2 + 0.26 * len(tasks))):
                figure, axes = plt.subplots(figsize=(10, height), layout="constrained")
                paint(axes, database, machine, tasks)
                figure.suptitle(printable(machine), fontsize=8, parse_math=False)
                files.append(Path(folder) / f"{kind}-{name}.svg")
                figure.savefig(files[-1])
                plt.close(figure)
    except OSError as error:
        raise TuningError(f"the plots cannot be written to {folder}: {error.strerror}") from None
    return files


def _tasks(database: Database, machine: TunedMachine) -> dict[str, list[Record]]:
    """The measurements of each task, in the order of the file."""
    tasks: dict[str, list[Record]] = {}
    for record in database.records:
        if record.machine == machine and record.gain is not None:
            tasks.setdefault(record.task, []).append(record)
    return tasks


def _progress(axes: Axes, database: Database, machine: TunedMachine, tasks: dict[str, list[Record]]) -> None:
    """Plot the best gain over time; each of the tasks with the largest gains has its own colour."""
    lines: dict[str, list[float]] = {}
    for records in tasks.values():
        best = [1.0]
        for record in records:
            if not record.confirmed and record.gain is not None:
                best.append(max(best[-1], record.gain))
        lines[_label(records[0].title)] = best
    ranked = sorted(lines, key=lambda title: -lines[title][-1])
    shown = [title for title in ranked if lines[title][-1] >= NOISE][: len(_COLOURS)]
    for title in ranked:
        steps = range(len(lines[title]))
        if title not in shown:
            label = "the others" if title == ranked[-1] else None
            axes.step(steps, lines[title], where="post", color="#BBBBBB", label=label, zorder=1)
    for title, colour in zip(shown, _COLOURS, strict=False):
        axes.step(range(len(lines[title])), lines[title], where="post", color=colour, label=title)
        axes.plot(len(lines[title]) - 1, lines[title][-1], "o", color=colour, markersize=4)
    axes.set_xlabel("candidates measured")
    axes.set_ylabel("best so far: times faster than untuned")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _tuned(axes: Axes, database: Database, machine: TunedMachine, tasks: dict[str, list[Record]]) -> None:
    """Plot times tuned and untuned, slowest task first. The scale is logarithmic, so the marks are dots, not bars."""
    costs = {key: _untuned_cost(database, machine, key) for key in tasks}
    order = sorted(tasks, key=lambda key: -costs[key])
    unit = next(iter(tasks.values()))[0].unit
    scale, label = (1e6, "microseconds") if unit == "seconds" else (1e-6, f"million {unit}")
    for position, key in enumerate(order):
        gains = database.gains(key, machine, deciding=True)
        best = max(gains, key=lambda name: gains[name])
        untuned, tuned = costs[key] * scale, costs[key] / gains[best] * scale
        labels = ("untuned", "tuned") if position == 0 else (None, None)
        axes.plot(untuned, position, "o", color="#999999", markersize=7, label=labels[0])
        axes.plot(tuned, position, "o", color=_COLOURS[0], markersize=4.5, label=labels[1])
        axes.annotate(
            _label(f"{best} {gains[best]:.2f}x"),
            (untuned, position),
            (8, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.set_yticks(range(len(order)), [_label(tasks[key][0].title) for key in order], fontsize=7)
    axes.invert_yaxis()
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(label)
    axes.legend(frameon=False)


def _label(text: str) -> str:
    """Text that is drawn as it is: matplotlib would read formulas between dollar signs."""
    return printable(text).replace("$", r"\$")


def _untuned_cost(database: Database, machine: TunedMachine, task: str) -> float:
    costs = [record.reference_cost for record in database.records if (record.task, record.machine) == (task, machine)]
    return min(cost for cost in costs if cost is not None)
