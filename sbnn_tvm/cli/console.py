"""Print results on stdout, and progress and errors on stderr.

Text is never read as markup or emoji codes, so that names of files and layers look as they are. They may hold any
characters: pass them through ``bold``, ``plain`` or ``printable``, which escape those that control a terminal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

from ..printable import printable


def result_console() -> Console:
    """A console for results. In a file or pipe, lines are folded at 200 columns, not at a terminal's width."""
    console = _console()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return _console(width=200)


def error_console() -> Console:
    """A console for progress and errors."""
    return _console(stderr=True)


def _console(**options: Any) -> Console:
    return Console(highlight=False, markup=False, emoji=False, **options)


_SIZES = (20, 2000)
"""The smallest and the largest size of a terminal for which tables are laid out, in characters."""


def check_terminal_size() -> None:
    """Limit the size of the terminal that the environment gives, and ignore one that is no number."""
    for name in ("COLUMNS", "LINES"):
        try:
            size = int(os.environ[name])
        except KeyError:
            continue
        except ValueError:
            del os.environ[name]
            continue
        os.environ[name] = str(min(max(size, _SIZES[0]), _SIZES[1]))


def plain(text: object, style: str = "") -> Text:
    """Text of unknown origin, on one line."""
    return Text(printable(text), style=style)


def bold(text: object) -> Text:
    """Text of unknown origin, on one line, in bold."""
    return plain(text, "bold")


@contextmanager
def shown_steps() -> Iterator[Callable[[str], None]]:
    """Show the current step and its time on stderr, if stderr is a terminal; call the result with each step's name."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = error_console()
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda name: progress.update(task, description=printable(name))


def complain(sentence: str) -> None:
    """Print an error on stderr, on one line."""
    _tell("error: ", "bold red", sentence, "red")


def warn(sentence: str) -> None:
    """Print a warning on stderr, on one line."""
    _tell("warning: ", "yellow", sentence, "yellow")


def _tell(kind: str, kind_style: str, sentence: str, style: str) -> None:
    console = error_console()
    text = Text.assemble((kind, kind_style), (printable(" ".join(sentence.split())), style))
    console.print(text, soft_wrap=not console.is_terminal)


def examples(*lines: str) -> str:
    """The examples at the end of a command's help."""
    return "[bold]Examples[/]\n" + "\n".join(f"  [dim]$[/] {line}" for line in lines)
