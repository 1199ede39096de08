"""Transposes of bit squares, 8x8 or 64x64, in registers, by a network of swaps."""

from __future__ import annotations

from functools import cache

from tvm import tirx
from tvm.tirx.script import builder as T

from ..tir.llvm import LlvmFunction
from ..tir.vectors import VectorType, load, store, transposed


def transpose_bytes(rows: list[tirx.Expr]) -> list[tirx.Expr]:
    """Transpose the 8x8 bits in each byte position of 8 rows.

    Args:
        rows: 8 vectors of 64-bit words, or 8 words.

    Returns:
        8 vectors. Bit l of a byte in vector k is bit k of the same byte in row l.
    """
    rows = list(rows)
    for shift in (4, 2, 1):
        for low in (i for i in range(8) if not i & shift):
            pair = rows[low], rows[low + shift]
            for at, half in ((low, "low"), (low + shift, "high")):
                rows[at] = _swap(shift, half == "high", pair[0].ty.dtype.lanes).call_once(*pair)
    return rows


def masks(shift: int) -> int:
    """The 64-bit word in which bit i is set if ``i & shift`` is 0."""
    return sum(1 << bit for bit in range(64) if not bit & shift)


@cache
def _swap(shift: int, high: bool, words: int) -> LlvmFunction:
    """One row of a pair after swapping the off-diagonal blocks of ``shift`` bits: the high or the low row."""
    vector = VectorType("uint64", words)
    kind = vector.llvm

    def const(value: int) -> str:
        signed = value - (1 << 64) if value >> 63 else value
        return f"<{', '.join([f'i64 {signed}'] * words)}>" if words > 1 else str(signed)

    mask = masks(shift)
    if high:
        lines = [
            f"%s = lshr {kind} %low, {const(shift)}",
            f"%x = and {kind} %s, {const(mask)}",
            f"%y = and {kind} %high, {const(mask << shift)}",
        ]
    else:
        lines = [
            f"%x = and {kind} %low, {const(mask)}",
            f"%m = and {kind} %high, {const(mask)}",
            f"%y = shl {kind} %m, {const(shift)}",
        ]
    lines += [f"%r = or {kind} %x, %y", f"ret {kind} %r"]
    name = f"sbnn_swap_{shift}_{'high' if high else 'low'}_{words}"
    return LlvmFunction.of(name, vector, [f"{kind} %low", f"{kind} %high"], lines)


def transpose_words(square: tirx.Buffer) -> None:
    """Emit the transpose of 64x64 bits in place: bit c of word r becomes bit r of word c.

    Args:
        square: uint64 [64].
    """
    # Vectors of 8 neighbouring rows swap blocks of 32, 16 and 8 bits. Then vectors of every 8th row swap the smaller
    # blocks.
    rows = [T.bind(load(square, (), 8 * i, 8)) for i in range(8)]
    for shift in (4, 2, 1):
        for low in (i for i in range(8) if not i & shift):
            pair = rows[low], rows[low + shift]
            for at, high in ((low, False), (low + shift, True)):
                rows[at] = _swap(8 * shift, high, 8).call_once(*pair)
    for i, row in enumerate(transposed(transpose_bytes(transposed(rows)))):
        store(square, row, (), 8 * i)
