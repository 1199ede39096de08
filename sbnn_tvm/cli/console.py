"""Print results on stdout, and progress and errors on stderr."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text


def result_console() -> Console:
    """A console for results. In a file or pipe, lines are folded at 200 columns, not at a terminal's width."""
    console = Console(highlight=False)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(highlight=False, width=200)


@contextmanager
def shown_steps() -> Iterator[Callable[[str], None]]:
    """Show the current step and its time on stderr, if stderr is a terminal; call the result with each step's name."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda name: progress.update(task, description=name)


def complain(sentence: str) -> None:
    """Print an error on stderr, on one line."""
    console = Console(stderr=True, highlight=False)
    text = Text.assemble(("error: ", "bold red"), (" ".join(sentence.split()), "red"))
    console.print(text, soft_wrap=not console.is_terminal)


def warn(sentence: str) -> None:
    """Print a warning on stderr, on one line."""
    Console(stderr=True, highlight=False).print(f"warning: {sentence}", style="yellow", markup=False, soft_wrap=True)


def examples(*lines: str) -> str:
    """The examples at the end of a command's help."""
    return "[bold]Examples[/]\n" + "\n".join(f"  [dim]$[/] {line}" for line in lines)
