"""The instruction sets, with all properties that kernels and the cost model depend on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

Architecture = Literal["x86", "aarch64", "arm", "riscv64", "wasm"]

CoreClass = Literal["in-order", "a72", "wide"]
"""Classes of AArch64 cores that a target can name: in order, two vector instructions a cycle, and later cores."""


class PopcountMethod(Enum):
    """The fastest way to count the set bits of a vector's lanes."""

    VECTOR = "a vector popcount"
    BYTES = "a vector popcount of bytes, whose neighbours are then added"
    LOOKUP = "a byte shuffle that looks up the counts of 4 bits"
    NONE = "shifts and masks"


class IntegerProducts(Enum):
    """What one instruction does with products of integers that are added to 32-bit sums."""

    SINGLE = "one product a lane"
    PAIRS = "the sum of two products of 16-bit numbers a lane"
    QUADS = "adds four products of an unsigned and a signed byte to each lane"
    BYTES = "a product of signed bytes a 16-bit lane, to which it may add"
    LANES = "adds four products of signed bytes to each lane, the second four from any lane"
    MATRICES = "adds the products of two times eight bytes with two times eight bytes"


@dataclass(frozen=True, kw_only=True)
class Isa:
    """One instruction set.

    Machines without vectors have some as well: LLVM computes the lanes of a vector one by one. So there is one kind of
    kernel. ``vector_bits`` is then the number of bits that a kernel handles at once, and ``registers`` follows from the
    number of registers that the lanes of a vector take.

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
        masks_are_words: Whether a comparison becomes a word with a bit per lane in a few instructions.
        scalar: Whether there are no vectors: the lanes of a vector are registers, or a few instructions each.
        small: Whether memory is scarcer than time, as on a microcontroller. Constants are then read where they are
            stored, since a decoded copy would need RAM, and the cost model prefers kernels with few of them.
        multiplies_by_lane: Whether a float multiply-add takes a factor from one lane of a register, for all lanes of
            the other factor (``fmla v0.4s, v1.4s, v2.s[3]``).
        dot_product: Whether one instruction adds products of four bytes to a 32-bit sum (ARM's udot).
        products: How products of integers are added.
        core: The class of the core, if the target names one. It decides between kernels, but not what they contain.
    """

    name: str
    architecture: Architecture
    vector_bits: int
    registers: int
    word_bits: int
    popcount: PopcountMethod
    ternary_logic: bool = False
    masks_are_words: bool = True
    scalar: bool = False
    small: bool = False
    multiplies_by_lane: bool = False
    dot_product: bool = False
    products: IntegerProducts = IntegerProducts.SINGLE
    core: CoreClass | None = None

    def __str__(self) -> str:
        if self.scalar:
            return f"{self.name}, {self.word_bits}-bit words without vectors"
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
    def fuses(self) -> bool:
        """Whether every machine has a fused multiply-add of float32 vectors."""
        return self.architecture in ("aarch64", "riscv64") or (self.architecture == "x86" and self.vector_bits > 128)

    @property
    def plane_bits(self) -> int:
        """Pixels of the widest vector in bit planes (layouts/bit_planes.py): one word where there are no vectors."""
        return 64 if self.scalar else self.vector_bits

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


AVX512_VPOPCNTDQ = Isa(  # vpopcntq; with IFMA and VNNI
    name="avx512-vpopcntdq",
    architecture="x86",
    vector_bits=512,
    registers=32,
    word_bits=64,
    popcount=PopcountMethod.VECTOR,
    ternary_logic=True,
    products=IntegerProducts.QUADS,
)
AVX512 = Isa(  # popcount by vpshufb
    name="avx512",
    architecture="x86",
    vector_bits=512,
    registers=32,
    word_bits=64,
    popcount=PopcountMethod.LOOKUP,
    ternary_logic=True,
    products=IntegerProducts.PAIRS,
)
AVX512_VNNI = replace(AVX512, name="avx512-vnni", products=IntegerProducts.QUADS)  # vpdpbusd
AVX2 = Isa(  # popcount by vpshufb; vpmaddwd
    name="avx2",
    architecture="x86",
    vector_bits=256,
    registers=16,
    word_bits=64,
    popcount=PopcountMethod.LOOKUP,
    products=IntegerProducts.PAIRS,
)
AVX2_VNNI = replace(AVX2, name="avx2-vnni", products=IntegerProducts.QUADS)  # vpdpbusd of 256 bits
X86_BASELINE = Isa(
    name="sse",
    architecture="x86",
    vector_bits=128,
    registers=16,
    word_bits=64,
    popcount=PopcountMethod.NONE,
    products=IntegerProducts.PAIRS,
)
NEON = Isa(  # eor, cnt, uadalp into 16-bit counters
    name="neon",
    architecture="aarch64",
    vector_bits=128,
    registers=32,
    word_bits=16,
    popcount=PopcountMethod.VECTOR,
    multiplies_by_lane=True,
    products=IntegerProducts.BYTES,  # smull, smlal, sadalp
)
NEON_DOTPROD = Isa(  # also udot: four bytes at once into a 32-bit counter; sdot
    name="neon-dotprod",
    architecture="aarch64",
    vector_bits=128,
    registers=32,
    word_bits=16,
    popcount=PopcountMethod.VECTOR,
    dot_product=True,
    multiplies_by_lane=True,
    products=IntegerProducts.LANES,
)
NEON_I8MM = replace(NEON_DOTPROD, name="neon-i8mm", products=IntegerProducts.MATRICES)  # also smmla, usmmla
ARMV7_NEON = Isa(
    name="armv7-neon",
    architecture="arm",
    vector_bits=128,
    registers=16,
    word_bits=16,
    popcount=PopcountMethod.VECTOR,
    products=IntegerProducts.BYTES,  # vmull.s8, vmlal.s8, vpadal.s16
)
RISCV64 = Isa(  # cpop of 64 bits (zbb): 2 lanes in 2 of 31 registers
    name="riscv64",
    architecture="riscv64",
    vector_bits=128,
    registers=14,
    word_bits=64,
    popcount=PopcountMethod.VECTOR,
    scalar=True,
)
RISCV64_V = Isa(  # vectors of at least 128 bits, of which 128 are used
    name="riscv64-v",
    architecture="riscv64",
    vector_bits=128,
    registers=32,
    word_bits=64,
    popcount=PopcountMethod.NONE,
)
WASM = Isa(  # i8x16.popcnt, i16x8.extadd_pairwise_i8x16_u, i32x4.dot_i16x8_s; engines on x86 have 16 registers
    name="wasm-simd128",
    architecture="wasm",
    vector_bits=128,
    registers=16,
    word_bits=16,
    popcount=PopcountMethod.BYTES,
    products=IntegerProducts.PAIRS,
)
THUMB = Isa(  # Cortex-M without vectors: 8 channels of one pixel in 8 of 13 registers
    name="thumb",
    architecture="arm",
    vector_bits=128,
    registers=6,
    word_bits=32,
    popcount=PopcountMethod.NONE,
    scalar=True,
    small=True,
)
HELIUM = Isa(  # Cortex-M with vectors of integers (MVE); its masks have a bit per byte
    name="helium",
    architecture="arm",
    vector_bits=128,
    registers=8,
    word_bits=32,
    popcount=PopcountMethod.NONE,
    masks_are_words=False,
    small=True,
)

ISAS = {
    isa.name: isa
    for isa in (
        *(AVX512_VPOPCNTDQ, AVX512_VNNI, AVX512, AVX2_VNNI, AVX2, X86_BASELINE),
        *(NEON, NEON_DOTPROD, NEON_I8MM, ARMV7_NEON, THUMB, HELIUM),
        *(RISCV64, RISCV64_V, WASM),
    )
}
"""All instruction sets, by name."""
