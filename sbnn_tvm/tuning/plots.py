"""Pictures of a tuning database: the best so far of every task, and tuned against untuned."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from sbnn_tvm.errors import TuningError
from sbnn_tvm.tuning.database import Database, Machine, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(database: Database, folder: str | os.PathLike[str]) -> list[Path]:
    """Draw two pictures for each machine of a database.

    Args:
        database: What was measured.
        folder: Where to; it is made if it is not there.

    Returns:
        The files: ``progress-MACHINE.svg``, the best so far of each task over its measurements, and
        ``tuned-MACHINE.svg``, the time of each task tuned and untuned.

    Raises:
        TuningError: If there is nothing to draw, or the folder cannot be written.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    if not any(record.gain for record in database.records):
        raise TuningError(f"{database.path} has no measurements to draw")
    files: list[Path] = []
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for number, machine in enumerate(database.machines()):
            tasks = _tasks(database, machine)
            if not tasks:
                continue
            name = f"{number}-{re.sub(r'[^A-Za-z0-9]+', '-', machine.cpu).strip('-')}"
            for kind, paint, height in (("progress", _progress, 5.0), ("tuned", _tuned, 1.2 + 0.4 * len(tasks))):
                figure, axes = plt.subplots(figsize=(10, height), layout="constrained")
                paint(axes, database, machine, tasks)
                figure.suptitle(str(machine), fontsize=8)
                files.append(Path(folder) / f"{kind}-{name}.svg")
                figure.savefig(files[-1])
                plt.close(figure)
    except OSError as error:
        raise TuningError(f"the pictures cannot be written to {folder}: {error.strerror}") from None
    return files


def _tasks(database: Database, machine: Machine) -> dict[str, list[Record]]:
    """The measurements of each task, in the order in which they were made."""
    tasks: dict[str, list[Record]] = {}
    for record in database.records:
        if record.machine == machine and record.gain is not None:
            tasks.setdefault(record.task, []).append(record)
    return tasks


def _progress(axes: Axes, database: Database, machine: Machine, tasks: dict[str, list[Record]]) -> None:
    for records in tasks.values():
        best = [1.0]
        for record in records:
            if not record.confirmed and record.gain is not None:
                best.append(max(best[-1], record.gain))
        axes.step(range(len(best)), best, where="post", label=records[0].title)
    axes.set_xlabel("candidates measured")
    axes.set_ylabel("best so far: times faster than untuned")
    axes.legend(fontsize=6)


def _tuned(axes: Axes, database: Database, machine: Machine, tasks: dict[str, list[Record]]) -> None:
    positions = range(len(tasks))
    costs = [min(r.reference_cost for r in records if r.reference_cost is not None) for records in tasks.values()]
    gains = [database.gains(key, machine, deciding=True) for key in tasks]
    unit = next(iter(tasks.values()))[0].unit
    scale, label = (1e6, "microseconds") if unit == "seconds" else (1e-6, f"million {unit}")
    axes.barh([p - 0.2 for p in positions], [cost * scale for cost in costs], 0.4, label="untuned")
    tuned = [cost / max(gain.values()) * scale for cost, gain in zip(costs, gains, strict=True)]
    axes.barh([p + 0.2 for p in positions], tuned, 0.4, label="tuned")
    for position, time, gain in zip(positions, tuned, gains, strict=True):
        best = max(gain, key=lambda name: gain[name])
        axes.text(time, position + 0.2, f" {best} {gain[best]:.2f}x", va="center", fontsize=6)
    axes.set_yticks(list(positions), [records[0].title for records in tasks.values()], fontsize=6)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.legend()
