"""Small LLVM functions for what TIR cannot say: packing compares into words, and a fence against fused multiply-adds.

A kernel calls a :class:`LlvmFunction` while it is built, and :func:`link` puts the text of the functions into the
finished kernel. They are inlined; the code generator turns ``bitcast <64 x i1> to i64`` into ``kmov`` on AVX-512,
``vpmovmskb`` on AVX2 and ``and`` + ``addp`` on NEON.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import tvm
from tvm import ir, tirx
from tvm.tirx.script import builder as T

from ..isa import Family

Predicate = Literal["ogt", "oge", "olt", "ole", "ugt", "uge", "ult", "ule", "sgt", "sge", "slt", "sle", "eq", "ne"]


@dataclass(frozen=True)
class LlvmFunction:
    """A function in LLVM IR; calling it makes a TIR expression.

    Attributes:
        name: Its symbol; the same name always has the same text.
        result: dtype of the result.
        text: The definition, ``linkonce_odr`` so that many kernels of one module may bring it.
    """

    name: str
    result: str
    text: str

    def __call__(self, *args: tirx.Expr) -> tirx.Expr:
        """An expression of dtype ``result``."""
        return T.call_pure_extern(self.result, self.name, *args)


def link(func: tirx.PrimFunc, functions: Iterable[LlvmFunction]) -> tirx.PrimFunc:
    """The kernel with the text of the LLVM functions that it calls."""
    body = func.body
    for function in sorted(set(functions), key=lambda each: each.name, reverse=True):
        body = tirx.AttrStmt(tirx.IntImm("int32", 0), "pragma_import_llvm", ir.StringImm(function.text), body)
    return func.with_body(body)


def _llvm_type(dtype: str) -> str:
    kind = tvm.DataType(dtype)
    scalar = "float" if kind.type_code == tvm.DataType("float32").type_code else f"i{kind.bits}"
    return f"<{kind.lanes} x {scalar}>"


@cache
def pack(predicate: Predicate, dtype: str, count: int) -> LlvmFunction:
    """Compare ``count`` pairs of vectors and pack the results into one word, the first lane in the lowest bit.

    Args:
        predicate: LLVM's name: ``"ogt"`` (false for NaN) and so on for floats, ``"ult"``, ``"slt"`` ... for integers.
        dtype: A vector type, for example ``"float32x16"`` or ``"uint64x8"``.
        count: Vectors; ``count * lanes`` must be 8, 16, 32 or 64.

    Returns:
        A function of ``count`` left sides followed by ``count`` right sides.
    """
    kind = tvm.DataType(dtype)
    bits = kind.lanes * count
    if bits not in (8, 16, 32, 64):
        raise ValueError(f"cannot pack {count} vectors of {dtype} into a word: {bits} bits are not 8, 16, 32 or 64")
    vector = _llvm_type(dtype)
    compare = "fcmp" if "float" in vector else "icmp"
    arguments = ", ".join([f"{vector} %a{i}" for i in range(count)] + [f"{vector} %b{i}" for i in range(count)])
    lines = [f"%c0_{i} = {compare} {predicate} {vector} %a{i}, %b{i}" for i in range(count)]
    # Concatenate the masks in a tree.
    level, lanes, left = 0, kind.lanes, count
    while left > 1:
        order = ", ".join(f"i32 {i}" for i in range(2 * lanes))
        mask = f"<{lanes} x i1>"
        for i in range(left // 2):
            pair = f"{mask} %c{level}_{2 * i}, {mask} %c{level}_{2 * i + 1}"
            lines.append(f"%c{level + 1}_{i} = shufflevector {pair}, <{2 * lanes} x i32> <{order}>")
        level, lanes, left = level + 1, 2 * lanes, left // 2
    name = f"sbnn_pack_{predicate}_{dtype}_{count}"
    lines += [f"%word = bitcast <{bits} x i1> %c{level}_0 to i{bits}", f"ret i{bits} %word"]
    body = "\n  ".join(lines)
    text = f"define linkonce_odr i{bits} @{name}({arguments}) alwaysinline {{\n  {body}\n}}\n"
    return LlvmFunction(name, f"uint{bits}", text)


@cache
def fence(dtype: str) -> LlvmFunction:
    """The value itself, rounded: the code generator must not fuse what made it with what uses it."""
    vector = _llvm_type(dtype)
    short = f"v{tvm.DataType(dtype).lanes}f32"
    name = f"sbnn_fence_{dtype}"
    text = (
        f"declare {vector} @llvm.arithmetic.fence.{short}({vector})\n"
        f"define linkonce_odr {vector} @{name}({vector} %a) alwaysinline {{\n"
        f"  %r = call {vector} @llvm.arithmetic.fence.{short}({vector} %a)\n  ret {vector} %r\n}}\n"
    )
    return LlvmFunction(name, dtype, text)


@cache
def extremum(which: Literal["maximum", "minimum"], dtype: str, family: Family) -> LlvmFunction:
    """The larger or the smaller of two float32 vectors, in one instruction.

    With a NaN the result is the second operand on x86 (``maxps``), and NaN on ARM (``fmax``). Of two zeros with
    different signs it is either.
    """
    vector, lanes = _llvm_type(dtype), tvm.DataType(dtype).lanes
    name = f"sbnn_{which}_{dtype}"
    if family == "x86":
        predicate = "ogt" if which == "maximum" else "olt"
        lines = [f"%c = fcmp {predicate} {vector} %a, %b", f"%r = select <{lanes} x i1> %c, {vector} %a, {vector} %b"]
        declaration = ""
    else:
        lines = [f"%r = call {vector} @llvm.{which}.v{lanes}f32({vector} %a, {vector} %b)"]
        declaration = f"declare {vector} @llvm.{which}.v{lanes}f32({vector}, {vector})\n"
    body = "\n  ".join([*lines, f"ret {vector} %r"])
    text = (
        f"{declaration}define linkonce_odr {vector} @{name}({vector} %a, {vector} %b) alwaysinline {{\n  {body}\n}}\n"
    )
    return LlvmFunction(name, dtype, text)


@cache
def spread(bits: int) -> LlvmFunction:
    """A float32 vector of ``bits`` lanes from a word and the values of its 1 and its 0 bits."""
    name, floats = f"sbnn_spread_{bits}", f"<{bits} x float>"
    lines = _mask_of_word(bits)
    for value in ("one", "zero"):
        lines.append(f"%{value}0 = insertelement {floats} poison, float %{value}, i32 0")
        lines.append(f"%{value}s = shufflevector {floats} %{value}0, {floats} poison, <{bits} x i32> zeroinitializer")
    lines += [f"%r = select <{bits} x i1> %mask, {floats} %ones, {floats} %zeros", f"ret {floats} %r"]
    return _on_word(name, bits, "float", lines)


@cache
def choose(bits: int) -> LlvmFunction:
    """Lanes of one float32 vector where a word of ``bits`` bits has 1, of another one where it has 0."""
    floats = f"<{bits} x float>"
    lines = [
        *_mask_of_word(bits),
        f"%r = select <{bits} x i1> %mask, {floats} %one, {floats} %zero",
        f"ret {floats} %r",
    ]
    return _on_word(f"sbnn_choose_{bits}", bits, floats, lines)


def _mask_of_word(bits: int) -> list[str]:
    # Every lane tests its own bit of a copy of the word: on NEON a bit mask does not become a mask of lanes by itself.
    part = min(bits, 32)
    words, parts = f"<{bits} x i{part}>", f"<{bits // part} x i{part}>"
    order = ", ".join(f"i32 {i // part}" for i in range(bits))
    tests = ", ".join(f"i{part} {1 << i % part}" for i in range(bits))
    return [
        f"%parts = bitcast i{bits} %word to {parts}",
        f"%copies = shufflevector {parts} %parts, {parts} poison, <{bits} x i32> <{order}>",
        f"%tested = and {words} %copies, <{tests}>",
        f"%mask = icmp ne {words} %tested, zeroinitializer",
    ]


def _on_word(name: str, bits: int, values: str, lines: list[str]) -> LlvmFunction:
    """A function of a word and two values of an LLVM type that gives a float32 vector."""
    arguments = f"i{bits} %word, {values} %one, {values} %zero"
    body = "\n  ".join(lines)
    text = f"define linkonce_odr <{bits} x float> @{name}({arguments}) alwaysinline {{\n  {body}\n}}\n"
    return LlvmFunction(name, f"float32x{bits}", text)
