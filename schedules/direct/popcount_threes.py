"""Popcounts of three words at once, for AVX-512: 8 instructions instead of 9.

A full adder takes the differences of three words to two: ``popcount(d0) + popcount(d1) + popcount(d2)`` is
``popcount(s) + 2 * popcount(carry)``, with ``s = d0 ^ d1 ^ d2``. And s, made of ``x ^ w`` throughout, is the xor of
three words of the image and the xor of three weights, each of which is taken once, not for each output. So a row of a
window is cut into threes; the first weight of each is replaced by the xor of all, and behind every row of the image are
those of all neighbouring words::

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
from .loop_nest import Arithmetic
from .tiles import THREE


@dataclass(frozen=True, eq=False)
class PopcountThrees(Arithmetic):
    """Popcounts of 64-bit words, three neighbours in a step."""

    @property
    def together(self) -> int:
        """Words of a step."""
        return THREE

    @property
    def functions(self) -> tuple[LlvmFunction, ...]:
        """What a step is."""
        return (COUNT,)

    def joined(self, elements: Sequence[tirx.Expr]) -> tirx.Expr:
        """The xor of three words."""
        return elements[0] ^ elements[1] ^ elements[2]

    def accumulate(self, sums: tirx.Expr, x: tuple[tirx.Expr, ...], w: tuple[tirx.Expr, ...]) -> tirx.Expr:
        """Add the popcounts of a step."""
        return COUNT(sums, *x, *w)


def join_weights(words: np.ndarray) -> np.ndarray:
    """The weights as the steps want them, [OC, kh, kw, words of a tap]: the first of every three is the xor of all."""
    threes = words.reshape(*words.shape[:2], -1, THREE).copy()
    threes[..., 0] = np.bitwise_xor.reduce(threes, axis=-1)
    return threes.reshape(words.shape)


def _count() -> LlvmFunction:
    vector, ternary, multiply_add = "<8 x i64>", "@llvm.x86.avx512.pternlog.q.512", "@llvm.x86.avx512.vpmadd52l.uq.512"
    name, twos = "sbnn_count_threes", ", ".join(["i64 2"] * 8)
    arguments = ", ".join(f"{vector} %{each}" for each in ("sums", "x", "x1", "x2", "w", "w1", "w2"))
    text = (
        f"declare {vector} @llvm.ctpop.v8i64({vector})\n"
        f"declare {vector} {ternary}({vector}, {vector}, {vector}, i32)\n"
        f"declare {vector} {multiply_add}({vector}, {vector}, {vector})\n"
        f"define linkonce_odr {vector} @{name}({arguments}) alwaysinline {{\n"
        f"  %s = xor {vector} %x, %w\n"
        f"  %d1 = xor {vector} %x1, %w1\n"
        f"  %d2 = xor {vector} %x2, %w2\n"
        # Bit 4 * d1 + 2 * d2 + s is the result.
        f"  %carry = call {vector} {ternary}({vector} %d1, {vector} %d2, {vector} %s, i32 {0b11010100})\n"
        f"  %ones = call {vector} @llvm.ctpop.v8i64({vector} %s)\n"
        f"  %twos = call {vector} @llvm.ctpop.v8i64({vector} %carry)\n"
        f"  %sum = add {vector} %sums, %ones\n"
        f"  %r = call {vector} {multiply_add}({vector} %sum, {vector} %twos, {vector} <{twos}>)\n"
        f"  ret {vector} %r\n}}\n"
    )
    return LlvmFunction(name, "uint64x8", text)


COUNT = _count()
"""The counter with a step added: of the counter, x0 ^ x1 ^ x2, x1, x2, w0 ^ w1 ^ w2, w1 and w2."""
