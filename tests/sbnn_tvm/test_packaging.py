"""The package as it is installed: nothing heavy on import, every public name there, every folder packed."""

import importlib
import importlib.metadata
import re
import subprocess
import sys
from distutils.core import run_setup

import pytest
import setuptools  # noqa: F401  # brings distutils where Python has none
import tomllib

import sbnn_tvm
from sbnn_tvm.zoo import zoo_models
from tests.support.paths import ROOT

FOLDERS = {
    "sbnn_tvm": "sbnn_tvm",
    "sbnn_tvm.frontends": "frontends",
    "sbnn_tvm.passes": "passes",
    "sbnn_tvm.schedules": "schedules",
}


def test_importing_the_package_imports_nothing_else():
    script = """
import sys
before = set(sys.modules)
import sbnn_tvm
new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
assert new == {"sbnn_tvm"}, new
assert "compile" in dir(sbnn_tvm)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_the_errors_and_the_algebra_need_no_compiler():
    script = """
import sys
from sbnn_tvm import BinaryDomain, SbnnError
assert not {"tvm", "torch", "onnx"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("name", sbnn_tvm.__all__)
def test_public_names(name):
    assert getattr(sbnn_tvm, name).__name__ in (name, f"sbnn_tvm.{name}")  # the zoo is a package
    assert name in dir(sbnn_tvm)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="'sbnn_tvm' has no attribute 'relay'"):
        sbnn_tvm.relay  # noqa: B018


def test_a_missing_extra():
    """What a deployment target says that is asked to compile."""
    script = """
import sys
sys.modules["onnx"] = None
import sbnn_tvm
try:
    sbnn_tvm.compile
except ModuleNotFoundError as error:
    assert "sbnn_tvm.compile needs onnx, which is not installed: pip install 'sbnn-tvm[" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_version():
    assert importlib.metadata.version("sbnn-tvm") == sbnn_tvm.__version__
    assert f"## [{sbnn_tvm.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.filterwarnings("ignore:.*absent from the `packages`")  # folders of data
def test_the_models_of_the_zoo_are_packed(monkeypatch):
    monkeypatch.chdir(ROOT)
    build = run_setup(str(ROOT / "setup.py"), stop_after="config").get_command_obj("build_py")
    build.ensure_finalized()
    packed = {package: files for package, _, _, files in build.data_files}
    assert {f"models/{path.name}" for path in zoo_models.FOLDER.iterdir()} == set(packed["sbnn_tvm.zoo"])


def test_every_folder_is_packed():
    packages = set(run_setup(str(ROOT / "setup.py"), stop_after="init").packages)
    for package, folder in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            name = ".".join([package, *init.parent.relative_to(ROOT / folder).parts])
            assert name in packages
            assert importlib.import_module(name).__file__
        for module in (ROOT / folder).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), f"{module.parent} would not be packed"


def test_the_checkout_is_importable_whether_installed_or_not():
    """From the root of a checkout, Python finds the folder sbnn_tvm there before any installed package."""
    script = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
from pathlib import Path
import sbnn_tvm.frontends.onnx, sbnn_tvm.passes, sbnn_tvm.schedules.isa
assert Path(sbnn_tvm.schedules.isa.__file__) == Path.cwd() / "schedules" / "isa.py"
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, cwd=ROOT)


def test_running_a_model_needs_numpy_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    device = tomllib.loads((ROOT / "packaging" / "runtime.toml").read_text())["project"]
    for dependencies in (project["dependencies"], device["dependencies"]):
        assert [re.split(r"\W", each)[0] for each in dependencies] == ["numpy"]
    assert any(each.startswith("apache-tvm>=") for each in project["optional-dependencies"]["compile"])


def test_every_pin_is_exact():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    for line in lines:
        assert line.startswith("#") or line.count("==") == 1, line
    assert "apache-tvm==0.27.0.post1" in lines
