"""Linking: a library for every target with every linker, its passport inside, and nothing half-written."""

import os
from dataclasses import replace
from io import BytesIO

import pytest

from sbnn_tvm.deploy import linking, targets
from sbnn_tvm.errors import LibraryError
from sbnn_tvm.runtime.elf import ElfError, ElfHeader, Note, find_note, note_object, read_header
from sbnn_tvm.runtime.loading import read_metadata
from tests.support import tiny_model

TARGETS = ("x86-64-v3", "arm", "armv7")


@pytest.fixture(scope="module")
def executables():
    return {name: tiny_model.build(targets.resolve(name)) for name in TARGETS}


def write(executables, name, path):
    target = targets.resolve(name)
    linking.write_library(executables[name], path, target, tiny_model.metadata(target))


@pytest.mark.parametrize("system_tools", [True, False])
@pytest.mark.parametrize("name", TARGETS)
def test_library(executables, name, system_tools, tmp_path, monkeypatch):
    if not system_tools:
        monkeypatch.setenv("PATH", str(tmp_path))  # nothing but the Python package
        assert linking.find_linker(targets.resolve(name)).name == "ziglang"
    path = tmp_path / "model.so"
    write(executables, name, path)
    target = targets.resolve(name)
    assert read_header(path) == ElfHeader(target.machine, 32 if name == "armv7" else 64, shared=True)
    found = read_metadata(path)
    assert set(found.features) <= target.features
    assert found == replace(tiny_model.metadata(target), features=found.features)
    assert {"expf", "TVMFFIErrorSetRaisedFromCStrParts"} <= linking.undefined_symbols(path)
    assert os.access(path, os.X_OK)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.so"]


def test_an_existing_file_is_replaced_only_by_a_whole_one(executables, tmp_path, monkeypatch):
    path = tmp_path / "model.so"
    path.write_text("old")
    failing = linking.Linker("broken", ("false",))
    with (
        monkeypatch.context() as patch,
        pytest.raises(LibraryError, match=r"the linker broken failed in .*: exit code 1"),
    ):
        patch.setattr(linking, "find_linker", lambda target: failing)
        write(executables, "arm", path)
    assert path.read_text() == "old"
    write(executables, "arm", path)
    assert read_metadata(path).target == "arm"
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_destinations(executables, tmp_path):
    with pytest.raises(LibraryError, match=r"there is no folder .*missing"):
        write(executables, "arm", tmp_path / "missing" / "model.so")
    with pytest.raises(LibraryError, match="it is a folder"):
        write(executables, "arm", tmp_path)
    with pytest.raises(LibraryError, match=r"cannot write /proc/model.so: No such file or directory"):
        write(executables, "arm", "/proc/model.so")
    assert not list(tmp_path.iterdir())


def test_no_linker(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(linking, "find_zig", lambda: None)
    with pytest.raises(LibraryError, match="no linker for aarch64-unknown-linux-gnu: pip install ziglang"):
        linking.find_linker(targets.resolve("arm"))


def test_a_library_for_the_wrong_machine_or_with_strange_needs_is_refused(executables, tmp_path, monkeypatch):
    path = tmp_path / "model.so"
    write(executables, "arm", path)
    with pytest.raises(LibraryError, match="a library for aarch64 instead of x86_64"):
        linking.check_library(path, targets.resolve("x86-64-v3"))
    monkeypatch.setattr(linking, "MATHEMATICS", frozenset())
    with pytest.raises(LibraryError, match="the library for arm would need expf"):
        write(executables, "arm", tmp_path / "other.so")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "arm"])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 70_000])
def test_notes_survive_the_linker(machine, size, tmp_path):
    contents = bytes(index % 251 for index in range(size))
    (tmp_path / "note.o").write_bytes(note_object(machine, "someone", 1, contents))
    (tmp_path / "other.o").write_bytes(note_object(machine, "else", 2, b"0123456"))
    name = {"x86_64": "x86-64-v3", "aarch64": "arm", "arm": "armv7"}[machine]
    library = tmp_path / "note.so"
    linking.find_linker(targets.resolve(name)).link(library, [tmp_path / "other.o", tmp_path / "note.o"])
    data = library.read_bytes()
    for owner, kind, expected in (("someone", 1, contents), ("else", 2, b"0123456")):
        note = find_note(BytesIO(data), owner)
        assert note == Note(kind, note.offset, len(expected))
        assert data[note.offset :][: note.size] == expected
    assert find_note(BytesIO(data), "nobody") is None
    if size == 70_000:
        with pytest.raises(ElfError, match="cut short"):
            find_note(BytesIO(data[:30_000]), "someone")
