"""Temporary folders: removed in the end, by a later process if not by their own; a sentence where there is no room."""

import errno
import multiprocessing
import os
import signal
import time

import pytest

from sbnn_tvm import temporary_folder as module
from sbnn_tvm.errors import LibraryError
from sbnn_tvm.temporary_folder import check_space, temporary_folder

YESTERDAY = time.time() - 25 * 3600


@pytest.fixture
def base(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def hold(ready, done):
    with temporary_folder(LibraryError) as folder:
        (folder / "file").write_text("content")
        os.utime(folder, (YESTERDAY, YESTERDAY))
        ready.set()
        done.wait()


def test_a_folder_is_removed(base):
    with temporary_folder(LibraryError) as folder:
        (folder / "file").write_text("content")
        assert folder.parent == base and folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ZeroDivisionError), temporary_folder(LibraryError):
        raise ZeroDivisionError
    assert not list(base.iterdir())


def test_folders_of_killed_processes_are_removed_and_others_kept(base):
    """A folder goes if it has our name, is a day old, and nobody has it: neither those of people nor those in use."""
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(ready, done))
    process.start()
    ready.wait()
    (held,) = base.iterdir()
    kept = [held, *(base / name for name in ("sbnn_tvm-notes", "sbnn_tvm-" + "a" * 15, "mine", "sbnn_tvm-" + "b" * 16))]
    for folder in kept[1:4]:
        folder.mkdir()
        os.utime(folder, (YESTERDAY, YESTERDAY))
    kept[4].mkdir()  # new
    precious = base.parent / "precious"
    precious.mkdir()
    link = base / ("sbnn_tvm-" + "c" * 16)
    link.symlink_to(precious)
    os.utime(link, (YESTERDAY, YESTERDAY), follow_symlinks=False)
    with temporary_folder(LibraryError):
        pass
    assert all(folder.exists() for folder in (*kept, precious, link))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert held.exists()
    with temporary_folder(LibraryError):
        pass
    assert not held.exists()
    assert all(folder.exists() for folder in (*kept[1:], precious, link))


def test_a_missing_place(base, monkeypatch):
    base.rmdir()
    with (
        pytest.raises(LibraryError, match=r"temporary files in .*/temporary: No such file or directory; set TMPDIR to"),
        temporary_folder(LibraryError),
    ):
        pass
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/missing"])
    with pytest.raises(LibraryError, match="there is no folder for temporary files"), temporary_folder(LibraryError):
        pass


def test_a_full_disk(base, monkeypatch):
    with (
        pytest.raises(LibraryError, match=r"temporary files in .*/temporary: No space left on device; set TMPDIR"),
        temporary_folder(LibraryError),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ConnectionError), temporary_folder(LibraryError):  # no matter of the folder's
        raise ConnectionResetError
    check_space(base, LibraryError)
    with pytest.raises(LibraryError, match="set TMPDIR"):
        check_space(base / "missing" / "folder", LibraryError)
    monkeypatch.setattr(module, "_LITTLE", 1 << 62)
    with pytest.raises(LibraryError, match=r"in .*: only \d+ bytes are left; set TMPDIR to a folder"):
        check_space(base / ".", LibraryError)
