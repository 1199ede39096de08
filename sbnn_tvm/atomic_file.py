"""Write files atomically: the file appears complete or not at all.

A process that is killed leaves its draft beside the file. A later one that writes to this folder removes it after a
day.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import SbnnError
from .litter import old_litter

_DRAFT = re.compile(r"\.sbnn_tvm-[0-9a-f]{16}\.so.*")  # linkers append to the name of the file that they write


@contextmanager
def replacing(path: str | os.PathLike[str], error: type[SbnnError], mode: int = 0o666) -> Iterator[Path]:
    """Create an empty file next to ``path`` to write to; when the ``with`` ends, it replaces ``path``.

    Args:
        path: The destination. An existing file is replaced in one step, and kept if the body of the ``with`` fails. Of
            a symbolic link, the file that it names is replaced. Devices and FIFOs are refused, not replaced.
        error: The error to raise if ``path`` cannot be written.
        mode: Permissions of the file, before the umask.

    Raises:
        error: If ``path`` cannot be written, or the body raises an OSError.
    """
    path = Path(path)
    try:
        draft = _create_draft(path, error, mode)
        try:
            mode = draft.stat().st_mode
            yield draft
            draft.chmod(mode)  # a linker replaces the file, and its permissions
            draft.replace(os.path.realpath(path))
        finally:
            draft.unlink(missing_ok=True)
    except OSError as reason:
        raise error(f"cannot write {path}: {reason.strerror or reason}") from None


def check_destination(path: str | os.PathLike[str], error: type[SbnnError]) -> None:
    """Raise ``error`` if ``path`` cannot be written, so that this is known before a long computation."""
    try:
        _create_draft(Path(path), error, 0o666).unlink()
    except OSError as reason:
        raise error(f"cannot write {path}: {reason.strerror or reason}") from None


def _create_draft(path: Path, error: type[SbnnError], mode: int) -> Path:
    if path.is_dir():
        raise error(f"cannot write {path}: it is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        raise error(f"cannot write {path}: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise error(f"cannot write {path}: it is no regular file, and would be replaced")
    path = Path(os.path.realpath(path))
    for old in old_litter(path.parent, _DRAFT):
        with suppress(OSError):
            old.unlink()
    draft = path.with_name(f".sbnn_tvm-{secrets.token_hex(8)}.so")
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    return draft
