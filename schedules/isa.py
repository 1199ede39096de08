"""What a kernel must know about the instruction set it is scheduled for: everything special to an ISA is here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["x86", "aarch64", "arm"]


@dataclass(frozen=True)
class Isa:
    """One instruction set, as the schedules see it.

    Attributes:
        name: Shown in reports and used as a key of measurements, for example ``"avx512-vpopcntdq"``.
        family: The architecture.
        vector_bits: Width of a vector register.
        registers: Number of vector registers.
        word_bits: Channels in one packed word. Activations are packed along channels, channel ``c`` of a pixel in bit
            ``c % word_bits`` of word ``c // word_bits``; the unused high bits of the last word are 0. Words are
            little endian, so memory holds the same bytes whatever ``word_bits`` is, up to the padding of a pixel.
    """

    name: str
    family: Family
    vector_bits: int
    registers: int
    word_bits: int

    @property
    def float_lanes(self) -> int:
        """float32 values in a vector."""
        return self.vector_bits // 32

    @property
    def word_lanes(self) -> int:
        """Packed words in a vector."""
        return self.vector_bits // self.word_bits

    @property
    def popcount_by_lookup(self) -> bool:
        """Whether a byte shuffle counts bits faster than the vector popcount, if there is one at all."""
        return self.family == "x86" and self.vector_bits >= 256 and self != AVX512_VPOPCNTDQ

    def words(self, channels: int) -> int:
        """Packed words that hold ``channels`` bits."""
        return -(-channels // self.word_bits)

    @property
    def word(self) -> str:
        """The dtype of a packed word."""
        return f"uint{self.word_bits}"


AVX512_VPOPCNTDQ = Isa("avx512-vpopcntdq", "x86", 512, 32, 64)  # vpopcntq; with IFMA
AVX512 = Isa("avx512", "x86", 512, 32, 64)  # popcount by vpshufb + vpsadbw
AVX2 = Isa("avx2", "x86", 256, 16, 64)  # popcount by vpshufb + vpsadbw
X86_BASELINE = Isa("sse", "x86", 128, 16, 64)
NEON = Isa("neon", "aarch64", 128, 32, 16)  # eor, cnt, uadalp into 16-bit counters
ARMV7_NEON = Isa("armv7-neon", "arm", 128, 16, 16)
