"""The standard streams of the command line, which may be closed, full, or of any encoding."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO

from ..errors import SbnnError


class OutputError(SbnnError):
    """The results cannot be written to stdout."""


def guard_streams() -> None:
    """Make stdout and stderr safe to write to.

    - A character that the encoding does not have is written as an escape.
    - If nobody reads a pipe any more, or stderr cannot be written, the rest is discarded. The work goes on, and the
      exit code tells its result.
    - If stdout cannot be written for another reason, such as a full disk, the next write raises OutputError.
    - A stream that was closed becomes the null device, so that no other file gets its number.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one
    sys.stdout, sys.stderr = _guarded(sys.stdout, 1), _guarded(sys.stderr, 2)


def flush() -> None:
    """Write what is still in memory.

    Raises:
        OutputError: If stdout cannot be written.
    """
    sys.stdout.flush()
    sys.stderr.flush()


def _guarded(stream: TextIO | None, descriptor: int) -> TextIO:
    terminal = stream is not None and stream.isatty()
    raw = _Guarded(descriptor, "w", closefd=False)
    encoding = "utf-8" if stream is None else stream.encoding
    buffered = terminal or descriptor == 2
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=buffered
    )


class _Guarded(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            if isinstance(error, BrokenPipeError) or self.fileno() == 2:
                return len(data)
            raise OutputError(f"the results cannot be written to stdout: {error.strerror}") from None
