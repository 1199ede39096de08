"""The instruction sets, with all properties that kernels and the cost model depend on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

Architecture = Literal["x86", "aarch64", "arm"]

CoreClass = Literal["in-order", "a72", "wide"]
"""Classes of AArch64 cores that a target can name: in order, two vector instructions a cycle, and later cores."""


class PopcountMethod(Enum):
    """The fastest way to count the set bits of a vector's lanes."""

    VECTOR = "a vector popcount"
    LOOKUP = "a byte shuffle that looks up the counts of 4 bits"
    NONE = "shifts and masks"


@dataclass(frozen=True, kw_only=True)
class Isa:
    """One instruction set.

    Attributes:
        name: Name in reports and key of measurements, for example ``"avx512-vpopcntdq"``.
        architecture: The architecture.
        vector_bits: Width of a vector register, in bits.
        registers: Number of vector registers.
        word_bits: Channels per packed word. Activations are packed along channels: channel ``c`` of a pixel is bit
            ``c % word_bits`` of word ``c // word_bits``, and the unused high bits of the last word are 0. Words are
            little endian, so the bytes in memory do not depend on ``word_bits``, except for the padding of a pixel.
        popcount: The method that counts set bits.
        ternary_logic: Whether one instruction computes any function of three bits (AVX-512's vpternlog).
        dot_product: Whether one instruction adds products of four bytes to a 32-bit sum (ARM's udot).
        core: The class of the core, if the target names one. It decides between kernels, but not what they contain.
    """

    name: str
    architecture: Architecture
    vector_bits: int
    registers: int
    word_bits: int
    popcount: PopcountMethod
    ternary_logic: bool = False
    dot_product: bool = False
    core: CoreClass | None = None

    def __str__(self) -> str:
        return f"{self.name}, {self.vector_bits}-bit vectors"

    @property
    def costs(self) -> str:
        """Name of the costs of this instruction set: ``"neon"``, or ``"neon in-order"`` for a class of cores."""
        return self.name if self.core is None else f"{self.name} {self.core}"

    @property
    def float_lanes(self) -> int:
        """float32 values per vector."""
        return self.vector_bits // 32

    @property
    def word_lanes(self) -> int:
        """Packed words per vector."""
        return self.vector_bits // self.word_bits

    @property
    def popcount_of_threes(self) -> bool:
        """Whether it is faster to count the bits of three vectors together (direct/popcount_threes.py)."""
        return self.popcount == PopcountMethod.VECTOR and self.ternary_logic

    def words(self, channels: int) -> int:
        """Number of packed words that hold ``channels`` bits."""
        return -(-channels // self.word_bits)

    @property
    def word(self) -> str:
        """The dtype of a packed word."""
        return f"uint{self.word_bits}"


AVX512_VPOPCNTDQ = Isa(  # vpopcntq; with IFMA
    name="avx512-vpopcntdq",
    architecture="x86",
    vector_bits=512,
    registers=32,
    word_bits=64,
    popcount=PopcountMethod.VECTOR,
    ternary_logic=True,
)
AVX512 = Isa(  # popcount by vpshufb
    name="avx512",
    architecture="x86",
    vector_bits=512,
    registers=32,
    word_bits=64,
    popcount=PopcountMethod.LOOKUP,
    ternary_logic=True,
)
AVX2 = Isa(  # popcount by vpshufb
    name="avx2", architecture="x86", vector_bits=256, registers=16, word_bits=64, popcount=PopcountMethod.LOOKUP
)
X86_BASELINE = Isa(
    name="sse", architecture="x86", vector_bits=128, registers=16, word_bits=64, popcount=PopcountMethod.NONE
)
NEON = Isa(  # eor, cnt, uadalp into 16-bit counters
    name="neon", architecture="aarch64", vector_bits=128, registers=32, word_bits=16, popcount=PopcountMethod.VECTOR
)
NEON_DOTPROD = Isa(  # also udot: four bytes at once into a 32-bit counter
    name="neon-dotprod",
    architecture="aarch64",
    vector_bits=128,
    registers=32,
    word_bits=16,
    popcount=PopcountMethod.VECTOR,
    dot_product=True,
)
ARMV7_NEON = Isa(
    name="armv7-neon", architecture="arm", vector_bits=128, registers=16, word_bits=16, popcount=PopcountMethod.VECTOR
)

ISAS = {isa.name: isa for isa in (AVX512_VPOPCNTDQ, AVX512, AVX2, X86_BASELINE, NEON, NEON_DOTPROD, ARMV7_NEON)}
"""All instruction sets, by name."""
