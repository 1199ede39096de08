"""Write a model as a C library: a shared library, a static one, or a folder or zip file with its parts."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ...atomic_file import replacing
from ...errors import LibraryError
from ...runtime.library_file import record_object, seal
from ...runtime.metadata import BuildRecord, Metadata
from ...temporary_folder import temporary_folder
from ..linking import write_object
from ..targets import CpuTarget
from ..used_features import code_bytes, used_features
from .cpu_needs import needs_of
from .driver import aligned, offsets, write_driver
from .interface import RUNTIME, Build, hook_names, write_header, write_source
from .memory_plan import ALIGNMENT, plan_memory
from .program import Program
from .toolchain import Toolchain


@dataclass(frozen=True, eq=False)
class CompiledProgram:
    """A program and the machine code of its kernels.

    Attributes:
        name: Name of the build, a C identifier.
        program: The program.
        code: A module of TVM that writes an object file.
        target: What it was compiled for.
    """

    name: str
    program: Program
    code: Any
    target: CpuTarget


def c_identifier(text: str) -> str:
    """A C identifier from the name of a model."""
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "model"
    return f"m_{name}" if name[0].isdigit() else name


def write_c_library(
    path: str | os.PathLike[str],
    name: str,
    builds: Sequence[CompiledProgram],
    target: CpuTarget,
    metadata: Metadata,
) -> None:
    """Write a model in the form that the suffix of ``path`` names; it appears complete or not at all.

    Args:
        path: A file ``.so``, ``.a`` or ``.zip``, or a folder (no suffix). The header of a ``.so`` or ``.a`` is written
            beside it.
        name: What the C names begin with.
        builds: The model for one or more kinds of CPU, best first; ``init`` takes the first that the CPU can run.
        target: The target.
        metadata: What ``sbnn_tvm.load`` needs to know, but for the builds, and the features that they use.

    Raises:
        LibraryError: If the destination cannot be written, or the compiler or linker is missing or fails.
    """
    path = Path(path)
    with temporary_folder(LibraryError) as folder:
        parts = folder / name
        parts.mkdir()
        toolchain = Toolchain(_zig_target(target), folder)
        objects, records = _write_parts(parts, name, builds, target, metadata, toolchain)
        if path.suffix == ".a":
            archive = folder / "archive.a"
            toolchain.archive(archive, objects)
            with replacing(path, LibraryError) as draft:
                shutil.copyfile(archive, draft)
            _write_text(path.with_name(f"{name}.h"), (parts / f"{name}.h").read_text("utf-8"))
        elif path.suffix == ".zip":
            with replacing(path, LibraryError) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as zipped:
                for file in sorted(parts.iterdir()):
                    zipped.write(file, f"{name}/{file.name}")
        elif path.suffix == "":
            path.mkdir(parents=True, exist_ok=True)
            for file in sorted(parts.iterdir()):
                shutil.copyfile(file, path / file.name)
        else:
            driver = [BytesIO(each.read_bytes()) for each in objects[len(builds) :]]
            features = used_features(driver, target) | set(records[-1].features)
            metadata = replace(metadata, features=tuple(sorted(features)), builds=records)
            record = folder / "record.o"
            record.write_bytes(record_object(target.machine, metadata))
            script = folder / "exports"
            script.write_text(f"{{ global: {name}_*; local: *; }};\n".replace(f"{name}_*", _exports(name)))
            with replacing(path, LibraryError, 0o777) as draft:
                toolchain.link_shared(draft, [*objects, record], ("--version-script", str(script)))
                seal(draft)


_FUNCTIONS = ("context_bytes", "init", "run", "close", "inputs", "outputs", "last_error", "version")


def _exports(name: str) -> str:
    return "; ".join(f"{name}_{function}" for function in _FUNCTIONS)


def _write_parts(
    folder: Path,
    name: str,
    builds: Sequence[CompiledProgram],
    target: CpuTarget,
    metadata: Metadata,
    toolchain: Toolchain,
) -> tuple[list[Path], tuple[BuildRecord, ...]]:
    """Write sources and object files of a model to a folder; the result are the object files, and what the builds are."""
    store = _ConstantStore()
    written, objects, records = [], [], []
    for build in builds:
        plan = plan_memory(build.program)
        before = store.size
        at = [store.add(array) for array in build.program.constants]
        driver = write_driver(build.program, plan, f"{name}_{build.name}", f"{name}_constants", at)
        objects.append(folder / f"{name}_{build.name}.o")
        code = write_object(build.code)
        for old, new in hook_names(name).items():
            code = code.replace(old, new)
        objects[-1].write_bytes(code)
        features = used_features([BytesIO(code)], build.target)
        needs = needs_of(target.machine, features)
        written.append(Build(build.name, build.program, plan, driver, needs))
        own = store.size - before
        sizes = code_bytes(BytesIO(code)), sum(aligned(array.nbytes) for array in build.program.constants), own
        records.append(BuildRecord(build.target.name, tuple(sorted(features)), *sizes))
    version = f"{metadata.name} (sbnn_tvm {metadata.sbnn_version})"
    description = f"the model {metadata.name} for {target}".replace("*/", "* /")
    (folder / f"{name}.h").write_text(write_header(name, description, written), "utf-8")
    (folder / f"{name}.c").write_text(write_source(name, version, written), "utf-8")
    for part in ("sbnn_runtime.h", "sbnn_cpu.h", "sbnn_threads.h", "sbnn.hpp"):
        (folder / part).write_text((RUNTIME / part).read_text("utf-8"), "utf-8")
    (folder / f"{name}_constants.bin").write_bytes(store.data())
    (folder / f"{name}_constants.c").write_text(
        f"/* The constants of the model, from {name}_constants.bin. #embed is C23. */\n"
        f"__attribute__((aligned({ALIGNMENT}))) const unsigned char {name}_constants[] = {{\n"
        f'#embed "{name}_constants.bin"\n}};\n'
    )
    for part in (name, f"{name}_constants"):
        objects.append(folder / f"{part}.o")
        toolchain.compile(folder / f"{part}.c", objects[-1])
    return objects, tuple(records)


class _ConstantStore:
    """The constants of all builds, each once."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}
        self._arrays: list[bytes] = []
        self.size = 0

    def add(self, array: np.ndarray) -> int:
        """The offset of a constant."""
        data = array.tobytes()
        if data not in self._known:
            self._known[data] = self.size
            self._arrays.append(data)
            self.size = offsets([self.size, len(data)])[-1]
        return self._known[data]

    def data(self) -> bytes:
        """All constants, one after the other."""
        padded = b"".join(data + bytes(-len(data) % ALIGNMENT) for data in self._arrays)
        return padded or bytes(ALIGNMENT)


def _write_text(path: Path, text: str) -> None:
    with replacing(path, LibraryError) as draft:
        draft.write_text(text, "utf-8")


def _zig_target(target: CpuTarget) -> str:
    return {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu", "arm": "arm-linux-gnueabihf"}[target.machine]
