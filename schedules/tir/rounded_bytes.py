"""Float vectors to bytes on x86: rounded, plus a zero point, saturated; by packs of several vectors at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from .llvm import LlvmFunction
from .vectors import VectorType

MOST = 4
"""Vectors that fill one vector of bytes."""

_BEYOND = 65536.0
"""Saturates as any larger number does, and fits 32 bits."""

_CONVERT = {4: "sse2.cvtps2dq", 8: "avx.cvt.ps2dq.256"}
_PACK = {128: "sse2.{}.128", 256: "avx2.{}", 512: "avx512.{}.512"}


@cache
def rounded_bytes(lanes: int, count: int, dtype: str, zero_point: int | None) -> LlvmFunction:
    """A function of ``count`` float32 vectors: ``saturate(round_half_even(x) + zero_point)``, NaN the smallest.

    A conversion to 32 bits rounds, and gives NaN the smallest number. The first pack saturates to 16 bits, where the
    zero point is added, and the second to 8. Packs work within 128 bits; one shuffle restores the order.

    Args:
        lanes: 4, 8 or 16.
        count: 1, 2 or 4.
        dtype: int8 or uint8.
        zero_point: A number of that type; None if it is the last argument, of 32 bits.
    """
    bits, floats, words = 32 * lanes, VectorType("float32", lanes).llvm, VectorType("int32", lanes).llvm
    halves, octets = f"<{2 * lanes} x i16>", f"<{4 * lanes} x i8>"
    lines, declared = [] if zero_point is not None else halves_of_point(2 * lanes), set()

    def call(result: str, kind: str, name: str, *args: tuple[str, str]) -> None:
        declared.add(f"declare {kind} @llvm.x86.{name}({', '.join(of for of, _ in args)})\n")
        lines.append(f"{result} = call {kind} @llvm.x86.{name}({', '.join(map(' '.join, args))})")

    for i in range(count):
        most = f"splat (float {_BEYOND})"
        lines.append(f"%c{i} = fcmp olt {floats} {most}, %x{i}")
        lines.append(f"%m{i} = select <{lanes} x i1> %c{i}, {floats} {most}, {floats} %x{i}")
        if lanes == 16:
            rest = (words, "zeroinitializer"), ("i16", "-1"), ("i32", "4")  # 4: the rounding mode of the thread
            call(f"%i{i}", words, "avx512.mask.cvtps2dq.512", (floats, f"%m{i}"), *rest)
        else:
            call(f"%i{i}", words, _CONVERT[lanes], (floats, f"%m{i}"))
    order: list[np.ndarray] = [np.arange(lanes) + i * lanes for i in range(count)]
    pairs = _pairs(order)
    for i, (a, b) in enumerate(pairs):
        name = "sse2.packssdw.128" if bits == 128 else _PACK[bits].format("packssdw")
        call(f"%p{i}", halves, name, (words, f"%i{a}"), (words, f"%i{b}"))
        if zero_point != 0:
            added = f"@llvm.sadd.sat.v{2 * lanes}i16"
            declared.add(f"declare {halves} {added}({halves}, {halves})\n")
            addend = "%zero" if zero_point is None else f"splat (i16 {zero_point})"
            lines.append(f"%h{i} = call {halves} {added}({halves} %p{i}, {halves} {addend})")
        else:
            lines.append(f"%h{i} = bitcast {halves} %p{i} to {halves}")
    order = [_packed(order[a], order[b], bits // 128) for a, b in pairs]
    ((a, b),) = _pairs(order)
    name = _PACK[bits].format("packsswb" if dtype == "int8" else "packuswb")
    call("%o", octets, name, (halves, f"%h{a}"), (halves, f"%h{b}"))
    found = _packed(order[a], order[b], bits // 128).tolist()
    mask = ", ".join(f"i32 {found.index(i)}" for i in range(count * lanes))
    result = VectorType(dtype, count * lanes)
    lines.append(f"%r = shufflevector {octets} %o, {octets} poison, <{count * lanes} x i32> <{mask}>")
    return LlvmFunction.of(
        f"sbnn_rounded_{result}_of_{count}_{zero_point}".replace("-", "m"),
        result,
        [f"{floats} %x{i}" for i in range(count)] + ["i32 %point"] * (zero_point is None),
        [*lines, f"ret {result.llvm} %r"],
        "".join(sorted(declared)),
    )


def halves_of_point(lanes: int) -> list[str]:
    """LLVM code that makes %zero, vectors of ``lanes`` numbers of 16 bits, of the argument %point."""
    kind = f"<{lanes} x i16>"
    return [
        "%point16 = trunc i32 %point to i16",
        f"%first = insertelement {kind} poison, i16 %point16, i64 0",
        f"%zero = shufflevector {kind} %first, {kind} poison, <{lanes} x i32> zeroinitializer",
    ]


def _pairs(items: Sequence[object]) -> list[tuple[int, int]]:
    """Neighbours to pack; a single one with itself."""
    return [(0, 0)] if len(items) == 1 else [(i, i + 1) for i in range(0, len(items), 2)]


def _packed(a: np.ndarray, b: np.ndarray, parts: int) -> np.ndarray:
    """Where the elements of two vectors are after a pack: those of a part of 128 bits stay there."""
    return np.concatenate([a.reshape(parts, -1), b.reshape(parts, -1)], axis=1).reshape(-1)
