"""Transposes of bits in registers: squares of 8 or 64, as a network of swaps."""

from __future__ import annotations

from functools import cache

from tvm import tirx
from tvm.tirx.script import builder as T

from ..counters.adders import call_once
from ..tir.llvm import LlvmFunction
from .channels_last import transposed


def transpose_bytes(rows: list[tirx.Expr], functions: set[LlvmFunction]) -> list[tirx.Expr]:
    """Transpose the 8x8 bits in each byte position of 8 rows.

    Args:
        rows: 8 vectors of 64-bit words, or words.
        functions: The LLVM functions that the code calls are added to it.

    Returns:
        8 vectors; bit l of a byte of the k-th is bit k of that byte of row l.
    """
    rows = list(rows)
    for shift in (4, 2, 1):
        for low in (i for i in range(8) if not i & shift):
            pair = rows[low], rows[low + shift]
            for at, half in ((low, "low"), (low + shift, "high")):
                function = _swap(shift, half == "high", pair[0].ty.dtype.lanes)
                functions.add(function)
                rows[at] = call_once(function, *pair)
    return rows


def masks(shift: int) -> int:
    """The 64-bit word whose bits are set where bit ``shift`` of their position is not."""
    return sum(1 << bit for bit in range(64) if not bit & shift)


@cache
def _swap(shift: int, high: bool, words: int) -> LlvmFunction:
    """One of two rows whose off-diagonal blocks of ``shift`` bits are swapped."""
    kind = f"<{words} x i64>" if words > 1 else "i64"

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
    name = f"sbnn_swap_{shift}_{'high' if high else 'low'}_{words}"
    body = "\n  ".join([*lines, f"%r = or {kind} %x, %y", f"ret {kind} %r"])
    text = f"define linkonce_odr {kind} @{name}({kind} %low, {kind} %high) alwaysinline {{\n  {body}\n}}\n"
    return LlvmFunction(name, f"uint64x{words}" if words > 1 else "uint64", text)


def transpose_words(square: tirx.Buffer, functions: set[LlvmFunction]) -> None:
    """Emit the transpose of 64x64 bits in place: bit c of word r becomes bit r of word c.

    Args:
        square: uint64 [64].
        functions: The LLVM functions that the code calls are added to it.
    """
    # A vector of 8 neighbouring rows exchanges blocks of 32, 16 and 8 with another one; then one of every 8th row.
    rows = [T.bind(square.vload([8 * i], "uint64x8")) for i in range(8)]
    for shift in (4, 2, 1):
        for low in (i for i in range(8) if not i & shift):
            pair = rows[low], rows[low + shift]
            for at, high in ((low, False), (low + shift, True)):
                function = _swap(8 * shift, high, 8)
                functions.add(function)
                rows[at] = call_once(function, *pair)
    for i, row in enumerate(transposed(transpose_bytes(transposed(rows), functions))):
        T.buffer_store(square, row, [tirx.Ramp(8 * i, 1, 8)])
