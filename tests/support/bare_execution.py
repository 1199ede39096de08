"""Run kernels on an emulated CPU without TVM and without a C library: as C functions, in a program of their own.

A Cortex-M kernel runs on the board of examples/microcontroller that has the CPU (qemu-system-arm), a kernel for RISC-V
or AArch64 as a static Linux program (qemu-user). One program runs many kernels, since it takes a second to build.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tvm

from sbnn_tvm.deploy.targets import CpuTarget
from sbnn_tvm.passes.lowering.raw_kernels import RawKernels, raw_kernels
from sbnn_tvm.schedules.kernel import Kernel

from .paths import ROOT

EXAMPLE = ROOT / "examples" / "microcontroller"
_PROGRAMS = Path(__file__).with_name("bare_programs")
_FREESTANDING = ROOT / "sbnn_tvm" / "deploy" / "c_library" / "runtime" / "freestanding.c"
_GUARD = 64  # bytes after every output that must stay as they are


@dataclass(frozen=True)
class BareMachine:
    """An emulated machine.

    Attributes:
        emulator: The command that runs a program, whose file follows.
        compiler: Options of ``zig cc`` for its CPU.
        linker: The linker of zig, and options.
        sources: The C files that every program has.
    """

    emulator: tuple[str, ...]
    compiler: tuple[str, ...]
    linker: tuple[str, ...]
    sources: tuple[Path, ...]


def _board(name: str, cpu: str) -> BareMachine:
    semihosting = ("-nographic", "-semihosting-config", "enable=on,target=native")
    return BareMachine(
        ("qemu-system-arm", "-M", name, *semihosting, "-kernel"),
        ("-target", "thumb-freestanding-eabihf", f"-mcpu={cpu}"),
        ("ld.lld", "-static", "-T", str(EXAMPLE / f"{name}.ld"), "-L", str(EXAMPLE), "--defsym=STACK_SIZE=0x10000"),
        (EXAMPLE / "startup.c", EXAMPLE / "semihosting.c"),
    )


def _linux(emulator: tuple[str, ...], *compiler: str) -> BareMachine:
    return BareMachine(emulator, ("-target", *compiler), ("ld.lld", "-static"), (_PROGRAMS / "linux.c",))


MACHINES = {
    "cortex-m4": _board("mps2-an386", "cortex_m4+vfp4d16sp"),
    "cortex-m7": _board("mps2-an500", "cortex_m7+fp_armv8d16"),
    "cortex-m55": _board("mps3-an547", "cortex_m55+fp_armv8d16"),
    "riscv64": _linux(("qemu-riscv64", "-cpu", "rv64,zba=true,zbb=true,zbs=true"), "riscv64-freestanding-none"),
    "riscv64-v": _linux(
        ("qemu-riscv64", "-cpu", "rv64,zba=true,zbb=true,zbs=true,v=true,vlen=128,vext_spec=v1.0"),
        "riscv64-freestanding-none",
    ),
    "aarch64-linux-musl": _linux(("qemu-aarch64",), "aarch64-freestanding-none"),
    "wasm": BareMachine(
        ("node", str(_PROGRAMS / "wasm.mjs")),
        ("-target", "wasm32-freestanding", "-mcpu=generic+simd128"),
        ("wasm-ld", "--no-entry", "--export=main", "--allow-undefined"),
        (),
    ),
}
"""The machines, by the names of targets."""


def run_all(calls: Sequence[tuple[Kernel, Sequence[np.ndarray]]], target: CpuTarget) -> list[list[np.ndarray]]:
    """Compile kernels, and call each with its data and tensor operands; the outputs are garbage before.

    Skips the test where the emulator or the compiler is missing.
    """
    machine = MACHINES[target.name]
    zig = _zig()
    if shutil.which(machine.emulator[0]) is None:
        pytest.skip(f"{machine.emulator[0]} is not installed")
    functions = {
        f"kernel{i}": kernel.func.with_attr("global_symbol", f"kernel{i}") for i, (kernel, _) in enumerate(calls)
    }
    raw = raw_kernels(tvm.IRModule(functions), target.target, "bare_")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw.code.write_to_file(str(folder / "kernels.o"), "o")
        (folder / "main.c").write_text(_main(calls, raw, folder))
        objects = [folder / "kernels.o"]
        workspace = max(each.serial + each.task for each in raw.workspaces.values())
        for source in (*machine.sources, _PROGRAMS / "hooks.c", _FREESTANDING, folder / "main.c"):
            objects.append(folder / f"{source.stem}.o")
            _call(
                zig, "cc", *machine.compiler, "-Os", "-ffreestanding", "-fno-builtin", "-fno-sanitize=all",
                f"-DWORKSPACE_BYTES={workspace}", "-I", str(EXAMPLE), "-c", str(source), "-o", str(objects[-1]),
            )  # fmt: skip
        _call(zig, *machine.linker, "-o", str(folder / "program"), *map(str, objects))
        done = subprocess.run([*machine.emulator, str(folder / "program")], capture_output=True, timeout=300)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stdout[-200:]!r} {done.stderr[-500:]!r}"
    results, at = [], 0
    for kernel, _ in calls:
        results.append([])
        for shape, dtype in kernel.outputs:
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            results[-1].append(np.frombuffer(done.stdout, dtype, int(np.prod(shape)), at).reshape(shape))
            guard = done.stdout[at + size : at + size + _GUARD]
            assert guard == b"M" * _GUARD, f"{kernel.name} writes beyond its output"
            at += size + _GUARD
    assert at == len(done.stdout)
    return results


def _main(calls: Sequence[tuple[Kernel, Sequence[np.ndarray]]], raw: RawKernels, folder: Path) -> str:
    """The C source that calls each kernel, and writes its outputs and their guards."""
    lines = ["#include <stdint.h>", "#include <stddef.h>", '#include "semihosting.h"']
    body = []
    for number, (kernel, arrays) in enumerate(calls):
        arguments, shapes = [], [array.shape for array in (*arrays, *kernel.constants)]
        for i, array in enumerate((*arrays, *kernel.constants)):
            # A compiler refuses to embed a file that begins like text in UTF-16 or UTF-32.
            (folder / f"data{number}_{i}").write_bytes(bytes(64) + np.ascontiguousarray(array).tobytes())
            lines.append(f"static const _Alignas(64) unsigned char data{number}_{i}[] = {{")
            lines += [f'#embed "data{number}_{i}"', "};"]
            arguments.append(f"data{number}_{i} + 64")
        room = 0
        for shape, dtype in kernel.outputs:
            arguments.append(f"room + {room}")
            room += -(-(int(np.prod(shape)) * np.dtype(dtype).itemsize + _GUARD) // 64) * 64
        types = ["const void *"] * len(arguments)
        for index, axis in raw.signatures[f"kernel{number}"].extents:
            arguments.append(str(shapes[index][axis]))
            types.append("int64_t")
        lines.append(f"extern int32_t bare_kernel{number}({', '.join(types)});")
        body.append(f"    fill({room});")
        body.append(f"    if (bare_kernel{number}({', '.join(arguments)}) != 0) return {number % 90 + 1};")
        at = 0
        for shape, dtype in kernel.outputs:
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize + _GUARD
            body.append(f"    host_write(room + {at}, {size});")
            at += -(-size // 64) * 64
        lines.append(f"enum {{ ROOM{number} = {room} }};")
    rooms = ", ".join(f"unsigned char k{number}[ROOM{number}]" for number in range(len(calls)))
    lines.append(f"static union {{ {rooms.replace(', ', '; ')}; }} all __attribute__((aligned(64)));")
    lines.append("static unsigned char *const room = (unsigned char *)&all;")
    lines.append("static void fill(size_t bytes) { for (size_t i = 0; i < bytes; i++) room[i] = 'M'; }")
    return "\n".join([*lines, "int main(void)", "{", *body, "    return 0;", "}", ""])


def _zig() -> str:
    ziglang = pytest.importorskip("ziglang")
    return str(Path(ziglang.__file__).with_name("zig"))


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
