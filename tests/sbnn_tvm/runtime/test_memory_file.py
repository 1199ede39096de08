"""Files in memory."""

import errno
import os

import pytest

from sbnn_tvm.runtime.memory_file import forbid_changes, memory_file, numbered_path_of, path_of


def test_every_number_spells_the_same_file_differently():
    with os.fdopen(memory_file("test"), "r+b", buffering=0) as file:
        file.write(b"content")
        forbid_changes(file.fileno())
        paths = [path_of(file.fileno()), *(numbered_path_of(file.fileno(), number) for number in range(200))]
        paths.append(numbered_path_of(file.fileno(), 10**18))
        assert len(set(paths)) == len(paths)
        for path in paths:
            with open(path, "rb") as same:
                assert same.read() == b"content"
        for change in (lambda: file.write(b"x"), lambda: file.truncate(3), lambda: file.truncate(30)):
            with pytest.raises(PermissionError):
                change()


def test_older_kernels(monkeypatch):
    """They refuse the flag that newer ones may demand."""
    create = os.memfd_create

    def old(name, flags):
        if flags & 0x8:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return create(name, flags)

    monkeypatch.setattr(os, "memfd_create", old)
    with os.fdopen(memory_file("test"), "r+b", buffering=0) as file:
        assert file.write(b"content") == 7
