"""What a C library asks a CPU before it runs a build: where each feature is told, for runtime/sbnn_cpu.h.

Sources: Intel SDM, volume 2, CPUID, and volume 1, 13.3 and 14.3; AMD APM, volume 3, appendix E; the Linux kernel's
Documentation/arch/arm64/elf_hwcaps.rst and arch/arm/include/uapi/asm/hwcap.h.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...runtime.cpu import FLAGS, HWCAP, MANDATORY


@dataclass(frozen=True, order=True)
class Need:
    """Bits that must be set in a word that tells features.

    Attributes:
        leaf: x86: the leaf of cpuid; ARM: the entry of the auxiliary vector.
        subleaf: The subleaf of cpuid.
        word: The register, as a constant of runtime/sbnn_cpu.h.
        bits: The bits.
    """

    leaf: int
    subleaf: int
    word: str
    bits: int


_X86: dict[tuple[int, int, str], dict[str, int]] = {
    (1, 0, "SBNN_ECX"): {
        **{"sse3": 0, "ssse3": 9, "fma": 12, "sse4.1": 19, "sse4.2": 20, "movbe": 22, "popcnt": 23},
        **{"avx": 28, "f16c": 29},
    },
    (7, 0, "SBNN_EBX"): {
        **{"bmi": 3, "avx2": 5, "bmi2": 8, "avx512f": 16, "avx512dq": 17, "avx512ifma": 21, "avx512cd": 28},
        **{"avx512bw": 30, "avx512vl": 31},
    },
    (7, 0, "SBNN_ECX"): {
        **{"avx512vbmi": 1, "avx512vbmi2": 6, "gfni": 8, "avx512vnni": 11, "avx512bitalg": 12},
        **{"avx512vpopcntdq": 14},
    },
    (7, 0, "SBNN_EDX"): {"avx512vp2intersect": 8, "avx512fp16": 23},
    (7, 1, "SBNN_EAX"): {"avxvnni": 4, "avx512bf16": 5, "avxifma": 23},
    (7, 1, "SBNN_EDX"): {"avxvnniint8": 4},
    (0x8000_0001, 0, "SBNN_ECX"): {"lzcnt": 5, "sse4a": 6, "xop": 11, "fma4": 16, "tbm": 21},
}
_YMM, _ZMM = 0x06, 0xE6
"""Bits of XCR0: the registers that the operating system saves."""

_WITHOUT_YMM = {
    *("sse3", "ssse3", "sse4.1", "sse4.2", "sse4a", "popcnt", "lzcnt", "movbe", "gfni", "tbm", "bmi", "bmi2"),
}
_AT_HWCAP = (16, 26)


def needs_of(machine: str, features: Iterable[str]) -> tuple[Need, ...]:
    """What to ask a CPU whether it has ``features``.

    Args:
        machine: The architecture, by the names of sbnn_tvm.runtime.cpu.
        features: LLVM's names.

    Returns:
        The words and bits, merged and in order; none for an architecture that cannot be asked.
    """
    features = set(features) - MANDATORY.get(machine, frozenset())
    if machine == "x86_64":
        places = [(*word, bits) for word, bits in _X86.items()]
    else:
        places = [(leaf, 0, "0", bits) for leaf, bits in zip(_AT_HWCAP, _arm_bits(machine), strict=False)]
    needs = []
    for leaf, subleaf, word, bits in places:
        mask = sum(1 << bit for name, bit in bits.items() if name in features)
        if mask:
            needs.append(Need(leaf, subleaf, word, mask))
    if machine == "x86_64" and features - _WITHOUT_YMM:
        wide = any(name.startswith("avx512") for name in features)
        needs.append(Need(0, 0, "SBNN_XCR0", _ZMM if wide else _YMM))
    return tuple(needs)


def _arm_bits(machine: str) -> list[dict[str, int]]:
    """For each word, the bits of LLVM's features."""
    words = HWCAP.get(machine, ())
    return [{name: word[flag] for name, flag in FLAGS[machine].items() if flag in word} for word in words]
