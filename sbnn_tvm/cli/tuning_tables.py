"""Tables about tuning: its progress, its result, and the content of a database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from ..printable import printable
from ..tuning_database.database import Database
from ..tuning_database.records import SECONDS, Record, TunedMachine
from .console import error_console, plain
from .tables import plain_table, readable_seconds

if TYPE_CHECKING:
    from rich.table import Table

    from ..tuning.tuner import TuningProgress, TuningResult


@contextmanager
def shown_progress() -> Iterator[Callable[[TuningProgress], None]]:
    """Show the current measurement, the best gain so far and the remaining time on stderr, if stderr is a terminal."""
    console = error_console()
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(20), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        row = bar.add_task("building the first kernels", total=None)

        def show(progress: TuningProgress) -> None:
            gain = "failed" if progress.gain is None else f"{progress.gain:.2f}x"
            text = (
                f"{progress.phase} {progress.task}: {progress.candidate} {gain}, best {progress.best:.2f}x; "
                f"network {progress.expected:.3f}x; {progress.seconds_left:.0f} s left"
            )
            total = progress.trials + progress.remaining
            bar.update(row, description=printable(text), completed=progress.trials, total=total)

        yield show


def result_table(result: TuningResult) -> Table:
    """The result of tuning, one row per task."""
    found = plain_table(
        "task", "layers", "best", "gain", "measured", "failed", right=("layers", "gain", "measured", "failed")
    )
    for task in result.tasks:
        failed = str(task.failed) if task.failed else ""
        measured = f"{task.measured} of {task.space}"
        found.add_row(plain(task.title), str(len(task.names)), plain(task.best), f"{task.gain:.3f}", measured, failed)
    return found


def database_table(database: Database, machine: TunedMachine) -> Table:
    """The tasks that were measured on a machine, each with its fastest candidate."""
    found = plain_table(
        "task", "best", "gain", "untuned", "candidates", "failed", right=("gain", "candidates", "failed")
    )
    records: dict[str, Record] = {r.task: r for r in database.records if r.machine == machine}
    for key, record in records.items():
        gains = database.gains(key, machine, deciding=True)
        best = max(gains, key=lambda name: gains[name], default="")
        costs = [r.reference_cost for r in database.records if (r.task, r.machine) == (key, machine)]
        cost = min((each for each in costs if each is not None), default=None)
        found.add_row(
            plain(record.title),
            plain(best),
            f"{gains[best]:.3f}" if best else "",
            "" if cost is None else readable_cost(cost, record.unit),
            str(len(database.gains(key, machine))),
            str(len(database.failed(key, machine)) or ""),
        )
    return found


def readable_cost(cost: float, unit: str) -> str:
    """A cost as text."""
    return readable_seconds(cost) if unit == SECONDS else f"{cost:,.0f} {unit}"
