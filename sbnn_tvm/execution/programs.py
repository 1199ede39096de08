"""Programs that use a library outside this process: on this machine, or in an emulator of the target's CPU.

A program is a C source that reads its standard input and writes its standard output through the functions of
standalone_programs/host.h. There are hosts for Linux (qemu-user), for boards with a Cortex-M (qemu-system-arm) and for
WebAssembly (Node.js). All but one need no C library, so that a program is linked in half a second.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ..deploy.c_library.toolchain import Toolchain
from ..deploy.c_library.write_library import RUNTIME
from ..deploy.c_library.zig_targets import zig_target
from ..deploy.linking import find_zig
from ..deploy.targets import CpuTarget
from ..runtime.cpu import this_cpu

_SOURCES = files(__package__) / "standalone_programs"


@dataclass(frozen=True)
class _Board:
    """A board that qemu-system-arm emulates.

    Attributes:
        name: Its name there.
        code, data: Address and size of two memories.
    """

    name: str
    code: tuple[int, int]
    data: tuple[int, int]


# Sources: Arm application notes AN386, AN500 and AN547. The vectors must be where the CPU looks for them.
_BOARDS = {
    "cortex-m4": _Board("mps2-an386", (0, 4 << 20), (0x2100_0000, 16 << 20)),
    "cortex-m7": _Board("mps2-an500", (0, 4 << 20), (0x6000_0000, 16 << 20)),
    "cortex-m55": _Board("mps3-an547", (0x1000_0000, 512 << 10), (0x7000_0000, 256 << 20)),
}

# zig's name of an architecture for Linux, and options of its compiler.
_LINUX = {
    "x86_64": ("x86_64", ()),
    "aarch64": ("aarch64", ()),
    "arm": ("arm", ("-mcpu=cortex_a7",)),
    "riscv64": ("riscv64", ()),
}
_QEMU_USER = {"aarch64": "qemu-aarch64", "arm": "qemu-arm", "riscv64": "qemu-riscv64"}

# What a library refers to but never calls on one thread and without exceptions.
_NEVER_CALLED = re.compile(r"pthread_\w+|sig\w+|sched_\w+|syscall|getpid|sysconf|__errno_location|__aeabi_unwind_\w+")


def why_not(target: CpuTarget) -> str | None:
    """Why a library for ``target`` cannot run on this machine, as a clause; None if it can."""
    if find_zig() is None:
        return "there is no C compiler: pip install ziglang"
    if target.machine == "wasm32":
        return None if shutil.which("node") else "Node.js is not installed (Debian: nodejs)"
    if target.machine == "cortex-m":
        if _board(target) is None:
            return f"there is no emulated board with {target}, only with {', '.join(_BOARDS)}"
        return None if shutil.which("qemu-system-arm") else "qemu-system-arm is not installed (Debian: qemu-system-arm)"
    if target.machine not in _LINUX or target.platform.system not in ("linux", "android"):
        return f"there is no emulator for {target.platform} on {target.machine}"
    emulator = _emulator(target)
    if emulator and shutil.which(emulator[0]) is None:
        return f"the emulator {emulator[0]} is not installed (Debian: qemu-user)"
    if not emulator and (missing := this_cpu().missing(target.features)):
        return f"this CPU lacks {', '.join(missing)}"
    return None


def how(target: CpuTarget) -> str:
    """What runs a library for ``target``: ``"this machine"``, or the name of a program."""
    return (*_emulator(target), "this machine")[0]


def read_source(name: str) -> str:
    """A source of standalone_programs."""
    return (_SOURCES / name).read_text("utf-8")


def write_sources(folder: Path, *names: str) -> None:
    """Copy sources of standalone_programs to a folder."""
    for name in names:
        (folder / name).write_text(read_source(name), "utf-8")


def link(folder: Path, library: Path, target: CpuTarget) -> tuple[str, ...]:
    """Link ``main.c`` in a folder with a library to a program.

    Args:
        folder: Where the source is, and all that is made.
        library: A static library or an object file.
        target: The target that it was compiled for.

    Returns:
        The command that runs the program.

    Raises:
        LibraryError: If the compiler or the linker is missing or fails.
    """
    write_sources(folder, "host.h")
    if target.machine == "wasm32":
        write_sources(folder, "wasm.c", "host.mjs")
        zig = zig_target(target)
        toolchain = Toolchain(zig.name, folder, zig.flags)
        program = folder / "program.wasm"
        toolchain.link_wasm(program, [*_objects(folder, toolchain, "wasm", "main"), library], ["main"], 1 << 20)
        return (*_emulator(target), str(folder / "host.mjs"), str(program))
    program = folder / "program"
    board = _board(target)
    if board is not None:
        zig = zig_target(target)
        toolchain = Toolchain(zig.name, folder, zig.flags)
        write_sources(folder, "board.c")
        places = {"@CODE@": board.code[0], "@CODE_BYTES@": board.code[1]}
        places |= {"@DATA@": board.data[0], "@DATA_BYTES@": board.data[1]}
        script = read_source("board.ld.in")
        for key, value in places.items():
            script = script.replace(key, str(value))
        (folder / "board.ld").write_text(script)
        objects = [*_objects(folder, toolchain, "board", "main", "freestanding"), library]
        toolchain.link_program(program, objects, ("-T", str(folder / "board.ld")))
    else:
        architecture, flags = _LINUX[target.machine]
        write_sources(folder, "linux.c", "hosted.c")
        environment = "eabihf" if architecture == "arm" else "none"
        bare = Toolchain(
            f"{architecture}-freestanding-{environment}", folder, (*flags, "-ffreestanding", "-fno-builtin")
        )
        objects = [*_objects(folder, bare, "linux", "main", "freestanding"), library]
        missing = bare.link_program(program, objects)
        if not all(map(_NEVER_CALLED.fullmatch, missing)):  # functions of mathematics
            system = "linux-musleabihf" if architecture == "arm" else "linux-musl"
            hosted = Toolchain(f"{architecture}-{system}", folder, flags)
            hosted.build_program(program, [folder / "main.c", folder / "hosted.c", library])
    return (*_emulator(target), str(program))


def _objects(folder: Path, toolchain: Toolchain, *names: str) -> list[Path]:
    """Compile sources in a folder."""
    (folder / "freestanding.c").write_bytes((RUNTIME / "freestanding.c").read_bytes())
    objects = [folder / f"{name}.o" for name in names]
    for each in objects:
        toolchain.compile(each.with_suffix(".c"), each)
    return objects


def _board(target: CpuTarget) -> _Board | None:
    return _BOARDS.get(str(target.tvm.get("mcpu"))) if target.machine == "cortex-m" else None


def _emulator(target: CpuTarget) -> Sequence[str]:
    """The command that runs a program for ``target``, before the name of its file."""
    if target.machine == "wasm32":
        return ("node",)
    board = _board(target)
    if board is not None:
        semihosting = (
            "-nographic",
            "-monitor",
            "none",
            "-serial",
            "none",
            "-semihosting-config",
            "enable=on,target=native",
        )
        return ("qemu-system-arm", "-M", board.name, *semihosting, "-kernel")
    if target.native or target.machine not in _QEMU_USER:
        return ()
    name = _QEMU_USER[target.machine]
    if target.machine != "riscv64":
        return (name,)
    cpu = ["rv64", *(f"{each}=true" for each in sorted(target.features) if each != "v")]
    if "v" in target.features:
        cpu += ["v=true", "vlen=128", "vext_spec=v1.0"]
    return (name, "-cpu", ",".join(cpu))
