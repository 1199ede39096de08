"""CPU features: those that compiled code may need, and those that this machine has.

Features have LLVM's names. Only features that LLVM may use without an intrinsic are listed: vector extensions and bit
manipulation, but not AES, for example.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .hwcap import hwcap_features

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
    "rdm": "asimdrdm",
    "fullfp16": "asimdhp",
    "fp16fml": "asimdfhm",
    "dotprod": "asimddp",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
}
ARM_FLAGS = {"neon": "neon", "vfp3": "vfpv3", "vfp4": "vfpv4", "hwdiv-arm": "idiva", "hwdiv": "idivt"}

MANDATORY = {"aarch64": frozenset({"neon", "fp-armv8"})}
"""The features that every CPU of an architecture has, whether or not the system tells."""

FLAGS = {"x86_64": X86_FLAGS, "aarch64": AARCH64_FLAGS, "arm": ARM_FLAGS}
"""For each architecture: LLVM's name of a feature, and its name in /proc/cpuinfo."""


@dataclass(frozen=True)
class Cpu:
    """The architecture and features of a CPU.

    Attributes:
        machine: ``"x86_64"``, ``"aarch64"``, ``"arm"``, or the operating system's name of another architecture.
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
    """The CPU of this machine as this process sees it, with the features that the operating system enables."""
    machine = normalize_machine(platform.machine())
    if machine == "aarch64" and sys.maxsize < 1 << 32:  # a 32-bit system on a 64-bit kernel
        machine = "arm"
    flags = hwcap_features(machine)
    if flags is None:
        flags = _cpuinfo_flags(Path("/proc/cpuinfo"))
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
    if name.startswith(("arm", "thumb")):
        return "arm"
    return name


def _cpuinfo_flags(path: Path) -> frozenset[str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return frozenset()
    cores = {value for key, _, value in (line.partition(":") for line in lines) if key.strip() in ("flags", "Features")}
    # Cores may differ (big.LITTLE), and a thread can run on any of them.
    return frozenset.intersection(*(frozenset(core.split()) for core in cores)) if cores else frozenset()
