"""What is special about a library that stands alone: contexts, their threads, and codes of errors."""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import sbnn_tvm
from sbnn_tvm.errors import LibraryError
from sbnn_tvm.runtime import private_copy, standalone_module
from tests.support import tiny_model

ONES = np.ones((tiny_model.ROWS, tiny_model.COLUMNS), np.float32)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return tiny_model.write(tmp_path_factory.mktemp("standalone") / "tiny.so", "c")


@pytest.fixture
def two_cpus(monkeypatch):
    monkeypatch.setattr("sbnn_tvm.runtime.thread_counts.usable_cpus", lambda: 2)


def os_threads():
    return len(os.listdir("/proc/self/task"))


@pytest.mark.usefixtures("two_cpus")
def test_contexts_are_kept_and_their_threads_end(library):
    before = os_threads()
    model = sbnn_tvm.load(library, num_threads=2)
    assert os_threads() == before + 1
    for _ in range(20):
        model.run(ONES, ONES)
        model._alone((ONES, ONES))
    assert len(model._idle) == len(model._idle_pool) == len(model._pools) == 1
    model.num_threads = 1
    model.run(ONES, ONES)
    model.num_threads = 2
    model.run(ONES, ONES)
    assert os_threads() == before + 1
    del model
    gc.collect()
    assert os_threads() == before


@pytest.mark.usefixtures("two_cpus")
def test_a_second_caller_does_not_wait_for_the_threads_of_the_first(library):
    model = sbnn_tvm.load(library, num_threads=2)
    (context,) = model._idle_pool
    model._idle_pool.clear()  # as in a call
    model._together((ONES, ONES))
    assert len(model._idle) == 1 and not model._idle_pool
    del context  # as if a call had been interrupted and its context lost
    model._together((ONES, ONES))
    assert len(model._idle_pool) == 1 and model._idle_pool[0].threads == 2


@pytest.mark.usefixtures("two_cpus")
def test_a_signal_handler_forks_just_before_the_call_that_it_interrupts(library):
    """The child has none of the context's threads, and must not wait for them."""
    model = sbnn_tvm.load(library, num_threads=2)
    (context,) = model._idle_pool
    run, results = context._functions.run, []

    class Functions:
        def run(self, *arguments):
            results.append(os.fork())
            return run(*arguments)

        close = context._functions.close
        init = context._functions.init

    context._functions = Functions()
    total, _ = model._together((ONES, ONES))
    if results[0] == 0:
        os._exit(0 if total[0, 0] == pytest.approx(np.exp(1) + 1) and context.threads == 0 else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(results[0], 0)[1]) == 0
    assert context.threads == 2
    context._functions = model._functions


@pytest.mark.parametrize(
    ("function", "code", "message"),
    [
        ("init", 7, r"tiny.so cannot be run: no thread can be started: raise the limit of threads, or .*num_threads=1"),
        ("init", 2, "tiny.so cannot be run: the memory for its context is too small"),
        ("run", 8, "tiny.so cannot be run: a kernel failed; compile the model again"),
        ("run", 99, "tiny.so cannot be run: error 99; compile the model again"),
    ],
)
@pytest.mark.usefixtures("two_cpus")
def test_codes(library, monkeypatch, function, code, message):
    model = sbnn_tvm.load(library, num_threads=2)
    functions = {name: getattr(model._functions, name) for name in ("context_bytes", "init", "run", "close")}
    functions[function] = lambda *_: code
    broken = standalone_module.Functions(**functions)
    with pytest.raises(LibraryError, match=message):
        standalone_module.StandaloneModule(model.path, model.digest, model.metadata, broken, 2).run(ONES, ONES)


def test_the_first_context_does_not_fit_in_memory(library):
    model = sbnn_tvm.load(library)
    large = standalone_module.Functions(lambda _: 1 << 60, *(None,) * 3)
    with pytest.raises(LibraryError, match=r"tiny.so cannot be run: its context does not fit in memory"):
        standalone_module.StandaloneModule(model.path, model.digest, model.metadata, large, 1)


@pytest.mark.usefixtures("two_cpus")
def test_a_library_without_parallel_loops_has_no_threads(tmp_path):
    before = os_threads()
    model = sbnn_tvm.load(tiny_model.write(tmp_path / "serial.so", "c", parallel=False), num_threads=2)
    model.run(ONES, ONES)
    assert os_threads() == before and not model._pools


def test_callers_at_the_same_time_have_a_context_each(library):
    model = sbnn_tvm.load(library, num_threads=1)
    run, meet = model._functions.run, threading.Barrier(3)

    class Functions:
        def run(self, *arguments):
            meet.wait(30)
            return run(*arguments)

        context_bytes, init, close = (getattr(model._functions, each) for each in ("context_bytes", "init", "close"))

    model._functions = model._idle[0]._functions = Functions()
    results = []
    threads = [
        threading.Thread(target=lambda value: results.append((value, model.run(ONES * value, ONES)[0])), args=(value,))
        for value in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for value, total in results:
        np.testing.assert_allclose(total, np.exp(ONES * value) + 1, rtol=1e-6)
    assert len(model._idle) == 3


def test_a_system_without_files_in_memory(library, tmp_path, monkeypatch):
    """As macOS: the library is loaded from a temporary file, which is gone then."""
    monkeypatch.setattr(private_copy, "has_memory_files", lambda: False)
    monkeypatch.setattr(private_copy, "_loaded", {})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert sbnn_tvm.load(library).run(ONES, ONES)[0][0, 0] == pytest.approx(np.exp(1) + 1)
    assert str(tmp_path) in Path("/proc/self/maps").read_text() and not list(tmp_path.iterdir())
    monkeypatch.setattr(private_copy, "_loaded", {})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(LibraryError, match=r"cannot write temporary files in .*missing"):
        sbnn_tvm.load(library)


def test_what_is_imported(library):
    """Neither TVM nor what takes long: loading is most of the time that a short program takes."""
    script = """
import sys
import numpy
before = set(sys.modules)
import sbnn_tvm
sbnn_tvm.load(sys.argv[1])
slow = {"tvm", "tvm_ffi", "importlib.metadata", "email", "tempfile", "shutil", "subprocess", "inspect", "asyncio"}
assert not slow & (set(sys.modules) - before), slow & (set(sys.modules) - before)
"""
    subprocess.run([sys.executable, "-c", script, str(library)], check=True, timeout=60)
