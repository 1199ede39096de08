"""How zig's C compiler is told a target: its name, options, and headers where it brings none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import LibraryError
from ..linking import find_zig
from ..targets import CpuTarget


@dataclass(frozen=True)
class ZigTarget:
    """A target of ``zig cc``.

    Attributes:
        name: zig's name of it, for example ``"aarch64-linux-gnu"``.
        flags: Options for the compiler.
        libraries: What the libraries of a shared library's imports are called there: C's, that of the mathematics
            functions, and that of threads. Empty where linking is not by these names.
    """

    name: str
    flags: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


_GLIBC = ("libc.so.6", "libm.so.6", "libpthread.so.0")
_MUSL = ("libc.so", "libc.so", "libc.so")
_BIONIC = ("libc.so", "libm.so", "libc.so")

_GLIBC_TARGETS = {
    "x86_64": "x86_64-linux-gnu",
    "aarch64": "aarch64-linux-gnu",
    "arm": "arm-linux-gnueabihf",
    "riscv64": "riscv64-linux-gnu",
}
_SMALL = (
    "-DSBNN_FREESTANDING",
    "-ffreestanding",
    "-fno-builtin",
    "-Os",
    "-fno-PIC",
    "-fdata-sections",
    "-fno-unwind-tables",
)


def zig_target(target: CpuTarget) -> ZigTarget:
    """The target of ``zig cc`` that makes code which fits the machine code for ``target``.

    Raises:
        LibraryError: If zig cannot compile for it.
    """
    machine, platform = target.machine, target.platform
    if platform.system == "linux" and platform.libc == "glibc":
        return ZigTarget(_GLIBC_TARGETS[machine], libraries=_GLIBC)
    if platform.system == "linux":
        environment = "musleabihf" if machine == "arm" else "musl"
        return ZigTarget(f"{machine}-linux-{environment}", libraries=_MUSL)
    if platform.system == "android" and machine in ("x86_64", "aarch64"):
        # zig has no headers of Android. Those of musl declare the same functions, and the types of POSIX threads that
        # the runtime uses are as large on 64 bits.
        return ZigTarget(f"{machine}-linux-musl", libraries=_BIONIC)
    if platform.system == "macos":
        return ZigTarget(f"{machine}-macos.11.0")
    if platform.system == "ios":
        return ZigTarget(f"{machine}-ios.13.0", ("-isystem", str(_headers("any-darwin-any"))))
    if platform.system == "wasm":
        return ZigTarget("wasm32-wasi", ("-DSBNN_FREESTANDING", "-mcpu=generic+simd128"))
    if machine == "cortex-m":
        return ZigTarget("thumb-freestanding-eabihf", (f"-mcpu={_cortex_m(target)}", *_SMALL))
    if platform.system == "none" and machine in ("aarch64", "riscv64"):
        return ZigTarget(f"{machine}-freestanding-none", _SMALL)
    raise LibraryError(f"a C library cannot be made for {target} ({target.triple}): zig has no such target")


def _cortex_m(target: CpuTarget) -> str:
    """zig's name of the CPU. In zig a Cortex-M has its floating-point unit only if that is named."""
    cpu = str(target.tvm.get("mcpu", "cortex-m4")).replace("-", "_")
    double = "fp_armv8d16" if "fp64" in target.features else ""
    single = "fp_armv8d16sp" if "fp-armv8d16sp" in target.features else "vfp4d16sp"
    return f"{cpu}+{double or single}"


def _headers(name: str) -> Path:
    zig = find_zig()
    if zig is None:
        raise LibraryError("a C library is compiled by the Python package ziglang: pip install ziglang")
    return zig.parent / "lib" / "libc" / "include" / name
