"""Without the package that has the file's schema."""

import sys

import pytest

import sbnn_tvm
from sbnn_tvm.errors import MissingPackageError


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("sbnn_tvm.frontends.tflite")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(MissingPackageError, match=r'needs the package tflite.* pip install "sbnn-tvm\[tflite\]"'):
        sbnn_tvm.compile("model.tflite")
