"""The files that commands take: ONNX and TFLite models, compiled libraries, and arrays of inputs."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError

ZOO = "zoo:"
"""What the name of a model of the zoo begins with, where a command takes a file."""


def file_named(text: str) -> Path:
    """The path that an argument names: of a file, or of a model of the zoo.

    Raises:
        ModelError: If the zoo has no such model.
    """
    if not text.startswith(ZOO):
        return Path(text)
    from ..zoo import load

    return load(text.removeprefix(ZOO)).path


ModelFile = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL.onnx",
        help="The model (.onnx or .tflite), for example from export_onnx; or zoo:NAME.",
        parser=file_named,
    ),
]
ModelOrLibrary = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL.onnx|MODEL.so",
        help="A model (.onnx or .tflite) or zoo:NAME; or a compiled library.",
        parser=file_named,
    ),
]


def is_library(path: Path) -> bool:
    """Whether a file is a compiled library; one that cannot be read is judged by its name.

    Raises:
        InputError: If it is another form of a compiled model, which has no record, or no regular file.
    """
    check_is_file(path)
    form = _form_without_record(path)
    if form is not None:
        raise InputError(
            f"{path} is {form}: only shared libraries have a record of what is inside; name such a library (.so), or "
            "the model that it was compiled from"
        )
    try:
        if path.is_file():  # reading a pipe would wait, and take from what it holds
            with path.open("rb") as file:
                return file.read(4) == b"\x7fELF" or path.suffix == ".so"
    except (OSError, ValueError):
        pass  # reading it later gives the error
    return path.suffix == ".so"


def _form_without_record(path: Path) -> str | None:
    """What a path is, if it is a compiled model that is no shared library."""
    if path.is_dir():
        return "a folder of a C library" if (path / "sbnn_runtime.h").exists() else None
    forms = {
        ".a": "a static library",
        ".zip": "a C library in parts",
        ".dylib": "a library for macOS",
        ".wasm": "a WebAssembly module",
    }
    return forms.get(path.suffix) if path.exists() else None


def check_is_file(path: Path) -> None:
    """Refuse FIFOs and devices, which could block, never end, or be read only once."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # reading it later gives the error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(f"{path} is no regular file: copy it to one first")


def check_is_model(path: Path) -> None:
    """Refuse a compiled library where a model is needed."""
    if is_library(path):
        raise InputError(f"{path} is a compiled library: name the model that it was compiled from")


def read_arrays(path: Path) -> Any:
    """The array of an .npy file, or a dict of the arrays of an .npz file."""
    from zipfile import BadZipFile

    import numpy as np

    check_is_file(path)
    try:
        arrays = np.load(path, allow_pickle=False)
        return arrays if isinstance(arrays, np.ndarray) else dict(arrays)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{path} is not an .npy or .npz file of numbers: {error}") from None
