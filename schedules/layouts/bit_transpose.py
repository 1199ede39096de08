"""Transposes of bits in registers: squares of 8 or 64, as a network of swaps."""

from __future__ import annotations

from functools import cache

from tvm import tirx
from tvm.tirx.script import builder as T

from ..tir.llvm import LlvmFunction
from ..tir.vectors import VectorType, load, store, transposed


def transpose_bytes(rows: list[tirx.Expr]) -> list[tirx.Expr]:
    """Transpose the 8x8 bits in each byte position of 8 rows.

    Args:
        rows: 8 vectors of 64-bit words, or words.

    Returns:
        8 vectors; bit l of a byte of the k-th is bit k of that byte of row l.
    """
    rows = list(rows)
    for shift in (4, 2, 1):
        for low in (i for i in range(8) if not i & shift):
            pair = rows[low], rows[low + shift]
            for at, half in ((low, "low"), (low + shift, "high")):
                rows[at] = _swap(shift, half == "high", pair[0].ty.dtype.lanes).call_once(*pair)
    return rows


def masks(shift: int) -> int:
    """The 64-bit word whose bits are set where bit ``shift`` of their position is not."""
    return sum(1 << bit for bit in range(64) if not bit & shift)


@cache
def _swap(shift: int, high: bool, words: int) -> LlvmFunction:
    """One of two rows whose off-diagonal blocks of ``shift`` bits are swapped."""
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
    # A vector of 8 neighbouring rows exchanges blocks of 32, 16 and 8 with another one; then one of every 8th row.
    rows = [T.bind(load(square, (), 8 * i, 8)) for i in range(8)]
    for shift in (4, 2, 1):
        for low in (i for i in range(8) if not i & shift):
            pair = rows[low], rows[low + shift]
            for at, high in ((low, False), (low + shift, True)):
                rows[at] = _swap(8 * shift, high, 8).call_once(*pair)
    for i, row in enumerate(transposed(transpose_bytes(transposed(rows)))):
        store(square, row, (), 8 * i)
