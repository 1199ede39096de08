"""The wheel sbnn-tvm-runtime: small, for any machine, and complete in an environment with numpy alone."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny_model
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, ROOT / "packaging" / "runtime_wheel.py", folder], check=True, timeout=120)
    (wheel,) = folder.iterdir()
    return wheel


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """An interpreter that has the wheel and numpy, and nothing else."""
    folder = tmp_path_factory.mktemp("device")
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(packages)
    installed = Path(np.__file__).parent
    for name in ("numpy", "numpy.libs"):
        if (installed.parent / name).exists():
            (packages / name).symlink_to(installed.parent / name)
    return folder / "bin" / "python"


def run(python, script, *arguments):
    """Run a script that must end well; -I, since PYTHONPATH may lead to other packages."""
    subprocess.run([python, "-I", "-c", script, *map(str, arguments)], check=True, timeout=60)


def test_size(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    assert wheel.stat().st_size < 200_000


def test_a_library_runs(python, tmp_path):
    script = """
import sys
import sbnn_tvm
assert "site-packages" in sbnn_tvm.__file__
model = sbnn_tvm.load(sys.argv[1])
import numpy as np
x, y = np.random.default_rng(0).standard_normal((2, 4, 37)).astype(np.float32)
for model.num_threads in (1, 2):
    total, copy = model.run(x, y)
    np.testing.assert_allclose(total, np.exp(x) + y, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(copy, y)
assert not {"tvm", "tvm_ffi"} & set(sys.modules)
"""
    run(python, script, tiny_model.write(tmp_path / "tiny.so", "c"))


def test_what_a_device_lacks(python, tmp_path):
    script = """
import sys
import sbnn_tvm
for action, message in [
    (lambda: sbnn_tvm.compile, "sbnn_tvm.compile is not in sbnn-tvm-runtime, which only runs compiled models"),
    (lambda: sbnn_tvm.quantize_, "sbnn_tvm.quantize_ is not in sbnn-tvm-runtime, which only runs compiled models"),
    (lambda: sbnn_tvm.zoo, "sbnn_tvm.zoo is not in sbnn-tvm-runtime, which only runs compiled models"),
    (lambda: sbnn_tvm.load(sys.argv[1]), ".so, which was exported for TVM's runtime, needs the package tvm, "),
]:
    try:
        action()
    except sbnn_tvm.SbnnError as error:
        assert isinstance(error, ModuleNotFoundError) and message in str(error), error
    else:
        raise AssertionError(message)
"""
    run(python, script, tiny_model.write(tmp_path / "tiny.so", "tvm"))
