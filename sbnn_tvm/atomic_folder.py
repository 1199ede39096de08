"""Folders that appear whole or not at all."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import SbnnError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def replacing_folder(path: str | os.PathLike[str], error: type[SbnnError], mark: str) -> Iterator[Path]:
    """Write to an empty folder beside ``path`` that becomes ``path`` when the ``with`` ends.

    Args:
        path: The folder to write. One that exists is replaced in one step if it is empty or has a file ``mark`` that
            lists its files, one a line; it is kept if the body of the ``with`` fails.
        error: The error to raise if ``path`` cannot be written.
        mark: Name of the file with the names of all files of the folder; it is written here.

    Raises:
        error: If ``path`` cannot be written, is no folder, or has files that ``mark`` does not list.
    """
    path = Path(os.path.realpath(path))
    try:
        _check(path, error, mark)
        draft = path.with_name(f".sbnn_tvm-{secrets.token_hex(8)}")
        draft.mkdir()
        try:
            yield draft
            (draft / mark).write_text("".join(f"{name}\n" for name in sorted({*os.listdir(draft), mark})), "utf-8")
            _exchange(draft, path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as reason:
        raise error(f"cannot write {path}: {reason.strerror or reason}") from None


def _check(path: Path, error: type[SbnnError], mark: str) -> None:
    if not path.parent.is_dir():
        raise error(f"cannot write {path}: there is no folder {path.parent}")
    if path.exists() and not path.is_dir():
        raise error(f"cannot write {path}: it is a file, but would become a folder")
    foreign = _foreign(path, mark)
    if foreign is not None:
        raise error(f"cannot write {path}: it has a file {foreign} that is not ours; name a new or an empty folder")


def _foreign(path: Path, mark: str) -> str | None:
    """A file of a folder that ``mark`` does not list; None if there is none."""
    names = sorted(os.listdir(path)) if path.is_dir() else []
    listed = (path / mark).read_text("utf-8", "replace").splitlines() if mark in names else []
    return next((name for name in names if name not in listed), None)


def _exchange(draft: Path, path: Path) -> None:
    """Let ``draft`` become ``path``; what was there becomes ``draft``."""
    if not path.exists():
        draft.rename(path)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        names = os.fsencode(draft), os.fsencode(path)
        if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
            return
    # The file system cannot: for a moment there is no folder.
    old = draft.with_name(f"{draft.name}.old")
    path.rename(old)
    draft.rename(path)
    shutil.rmtree(old, ignore_errors=True)
