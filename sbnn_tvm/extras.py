"""The optional packages, and the extras of ``pip install`` that bring them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import MissingPackageError

_EXTRAS = {
    "numpy": "compile",
    "tvm": "compile",
    "tvm_ffi": "compile",
    "psutil": "compile",
    "onnx": "compile",
    "elftools": "compile",
    "typer": "compile",
    "rich": "compile",
    "onnxruntime": "verify",
    "unicorn": "verify",
    "cloudpickle": "tune",
    "tornado": "tune",
    "matplotlib": "tune",
    "torch": "torch",
    "onnxscript": "torch",
    "tflite": "tflite",
    "flatbuffers": "tflite",
}


@contextmanager
def needed_by(what: str) -> Iterator[None]:
    """Explain a missing optional package.

    Args:
        what: What cannot be done without it, as the subject of a sentence.

    Raises:
        MissingPackageError: If an import in the body of the ``with`` finds no such package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS or isinstance(error, MissingPackageError):
            raise
        raise MissingPackageError(
            f'{what} needs the package {package}, which is not installed: pip install "sbnn-tvm[{_EXTRAS[package]}]"',
            name=error.name,
        ) from None
