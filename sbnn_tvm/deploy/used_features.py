"""The CPU features that machine code uses, found in the object files before they are linked.

LLVM may use every feature of a target, and uses few of them. A library demands only the latter, so that a build for
one CPU runs on others. Every instruction is decoded: x86 by iced, others by capstone, whose tables of features come
from the manuals and from LLVM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from types import ModuleType
from typing import BinaryIO

import capstone
import numpy as np
from capstone import aarch64_const, arm_const
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section, SymbolTableSection
from iced_x86 import Code, CpuidFeature, Decoder, Mnemonic

from ..errors import LibraryError
from .targets import CpuTarget


def used_features(objects: Iterable[BinaryIO], target: CpuTarget) -> frozenset[str]:
    """The features that the code of object files needs at run time.

    An instruction that the decoder does not know may need any feature. Then these are all features of the target,
    as they are for an architecture without a decoder, and for object files of another format.

    Args:
        objects: The object files. Those for 32-bit ARM need their symbols, which tell code from data.
        target: What they were compiled for.

    Returns:
        LLVM's names; a subset of ``target.features``.

    Raises:
        LibraryError: If the code uses a feature that the target lacks or that cannot be checked at run time.
    """
    decode = _DECODERS.get(target.machine)
    if decode is None or target.platform.object_format != "ELF":
        return target.features
    pieces: dict[_Mode, list[bytes]] = {}
    for file in objects:
        for mode, code in _code(file):
            pieces.setdefault(mode, []).append(code)
    found: set[str] = set()
    for mode, codes in pieces.items():
        features = decode(mode, codes, target)
        if features is None:
            return target.features
        found |= features
    foreign = sorted(found - target.features)
    if foreign:
        raise LibraryError(
            f"the machine code for {target} would need {', '.join(foreign)}, which the target lacks or which load() "
            f"cannot check: compile for a target with fewer features"
        )
    return frozenset(found)


def code_bytes(file: BinaryIO) -> int:
    """Bytes of the machine code of an ELF object file; 0 for another format."""
    file.seek(0)
    if file.read(4) != b"\x7fELF":
        return 0
    return sum(len(code) for _, code in _code(file))


_EXECUTABLE = 4  # SHF_EXECINSTR

_Mode = str
"""What a piece of code is: the mapping symbol of ARM's ELF files ($a, $t, $x), or nothing."""


def _code(file: BinaryIO) -> Iterator[tuple[_Mode, bytes]]:
    """The pieces of code of an object file; data between instructions is left out."""
    file.seek(0)
    elf = ELFFile(file)
    code = {
        index: section
        for index, section in enumerate(elf.iter_sections())
        if section["sh_flags"] & _EXECUTABLE and section["sh_type"] == "SHT_PROGBITS"
    }
    marks = _mapping_symbols(elf, code.keys()) if elf["e_machine"] in ("EM_ARM", "EM_AARCH64") else {}
    for index, section in code.items():
        data = section.data()
        begins = sorted(marks.get(index, {0: ""}).items())
        ends = [begin for begin, _ in begins[1:]] + [len(data)]
        for (begin, mode), end in zip(begins, ends, strict=True):
            if mode != "$d":
                yield mode, data[begin:end]


def _mapping_symbols(elf: ELFFile, sections: Iterable[int]) -> dict[int, dict[int, _Mode]]:
    """For each section of code, where code and data begin. Source: ELF for the Arm Architecture, section 5.5.5."""
    marks: dict[int, dict[int, _Mode]] = {index: {} for index in sections}
    table: Section | None = elf.get_section_by_name(".symtab")
    if isinstance(table, SymbolTableSection):
        for symbol in table.iter_symbols():
            if symbol.name[:2] in ("$a", "$d", "$t", "$x") and symbol["st_shndx"] in marks:
                marks[symbol["st_shndx"]][symbol["st_value"]] = symbol.name[:2]
    return {index: places for index, places in marks.items() if places}


# What every 64-bit x86 has, and what does nothing on a CPU that lacks it.
_X86_ALWAYS = {
    *("INTEL8086", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "X64", "CMOV", "CPUID", "CX8", "FPU", "FPU287"),
    *("FPU387", "FXSR", "MMX", "SSE", "SSE2", "SYSCALL", "TSC", "MULTIBYTENOP", "PAUSE", "CET_IBT", "PREFETCHW"),
    "XSAVE",  # xgetbv, which the runtime executes only where cpuid allows it
}
_X86_NAMES = {
    "SSE3": "sse3",
    "SSSE3": "ssse3",
    "SSE4_1": "sse4.1",
    "SSE4_2": "sse4.2",
    "SSE4A": "sse4a",
    "POPCNT": "popcnt",
    "LZCNT": "lzcnt",
    "BMI1": "bmi",
    "BMI2": "bmi2",
    "MOVBE": "movbe",
    "AVX": "avx",
    "AVX2": "avx2",
    "F16C": "f16c",
    "FMA": "fma",
    "FMA4": "fma4",
    "XOP": "xop",
    "TBM": "tbm",
    "GFNI": "gfni",
    "AVX_VNNI": "avxvnni",
    "AVX_IFMA": "avxifma",
    "AVX_VNNI_INT8": "avxvnniint8",
    "AVX512F": "avx512f",
    "AVX512CD": "avx512cd",
    "AVX512BW": "avx512bw",
    "AVX512DQ": "avx512dq",
    "AVX512VL": "avx512vl",
    "AVX512_IFMA": "avx512ifma",
    "AVX512_VBMI": "avx512vbmi",
    "AVX512_VBMI2": "avx512vbmi2",
    "AVX512_VNNI": "avx512vnni",
    "AVX512_BITALG": "avx512bitalg",
    "AVX512_VPOPCNTDQ": "avx512vpopcntdq",
    "AVX512_VP2INTERSECT": "avx512vp2intersect",
    "AVX512_BF16": "avx512bf16",
    "AVX512_FP16": "avx512fp16",
}
"""LLVM's names of iced's features. A feature that is missing here cannot be checked at run time."""


def _of_x86(mode: _Mode, codes: list[bytes], target: CpuTarget) -> set[str] | None:
    seen: set[int] = set()
    features: set[int] = set()
    for instruction in chain.from_iterable(Decoder(64, code) for code in codes):
        if instruction.code not in seen:
            seen.add(instruction.code)
            # Other CPUs execute it as bsf, which is what LLVM means where the operand is not 0.
            if instruction.mnemonic != Mnemonic.TZCNT or "bmi" in target.features:
                features.update(instruction.cpuid_features())
    if Code.INVALID in seen:
        return None
    names = {value: name for name, value in vars(CpuidFeature).items() if isinstance(value, int)}
    return {_X86_NAMES.get(names[each], names[each]) for each in features if names[each] not in _X86_ALWAYS}


@dataclass(frozen=True)
class _Arm:
    """How capstone decodes an architecture, and what its features are called.

    Attributes:
        decoder: capstone's architecture and mode.
        constants: The module of capstone's names, and how those of features begin.
        names: LLVM's names of features; as for x86, what is missing cannot be checked at run time.
        always: What every CPU of the architecture has, as far as there are kernels for it.
    """

    decoder: tuple[int, int]
    constants: tuple[ModuleType, str]
    names: dict[str, str]
    always: frozenset[str]

    def features(self, code: bytes) -> set[str] | None:
        decoder = capstone.Cs(*self.decoder)
        decoder.detail = True
        groups: set[int] = set()
        size = 0
        for instruction in decoder.disasm(code, 0):
            groups.update(instruction.groups)
            size += instruction.size
        if size < len(code):
            return None
        module, prefix = self.constants
        found = {
            name.removeprefix(prefix)
            for name, value in vars(module).items()
            if name.startswith(prefix) and name.isupper() and value in groups  # names in mixed case are aliases
        }
        return {self.names.get(name, name.lower()) for name in found - self.always}


_AARCH64 = _Arm(
    (capstone.CS_ARCH_AARCH64, capstone.CS_MODE_LITTLE_ENDIAN),
    (aarch64_const, "AARCH64_FEATURE_HAS"),
    {
        "NEON": "neon",
        "NEONORSME": "neon",
        "FPARMV8": "fp-armv8",
        "LSE": "lse",
        "RCPC": "rcpc",
        "RDM": "rdm",
        "CRC": "crc",
        "AES": "aes",
        "SHA2": "sha2",
        "SHA3": "sha3",
        "FULLFP16": "fullfp16",
        "FP16FML": "fp16fml",
        "COMPLXNUM": "complxnum",
        "JS": "jsconv",
        "FRINT3264": "fptoint",
        "FLAGM": "flagm",
        "DOTPROD": "dotprod",
        "MATMULINT8": "i8mm",
        "BF16": "bf16",
        "SVE": "sve",
        "SVEORSME": "sve",
        "SVE2": "sve2",
        "SVE2ORSME": "sve2",
        "CSSC": "cssc",
        "MOPS": "mops",
    },
    frozenset({"V8_0A"}),
)
_ARM = _Arm(
    (capstone.CS_ARCH_ARM, capstone.CS_MODE_ARM | capstone.CS_MODE_V8),
    (arm_const, "ARM_FEATURE_HAS"),
    {
        "NEON": "neon",
        "VFP3": "vfp3",
        "VFP4": "vfp4",
        "FP16": "fp16",
        "DIVIDEINARM": "hwdiv-arm",
        "DIVIDEINTHUMB": "hwdiv",
        "V8": "v8",
        "ACQUIRERELEASE": "v8",
        "FPARMV8": "fp-armv8",
        "CRC": "crc",
        "FULLFP16": "fullfp16",
        "FP16FML": "fp16fml",
        "DOTPROD": "dotprod",
        "MATMULINT8": "i8mm",
        "BF16": "bf16",
    },
    # ARMv7-A with a floating-point unit; microcontrollers have some of its instructions, too
    frozenset({"V4T", "V5T", "V5TE", "V6", "V6K", "V6T2", "V7", "MP", "V7CLREX", "DB", "DSP", "V6M", "V8MBASELINE"})
    | frozenset({"FPREGS", "FPREGS64", "VFP2", "DPVFP"}),
)
_THUMB = replace(_ARM, decoder=(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_V8))


def _of_arm(mode: _Mode, codes: list[bytes], target: CpuTarget) -> set[str] | None:
    code = b"".join(codes)
    if mode == "$t":
        return _THUMB.features(code)
    words = np.unique(np.frombuffer(code, "<u4"))  # an instruction means the same wherever it is
    return (_AARCH64 if target.machine == "aarch64" else _ARM).features(words.tobytes())


_DECODERS: dict[str, Callable[[_Mode, list[bytes], CpuTarget], set[str] | None]] = {
    "x86_64": _of_x86,
    "aarch64": _of_arm,
    "arm": _of_arm,
}
