"""Machine code with each feature: none is missed, and none is found where it is not."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from sbnn_tvm.deploy import linking, targets
from sbnn_tvm.deploy.targets import CpuTarget
from sbnn_tvm.deploy.used_features import used_features
from sbnn_tvm.errors import LibraryError
from sbnn_tvm.runtime.cpu import FLAGS
from sbnn_tvm.runtime.loading import read_metadata
from tests.support import tiny_model

X86 = {
    "": "movdqa %xmm1, %xmm2; cmovel %eax, %ecx; lock xaddq %rax, (%rdx); endbr64; pause; rep bsfl %eax, %ecx",
    "sse3": "haddps %xmm1, %xmm2",
    "ssse3": "pshufb %xmm1, %xmm2",
    "sse4.1": "pmulld %xmm1, %xmm2",
    "sse4.2": "pcmpgtq %xmm1, %xmm2",
    "sse4a": "extrq %xmm1, %xmm2",
    "popcnt": "popcntq %rax, %rcx",
    "lzcnt": "lzcntl %eax, %ecx",
    "bmi": "andnl %eax, %ecx, %edx",
    "bmi2": "shlxl %eax, %ecx, %edx",
    "movbe": "movbel (%rax), %ecx",
    "avx": "vaddps %ymm1, %ymm2, %ymm3",
    "avx2": "vpaddd %ymm1, %ymm2, %ymm3",
    "f16c": "vcvtph2ps %xmm1, %ymm2",
    "fma": "vfmadd231ps %ymm1, %ymm2, %ymm3",
    "fma4": "vfmaddps %ymm1, %ymm2, %ymm3, %ymm4",
    "xop": "vpcmov %ymm1, %ymm2, %ymm3, %ymm4",
    "tbm": "blsfilll %eax, %ecx",
    "gfni": "gf2p8mulb %xmm1, %xmm2",
    "avxvnni": "{vex} vpdpbusd %ymm1, %ymm2, %ymm3",
    "avxifma": "{vex} vpmadd52luq %ymm1, %ymm2, %ymm3",
    "avxvnniint8": "vpdpbssd %ymm1, %ymm2, %ymm3",
    "avx512f": "vaddps %zmm1, %zmm2, %zmm3",
    "avx512cd": "vplzcntd %zmm1, %zmm2",
    "avx512bw": "vpaddb %zmm1, %zmm2, %zmm3",
    "avx512dq": "vpmullq %zmm1, %zmm2, %zmm3",
    "avx512vl": "vaddps %ymm17, %ymm2, %ymm3",
    "avx512ifma": "vpmadd52luq %zmm1, %zmm2, %zmm3",
    "avx512vbmi": "vpermb %zmm1, %zmm2, %zmm3",
    "avx512vbmi2": "vpshldd $1, %zmm1, %zmm2, %zmm3",
    "avx512vnni": "vpdpbusd %zmm1, %zmm2, %zmm3",
    "avx512bitalg": "vpopcntb %zmm1, %zmm2",
    "avx512vpopcntdq": "vpopcntq %zmm1, %zmm2",
    "avx512vp2intersect": "vp2intersectd %zmm1, %zmm2, %k2",
    "avx512bf16": "vdpbf16ps %zmm1, %zmm2, %zmm3",
    "avx512fp16": "vaddph %zmm1, %zmm2, %zmm3",
}
AARCH64 = {
    "": "add x0, x1, x2; ldxr x0, [x1]; hint #34; paciasp; prfm pldl1keep, [x0]; adrp x0, 0",
    "neon": "cnt v0.16b, v1.16b",
    "fp-armv8": "fmadd s0, s1, s2, s3",
    "lse": "ldadd w0, w1, [x2]",
    "rcpc": "ldaprb w0, [x1]",
    "rdm": "sqrdmlah v0.4s, v1.4s, v2.4s",
    "crc": "crc32b w0, w1, w2",
    "aes": "aese v0.16b, v1.16b",
    "sha2": "sha256h q0, q1, v2.4s",
    "sha3": "eor3 v0.16b, v1.16b, v2.16b, v3.16b",
    "fullfp16": "fadd v0.8h, v1.8h, v2.8h",
    "fp16fml": "fmlal v0.4s, v1.4h, v2.4h",
    "complxnum": "fcmla v0.4s, v1.4s, v2.4s, #0",
    "jsconv": "fjcvtzs w0, d0",
    "fptoint": "frint32z v0.4s, v1.4s",
    "flagm": "rmif x0, #1, #2",
    "dotprod": "udot v0.4s, v1.16b, v2.16b",
    "i8mm": "smmla v0.4s, v1.16b, v2.16b",
    "bf16": "bfdot v0.4s, v1.8h, v2.8h",
    "sve": "add z0.b, z1.b, z2.b",
    "sve2": "smlalb z0.s, z1.h, z2.h",
    "cssc": "abs x0, x1",
    "mops": "cpyfp [x0]!, [x1]!, x2!",
}
ARM = {
    "": "add r0, r1, r2; movw r0, #7; dmb ish; vldr s0, [r0]; vldr d3, [r0]; smlabb r0, r1, r2, r3",
    "neon": "vcnt.8 q0, q1",
    "vfp3": "vmov.f32 s0, #1.0",
    "vfp4": "vfma.f32 s0, s1, s2",
    "fp16": "vcvtb.f32.f16 s0, s1",
    "hwdiv-arm": "sdiv r0, r1, r2",
    "v8": "lda r0, [r1]",
    "fp-armv8": "vmaxnm.f32 s0, s1, s2",
    "crc": "crc32b r0, r1, r2",
    "fullfp16": "vadd.f16 q0, q1, q2",
    "fp16fml": ".inst 0xfc210852",  # vfmal.f16 q0, d1, d2
    "dotprod": "vudot.u8 q0, q1, q2",
    "i8mm": "vsmmla.s8 q0, q1, q2",
    "bf16": "vdot.bf16 q0, q1, q2",
    "hwdiv": ".thumb; sdiv r0, r1, r2",
}
IMPLIED = {
    "x86_64": {
        **dict.fromkeys(
            ("avx512cd", "avx512bw", "avx512dq", "avx512vl", "avx512ifma", "avx512vbmi"), frozenset({"avx512f"})
        ),
        **dict.fromkeys(("avx512vbmi2", "avx512vnni", "avx512bitalg", "avx512vpopcntdq"), frozenset({"avx512f"})),
        **dict.fromkeys(("avx512vp2intersect", "avx512bf16", "avx512fp16"), frozenset({"avx512f"})),
    },
    "aarch64": dict.fromkeys(
        ("rdm", "fp16fml", "fullfp16", "complxnum", "jsconv", "fptoint", "bf16"), frozenset({"neon", "fp-armv8"})
    ),
    "arm": {
        **dict.fromkeys(("fullfp16", "fp16fml", "dotprod", "i8mm", "bf16"), frozenset({"neon", "v8"})),
        **dict.fromkeys(("crc", "fp-armv8"), frozenset({"v8"})),
        "vfp4": {"vfp3"},
    },
}
"""Features that may be named besides, since every CPU with the one has them."""

SOURCES = {
    "x86_64": ("x86_64-linux-gnu", X86, ""),
    "aarch64": ("aarch64-linux-gnu", AARCH64, ".arch armv9.4-a+sve2+cssc+mops+sha3+sha2+aes+fp16fml+i8mm+bf16+f32mm\n"),
    "arm": ("arm-linux-gnueabihf", ARM, ".syntax unified\n.arch armv8.6-a\n.fpu neon-fp-armv8\n.arch_extension fp16\n"),
}
SMALLEST = {"x86_64": "x86-64", "aarch64": "arm", "arm": "armv7"}
NOP = {"x86_64": b"\x90", "aarch64": b"\x1f\x20\x03\xd5", "arm": b"\x00\xf0\x20\xe3"}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """For each architecture an object file with a section of code for each feature."""
    folder = tmp_path_factory.mktemp("features")
    files = {}
    for machine, (zig_target, instructions, header) in SOURCES.items():
        sections = [f'.section .text.{name or "always"},"ax"\n{line}\n' for name, line in instructions.items()]
        source = "".join([header, *sections]).replace("; ", "\n")
        files[machine] = assembled(folder, zig_target, source)
    return files


def assembled(folder: Path, zig_target: str, source: str) -> bytes:
    (folder / "code.s").write_text(source)
    command = ["cc", "-target", zig_target, "-c", "code.s", "-o", "code.o"]
    subprocess.run([str(linking.find_zig()), *command], cwd=folder, check=True)
    return (folder / "code.o").read_bytes()


def with_one(data: bytes, name: str, machine: str) -> BytesIO:
    """An object file whose other sections of code do nothing."""
    mutant = bytearray(data)
    for section in ELFFile(BytesIO(data)).iter_sections():
        if section["sh_flags"] & 4 and section.name != f".text.{name or 'always'}":
            begin, size = section["sh_offset"], section["sh_size"]
            if section.name != ".text.hwdiv":  # Thumb: sdiv has the size of one nop of ARM's
                mutant[begin : begin + size] = NOP[machine] * (size // len(NOP[machine]))
            else:
                mutant[begin : begin + size] = b"\x00\xbf" * (size // 2)
    return BytesIO(bytes(mutant))


def everything(machine: str) -> CpuTarget:
    """A target with all features."""
    return replace(targets.resolve(SMALLEST[machine]), features=frozenset(FLAGS[machine]))


@pytest.mark.parametrize("machine", SOURCES)
def test_each_feature(machine: str, objects: dict[str, bytes]) -> None:
    instructions = SOURCES[machine][1]
    assert instructions.keys() - {""} == FLAGS[machine].keys(), "an instruction for each feature"
    target = everything(machine)
    for name in instructions:
        # Where bmi is missing, tzcnt is bsf.
        compiled_for = target if name else targets.resolve(SMALLEST[machine])
        found = used_features([with_one(objects[machine], name, machine)], compiled_for)
        assert {name} - {""} <= found <= {name, *IMPLIED[machine].get(name, ())}, name
    assert used_features([BytesIO(objects[machine])], target) == target.features


def test_a_feature_that_the_target_lacks(objects: dict[str, bytes]) -> None:
    target = targets.resolve("x86-64")
    with pytest.raises(LibraryError, match="machine code for x86-64 would need avx2, which the target lacks"):
        used_features([with_one(objects["x86_64"], "avx2", "x86_64")], target)


@pytest.mark.parametrize(("machine", "unknown"), [("x86_64", b"\x06"), ("aarch64", b"\xff" * 4), ("arm", b"\xff" * 4)])
def test_an_unknown_instruction_may_need_anything(machine: str, unknown: bytes, objects: dict[str, bytes]) -> None:
    code = with_one(objects[machine], "", machine).getvalue()
    assert NOP[machine] in code
    broken = BytesIO(code.replace(NOP[machine], unknown, 1))
    assert used_features([broken], everything(machine)) == FLAGS[machine].keys()


@pytest.mark.parametrize("name", ["native", "neoverse-n1", "armv7"])
def test_a_library_demands_what_its_code_uses(name: str, tmp_path: Path) -> None:
    target = targets.resolve(name)
    linking.write_library(tiny_model.build(target), tmp_path / "m.so", target, tiny_model.metadata(target))
    used = set(read_metadata(tmp_path / "m.so").features)
    assert used < target.features
    if name == "neoverse-n1":
        assert used == {"neon", "fp-armv8"}, "the tiny model adds floats"
