"""Platforms: what surrounds the code on its machine. It follows from the target triple.

A platform decides which files can be written for it, and which runtime can run them: TVM's runtime is published for
Linux with glibc; the C runtime needs nothing but a C library, and not even that on a machine without a system.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

System = Literal["linux", "android", "macos", "ios", "wasm", "none"]
ObjectFormat = Literal["ELF", "Mach-O", "WebAssembly"]
CLibrary = Literal["glibc", "musl", "bionic", "libSystem", "none"]
Runtime = Literal["tvm", "c"]

_TVM_MACHINES = ("x86_64", "aarch64", "arm")
_ALL_RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)


@dataclass(frozen=True)
class Platform:
    """An operating system, or none.

    Attributes:
        system: The operating system; ``"none"`` for a microcontroller.
        libc: The C library that programs there are linked with.
    """

    system: System
    libc: CLibrary

    @property
    def object_format(self) -> ObjectFormat:
        """The format of object files."""
        if self.system in ("macos", "ios"):
            return "Mach-O"
        return "WebAssembly" if self.system == "wasm" else "ELF"

    @property
    def freestanding(self) -> bool:
        """Whether there is no operating system, so that code may not call a C library."""
        return self.libc == "none"

    @property
    def threads(self) -> bool:
        """Whether there are POSIX threads; otherwise a model runs on the thread of its caller alone."""
        return not self.freestanding

    @property
    def shared_libraries(self) -> bool:
        """Whether a program can load a shared library; on iOS only one that is signed, in a framework."""
        return self.system in ("linux", "android", "macos")

    @property
    def static_libraries(self) -> bool:
        """Whether a static library (``.a``) can be linked into a program there."""
        return self.system != "wasm"

    def runtimes(self, machine: str) -> tuple[Runtime, ...]:
        """The runtimes that can run a model there: TVM's is published for few machines, C is everywhere.

        Args:
            machine: The architecture, by the names of sbnn_tvm.runtime.cpu.
        """
        return _ALL_RUNTIMES if self.libc == "glibc" and machine in _TVM_MACHINES else ("c",)

    def __str__(self) -> str:
        if self.system == "none":
            return "no operating system"
        names = {"linux": "Linux", "android": "Android", "macos": "macOS", "ios": "iOS", "wasm": "WebAssembly"}
        return f"Linux with {self.libc}" if self.system == "linux" else names[self.system]


LINUX = Platform("linux", "glibc")


def platform_of(triple: str) -> Platform | None:
    """The platform of a target triple with four parts (or three, without an environment); None if it is not known."""
    machine, _, system, environment = (*triple.split("-"), "", "", "")[:4]
    if machine.startswith("wasm"):
        return Platform("wasm", "none")
    if system.startswith("linux"):
        if environment.startswith("android"):
            return Platform("android", "bionic")
        return Platform("linux", "musl") if environment.startswith("musl") else LINUX
    if system.startswith(("macos", "darwin")):
        return Platform("macos", "libSystem")
    if system.startswith("ios"):
        return Platform("ios", "libSystem")
    return Platform("none", "none") if system == "none" else None
