"""Destinations of files: what is replaced, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sbnn_tvm.atomic_file import check_destination, replacing
from sbnn_tvm.errors import LibraryError


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
