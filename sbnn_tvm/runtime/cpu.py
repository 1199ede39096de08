"""CPU features: those that compiled code may need, and those that this machine has.

Features have LLVM's names. Only features that LLVM may use without an intrinsic are listed: vector extensions and bit
manipulation, but not AES, for example.
"""

from __future__ import annotations

import platform
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

X86_FLAGS = {
    "sse3": "pni",
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "sse4a": "sse4a",
    "popcnt": "popcnt",
    "lzcnt": "abm",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "movbe": "movbe",
    "avx": "avx",
    "avx2": "avx2",
    "f16c": "f16c",
    "fma": "fma",
    "fma4": "fma4",
    "xop": "xop",
    "tbm": "tbm",
    "gfni": "gfni",
    "avxvnni": "avx_vnni",
    "avxifma": "avx_ifma",
    "avxvnniint8": "avx_vnni_int8",
    "avx512f": "avx512f",
    "avx512cd": "avx512cd",
    "avx512bw": "avx512bw",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512vp2intersect": "avx512_vp2intersect",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
}
AARCH64_FLAGS = {
    "neon": "asimd",
    "fp-armv8": "fp",
    "lse": "atomics",
    "rcpc": "lrcpc",
    "rdm": "asimdrdm",
    "crc": "crc32",
    "aes": "aes",
    "sha2": "sha2",
    "sha3": "sha3",
    "fullfp16": "asimdhp",
    "fp16fml": "asimdfhm",
    "complxnum": "fcma",
    "jsconv": "jscvt",
    "fptoint": "frint",
    "flagm": "flagm",
    "dotprod": "asimddp",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "cssc": "cssc",
    "mops": "mops",
}
ARM_FLAGS = {
    "neon": "neon",
    "vfp3": "vfpv3",
    "vfp4": "vfpv4",
    "fp16": "vfpv4",
    "hwdiv-arm": "idiva",
    "hwdiv": "idivt",
    "v8": "armv8",
    "fp-armv8": "armv8",
    "crc": "crc32",
    "fullfp16": "asimdhp",
    "fp16fml": "asimdfhm",
    "dotprod": "asimddp",
    "i8mm": "i8mm",
    "bf16": "asimdbf16",
}

HWCAP = {
    "aarch64": (
        {
            **{"fp": 0, "asimd": 1, "aes": 3, "sha2": 6, "crc32": 7, "atomics": 8, "asimdhp": 10, "asimdrdm": 12},
            **{"jscvt": 13, "fcma": 14, "lrcpc": 15, "sha3": 17, "asimddp": 20, "sve": 22, "asimdfhm": 23, "flagm": 27},
        },
        {"sve2": 1, "frint": 8, "i8mm": 13, "bf16": 14, "cssc": 34, "mops": 43},
    ),
    "arm": (
        {
            **{"neon": 12, "vfpv3": 13, "vfpv4": 16, "idiva": 17, "idivt": 18},
            **{"asimdhp": 23, "asimddp": 24, "asimdfhm": 25, "asimdbf16": 26, "i8mm": 27},
        },
        {"crc32": 4},
    ),
}
"""The bits of AT_HWCAP and AT_HWCAP2, by the names in /proc/cpuinfo (the kernel's arch/*/include/uapi/asm/hwcap.h)."""

CORTEX_M_FLAGS = {
    name: name for name in ("dsp", "vfp4d16sp", "fp-armv8d16sp", "fp-armv8d16", "fp64", "mve", "mve.fp", "lob")
}
RISCV64_FLAGS = {"zba": "zba", "zbb": "zbb", "zbs": "zbs", "v": "v"}
WASM_FLAGS = {"simd128": "simd128"}

MANDATORY = {"aarch64": frozenset({"neon", "fp-armv8"})}
"""The features that every CPU of an architecture has."""

FLAGS = {
    "x86_64": X86_FLAGS,
    "aarch64": AARCH64_FLAGS,
    "arm": ARM_FLAGS,
    "cortex-m": CORTEX_M_FLAGS,
    "riscv64": RISCV64_FLAGS,
    "wasm32": WASM_FLAGS,
}
"""For each architecture: LLVM's name of a feature, and its name in /proc/cpuinfo, where there is one."""


@dataclass(frozen=True)
class Cpu:
    """The architecture and features of a CPU.

    Attributes:
        machine: A key of FLAGS, or the operating system's name of another architecture.
        features: Its features that are in FLAGS, by LLVM's names.
    """

    machine: str
    features: frozenset[str]

    def missing(self, features: Iterable[str]) -> tuple[str, ...]:
        """The elements of ``features`` that this CPU lacks, sorted; features not in FLAGS count as present."""
        known = FLAGS.get(self.machine, {})
        return tuple(sorted(feature for feature in features if feature in known and feature not in self.features))


def needed_features(machine: str, features: Iterable[str]) -> frozenset[str]:
    """The elements of LLVM's ``features`` that code for ``machine`` may use and that are visible at run time."""
    return frozenset(features) & FLAGS[machine].keys()


@lru_cache(maxsize=1)
def this_cpu() -> Cpu:
    """The CPU of this machine, with the features that the operating system enables."""
    system = platform.machine()
    machine = normalize_machine(system)
    if machine == "aarch64" and not _64_BITS:
        machine = "arm"  # a 32-bit process on a 64-bit kernel
    flags = _auxiliary_flags(machine, Path("/proc/self/auxv")) or _cpuinfo_flags(Path("/proc/cpuinfo"))
    if machine == "arm" and system.lower().startswith(("aarch64", "armv8")):
        flags |= {"armv8"}
    known = FLAGS.get(machine, {})
    found = frozenset(feature for feature, flag in known.items() if flag in flags)
    return Cpu(machine, found | MANDATORY.get(machine, frozenset()))


@dataclass(frozen=True)
class CpuModel:
    """The model of a CPU: besides the instruction set, it decides which kernels are fastest.

    Attributes:
        name: The operating system's name, with family, model and stepping, since several CPUs may share a name.
        caches: Bytes of the data caches of the first core, first level first; empty if unknown.
    """

    name: str
    caches: tuple[int, ...]

    def __str__(self) -> str:
        return self.name


@lru_cache(maxsize=1)
def this_cpu_model() -> CpuModel:
    """The CPU model of this machine."""
    return CpuModel(_model_name(Path("/proc/cpuinfo")), _caches(Path("/sys/devices/system/cpu/cpu0/cache")))


def _model_name(path: Path) -> str:
    fields: dict[str, str] = {}
    try:
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    if "model name" in fields and "cpu family" in fields:
        numbers = "/".join(fields.get(key, "?") for key in ("cpu family", "model", "stepping"))
        return f"{fields['model name']} ({numbers})"
    if "CPU part" in fields:
        return f"ARM implementer {fields.get('CPU implementer', '?')} part {fields['CPU part']}"
    return platform.processor() or platform.machine()


def _caches(folder: Path) -> tuple[int, ...]:
    sizes: dict[int, int] = {}
    for index in sorted(folder.glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
            if kind != "Instruction":
                sizes[int(level)] = int(size.rstrip("KM")) << (20 if size.endswith("M") else 10)
        except (OSError, ValueError):
            continue
    return tuple(sizes[level] for level in sorted(sizes))


def normalize_machine(name: str) -> str:
    """Turn the operating system's name of an architecture, or the first part of a triple, into a key of FLAGS."""
    name = name.lower()
    if name in ("x86_64", "amd64"):
        return "x86_64"
    if name in ("aarch64", "arm64"):
        return "aarch64"
    if name.startswith(_CORTEX_M):
        return "cortex-m"
    if name.startswith(("arm", "thumb")):
        return "arm"
    return name


_64_BITS = sys.maxsize > 2**32
_AT_HWCAP, _AT_HWCAP2 = 16, 26


def _auxiliary_flags(machine: str, path: Path) -> frozenset[str]:
    """What the kernel tells this process about an ARM CPU; nothing for other CPUs.

    /proc/cpuinfo has other names for 32-bit processes on a 64-bit kernel, and in an emulator may speak of the host.
    """
    if machine not in HWCAP:
        return frozenset()
    try:
        data = path.read_bytes()
    except OSError:
        return frozenset()
    pair = struct.Struct("@LL")
    entries = dict(pair.iter_unpack(data[: len(data) // pair.size * pair.size]))
    words = entries.get(_AT_HWCAP, 0), entries.get(_AT_HWCAP2, 0)
    return frozenset(
        flag for word, bits in zip(words, HWCAP[machine], strict=True) for flag, bit in bits.items() if word >> bit & 1
    )


# The M profile of ARM: Thumb instructions alone, and no operating system.
_CORTEX_M = tuple(kind + version for kind in ("thumb", "arm") for version in ("v6m", "v7m", "v7em", "v8m", "v8.1m"))


def _cpuinfo_flags(path: Path) -> frozenset[str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return frozenset()
    fields = [(key.strip(), value) for key, _, value in (line.partition(":") for line in lines)]
    cores = {frozenset(value.split()) for key, value in fields if key in ("flags", "Features")}
    cores |= {_riscv_extensions(value) for key, value in fields if key == "isa"}
    # Cores may differ (big.LITTLE), and a thread can run on any of them.
    return frozenset.intersection(*cores) if cores else frozenset()


def _riscv_extensions(isa: str) -> frozenset[str]:
    """The extensions in a RISC-V ISA string, for example ``"rv64imafdcv_zicsr_zbb"``: letters, then longer names."""
    letters, *names = isa.strip().lower().removeprefix("rv64").removeprefix("rv32").split("_")
    return frozenset(letters) | frozenset(names)
