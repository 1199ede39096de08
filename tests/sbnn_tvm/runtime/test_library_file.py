"""Files of libraries: a damaged one is refused, whatever file is named gives a sentence, and any name will do."""

import json
import os
import resource
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

import sbnn_tvm
from sbnn_tvm.deploy import linking, targets
from sbnn_tvm.errors import LibraryError
from sbnn_tvm.execution.emulator import Emulator
from sbnn_tvm.runtime import elf, library_file
from sbnn_tvm.runtime.loading import read_metadata
from sbnn_tvm.runtime.metadata import Metadata, TensorSpec
from tests.support import damaged_libraries, tiny_model
from tests.support.damaged_libraries import damaged, resealed
from tests.support.paths import ROOT

ONES = np.ones((tiny_model.ROWS, tiny_model.COLUMNS), np.float32)


def write(path, name="native"):
    target = targets.resolve(name)
    linking.write_library(tiny_model.build(target), path, target, tiny_model.metadata(target))
    return path


@pytest.fixture(scope="module", params=tiny_model.RUNTIMES)
def library(tmp_path_factory, request):
    return tiny_model.write(tmp_path_factory.mktemp("runtime") / "tiny.so", request.param)


def load_damaged(library, count):
    """Load damaged copies in one process; a crash ends it."""
    command = [sys.executable, "-m", damaged_libraries.__name__, str(library), "0", str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done


def test_damaged_libraries_are_refused(library):
    load_damaged(library, 20 * len(damaged_libraries.DAMAGES))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["native", "x86-64", "x86-64-v3"])
def test_many_damaged_libraries_are_refused(target, tmp_path):
    load_damaged(write(tmp_path / "tiny.so", target), 5000)


@pytest.mark.parametrize("name", ["arm", "armv7"])
def test_damaged_libraries_for_other_machines(name, tmp_path):
    whole = write(tmp_path / "whole.so", name).read_bytes()
    path = tmp_path / "damaged.so"
    for seed in range(len(damaged_libraries.DAMAGES)):
        path.write_bytes(damaged(whole, seed)[1])
        for read in (read_metadata, Emulator.from_library):
            with pytest.raises(LibraryError, match=r"damaged\.so (is|cannot be read)"):
                read(path)


def test_every_byte_counts(library, tmp_path):
    """One byte in every 64, and both ends."""
    whole = library.read_bytes()
    path = tmp_path / "damaged.so"
    for at in (*range(0, len(whole), 64), len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(LibraryError):
            read_metadata(path)
    path.write_bytes(whole)
    read_metadata(path)


def test_an_older_format_says_so(tmp_path):
    target = targets.resolve("native")
    note = tmp_path / "note.o"
    note.write_bytes(elf.note_object(target.machine, "sbnn_tvm", 1, b'{"format": 1}'))
    linking.find_linker(target).link(tmp_path / "old.so", [note])
    message = "old.so cannot be read: it has format 1, but this version reads format 3; compile the model again"
    with pytest.raises(LibraryError, match=message):
        sbnn_tvm.load(tmp_path / "old.so")


def test_a_record_of_the_format_before(tmp_path, monkeypatch):
    """It has no word about the runtime: there was only TVM's."""
    record = asdict(tiny_model.metadata(targets.resolve("native")))
    for field in ("runtime", "parallel", "symbol", "builds"):
        del record[field]
    monkeypatch.setattr(library_file, "FORMAT", 2)
    monkeypatch.setattr(Metadata, "to_json", lambda _: json.dumps(record))
    path = write(tmp_path / "old.so")
    monkeypatch.undo()
    assert read_metadata(path).runtime == "tvm"
    assert sbnn_tvm.load(path).run(ONES, ONES)[0][0, 0] == pytest.approx(np.exp(1) + 1)


def test_a_record_for_another_machine(tmp_path):
    """The record says x86, the code is for ARM."""
    x86 = targets.resolve("x86")
    tiny_model.write(tmp_path / "model.so", "c", "arm", triple=x86.triple, features=())
    with pytest.raises(LibraryError, match="its code is for aarch64, but its record for x86_64"):
        read_metadata(tmp_path / "model.so")


def test_a_record_that_could_not_be_read_is_not_written(tmp_path):
    target = targets.resolve("native")
    deep = TensorSpec("x", (1,) * 33, "float32")
    for record, message in [
        (replace(tiny_model.metadata(target), inputs=(deep,)), r"tiny cannot be exported: inputs\[0\].shape must be a"),
        (replace(tiny_model.metadata(target), report="{"), "tiny cannot be exported: report is not JSON"),
        (replace(tiny_model.metadata(target), symbol="x"), "symbol must be a C identifier for the runtime c"),
        (replace(tiny_model.metadata(target, "c"), symbol="2x"), "symbol must be a C identifier for the runtime c"),
    ]:
        with pytest.raises(LibraryError, match=message):
            linking.write_library(tiny_model.build(target), tmp_path / "model.so", target, record)
    assert not list(tmp_path.iterdir())


def test_too_many_open_files(library):
    """No memory file can be made then."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = os.open(library, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, most))
    try:
        with pytest.raises(LibraryError, match=r"tiny\.so cannot be (read|loaded): Too many open files"):
            sbnn_tvm.load(library)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
        os.close(used)


def test_files_that_are_not_regular(library, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    for path, message in [
        (tmp_path, "is a folder, not a compiled model: name the file that export wrote"),
        (tmp_path / "pipe", "is a pipe"),
        (tmp_path / "link", "is a pipe"),
        (tmp_path / "socket", "is a socket"),
        ("/dev/zero", "is a device"),
        ("/dev/full", "is a device"),
        (tmp_path / "loop", "cannot be read: Too many levels of symbolic links"),
        (library / "inside", "cannot be read: Not a directory"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
        (tmp_path / "zero\0byte", "cannot be read: embedded null byte"),
        ("/proc/self/mem", "cannot be read: Input/output error"),
    ]:
        with pytest.raises(LibraryError, match=message):
            sbnn_tvm.load(path)


def test_sparse_files(library, tmp_path):
    """Large files that take no space on the disk: zeros alone, or after a library."""
    whole = library.read_bytes()
    note = elf.find_note(BytesIO(whole), "sbnn_tvm")
    large = whole[: note.offset] + (1 << 40).to_bytes(8, "little") + whole[note.offset + 8 :]
    for begin, size, message in [
        (b"", 1 << 40, "it has 1099511627776 bytes, which is too large"),
        (resealed(large, note), 1 << 40, "it has 1099511627776 bytes, which is too large"),
        (b"", 1 << 31, "is not a compiled model, or is damaged: not an ELF file"),
        (whole, 1 << 31, f"is damaged: it has 2147483648 bytes instead of {len(whole)}"),
    ]:
        path = tmp_path / "sparse.so"
        path.write_bytes(begin)
        os.truncate(path, size)
        with pytest.raises(LibraryError, match=message):
            sbnn_tvm.load(path)


NAMES = [
    *(
        "model",
        "model.so.1",
        "model.dll",
        ".so",
        "-o",
        "@model.so",
        "two words.so",
        "line\nbreak.so",
        "tab\tquote'\".so",
    ),
    *("モデル.so", "%s{0}[bold]$HOME*.so", "x" * 255, os.fsdecode(b"\xff\xfe.so")),
]


def test_names(tmp_path, monkeypatch):
    """Any name that a library can be written to can be loaded, relative ones too."""
    target = targets.resolve("native")
    executable = tiny_model.build(target)
    folder = tmp_path / os.fsdecode(b"-a \xff@folder")
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in NAMES:
        linking.write_library(executable, name, target, tiny_model.metadata(target))
        for path in (name, folder / name):
            total, _ = sbnn_tvm.load(path).run(ONES, ONES)
            assert total[0, 0] == pytest.approx(np.exp(1) + 1)
    assert sorted(os.listdir(folder)) == sorted(NAMES)


def test_a_loaded_library_does_not_need_its_file(library, tmp_path):
    """It may be cut, overwritten in place, replaced or deleted; the next load reads what is there then."""
    path, whole = tmp_path / "model.so", library.read_bytes()
    path.write_bytes(whole)
    model = sbnn_tvm.load(path)
    expected, _ = model.run(ONES, ONES)
    with path.open("r+b") as file:
        file.truncate(0)
        assert np.array_equal(model.run(ONES, ONES)[0], expected)
        file.write(bytes(len(whole)))
    assert np.array_equal(model.run(ONES, ONES)[0], expected)
    with pytest.raises(LibraryError, match="not an ELF file"):
        sbnn_tvm.load(path)
    target = targets.resolve("native")
    record = replace(tiny_model.metadata(target), name="another")
    linking.write_library(tiny_model.build(target), path, target, record)
    assert sbnn_tvm.load(path).metadata.name == "another"
    path.unlink()
    assert np.array_equal(model.run(ONES, ONES)[0], expected)


def test_loading_leaves_nothing_behind(library, tmp_path, monkeypatch):
    """No open files, no temporary files, and one copy in memory however often a file is loaded."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    copy = tmp_path / "copy.so"
    copy.write_bytes(library.read_bytes())

    def counts():
        return len(os.listdir("/proc/self/fd")), Path("/proc/self/maps").read_text().count("memfd:sbnn_tvm")

    sbnn_tvm.load(library)
    files, mappings = counts()
    for _ in range(20):
        sbnn_tvm.load(library)
    assert counts() == (files, mappings)
    sbnn_tvm.load(copy)
    assert counts()[0] == files and counts()[1] > mappings
