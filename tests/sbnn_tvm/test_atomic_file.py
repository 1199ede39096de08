"""Writing files atomically: what is replaced, what is refused, and removing what killed processes left beside them."""

import os
import time
from pathlib import Path

import pytest

from sbnn_tvm.atomic_file import check_destination, replacing
from sbnn_tvm.errors import LibraryError, ModelError


def _write(path: Path) -> None:
    with replacing(path, LibraryError) as draft:
        draft.write_text("new")


def test_devices_and_fifos_are_refused_and_stay(tmp_path: Path) -> None:
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    for path in (fifo, link):
        for attempt in (_write, lambda each: check_destination(each, LibraryError)):
            with pytest.raises(LibraryError, match="it is no regular file"):
                attempt(path)
    assert fifo.is_fifo() and link.is_symlink() and sorted(tmp_path.iterdir()) == [fifo, link]


def test_the_file_that_a_link_names_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link, dangling = tmp_path / "folder" / "file", tmp_path / "link", tmp_path / "dangling"
    target.write_text("old")
    link.symlink_to(target)
    dangling.symlink_to("folder/other")
    for path in (link, dangling):
        _write(path)
        assert path.is_symlink() and path.read_text() == "new"
    assert sorted(path.name for path in target.parent.iterdir()) == ["file", "other"]


YESTERDAY = time.time() - 25 * 3600
DRAFT = ".sbnn_tvm-0123456789abcdef.so"


def test_old_drafts_are_removed_and_nothing_else(tmp_path):
    gone = [DRAFT, DRAFT.replace("0", "f"), DRAFT + ".tmp1a2b3c4"]
    kept = [".sbnn_tvm-0123456789abcdef", ".sbnn_tvm-notes.so", "sbnn_tvm-0123456789abcdef.so", "model.so"]
    for name in (*gone, *kept):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (YESTERDAY, YESTERDAY))
    folder, new = tmp_path / DRAFT.replace("0", "e"), tmp_path / DRAFT.replace("0", "d")
    folder.mkdir()
    os.utime(folder, (YESTERDAY, YESTERDAY))
    new.touch()
    with replacing(tmp_path / "file", ModelError) as draft:
        draft.write_text("content")
    check_destination(tmp_path / "other", ModelError)
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, folder.name, new.name, "file"])


def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with (
        pytest.raises(ModelError, match=r"cannot write .*/file: No space left on device"),
        replacing(path, ModelError),
        open("/dev/full", "w") as full,
    ):
        full.write("new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
