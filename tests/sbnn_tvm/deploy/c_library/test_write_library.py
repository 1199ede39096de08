"""The files of a C library: the same bytes for the same model, whole or not at all, for any toolchain."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
import pytest
from elftools.elf.elffile import ELFFile

import sbnn_tvm
from sbnn_tvm.deploy import linking
from sbnn_tvm.deploy.c_library import interface, toolchain
from sbnn_tvm.deploy.c_library.object_symbols import check_imports
from sbnn_tvm.deploy.library_parts import library_parts
from sbnn_tvm.errors import LibraryError
from sbnn_tvm.schedules.tir import loops
from tests.support import c_programs
from tests.support.small_models import small_model

from .conftest import Exported

RUNTIME = Path(interface.__file__).with_name("runtime")
SUFFIXES = (".so", ".a", ".zip", "")


def digests(path: Path) -> dict[str, str]:
    """The SHA-256 of a file, or of all files of a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_same_model_same_bytes(c_models: Sequence[Exported], tmp_path: Path) -> None:
    """Written twice, and compiled twice, to other folders."""
    small = c_models[2].module
    with patch.multiple(loops, GRAIN=64, MODEL_GRAINS=1):  # as in conftest.py
        again = sbnn_tvm.compile(onnx.load_from_string(small.imported.model.SerializeToString()), name="small")
        for suffix in SUFFIXES:
            written = []
            for number, module in enumerate((small, small, again)):
                folder = tmp_path / str(number)
                folder.mkdir(exist_ok=True)
                written.append(digests(module.export(folder / f"model{suffix}", "c")))
            assert written[0] == written[1], suffix
            assert written[0] == written[2], suffix


def test_no_path_of_this_machine_and_known_parts(c_models: Sequence[Exported], tmp_path: Path) -> None:
    for suffix in (".so", ".a"):
        path = c_models[0].module.export(tmp_path / f"m{suffix}", "c")
        data, parts = path.read_bytes(), library_parts(path)
        assert parts is not None
        assert min(parts.code, parts.constants) > 0
        assert parts.code + parts.constants + parts.record < parts.file == len(data)
        assert (parts.record > 0) == (suffix == ".so")
        for path in (str(tmp_path), str(Path.cwd()), str(Path.home()) + "/", "/tmp/"):
            assert path.encode() not in data


def test_symbols(c_models: Sequence[Exported]) -> None:
    """All that a model defines for others has its name, and is hidden but for the interface."""
    for model in c_models:
        for path in model.objects:
            with path.open("rb") as file:
                for symbol in ELFFile(file).get_section_by_name(".symtab").iter_symbols():
                    bound, defined = symbol["st_info"]["bind"], symbol["st_shndx"] != "SHN_UNDEF"
                    if bound == "STB_LOCAL" or not defined:
                        continue
                    assert symbol.name.startswith((f"{model.name}_", "sbnn0_", "sbnn1_", "sbnn2_")), symbol.name
                    hidden = symbol["st_other"]["visibility"] == "STV_HIDDEN"
                    public = path.name == f"{model.name}.o" and symbol["st_info"]["type"] == "STT_FUNC"
                    assert hidden != public, symbol.name


def test_folder(c_models: Sequence[Exported], tmp_path: Path) -> None:
    """A folder that export wrote is replaced; one with other files is not."""
    module = c_models[2].module
    path = module.export(tmp_path / "model", "c")
    before = digests(path)
    (path / "small.c").write_text("changed")
    module.export(path, "c")
    assert digests(path) == before
    (path / "mine.txt").write_text("mine")
    with pytest.raises(LibraryError, match=r"it has a file mine.txt that is not ours"):
        module.export(path, "c")
    assert (path / "mine.txt").read_text() == "mine"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert digests(module.export(empty, "c")) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(LibraryError, match="it is a file, but would become a folder"):
        module.export(tmp_path / "file", "c")
    with pytest.raises(LibraryError, match="there is no folder"):
        module.export(tmp_path / "no" / "model", "c")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["empty", "file", "model"]


def test_zip_is_the_folder(c_models: Sequence[Exported], tmp_path: Path) -> None:
    module = c_models[2].module
    with zipfile.ZipFile(module.export(tmp_path / "model.zip", "c")) as zipped:
        zipped.extractall(tmp_path)
    folder = digests(module.export(tmp_path / "folder", "c"))
    assert digests(tmp_path / "small") == {name: digest for name, digest in folder.items() if name != "FILES.txt"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_failure_leaves_nothing(
    c_models: Sequence[Exported], tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = c_models[2].module
    monkeypatch.setattr(toolchain, "find_zig", lambda: None)
    with pytest.raises(LibraryError, match="pip install ziglang"):
        module.export(tmp_path / f"model{suffix}", "c")
    broken = tmp_path / "zig"
    broken.write_text("#!/bin/sh\necho 'x.c:1:1: error: broken' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(toolchain, "find_zig", lambda: broken)
    with pytest.raises(LibraryError, match=r"ziglang's cc failed: .*error: broken"):
        module.export(tmp_path / f"model{suffix}", "c")
    assert [each.name for each in tmp_path.iterdir()] == ["zig"]


def test_wrong_suffix(c_models: Sequence[Exported], tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match=r"\.so, \.a, \.zip or a folder, but .* ends in \.dll"):
        c_models[2].module.export(tmp_path / "model.dll", "c")
    assert list(tmp_path.iterdir()) == []


def test_sizes_in_the_header(c_models: Sequence[Exported]) -> None:
    """The generator and the runtime agree on the fixed part of a context."""
    runtime = (RUNTIME / "sbnn_runtime.h").read_text()
    assert f"#define SBNN_CONTEXT_BYTES {interface.CONTEXT_BYTES}u" in runtime
    assert "#define FIRST_INPUT0_BYTES 9216" in (c_models[0].folder / "first.h").read_text()


def test_readme_and_cmake(c_models: Sequence[Exported], tmp_path: Path) -> None:
    """Every file is listed; the commands of README.txt work, with any of the compilers here; so does CMake."""
    folder = c_models[2].folder
    listed = set((folder / "FILES.txt").read_text().split())
    assert listed == {each.name for each in folder.iterdir()}
    readme = (folder / "README.txt").read_text()
    assert not [name for name in listed if name not in readme and name not in ("README.txt", "small_constants.bin")]
    program = tmp_path / "program.c"
    program.write_text('#include "small.h"\nint main(void) { return small_inputs(NULL)[0].bytes != 320; }\n')
    commands = [line[4:] for line in (folder / "README.txt").read_text().splitlines() if line.startswith("    cc ")]
    assert len(commands) == 4
    for name in ("gcc", "clang"):
        if shutil.which(name) is None:
            continue
        work = tmp_path / name
        shutil.copytree(folder, work)
        shutil.copyfile(program, work / "program.c")
        for command in commands:
            subprocess.run(name + command[2:] + (" -o a.out" if "program.c" in command else ""), shell=True, cwd=work,
                           check=True)  # fmt: skip
            if "program.c" in command:
                subprocess.run([work / "a.out"], check=True)
    if shutil.which("cmake") and shutil.which("make"):
        (tmp_path / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.13)\nproject(test C ASM)\n"
            f'add_subdirectory("{folder}" small)\nadd_executable(program program.c)\n'
            "target_link_libraries(program small)\n"
        )
        for command in (["cmake", "-B", "build"], ["cmake", "--build", "build"], ["build/program"]):
            subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_language_standards(c_models: Sequence[Exported], tmp_path: Path) -> None:
    """The header is C99, C11 and C++; the source has no warning, as C11 and later, optimised or not."""
    model = c_models[0]
    source = model.folder / "first.c"
    for options in (("-std=c11", "-O0"), ("-std=gnu17", "-O3"), ("-std=c11", "-Os", "-DSBNN_FREESTANDING")):
        command = [*c_programs.compiler(), *c_programs.WARNINGS, *options, "-c", source, "-o", tmp_path / "x.o"]
        subprocess.run(command, check=True)
    (tmp_path / "x.c").write_text('#include "first.h"\n')
    (tmp_path / "x.cpp").write_text('#include "first.h"\n')
    for name, options, language in (("x.c", "-std=c99", "c"), ("x.cpp", "-std=c++11", "c++")):
        command = [*c_programs.compiler(language), *c_programs.WARNINGS, options, f"-I{model.folder}", "-c"]
        subprocess.run([*command, tmp_path / name, "-o", tmp_path / "x.o"], check=True)


def test_bare_imports(c_models: Sequence[Exported], tmp_path: Path) -> None:
    """A model imports nothing but memory functions of C, and threads as weak symbols."""
    library = c_models[0].module.export(tmp_path / "model.so", "c")
    assert linking.undefined_symbols(library) <= {"memcpy", "memset", "memmove", "__tls_get_addr"}


def test_unknown_imports_are_refused(c_models: Sequence[Exported], tmp_path: Path) -> None:
    source, objects = tmp_path / "x.c", [tmp_path / "x.o", *c_models[2].objects]
    source.write_text("int tvm_sort(void);\nint sbnn_x(void) { return tvm_sort(); }\n")
    subprocess.run([*c_programs.compiler(), "-c", source, "-o", objects[0]], check=True)
    with pytest.raises(LibraryError, match=r"would need tvm_sort, which no C library has; .*runtime=\"tvm\""):
        check_imports(objects, "native")
    check_imports(objects[1:], "native")


def test_sorts_need_tvm(tmp_path: Path) -> None:
    """What TVM's runtime computes is refused with a sentence; without a runtime, export takes TVM's."""
    model = small_model("y, i = TopK(x, k)", {"x": (3, 40)}, {"k": np.array([5])}, ["y", "i"])
    module = sbnn_tvm.compile(model, name="sorts")
    with pytest.raises(LibraryError, match=r"the model needs TVM's runtime: .*; export it with runtime=\"tvm\""):
        module.export(tmp_path / "model.so", "c")
    with pytest.raises(LibraryError, match="shared library"):
        module.export(tmp_path / "model.a")
    assert list(tmp_path.iterdir()) == []
    assert sbnn_tvm.load(module.export(tmp_path / "model.so")).metadata.runtime == "tvm"
