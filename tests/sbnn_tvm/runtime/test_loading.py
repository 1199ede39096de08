"""Running a library: results, and every way in which a library or an input can be wrong."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

import sbnn_tvm
from sbnn_tvm.deploy import linking, targets
from sbnn_tvm.errors import InputError, LibraryError
from sbnn_tvm.runtime import cpu, elf, library_file, loading
from tests.support import tiny_model
from tests.support.paths import ROOT

SHAPE = (tiny_model.ROWS, tiny_model.COLUMNS)


@pytest.fixture(scope="module", params=tiny_model.RUNTIMES)
def library(tmp_path_factory, request):
    return tiny_model.write(tmp_path_factory.mktemp("runtime") / "tiny.so", request.param)


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal(SHAPE).astype(np.float32) for _ in range(2))


def test_run(library, inputs):
    model = sbnn_tvm.load(library)
    x, y = inputs
    for total, copy in (model.run(x, y), model.run({"y": y, "x": x}), model.run(x.copy("F"), y)):
        np.testing.assert_allclose(total, np.exp(x) + y, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(copy, y)
    assert [str(spec) for spec in model.inputs] == [f"x: float32{list(SHAPE)}", f"y: float32{list(SHAPE)}"]
    assert [spec.name for spec in model.outputs] == ["total", "copy"]
    assert model.target == "native"
    assert json.loads(model.report) == {"layers": ["é", 1]}
    assert repr(model).startswith("<tiny for native: x: float32[4, 37], y")


def test_results_belong_to_the_caller(library, inputs):
    model = sbnn_tvm.load(library)
    x, y = inputs
    total, copy = model.run(x, y)
    model.run(x + 1, y + 1)
    np.testing.assert_allclose(total, np.exp(x) + y, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(copy, y)
    total[:] = 0  # writable


@pytest.mark.parametrize("num_threads", [1, 2, 1000])
def test_threads(library, inputs, num_threads):
    before = os.sched_getaffinity(0)
    model = sbnn_tvm.load(library, num_threads=num_threads)
    assert 1 <= model.num_threads <= num_threads
    results = []
    workers = [threading.Thread(target=lambda: results.append(model.run(*inputs)[0])) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    results.append(model.run(*inputs)[0])
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    assert len(results) == 5
    assert os.sched_getaffinity(0) == before, "the caller's thread must not be bound to one core"


@pytest.mark.parametrize("num_threads", [0, -1, 1.5, True, "2"])
def test_wrong_num_threads(library, num_threads):
    with pytest.raises(InputError, match="num_threads must be a positive integer"):
        sbnn_tvm.load(library, num_threads=num_threads)
    model = sbnn_tvm.load(library, num_threads=1)
    with pytest.raises(InputError, match="num_threads must be a positive integer"):
        model.num_threads = num_threads
    assert model.num_threads == 1


def test_wrong_inputs(library, inputs):
    model = sbnn_tvm.load(library)
    x, y = inputs
    for arguments, message in [
        ((), r"takes 2 inputs \(x: float32\[4, 37\], y: float32\[4, 37\]\), but got 0"),
        ((x,), "takes 2 inputs .*, but got 1"),
        ((x, y, x), "takes 2 inputs .*, but got 3"),
        ((x, y[:3]), r"input 'y' must have shape \[4, 37\], but got \[3, 37\]"),
        ((x, y[None]), r"input 'y' must have shape \[4, 37\], but got \[1, 4, 37\]"),
        ((x.astype(np.float64), y), r"input 'x' must be float32, but got float64: convert .*astype\('float32'\)"),
        ((x, [[1.0], [2.0, 3.0]]), "input y: .* is not an array"),
        (({"x": x},), "input y: float32.* is missing: the model takes x, y, but got x"),
        (({"x": x, "y": y, "z": y},), "unknown input 'z': the model takes x, y"),
    ]:
        with pytest.raises(InputError, match=message):
            model.run(*arguments)


def test_not_a_library(tmp_path):
    text = tmp_path / "text.so"
    text.write_text("not a library, but longer than the header of one")
    empty = tmp_path / "empty.so"
    empty.touch()
    foreign = tmp_path / "foreign.so"
    linking.find_linker(targets.resolve("x86-64-v3")).link(foreign, [_object(tmp_path, "someone else")])
    for path, message in [
        (tmp_path / "missing.so", "there is no file .*missing.so: export"),
        (tmp_path, "is a folder, not a compiled model: name the file"),
        (text, "text.so is not a compiled model, or is damaged: not an ELF file"),
        (empty, "empty.so is not a compiled model, or is damaged: not an ELF file"),
        (_object(tmp_path, "sbnn_tvm"), "not a compiled model, or is damaged: not a shared library"),
        (foreign, "foreign.so is a shared library, but not a model compiled by sbnn_tvm"),
    ]:
        with pytest.raises(LibraryError, match=message):
            sbnn_tvm.load(path)


@pytest.mark.parametrize("runtime", tiny_model.RUNTIMES)
def test_a_library_for_another_machine(tmp_path, runtime):
    target = targets.resolve("arm" if cpu.this_cpu().machine == "x86_64" else "x86-64-v3")
    path = tiny_model.write(tmp_path / "other.so", runtime, target.name)
    message = f"other.so is for {target.machine} .target '{target.name}'., but this machine is {cpu.this_cpu().machine}"
    with pytest.raises(LibraryError, match=message):
        sbnn_tvm.load(path)
    assert loading.read_metadata(path).target == target.name


def test_a_library_for_a_better_cpu_is_refused_before_it_runs(library, monkeypatch):
    weak = replace(cpu.this_cpu(), features=frozenset())
    monkeypatch.setattr(loading, "this_cpu", lambda: weak)
    with pytest.raises(LibraryError, match=r"target .native., but this CPU lacks (avx|neon).*a target without them"):
        sbnn_tvm.load(library)


def test_another_version_of_tvm(tmp_path):
    """It matters to TVM's runtime alone."""
    old = {"tvm_version": "0.25.1"}
    with pytest.raises(LibraryError, match=r"needs TVM 0.25, but .* is installed: install .apache-tvm==0.25.1"):
        sbnn_tvm.load(tiny_model.write(tmp_path / "model.so", "tvm", **old))
    assert sbnn_tvm.load(tiny_model.write(tmp_path / "model.so", "c", **old))


@pytest.mark.parametrize("runtime", tiny_model.RUNTIMES)
def test_a_library_without_code(tmp_path, runtime):
    """One with our note, but without a model: what a broken build would leave."""
    note = tmp_path / "note.o"
    native = targets.resolve("native")
    note.write_bytes(library_file.record_object(native.machine, tiny_model.metadata(native, runtime)))
    linking.find_linker(native).link(tmp_path / "model.so", [note])
    library_file.seal(tmp_path / "model.so")
    with pytest.raises(LibraryError, match=r"model.so cannot be loaded: "):
        sbnn_tvm.load(tmp_path / "model.so")


def test_a_library_with_another_symbol(tmp_path):
    with pytest.raises(
        LibraryError, match=r"/model.so cannot be loaded: undefined symbol: other_\w+; compile the model"
    ):
        sbnn_tvm.load(tiny_model.write(tmp_path / "model.so", "c", symbol="other"))


@pytest.fixture(scope="module")
def tvm_library(tmp_path_factory):
    return tiny_model.write(tmp_path_factory.mktemp("runtime") / "tiny.so", "tvm")


def test_loading_needs_no_torch_onnx_or_compiler(tvm_library):
    script = f"""
import sys
import sbnn_tvm
assert not {{"numpy", "tvm_ffi", "tvm", "torch", "onnx"}} & set(sys.modules), "importing the package is not free"
model = sbnn_tvm.load({str(tvm_library)!r})
import numpy as np
x = np.ones({SHAPE}, np.float32)
assert abs(model.run(x, x)[0][0, 0] - 3.7182818) < 1e-5
heavy = {{"tvm", "torch", "onnx", "onnxruntime"}} & set(sys.modules)
assert not heavy, heavy
maps = open("/proc/self/maps").read()
assert "libtvm_runtime.so" in maps and "libtvm_compiler.so" not in maps

# The compiler may come later: it finds the runtime loaded, and both work.
import tvm
assert "libtvm_compiler.so" in open("/proc/self/maps").read()
sys.path.insert(0, {str(ROOT)!r})
from tests.support import tiny_model
from sbnn_tvm.deploy.targets import resolve
assert tvm.relax.VirtualMachine(tiny_model.build(resolve("native")), tvm.cpu())
assert model.run(x, x)[0].shape == x.shape
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def _object(folder, owner):
    path = folder / f"{owner}.o"
    path.write_bytes(elf.note_object("x86_64", owner, 1, b"hello"))
    return path
