"""The features of an ARM CPU, as the kernel tells them to a process."""

import struct
from pathlib import Path

from sbnn_tvm.runtime import cpu


def auxiliary_vector(folder: Path, hwcap: int, hwcap2: int) -> Path:
    path = folder / "auxv"
    path.write_bytes(struct.pack("@8L", 6, 4096, 16, hwcap, 26, hwcap2, 0, 0))
    return path


def test_features_from_the_auxiliary_vector(tmp_path: Path) -> None:
    a72 = auxiliary_vector(tmp_path, 0xFF, 0)
    assert cpu._auxiliary_flags("aarch64", a72) == {"fp", "asimd", "aes", "sha2", "crc32"}
    m1 = auxiliary_vector(tmp_path, 1 << 20 | 1 << 8, 1 << 13 | 1 << 34)
    assert cpu._auxiliary_flags("aarch64", m1) == {"asimddp", "atomics", "i8mm", "cssc"}
    pi2 = auxiliary_vector(tmp_path, 1 << 12 | 1 << 16, 1 << 4)
    assert cpu._auxiliary_flags("arm", pi2) == {"neon", "vfpv4", "crc32"}
    assert cpu._auxiliary_flags("x86_64", pi2) == frozenset()
    assert cpu._auxiliary_flags("arm", tmp_path / "missing") == frozenset()


def test_every_flag_of_arm_has_a_bit() -> None:
    for machine, (first, second) in cpu.HWCAP.items():
        assert set(cpu.FLAGS[machine].values()) - {"armv8"} == first.keys() | second.keys()
