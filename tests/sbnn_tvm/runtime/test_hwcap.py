"""The auxiliary vector, as Linux on ARM writes it."""

import struct

import pytest

from sbnn_tvm.runtime import cpu
from sbnn_tvm.runtime.hwcap import hwcap_features


@pytest.fixture
def vector(tmp_path):
    def write(**entries):
        pairs = [(16, entries.get("hwcap", 0)), (26, entries.get("hwcap2", 0)), (0, 0)]
        (tmp_path / "auxv").write_bytes(b"".join(struct.pack("@LL", *pair) for pair in pairs))
        return tmp_path / "auxv"

    return write


def test_raspberry_pi(vector):
    """A 32-bit process on a Raspberry Pi 4, and a 64-bit one."""
    assert hwcap_features("arm", vector(hwcap=0x1FB0D7, hwcap2=0x1F)) == {"neon", "vfpv3", "vfpv4", "idiva", "idivt"}
    assert hwcap_features("aarch64", vector(hwcap=0x87)) == {"fp", "asimd"}


def test_a_server(vector):
    found = hwcap_features("aarch64", vector(hwcap=0xFFFFFFFF, hwcap2=0xFFFFFFFF))
    assert found == set(cpu.AARCH64_FLAGS.values())


def test_nothing_is_told(tmp_path, vector):
    assert hwcap_features("x86_64", vector()) is None
    assert hwcap_features("arm", tmp_path / "missing") is None
    (tmp_path / "odd").write_bytes(bytes(7))
    assert hwcap_features("arm", tmp_path / "odd") == set()


def test_a_32_bit_process_on_a_64_bit_kernel(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr("sys.maxsize", 2**31 - 1)
    monkeypatch.setattr(cpu, "hwcap_features", lambda machine: frozenset({"neon"}) if machine == "arm" else None)
    assert cpu.this_cpu.__wrapped__() == cpu.Cpu("arm", frozenset({"neon"}))
