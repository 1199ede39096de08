"""C libraries for other platforms: the format of their files, what they import, and a run with musl."""

from __future__ import annotations

import platform
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

import sbnn_tvm
from sbnn_tvm.errors import LibraryError
from sbnn_tvm.module import CompiledModule
from tests.support.binarised_models import BINARIZE, BITS
from tests.support.small_models import run_reference, small_model

pytest.importorskip("ziglang")

MACH_O_64, ARM64, OBJECT, DYLIB = 0xFEEDFACF, 0x0100000C, 1, 6
BUILD_VERSION, MACOS, IOS = 0x32, 1, 2  # LC_BUILD_VERSION, and platforms in it


def model(last: str = "y = Relu(d)"):
    signs = np.where(np.random.default_rng(0).random((16, 8, 3, 3)) < 0.5, 1.0, -1.0)
    return small_model(BITS + f"d = Conv(b, w)\n{last}", {"x": (1, 8, 5, 5)}, {**BINARIZE, "w": signs})


def compiled(target: str, last: str = "y = Relu(d)") -> CompiledModule:
    return sbnn_tvm.compile(model(last), target=target, name="model")


@pytest.mark.parametrize(
    ("target", "last", "needed"),
    [
        ("aarch64-linux-android", "y = Sin(d)", ["libc.so", "libm.so"]),
        pytest.param("x86_64-linux-android", "y = Relu(d)", ["libc.so"], marks=pytest.mark.slow),
        pytest.param("aarch64-linux-musl", "y = Sin(d)", ["libc.so"], marks=pytest.mark.slow),
        pytest.param("arm", "y = Sin(d)", ["libc.so.6", "libm.so.6"], marks=pytest.mark.slow),
        ("riscv64", "y = Relu(d)", ["libc.so.6"]),
    ],
)
def test_shared_libraries_name_the_libraries_that_they_need(tmp_path, target, last, needed):
    path = compiled(target, last).export(tmp_path / "model.so", "c")
    with path.open("rb") as file:
        elf = ELFFile(file)
        tags = list(elf.get_section_by_name(".dynamic").iter_tags())
        assert [tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"] == needed
        # Android loads a library on a system with pages of 16 KiB only if its segments are aligned to them.
        assert all(each["p_align"] % 16384 == 0 for each in elf.iter_segments("PT_LOAD"))
    assert (tmp_path / "model.h").exists()


def mach_o(data: bytes) -> tuple[int, int]:
    """The kind of a Mach-O file for ARM, and the platform that it is for."""
    magic, machine, _, kind, commands = struct.unpack_from("<IIIII", data)
    assert (magic, machine) == (MACH_O_64, ARM64)
    at, found = 32, 0
    for _ in range(commands):
        command, size, first = struct.unpack_from("<III", data, at)
        if command == BUILD_VERSION:
            found = first
        at += size
    return kind, found


def test_macos_and_ios(tmp_path):
    module = compiled("aarch64-apple-macos")
    assert mach_o(module.export(tmp_path / "model.dylib", "c").read_bytes()) == (DYLIB, MACOS)
    for target, number in (("aarch64-apple-macos", MACOS), ("aarch64-apple-ios", IOS)):
        folder = compiled(target).export(tmp_path / target, "c")
        objects = [file.read_bytes() for file in sorted(folder.glob("*.o"))]
        assert [mach_o(data) for data in objects] == [(OBJECT, number)] * 3
    with pytest.raises(LibraryError, match=r"for aarch64-apple-ios \(iOS\) is a file \.a, \.zip or a folder"):
        compiled("aarch64-apple-ios").export(tmp_path / "model.dylib", "c")


def test_a_platform_without_tvm(tmp_path):
    module = compiled("cortex-m4")
    with pytest.raises(LibraryError, match=r"there is no TVM runtime for cortex-m4 \(no operating system"):
        module.export(tmp_path / "model.so", "tvm")
    with pytest.raises(LibraryError, match=r"for cortex-m4 \(no operating system\) is a file \.a, \.zip or a folder"):
        module.export(tmp_path / "model.so")
    assert not list(tmp_path.iterdir())


def test_constants_that_begin_like_text_in_utf_16(tmp_path):
    # A float32 weight whose bytes are ff fe 00 3f.
    weight = np.frombuffer(b"\xff\xfe\x00\x3f" * 16, np.float32).reshape(1, 16, 1, 1)
    text = small_model("y = Conv(x, w)", {"x": (1, 16, 1, 1)}, {"w": weight})
    module = sbnn_tvm.compile(text, target="cortex-m4", name="model")
    folder = module.export(tmp_path / "model")
    assert weight.tobytes()[:4] in (folder / "model_constants.o").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_static_program_with_musl(tmp_path, machine):
    """zig builds musl the first time, which takes a minute."""
    import ziglang

    runner = [] if platform.machine() == machine else [f"qemu-{machine}"]
    if runner and shutil.which(runner[0]) is None:
        pytest.skip(f"{runner[0]} is not installed")
    target = f"{machine}-linux-musl"
    compiled(target).export(tmp_path / "model.a", "c")
    x = np.random.default_rng(1).standard_normal((1, 8, 5, 5)).astype(np.float32)
    (expected,) = run_reference(model(), {"x": x}).values()
    (tmp_path / "main.c").write_text(
        f"""
#include <stdio.h>
#include <stdlib.h>
#include "model.h"
int main(void)
{{
    static float x[{x.size}], y[{expected.size}];
    const sbnn_input inputs[] = {{{{x, sizeof x}}}};
    const sbnn_output outputs[] = {{{{y, sizeof y}}}};
    void *context = malloc(model_context_bytes(NULL));
    if (fread(x, 1, sizeof x, stdin) != sizeof x || model_init(context, model_context_bytes(NULL), NULL) != SBNN_OK)
        return 1;
    if (model_run(context, inputs, outputs) != SBNN_OK)
        return 2;
    return fwrite(y, 1, sizeof y, stdout) == sizeof y ? 0 : 3;
}}
"""
    )
    zig = str(Path(ziglang.__file__).with_name("zig"))
    program = str(tmp_path / "program")
    built = subprocess.run(
        [zig, "cc", "-target", target, "-static", "-o", program, str(tmp_path / "main.c"), str(tmp_path / "model.a")],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    done = subprocess.run([*runner, program], input=x.tobytes(), capture_output=True)
    assert done.returncode == 0
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32).reshape(expected.shape), expected)
