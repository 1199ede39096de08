"""Popcounts of three words at once, for AVX-512: 8 instructions instead of 9.

A full adder reduces the differences d0, d1, d2 of three words to two words: ``popcount(d0) + popcount(d1) +
popcount(d2)`` equals ``popcount(s) + 2 * popcount(carry)``, with ``s = d0 ^ d1 ^ d2``. Each d is ``x ^ w``, so s is the
xor of three image words and of three weights. Both xors are computed in advance, once for all outputs. A row of a
window is split into groups of three words. The first weight of each group is replaced by the xor of the three. Each
row of the image is followed by the xors of all its triples of neighbouring words::

    s = (x0 ^ x1 ^ x2) ^ (w0 ^ w1 ^ w2)         1 xor
    d1, d2 = x1 ^ w1, x2 ^ w2                   2 xors
    carry = d1 if d1 == d2 else ~s              1 ternary logic
    counter += popcount(s)                      1 popcount, 1 add
    counter += 2 * popcount(carry)              1 popcount, 1 multiply-add (IFMA)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from ..tir.llvm import LlvmFunction
from ..tir.vectors import VectorType
from .loop_nest import MultiplyAccumulate
from .tiles import THREE


@dataclass(frozen=True, eq=False)
class PopcountThrees(MultiplyAccumulate):
    """Popcounts of 64-bit words, three neighbouring words per step."""

    @property
    def together(self) -> int:
        """Words per step."""
        return THREE

    def joined(self, elements: Sequence[tirx.Expr]) -> tirx.Expr:
        """The xor of three words."""
        return elements[0] ^ elements[1] ^ elements[2]

    def accumulate(self, sums: tirx.Expr, x: tuple[tirx.Expr, ...], w: tuple[tirx.Expr, ...]) -> tirx.Expr:
        """Add the popcounts of one step."""
        return COUNT(sums, *x, *w)


def join_weights(words: np.ndarray) -> np.ndarray:
    """Replace the first of every three weights of a row by the xor of the three.

    Args:
        words: Packed weights [OC, kh, kw, words per tap].

    Returns:
        The weights for PopcountThrees, of the same shape.
    """
    threes = words.reshape(*words.shape[:2], -1, THREE).copy()
    threes[..., 0] = np.bitwise_xor.reduce(threes, axis=-1)
    return threes.reshape(words.shape)


def _count() -> LlvmFunction:
    vector = VectorType("uint64", 8)
    kind, ternary, multiply_add = vector.llvm, "@llvm.x86.avx512.pternlog.q.512", "@llvm.x86.avx512.vpmadd52l.uq.512"
    twos = ", ".join(["i64 2"] * 8)
    declare = (
        f"declare {kind} @llvm.ctpop.v8i64({kind})\n"
        f"declare {kind} {ternary}({kind}, {kind}, {kind}, i32)\n"
        f"declare {kind} {multiply_add}({kind}, {kind}, {kind})\n"
    )
    lines = [
        f"%s = xor {kind} %x, %w",
        f"%d1 = xor {kind} %x1, %w1",
        f"%d2 = xor {kind} %x2, %w2",
        # The result for bits d1, d2, s is bit 4 * d1 + 2 * d2 + s of the truth table.
        f"%carry = call {kind} {ternary}({kind} %d1, {kind} %d2, {kind} %s, i32 {0b11010100})",
        f"%ones = call {kind} @llvm.ctpop.v8i64({kind} %s)",
        f"%twos = call {kind} @llvm.ctpop.v8i64({kind} %carry)",
        f"%sum = add {kind} %sums, %ones",
        f"%r = call {kind} {multiply_add}({kind} %sum, {kind} %twos, {kind} <{twos}>)",
        f"ret {kind} %r",
    ]
    arguments = [f"{kind} %{each}" for each in ("sums", "x", "x1", "x2", "w", "w1", "w2")]
    return LlvmFunction.of("sbnn_count_threes", vector, arguments, lines, declare)


COUNT = _count()
"""One step: the new counter from the arguments counter, x0 ^ x1 ^ x2, x1, x2, w0 ^ w1 ^ w2, w1, w2."""
