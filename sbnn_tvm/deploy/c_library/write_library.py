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
from ...atomic_folder import replacing_folder
from ...errors import LibraryError
from ...runtime.library_file import record_object, seal
from ...runtime.metadata import BuildRecord, Metadata
from ...temporary_folder import temporary_folder
from ..linking import MATHEMATICS, undefined_symbols, write_object
from ..targets import CpuTarget
from ..used_features import code_bytes, used_features
from .cpu_needs import needs_of
from .driver import aligned, offsets, write_driver
from .interface import RUNTIME, Build, hook_names, write_header, write_source
from .memory_plan import ALIGNMENT, plan_memory
from .object_symbols import check_imports, own_symbols
from .program import Program
from .source_folder import MANIFEST, cmake_lists, constants_source, readme
from .toolchain import Toolchain
from .write_wasm import write_wasm
from .zig_targets import zig_target


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
        path: A file ``.so`` (``.dylib`` on macOS), ``.a`` or ``.zip``, or a folder (no suffix). The header of a library
            is written beside it, and that for C++ beside ``.a``.
        name: What the C names begin with.
        builds: The model for one or more kinds of CPU, best first; ``init`` takes the first that the CPU can run.
        target: The target.
        metadata: What ``sbnn_tvm.load`` needs to know, but for the builds, and the features that they use.

    Raises:
        LibraryError: If the destination cannot be written, the target has no such files, or the compiler or linker is
            missing or fails.
    """
    path = Path(path)
    _check_form(path, target)
    with temporary_folder(LibraryError) as folder:
        parts = folder / name
        parts.mkdir()
        zig = zig_target(target)
        # A shared library serves any program, also one that has no threads.
        flags = (*zig.flags, "-DSBNN_WEAK") if path.suffix == ".so" else zig.flags
        toolchain = Toolchain(zig.name, folder, flags)
        objects, records = _write_parts(parts, name, builds, target, metadata, toolchain)
        check_imports(objects, target)
        if path.suffix == ".a":
            archive = folder / "archive.a"
            toolchain.archive(archive, objects)
            with replacing(path, LibraryError) as draft:
                shutil.copyfile(archive, draft)
        elif path.suffix == ".zip":
            with replacing(path, LibraryError) as draft, zipfile.ZipFile(draft, "w") as zipped:
                for file in sorted(parts.iterdir()):
                    # A fixed date: the same model gives the same file.
                    entry = zipfile.ZipInfo(f"{name}/{file.name}", (1980, 1, 1, 0, 0, 0))
                    entry.external_attr = 0o644 << 16
                    zipped.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED, 9)
        elif path.suffix == "":
            with replacing_folder(path, LibraryError, MANIFEST) as draft:
                for file in sorted(parts.iterdir()):
                    shutil.copyfile(file, draft / file.name)
        elif path.suffix == ".dylib":
            linked = folder / path.name
            toolchain.link_dylib(linked, objects)
            with replacing(path, LibraryError, 0o777) as draft:
                shutil.copyfile(linked, draft)
        elif path.suffix == ".wasm":
            write_wasm(path, objects, [f"{name}_{each}" for each in _FUNCTIONS], builds[0].program, toolchain)
        else:
            driver = [BytesIO(each.read_bytes()) for each in objects[len(builds) :]]
            features = used_features(driver, target) | set(records[-1].features)
            metadata = replace(metadata, features=tuple(sorted(features)), builds=records)
            record = folder / "record.o"
            record.write_bytes(record_object(target.machine, metadata))
            script = folder / "exports"
            script.write_text(f"{{ global: {_exports(name)}; local: *; }};\n")
            needed = [toolchain.stand_in(each) for each in _needed(objects, zig.libraries)]
            options = ["--version-script", str(script), "--no-as-needed", "-z", f"max-page-size={_PAGE}"]
            with replacing(path, LibraryError, 0o777) as draft:
                toolchain.link_shared(draft, [*objects, record, *needed], options)
                seal(draft)
        # Beside the library, which is written: a header alone would be of no use.
        if path.suffix in (".so", ".dylib", ".a"):
            _write_text(path.with_name(f"{name}.h"), (parts / f"{name}.h").read_text("utf-8"))
        if path.suffix == ".a":
            _write_text(path.with_name("sbnn.hpp"), (parts / "sbnn.hpp").read_text("utf-8"))


def _check_form(path: Path, target: CpuTarget) -> None:
    """Refuse a form of a library that the platform of a target does not have."""
    platform = target.platform
    shared = (".dylib" if platform.system == "macos" else ".so") if platform.shared_libraries else None
    static = ".a" if platform.static_libraries else ".wasm"
    libraries = [suffix for suffix in (shared, static) if suffix]
    if path.suffix not in (*libraries, ".zip", ""):
        raise LibraryError(
            f"a library for {target} ({platform}) is a file {', '.join([*libraries, '.zip'])} or a folder, but {path} "
            f"ends in {path.suffix}"
        )


_PAGE = 16384  # bytes of a page on Android and other ARM systems; smaller pages divide it


def _needed(objects: Sequence[Path], libraries: Sequence[str]) -> list[str]:
    """The libraries that have the functions which object files import: a loader may look nowhere else for them."""
    if not libraries:
        return []
    c, mathematics, threads = libraries
    imported = set[str]()
    for each in objects:
        imported |= undefined_symbols(each)
    needed = [c]
    if imported & MATHEMATICS:
        needed.append(mathematics)
    if any(symbol.startswith("pthread_") for symbol in imported):
        needed.append(threads)
    return list(dict.fromkeys(needed))


_FUNCTIONS = ("context_bytes", "init", "run", "close", "inputs", "outputs", "last_error", "version", "build")


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
    """Write sources and object files of a model to a folder; the result are the object files and records of builds."""
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
        code = own_symbols(code, f"{name}_", f"{name}_{build.name}_")
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
    (folder / f"{name}_constants.S").write_text(constants_source(name))
    kernels = [each.name for each in objects]
    (folder / "README.txt").write_text(readme(name, description, str(target), kernels), "utf-8")
    (folder / "CMakeLists.txt").write_text(cmake_lists(name, kernels), "utf-8")
    sources = [f"{name}.c", f"{name}_constants.S"]
    if target.platform.freestanding and target.machine != "wasm32":
        (folder / "freestanding.c").write_text((RUNTIME / "freestanding.c").read_text("utf-8"), "utf-8")
        sources.append("freestanding.c")
    for source in sources:
        objects.append((folder / source).with_suffix(".o"))
        toolchain.compile(folder / source, objects[-1])
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
