"""Exports that cannot end: full disks, limits on files, and a kill at any moment."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import sbnn_tvm
from sbnn_tvm.deploy import linking, targets
from sbnn_tvm.errors import LibraryError
from tests.support import tiny_model
from tests.support.paths import ROOT


def in_namespace(program, folder):
    """Run a Python program that may mount file systems, which nobody else sees; its output."""
    command = ["unshare", "--mount", "--map-root-user"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this machine does not let a test mount a file system")
    command += [sys.executable, "-c", textwrap.dedent(program), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    return done.stdout


def test_full_disks(tmp_path):
    """The target is full, for each linker; then the temporary folder, which an export does not need."""
    output = in_namespace(
        """
        import os, subprocess, sys, tempfile
        from pathlib import Path
        from sbnn_tvm.runtime.loading import read_metadata
        from sbnn_tvm.deploy import linking, targets
        from sbnn_tvm.errors import LibraryError
        from sbnn_tvm.temporary_folder import temporary_folder
        from tests.support import tiny_model

        folder = Path(sys.argv[1]) / "full"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], check=True)
        (folder / "model.so").write_bytes(b"old")
        (folder / "rest").write_bytes(bytes(56 * 1024))  # 4 KiB are left
        for name in ("native", "arm", "armv7"):
            target = targets.resolve(name)
            executable, metadata = tiny_model.build(target), tiny_model.metadata(target)
            try:
                linking.write_library(executable, folder / "model.so", target, metadata)
                print("written")
            except LibraryError as error:
                print(error)
        print((folder / "model.so").read_bytes(), sorted(os.listdir(folder)))
        tempfile.tempdir = str(folder)
        linking.write_library(executable, folder.parent / "model.so", target, metadata)
        print(read_metadata(folder.parent / "model.so").target)
        try:
            with temporary_folder(LibraryError) as place:
                (place / "file").write_bytes(bytes(1 << 20))
        except LibraryError as error:
            print(error)
        """,
        tmp_path,
    )
    full = tmp_path / "full"
    *failures, state, written, temporary = output.splitlines()
    assert len(failures) == 3
    for failure in failures:
        assert "the linker" in failure and f"failed in the folder {full}: " in failure
        assert failure.endswith(("No space left on device", "it was ended by SIGBUS: the disk may be full"))
    assert state == "b'old' ['model.so', 'rest']"
    assert written == "armv7"
    assert temporary.startswith(f"cannot write temporary files in {full}: No space left on device; set TMPDIR to")


def test_a_limit_on_the_size_of_files(tmp_path):
    """LLVM would end the process where it meets the limit."""
    target = targets.resolve("arm")
    executable = tiny_model.build(target)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, most))
    try:
        with pytest.raises(LibraryError, match=r"ended by SIGXFSZ: files may not become|File (too large|size limit)"):
            linking.write_library(executable, tmp_path / "model.so", target, tiny_model.metadata(target))
        assert resource.getrlimit(resource.RLIMIT_FSIZE) == (5000, most)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert not list(tmp_path.iterdir())


def test_a_hard_limit_on_the_size_of_files(monkeypatch, tmp_path):
    target = targets.resolve("arm")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (5000, 5000))
    with pytest.raises(LibraryError, match=r"files may have at most 5000 bytes here \(ulimit -f\), but LLVM needs"):
        linking.write_library(tiny_model.build(target), tmp_path / "model.so", target, tiny_model.metadata(target))
    assert not list(tmp_path.iterdir())


def test_a_kill_leaves_no_half_library(tmp_path):
    """The file is the old one or the new one, and what is left is gone after a day."""
    random_numbers = random.Random(0)
    target = targets.resolve("native")
    executable, metadata = tiny_model.build(target), tiny_model.metadata(target)
    path = tmp_path / "model.so"
    linking.write_library(executable, path, target, metadata)
    x = np.ones((tiny_model.ROWS, tiny_model.COLUMNS), np.float32)
    expected = sbnn_tvm.load(path).run(x, x)[0]
    for _ in range(15):
        child = os.fork()
        if child == 0:
            while True:
                linking.write_library(executable, path, target, metadata)
        time.sleep(random_numbers.uniform(0, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert np.array_equal(sbnn_tvm.load(path).run(x, x)[0], expected)
    time.sleep(0.3)  # linkers outlive the process that started them
    litter = [each for each in tmp_path.iterdir() if each != path]
    assert litter, "no kill came while a library was written: the test shows nothing"
    for each in litter:
        os.utime(each, (time.time() - 25 * 3600,) * 2)
    linking.write_library(executable, path, target, metadata)
    assert list(tmp_path.iterdir()) == [path]
