"""Folders for temporary files. A process that is killed leaves its folder; a later one removes it after a day."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import SbnnError
from .litter import old_litter

_NAME = re.compile(r"sbnn_tvm-[0-9a-f]{16}")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_LITTLE = 1 << 22  # bytes


@contextmanager
def temporary_folder(error: type[SbnnError]) -> Iterator[Path]:
    """Make a folder for temporary files, and remove it when the ``with`` ends.

    It is made where Python's tempfile makes them: ``TMPDIR``, otherwise /tmp. Folders that killed processes left there
    are removed, if they are older than a day. A process locks its folders as long as it lives, so that nobody removes
    one that is in use.

    Args:
        error: The error to raise.

    Raises:
        error: If there is no place for such a folder, or the body of the ``with`` finds it full.
    """
    try:
        base = Path(tempfile.gettempdir())
    except OSError as reason:
        raise error(f"there is no folder for temporary files ({reason.strerror}): set TMPDIR to one") from None
    _remove_old(base)
    folder = base / f"sbnn_tvm-{secrets.token_hex(8)}"
    try:
        folder.mkdir(mode=0o700)
    except OSError as reason:
        raise error(_cannot_write(base, reason)) from None
    lock = _lock(folder)
    try:
        yield folder
    except OSError as reason:
        if reason.errno in _FULL:
            raise error(_cannot_write(base, reason)) from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def check_space(folder: Path, error: type[SbnnError]) -> None:
    """Explain a failure of unknown cause: is a temporary folder gone, or its disk full?

    Raises:
        error: If so.
    """
    try:
        disk = os.statvfs(folder)
    except OSError as reason:
        raise error(_cannot_write(folder.parent, reason)) from None
    free = disk.f_bavail * disk.f_frsize
    if free < _LITTLE or (disk.f_files and not disk.f_favail):  # some disks do not count files
        raise error(_cannot_write(folder.parent, OSError(errno.ENOSPC, f"only {free} bytes are left")))


def _cannot_write(base: Path, reason: OSError) -> str:
    return (
        f"cannot write temporary files in {base}: {reason.strerror or reason}; "
        f"set TMPDIR to a folder that exists and has free space"
    )


def _remove_old(base: Path) -> None:
    for folder in old_litter(base, _NAME):
        lock = _lock(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder for this process; None if another one has it, or it is no folder, or cannot be locked."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    os.close(descriptor)
    return None
