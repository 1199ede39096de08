"""The features of an ARM CPU that Linux tells each process, in its auxiliary vector.

/proc/cpuinfo says less: a 32-bit process on a 64-bit kernel reads the features of the 64-bit CPU there, as on a
Raspberry Pi with a 32-bit system, and an emulated process reads those of the host's CPU. Sources: getauxval(3);
arch/arm/include/uapi/asm/hwcap.h and arch/arm64/include/uapi/asm/hwcap.h of Linux.
"""

from __future__ import annotations

import struct
from pathlib import Path

_HWCAP, _HWCAP2 = 16, 26  # AT_HWCAP, AT_HWCAP2

_BITS = {
    "arm": {_HWCAP: {"neon": 12, "vfpv3": 13, "vfpv4": 16, "idiva": 17, "idivt": 18}},
    "aarch64": {
        _HWCAP: {
            **{"fp": 0, "asimd": 1, "atomics": 8, "asimdhp": 10, "asimdrdm": 12, "asimddp": 20, "sve": 22},
            "asimdfhm": 23,
        },
        _HWCAP2: {"sve2": 1, "i8mm": 13, "bf16": 14},
    },
}
"""For each architecture and entry of the vector: the bits of features, by their names in /proc/cpuinfo."""


def hwcap_features(machine: str, vector: Path = Path("/proc/self/auxv")) -> frozenset[str] | None:
    """The features of this CPU that sbnn_tvm.runtime.cpu knows, by their names in /proc/cpuinfo.

    Args:
        machine: The architecture of this process, as in sbnn_tvm.runtime.cpu.
        vector: The auxiliary vector of this process.

    Returns:
        The features; None for another architecture, or if the system does not show the vector.
    """
    if machine not in _BITS:
        return None
    try:
        data = vector.read_bytes()
    except OSError:
        return None
    entries = dict(struct.iter_unpack("@LL", data[: len(data) - len(data) % struct.calcsize("@LL")]))
    return frozenset(
        name for entry, bits in _BITS[machine].items() for name, bit in bits.items() if entries.get(entry, 0) >> bit & 1
    )
