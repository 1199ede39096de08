"""The options and the tables that the benchmarks share."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console


def parser(description: str | None, seconds: float | None = None, timed: str = "per layer") -> argparse.ArgumentParser:
    """A parser with the options ``--output`` and, for benchmarks that measure time, ``--seconds`` and ``--target``.

    Args:
        description: Shown by ``--help``: the benchmark's module docstring.
        seconds: Default of ``--seconds``, None for benchmarks without it.
        timed: What ``--seconds`` applies to, for example ``"per layer"``.
    """
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if seconds is not None:
        made.add_argument("--target", default="native", help="target to compile for; must run on this machine")
        made.add_argument(
            "--seconds", type=float, default=seconds, help=f"measuring time {timed}, about (default: %(default)s)"
        )
    made.add_argument("--output", type=Path, help="write the results to this JSON file")
    return made


def layer_parser(description: str | None, seconds: float) -> argparse.ArgumentParser:
    """As ``parser``, with ``--only`` to choose layers.

    Args:
        description: Shown by ``--help``: the benchmark's module docstring.
        seconds: Default of ``--seconds``, to measure one layer.
    """
    made = parser(description, seconds)
    made.add_argument("--only", default="", metavar="TEXT", help="measure only layers whose name contains TEXT")
    return made


def console(width: int = 160) -> Console:
    """A console for tables: as wide as the terminal, or ``width`` columns in a file or pipe."""
    return Console(width=None if Console().is_terminal else width)
