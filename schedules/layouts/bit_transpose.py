"""Transposes of 8x8 bits, in registers, by a network of swaps."""

from __future__ import annotations

from functools import cache

from tvm import tirx

from ..tir.llvm import LlvmFunction
from ..tir.vectors import VectorType


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
    kind, name = vector.llvm, f"sbnn_swap_{shift}_{'high' if high else 'low'}_{words}"
    lines = [*swap_lines(shift, high, vector, ("%low", "%high"), "%r"), f"ret {kind} %r"]
    return LlvmFunction.of(name, vector, [f"{kind} %low", f"{kind} %high"], lines)


def swap_lines(shift: int, high: bool, vector: VectorType, rows: tuple[str, str], result: str) -> list[str]:
    """LLVM instructions that swap the off-diagonal blocks of ``shift`` bits of two rows: one row of the result.

    Args:
        shift: The size of the blocks.
        high: Whether to compute the high row.
        vector: The type of the rows.
        rows: The low and the high row.
        result: The value to define; names that begin with it are free.
    """
    kind, mask = vector.llvm, masks(shift)

    def splat(value: int) -> str:
        signed = value - (1 << 64) if value >> 63 else value
        return f"<{', '.join([f'i64 {signed}'] * vector.lanes)}>" if vector.lanes > 1 else str(signed)

    if high:
        lines = [
            f"{result}.s = lshr {kind} {rows[0]}, {splat(shift)}",
            f"{result}.x = and {kind} {result}.s, {splat(mask)}",
            f"{result}.y = and {kind} {rows[1]}, {splat(mask << shift)}",
        ]
    else:
        lines = [
            f"{result}.x = and {kind} {rows[0]}, {splat(mask)}",
            f"{result}.m = and {kind} {rows[1]}, {splat(mask)}",
            f"{result}.y = shl {kind} {result}.m, {splat(shift)}",
        ]
    return [*lines, f"{result} = or {kind} {result}.x, {result}.y"]
