"""The arithmetic of integer sums: ``sum((q - zero_point) * w)`` in 32 bits, exact.

The image is copied to a workspace, where a step of the reduction reads 1, 2 or 4 neighbouring elements at once:

* ``SingleProducts``: 16-bit numbers ``q - zero_point``, one product per lane. Any target.
* ``PairProducts``: the same numbers; ``vpmaddwd`` (or ``vpdpwssd``, which also adds) sums two products of 16 bits. It
  never saturates.
* ``BytePairProducts``: unsigned bytes; ``vpmaddubsw`` sums two products in 16 bits, where it saturates. Pairs of
  weights that could reach that are sums of two pairs that cannot (``fitting_pairs``); the second ones are rare in
  trained layers, and blocks list the steps where they have some. Beyond ``MOST_RARE`` of them, ``PairProducts`` are
  used. Three instructions instead of four for as many products as two ``PairProducts``.
* ``QuadProducts``: unsigned bytes; ``vpdpbusd`` adds four products. Signed data is stored plus 128. The zero point is
  a constant of each channel, and the padding holds the zero point.

Elements of a window that are neighbours in memory form one list: the 3 channels of 7 pixels are 21 elements, 11 pairs
or 6 quads. The steps may read up to 3 elements beyond the list, whose weights are 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..direct.loop_nest import MultiplyAccumulate
from ..isa import Architecture, IntegerProducts, Isa
from ..tir.llvm import LlvmFunction
from ..tir.vectors import VectorType


@dataclass(frozen=True, eq=False)
class SingleProducts(MultiplyAccumulate):
    """One product per lane: 16-bit numbers times 16-bit weights, added to 32-bit sums.

    Attributes:
        data: dtype of the data, int8 or uint8.
        zero_point: The number of that type that stands for 0.
    """

    data: str
    zero_point: int

    @property
    def instruction(self) -> str:
        """A plain multiplication of 32-bit lanes."""
        return "mul"

    @property
    def data_element(self) -> str:
        """dtype of the data."""
        return self.data

    def spread(self, element: tirx.Expr) -> tuple[tirx.Expr, ...]:
        """The distance from the zero point."""
        return (tirx.Cast("int16", element) - tirx.const(self.zero_point, "int16"),)

    def input(self, image: tirx.Buffer, at: list[tirx.Expr]) -> tuple[tirx.Expr, ...]:
        """A number in all lanes."""
        return (VectorType("int16", self.lanes).broadcast(T.bind(image[tuple(at)])),)

    def accumulate(self, sums: tirx.Expr, x: tuple[tirx.Expr, ...], w: tuple[tirx.Expr, ...]) -> tirx.Expr:
        """Multiply and add."""
        wide = VectorType("int32", self.lanes)
        return sums + wide.cast(x[0]) * wide.cast(w[0])


@dataclass(frozen=True, eq=False)
class PairProducts(SingleProducts):
    """Two products per lane.

    Attributes:
        beyond_: Same as ``beyond``.
        architecture: The architecture.
        accumulates: Whether the instruction also adds.
    """

    beyond_: int
    architecture: Architecture
    accumulates: bool

    @property
    def instruction(self) -> str:
        """The instruction on pairs of 16-bit numbers."""
        return "vpdpwssd" if self.accumulates else instruction_of_pairs(self.lanes, self.architecture)

    @property
    def beyond(self) -> int:
        """Elements after the last one of a row."""
        return self.beyond_

    def input(self, image: tirx.Buffer, at: list[tirx.Expr]) -> tuple[tirx.Expr, ...]:
        """Neighbouring elements, 32 bits, in all lanes."""
        return (T.bind(_repeated(self.lanes, 2)(T.address_of(image[tuple(at)]))),)

    def weight(self, vector: tirx.Expr) -> tuple[tirx.Expr, ...]:
        """Pairs of bytes become pairs of 16-bit numbers."""
        if VectorType.of(vector).element == "int32":
            return (vector,)
        wide = VectorType("int16", 2 * self.lanes).cast(VectorType("int8", 2 * self.lanes).reinterpret(vector))
        return (T.bind(VectorType("int32", self.lanes).reinterpret(wide)),)

    def accumulate(self, sums: tirx.Expr, x: tuple[tirx.Expr, ...], w: tuple[tirx.Expr, ...]) -> tirx.Expr:
        """Add the sums of two products."""
        if self.accumulates:
            return add_pairs(self.lanes)(sums, x[0], w[0])
        return sums + sum_of_pairs(self.lanes, self.architecture)(x[0], w[0])


@dataclass(frozen=True, eq=False)
class QuadProducts(SingleProducts):
    """Four products per lane, of unsigned and signed bytes.

    Attributes:
        beyond_: Same as ``beyond``.
    """

    beyond_: int

    @property
    def instruction(self) -> str:
        """The instruction on four bytes."""
        return "vpdpbusd"

    @property
    def beyond(self) -> int:
        """Elements after the last one of a row."""
        return self.beyond_

    @property
    def copies(self) -> bool:
        """Whether the data must be copied: unless it already is unsigned, and complete steps."""
        return self.data != "uint8" or self.beyond_ > 0

    def spread(self, element: tirx.Expr) -> tuple[tirx.Expr, ...]:
        """The unsigned byte."""
        if self.data == "uint8":
            return (element,)
        return (tirx.Cast("uint8", tirx.Cast("int16", element) + tirx.const(128, "int16")),)

    def input(self, image: tirx.Buffer, at: list[tirx.Expr]) -> tuple[tirx.Expr, ...]:
        """Four neighbouring bytes in all lanes."""
        return (T.bind(_repeated(self.lanes, 1)(T.address_of(image[tuple(at)]))),)

    def accumulate(self, sums: tirx.Expr, x: tuple[tirx.Expr, ...], w: tuple[tirx.Expr, ...]) -> tirx.Expr:
        """Add the products."""
        return add_quads(self.lanes)(sums, x[0], w[0])


@dataclass(frozen=True, eq=False)
class BytePairProducts(QuadProducts):
    """Four products per lane by two instructions that sum pairs: first of bytes, then of 16-bit numbers."""

    @property
    def instruction(self) -> str:
        """The instruction on bytes."""
        return "vpmaddubsw"

    def accumulate(self, sums: tirx.Expr, x: tuple[tirx.Expr, ...], w: tuple[tirx.Expr, ...]) -> tirx.Expr:
        """Add the sums of four products."""
        return sums + sum_of_byte_pairs(self.lanes)(x[0], w[0])


_MOST_IN_PAIR = 128
"""Two neighbouring weights of the same sign may sum to this: 255 * 128 fits 16 bits."""

MOST_RARE = 0.25
"""The share of steps that may be listed: PairProducts take 1.33 times as long."""


def fitting_pairs(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed bytes [..., 2 * n] as sums of two arrays whose pairs of products with unsigned bytes fit in 16 bits.

    The second is 0 where a pair of weights fits; elsewhere it takes what is too much from the larger one of the pair.
    """
    pairs = weight.astype(np.int16).reshape(*weight.shape[:-1], -1, 2)
    sums = np.where(pairs[..., :1] * pairs[..., 1:] > 0, pairs.sum(axis=-1, keepdims=True), 0)
    excess = (sums - np.clip(sums, -_MOST_IN_PAIR, _MOST_IN_PAIR)).astype(np.int16)
    larger = np.abs(pairs).argmax(axis=-1, keepdims=True) == np.arange(2)
    rest = np.where(larger, excess, 0).astype(np.int16)
    return (pairs - rest).reshape(weight.shape), rest.reshape(weight.shape)


def listed(rest: np.ndarray, groups: int, block: int) -> float:
    """The share of steps of four elements where a block of output channels has weights that are not 0.

    Args:
        rest: [OC, ..., 4 * n].
        groups: Groups of the layer.
        block: Output channels per block.
    """
    each = rest.reshape(groups, len(rest) // groups, -1, 4).any(axis=3)
    padded = np.pad(each, [(0, 0), (0, -each.shape[1] % block), (0, 0)])
    return float(padded.reshape(groups, -1, block, each.shape[2]).any(axis=2).mean())


@dataclass(frozen=True, eq=False)
class PackedProducts:
    """The arithmetic of a layer, and its weights as the inner loop reads them.

    Attributes:
        arithmetic: The arithmetic.
        weights: [OC, kh, kw, steps per pixel], or [OC, kh, 1, steps per row].
        step: Elements of the image per step.
        addend: What to add to the sums, int32 [OC] (modulo 2^32).
        summands: How often the weights walk through each list of neighbours, since they are sums of so many numbers.
        rare: More weights, mostly 0, to be added to the sums of ``weights``: of the same shape, or None.
    """

    arithmetic: MultiplyAccumulate
    weights: np.ndarray
    step: int
    addend: np.ndarray
    summands: int = 1
    rare: np.ndarray | None = None


def pack_products(
    weight: np.ndarray,
    zero_point: int,
    data_dtype: str,
    bias: np.ndarray,
    isa: Isa,
    lanes: int,
    groups: int,
    block: int,
) -> PackedProducts:
    """Choose the arithmetic by the instruction set and by the range of the weights.

    Args:
        weight: int16 [OC, kh, columns, elements that are neighbours].
        zero_point: Of the data.
        data_dtype: int8 or uint8.
        bias: int64 [OC].
        isa: The instruction set.
        lanes: Output channels per vector.
        groups: Groups of the layer.
        block: Output channels per block.
    """
    fit = bool(weight.min() >= -128 and weight.max() <= 127)
    pairs, quads = (np.pad(weight, [(0, 0)] * 3 + [(0, -weight.shape[-1] % step)]) for step in (2, 4))
    products = isa.products if lanes in (4, 8, 16) else IntegerProducts.SINGLE
    by_byte_pairs = products == IntegerProducts.PAIRS and isa.architecture == "x86" and isa.vector_bits > 128
    rare = None
    if fit and by_byte_pairs:
        quads, rare = fitting_pairs(quads)
        by_byte_pairs = listed(rare, groups, block) <= MOST_RARE
    if fit and (products == IntegerProducts.QUADS or by_byte_pairs):
        kind = BytePairProducts if by_byte_pairs else QuadProducts
        beyond = quads.shape[-1] - weight.shape[-1]
        arithmetic: MultiplyAccumulate = kind("uint8", "int32", lanes, data_dtype, zero_point, beyond)
        unsigned = zero_point + (128 if data_dtype == "int8" else 0)
        addend = bias - unsigned * weight.sum(axis=(1, 2, 3), dtype=np.int64)
        more = None if rare is None else rare.astype(np.int8).view(np.int32)
        return PackedProducts(arithmetic, quads.astype(np.int8).view(np.int32), 4, addend.astype(np.int32), rare=more)
    if products in (IntegerProducts.PAIRS, IntegerProducts.QUADS):
        data = data_dtype, zero_point, pairs.shape[-1] - weight.shape[-1]
        accumulates = products == IntegerProducts.QUADS
        arithmetic = PairProducts("int16", "int32", lanes, *data, isa.architecture, accumulates)
        # Weights of 8 bits are stored in 8: half of the constants, and of the bytes from the caches.
        packed = pairs.astype(np.int8).view(np.int16) if fit else pairs.view(np.int32)
        return PackedProducts(arithmetic, packed, 2, bias.astype(np.int32))
    arithmetic = SingleProducts("int16", "int32", lanes, data_dtype, zero_point)
    return PackedProducts(arithmetic, weight, 1, bias.astype(np.int32))


def instruction_of_pairs(lanes: int, architecture: Architecture) -> str:
    """The name of the instruction of ``sum_of_pairs``."""
    if architecture == "wasm":
        return "i32x4.dot_i16x8_s"
    return "pmaddwd" if lanes == 4 else "vpmaddwd"


@cache
def _repeated(lanes: int, align: int) -> LlvmFunction:
    """A function of a pointer: the 32 bits there in all lanes."""
    vector = VectorType("int32", lanes)
    return LlvmFunction.of(
        f"sbnn_repeated_{lanes}_{align}",
        vector,
        ["ptr %from"],
        [f"%bits = load i32, ptr %from, align {align}", *_splat(lanes, "%bits")],
    )


def _splat(lanes: int, value: str) -> list[str]:
    kind = VectorType("int32", lanes).llvm
    if lanes == 1:
        return [f"ret i32 {value}"]
    return [
        f"%one = insertelement {kind} poison, i32 {value}, i64 0",
        f"%all = shufflevector {kind} %one, {kind} poison, <{lanes} x i32> zeroinitializer",
        f"ret {kind} %all",
    ]


_SUM_OF_PAIRS = {
    ("x86", 4): "x86.sse2.pmadd.wd",
    ("x86", 8): "x86.avx2.pmadd.wd",
    ("x86", 16): "x86.avx512.pmaddw.d.512",
    ("wasm", 4): "wasm.dot",
}


@cache
def sum_of_pairs(lanes: int, architecture: Architecture) -> LlvmFunction:
    """Sums of two products of 16-bit numbers: ``vpmaddwd`` of two int32 vectors that hold them."""
    kind, halves = VectorType("int32", lanes).llvm, f"<{2 * lanes} x i16>"
    name = _SUM_OF_PAIRS[architecture, lanes]
    return LlvmFunction.of(
        f"sbnn_sum_of_pairs_{lanes}",
        VectorType("int32", lanes),
        [f"{kind} %x", f"{kind} %w"],
        [
            f"%a = bitcast {kind} %x to {halves}",
            f"%b = bitcast {kind} %w to {halves}",
            f"%r = call {kind} @llvm.{name}({halves} %a, {halves} %b)",
            f"ret {kind} %r",
        ],
        f"declare {kind} @llvm.{name}({halves}, {halves})\n",
    )


@cache
def sum_of_byte_pairs(lanes: int) -> LlvmFunction:
    """Sums of four products of unsigned and signed bytes: ``vpmaddubsw``, then ``vpmaddwd`` with 1."""
    kind, halves, octets = VectorType("int32", lanes).llvm, f"<{2 * lanes} x i16>", f"<{4 * lanes} x i8>"
    first = {4: "ssse3.pmadd.ub.sw.128", 8: "avx2.pmadd.ub.sw", 16: "avx512.pmaddubs.w.512"}[lanes]
    second = _SUM_OF_PAIRS["x86", lanes]
    return LlvmFunction.of(
        f"sbnnsum_of_byte_pairs_{lanes}",
        VectorType("int32", lanes),
        [f"{kind} %x", f"{kind} %w"],
        [
            f"%a = bitcast {kind} %x to {octets}",
            f"%b = bitcast {kind} %w to {octets}",
            f"%p = call {halves} @llvm.x86.{first}({octets} %a, {octets} %b)",
            f"%r = call {kind} @llvm.{second}({halves} %p, {halves} splat (i16 1))",
            f"ret {kind} %r",
        ],
        f"declare {halves} @llvm.x86.{first}({octets}, {octets})\ndeclare {kind} @llvm.{second}({halves}, {halves})\n",
    )


@cache
def add_pairs(lanes: int) -> LlvmFunction:
    """A function of sums, two signed 16-bit numbers and two others per lane: ``vpdpwssd``."""
    return _dot_product("vpdpwssd", lanes)


@cache
def add_quads(lanes: int) -> LlvmFunction:
    """A function of sums, four unsigned bytes and four signed bytes per lane: ``vpdpbusd``."""
    return _dot_product("vpdpbusd", lanes)


def _dot_product(instruction: str, lanes: int) -> LlvmFunction:
    """An instruction of VNNI: a function of sums, data and weights."""
    kind, name = VectorType("int32", lanes).llvm, f"@llvm.x86.avx512.{instruction}.{32 * lanes}"
    return LlvmFunction.of(
        f"sbnn_{instruction}_{lanes}",
        VectorType("int32", lanes),
        [f"{kind} %s", f"{kind} %x", f"{kind} %w"],
        [f"%r = call {kind} {name}({kind} %s, {kind} %x, {kind} %w)", f"ret {kind} %r"],
        f"declare {kind} {name}({kind}, {kind}, {kind})\n",
    )


def _of_arm(instruction: str) -> LlvmFunction:
    kind, octets, name = "<4 x i32>", "<16 x i8>", f"@llvm.aarch64.neon.{instruction}.v4i32.v16i8"
    return LlvmFunction.of(
        f"sbnn_{instruction}",
        VectorType("int32", 4),
        [f"{kind} %s", f"{kind} %x", f"{kind} %w"],
        [
            f"%a = bitcast {kind} %x to {octets}",
            f"%b = bitcast {kind} %w to {octets}",
            f"%r = call {kind} {name}({kind} %s, {octets} %a, {octets} %b)",
            f"ret {kind} %r",
        ],
        f"declare {kind} {name}({kind}, {octets}, {octets})\n",
    )


SDOT = _of_arm("sdot")
"""Sums, and vectors of signed bytes as int32x4: adds four products to each sum."""

SMMLA = _of_arm("smmla")
"""Sums of 2x2 results, and matrices of 2x8 signed bytes as int32x4: adds eight products to each sum."""


@cache
def sum_of_bytes(architecture: Architecture) -> LlvmFunction:
    """Sums of four products of signed bytes, in vectors as int32x4, added in 16 bits first: NEON without ``sdot``."""
    kind, halves, bytes_ = "<4 x i32>", "<8 x i16>", "<8 x i8>"
    pairwise = {"aarch64": "aarch64.neon.saddlp", "arm": "arm.neon.vpaddls"}[architecture] + ".v4i32.v8i16"
    lines = []
    for name in "xw":
        lines.append(f"%{name}b = bitcast {kind} %{name} to <16 x i8>")
        for part, first in (("l", 0), ("h", 8)):
            order = ", ".join(f"i32 {first + i}" for i in range(8))
            lines.append(f"%{name}{part} = shufflevector <16 x i8> %{name}b, <16 x i8> poison, <8 x i32> <{order}>")
            lines.append(f"%{name}{part}w = sext {bytes_} %{name}{part} to {halves}")
    lines += [
        f"%l = mul {halves} %xlw, %wlw",
        f"%h = mul {halves} %xhw, %whw",
        f"%p = add {halves} %l, %h",
        f"%r = call {kind} @llvm.{pairwise}({halves} %p)",
        f"ret {kind} %r",
    ]
    arguments, declare = [f"{kind} %x", f"{kind} %w"], f"declare {kind} @llvm.{pairwise}({halves})\n"
    return LlvmFunction.of("sbnn_sum_of_bytes", VectorType("int32", 4), arguments, lines, declare)
