"""Float vectors to bytes on AArch64: rounded, plus a zero point, saturated; several vectors at once."""

from __future__ import annotations

from functools import cache

from .llvm import LlvmFunction
from .rounded_bytes import halves_of_point
from .vectors import VectorType

_BELOW = -65536.0
"""Saturates as any smaller number does."""


@cache
def narrowed_bytes(count: int, dtype: str, zero_point: int | None) -> LlvmFunction:
    """A function of ``count`` float32x4 vectors: ``saturate(round_half_even(x) + zero_point)``, NaN the smallest.

    ``fmaxnm`` replaces NaN, ``fcvtns`` rounds, ``sqxtn`` saturates to 16 bits, where ``sqadd`` adds the zero point, and
    ``sqxtn`` or ``sqxtun`` to 8.

    Args:
        count: 1, 2 or 4.
        dtype: int8 or uint8.
        zero_point: A number of that type; None if it is the last argument, of 32 bits.
    """
    floats, words, halves, bytes_ = "<4 x float>", "<4 x i32>", "<8 x i16>", "<8 x i8>"
    lines, declared = [] if zero_point is not None else halves_of_point(8), set()

    def call(result: str, kind: str, name: str, *args: tuple[str, str]) -> None:
        declared.add(f"declare {kind} @llvm.{name}({', '.join(of for of, _ in args)})\n")
        lines.append(f"{result} = call {kind} @llvm.{name}({', '.join(map(' '.join, args))})")

    def joined(result: str, kind: str, a: str, b: str, lanes: int) -> None:
        order = ", ".join(f"i32 {i}" for i in range(2 * lanes))
        lines.append(f"{result} = shufflevector {kind} {a}, {kind} {b}, <{2 * lanes} x i32> <{order}>")

    for i in range(count):
        call(f"%m{i}", floats, "maxnum.v4f32", (floats, f"%x{i}"), (floats, f"splat (float {_BELOW})"))
        call(f"%i{i}", words, "aarch64.neon.fcvtns.v4i32.v4f32", (floats, f"%m{i}"))
        call(f"%s{i}", "<4 x i16>", "aarch64.neon.sqxtn.v4i16", (words, f"%i{i}"))
    parts = max(1, count // 2)
    for i in range(parts):
        joined(f"%j{i}", "<4 x i16>", f"%s{2 * i}", f"%s{2 * i + 1}" if count > 1 else "poison", 4)
        zero = (halves, "%zero" if zero_point is None else f"splat (i16 {zero_point})")
        call(f"%h{i}", halves, "sadd.sat.v8i16", (halves, f"%j{i}"), zero)
        narrow = "aarch64.neon.sqxtn.v8i8" if dtype == "int8" else "aarch64.neon.sqxtun.v8i8"
        call(f"%b{i}", bytes_, narrow, (halves, f"%h{i}"))
    result = VectorType(dtype, 4 * count)
    if count == 4:
        joined("%r", bytes_, "%b0", "%b1", 8)
    else:
        order = ", ".join(f"i32 {i}" for i in range(4 * count))
        lines.append(f"%r = shufflevector {bytes_} %b0, {bytes_} poison, <{4 * count} x i32> <{order}>")
    return LlvmFunction.of(
        f"sbnn_narrowed_{result}_of_{count}_{zero_point}".replace("-", "m"),
        result,
        [f"{floats} %x{i}" for i in range(count)] + ["i32 %point"] * (zero_point is None),
        [*lines, f"ret {result.llvm} %r"],
        "".join(sorted(declared)),
    )
