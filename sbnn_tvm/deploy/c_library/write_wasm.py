"""Write a model as a WebAssembly module, with an ES module that runs it and its types for TypeScript.

The WebAssembly module needs nothing: it imports no function, has its own memory, and exports the functions of the C
interface. The memory from the global ``__heap_base`` on is the caller's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from ...atomic_file import replacing
from ...errors import LibraryError
from .interface import RUNTIME
from .program import Program, Tensor
from .toolchain import Toolchain

_STACK = 256 * 1024  # bytes

_ARRAYS = {
    "bool": "Uint8Array",
    "int8": "Int8Array",
    "int16": "Int16Array",
    "int32": "Int32Array",
    "int64": "BigInt64Array",
    "uint8": "Uint8Array",
    "uint16": "Uint16Array",
    "uint32": "Uint32Array",
    "uint64": "BigUint64Array",
    "float16": "Uint16Array",
    "float32": "Float32Array",
    "float64": "Float64Array",
}
"""JavaScript's typed array for each dtype; float16 is Float16Array where that exists."""


def write_wasm(
    path: Path, objects: Sequence[Path], exports: Sequence[str], program: Program, toolchain: Toolchain
) -> None:
    """Write ``NAME.wasm``, and beside it ``NAME.mjs`` and ``NAME.d.mts``.

    Args:
        path: The ``.wasm`` file.
        objects: The object files of the model.
        exports: The functions that others may call.
        program: The model, whose inputs and outputs the types describe.
        toolchain: The linker.

    Raises:
        LibraryError: If a file cannot be written, or the linker is missing or fails.
    """
    linked = toolchain.folder / "linked.wasm"
    toolchain.link_wasm(linked, objects, [*exports, "__heap_base"], _STACK)
    stem = path.stem
    with replacing(path, LibraryError) as draft:
        draft.write_bytes(linked.read_bytes())
    example = ", ".join(f"{_key(t.name)}: new {_ARRAYS[t.dtype]}(...)" for t in program.inputs)
    code = (RUNTIME / "model.mjs.in").read_text("utf-8")
    code = code.replace("@FILE@", _quoted(stem)).replace("@EXAMPLE@", example.replace("*/", "* /"))
    for suffix, text in ((".mjs", code), (".d.mts", _types(program))):
        with replacing(path.with_suffix(suffix), LibraryError) as draft:
            draft.write_text(text, "utf-8")


def _quoted(stem: str) -> str:
    """The name of a file as a part of a URL, which holds nothing that ends a string or a comment of JavaScript."""
    return quote(stem).replace("*", "%2A")


def _key(name: str) -> str:
    """A name as a key of an object in JavaScript."""
    return name if re.fullmatch(r"[A-Za-z_$][\w$]*", name, re.ASCII) else json.dumps(name)


def _types(program: Program) -> str:
    def fields(tensors: Sequence[Tensor]) -> str:
        lines = []
        for tensor in tensors:
            lines.append(f"  /** {tensor.dtype}, {' x '.join(map(str, tensor.shape)) or 'a scalar'} */")
            lines.append(f"  {_key(tensor.name)}: {_ARRAYS[tensor.dtype]}")
        return "\n".join(lines)

    text = (RUNTIME / "model.d.mts.in").read_text("utf-8")
    return text.replace("@INPUTS@", fields(program.inputs)).replace("@OUTPUTS@", fields(program.outputs))
