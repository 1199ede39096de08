"""Small LLVM functions for operations that TIR lacks, such as packing comparisons into words.

A kernel calls a :class:`LlvmFunction` while it is built. The text of all functions that were called within
:func:`collect_functions` is then linked into the finished kernel, where LLVM inlines them. LLVM compiles
``bitcast <64 x i1> to i64`` to ``kmov`` on AVX-512, ``vpmovmskb`` on AVX2, and ``and`` + ``addp`` on NEON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Literal

from tvm import ir, tirx
from tvm.tirx.script import builder as T

from ..isa import Architecture
from .vectors import VectorType, load, store

Predicate = Literal["ogt", "oge", "olt", "ole", "ugt", "uge", "ult", "ule", "sgt", "sge", "slt", "sle", "eq", "ne"]

SHARED = "; shared\n"
"""What the text of a function begins with that kernels call through a function of the library.

TVM has all imported functions inlined. So lowering (passes/lowering/import_once.py) makes one TIR function of it, whose
name is ``shared_name`` of the imported one, and the kernels call that.
"""

ROLLED = 'call void asm sideeffect "", ""() noduplicate'
"""An instruction without code. LLVM does not unroll a loop that contains it, since it may not copy it."""

_called: ContextVar[set[LlvmFunction] | None] = ContextVar("_called", default=None)


@contextmanager
def collect_functions() -> Iterator[set[LlvmFunction]]:
    """Collect the LLVM functions that are called by code built within this context."""
    functions: set[LlvmFunction] = set()
    token = _called.set(functions)
    try:
        yield functions
    finally:
        _called.reset(token)


@dataclass(frozen=True)
class LlvmFunction:
    """A function in LLVM IR. Calling it gives a TIR expression.

    Attributes:
        name: Symbol of the function. Functions of the same name have the same text.
        result: Type of the result.
        text: The definition. Its linkage is ``linkonce_odr``, so several kernels of a module may contain it.
    """

    name: str
    result: VectorType
    text: str

    @classmethod
    def of(
        cls, name: str, result: VectorType, arguments: Sequence[str], lines: Sequence[str], declare: str = ""
    ) -> LlvmFunction:
        """A function that is always inlined.

        Args:
            name: Symbol of the function.
            result: Type of the result.
            arguments: Arguments with their types, for example ``"i64 %word"``.
            lines: The instructions.
            declare: Declarations of the intrinsics that the instructions call, one per line.
        """
        body = "\n  ".join(lines)
        head = f"define linkonce_odr {result.llvm} @{name}({', '.join(arguments)}) alwaysinline"
        return cls(name, result, f"{declare}{head} {{\n  {body}\n}}\n")

    @classmethod
    def shared(cls, name: str, result: VectorType, arguments: Sequence[str], lines: Sequence[str]) -> LlvmFunction:
        """A function of one pointer whose code is worth sharing between the kernels of a library; see ``SHARED``.

        Args:
            name: Symbol of the function.
            result, arguments, lines: Same as in ``of``.
        """
        function = cls.of(name, result, arguments, lines)
        return cls(function.name, result, f"{SHARED}{function.text}")

    def __call__(self, *args: tirx.Expr) -> tirx.Expr:
        """A call, as an expression of type ``result``."""
        self._collect()
        return T.call_pure_extern(str(self.result), self.name, *args)

    def emit(self, *args: tirx.Expr) -> None:
        """Emit a call for its effects, for a function of pointers; its int32 result says nothing."""
        self._collect()
        name = shared_name(self.name) if self.text.startswith(SHARED) else self.name
        T.evaluate(T.call_extern(str(self.result), name, *args))

    def call_once(self, *args: tirx.Expr) -> tirx.Expr:
        """A call that is evaluated exactly once, however often its result is used.

        TIR copies a pure call to each use of its result; a tree of adders would grow exponentially. The result is
        therefore stored to a buffer, which LLVM keeps in a register. A bound variable is not enough: TVM's code
        generator simplifies its value together with all values it depends on, which takes exponential time here.
        """
        self._collect()
        # In s_tir the default layout is also None, but TVM would search for the enclosing function on each call.
        cell = T.alloc_buffer((self.result.lanes,), self.result.element, layout=None)
        store(cell, T.call_extern(str(self.result), self.name, *args), (), 0)
        return load(cell, (), 0, self.result.lanes)

    def _collect(self) -> None:
        """Link this function into the kernel under construction."""
        functions = _called.get()
        if functions is not None:
            functions.add(self)


def shared_name(name: str) -> str:
    """The name of the TIR function through which kernels call a shared LLVM function."""
    return f"shared_{name}"


def keep_rolled() -> None:
    """Emit in a loop that LLVM is not to unroll it, nor the loops around it: code that is worth more than its time."""
    LlvmFunction.of("sbnn_keep_rolled", VectorType("int32", 1), [], [ROLLED, "ret i32 0"]).emit()


def link(func: tirx.PrimFunc, functions: Iterable[LlvmFunction]) -> tirx.PrimFunc:
    """Attach the text of LLVM functions to the kernel that calls them."""
    body = func.body
    for function in sorted(set(functions), key=lambda each: each.name, reverse=True):
        body = tirx.AttrStmt(tirx.IntImm("int32", 0), "pragma_import_llvm", ir.StringImm(function.text), body)
    return func.with_body(body)


@cache
def pack(predicate: Predicate, vector: VectorType, count: int, masks_are_words: bool = True) -> LlvmFunction:
    """Compare ``count`` pairs of vectors and pack the results into one word, the first lane in the lowest bit.

    Args:
        predicate: Predicate in LLVM: ``"ogt"`` (false for NaN) or ``"ugt"`` (true for NaN) etc. for floats, ``"ult"``,
            ``"slt"`` etc. for integers.
        vector: Type of the vectors.
        count: Number of pairs; ``count * lanes`` must be 8, 16, 32 or 64.
        masks_are_words: Same as in ``Isa``. Without it each lane that is true becomes a power of two, and the lanes are
            added; ``count * lanes`` is at most 32.

    Returns:
        A function of ``count`` left operands followed by ``count`` right operands.
    """
    bits = vector.lanes * count
    if bits not in (8, 16, 32, 64):
        raise ValueError(f"cannot pack {count} vectors of {vector} into a word: {bits} bits are not 8, 16, 32 or 64")
    compare = "fcmp" if vector.element == "float32" else "icmp"
    arguments = [f"{vector.llvm} %{side}{i}" for side in "ab" for i in range(count)]
    lines = [f"%c0_{i} = {compare} {predicate} {vector.llvm} %a{i}, %b{i}" for i in range(count)]
    name = f"sbnn_pack_{predicate}_{vector}_{count}"
    if not masks_are_words:
        more, declare = _sum_of_bits(vector.lanes, count)
        return LlvmFunction.of(f"{name}_sum", VectorType(f"uint{bits}", 1), arguments, [*lines, *more], declare)
    # Concatenate the masks in a tree.
    level, lanes, left = 0, vector.lanes, count
    while left > 1:
        order = ", ".join(f"i32 {i}" for i in range(2 * lanes))
        mask = f"<{lanes} x i1>"
        for i in range(left // 2):
            pair = f"{mask} %c{level}_{2 * i}, {mask} %c{level}_{2 * i + 1}"
            lines.append(f"%c{level + 1}_{i} = shufflevector {pair}, <{2 * lanes} x i32> <{order}>")
        level, lanes, left = level + 1, 2 * lanes, left // 2
    lines += [f"%word = bitcast <{bits} x i1> %c{level}_0 to i{bits}", f"ret i{bits} %word"]
    return LlvmFunction.of(name, VectorType(f"uint{bits}", 1), arguments, lines)


def _sum_of_bits(lanes: int, count: int) -> tuple[list[str], str]:
    """The word of the masks %c0_0, %c0_1, ..., and the declarations that its instructions need."""
    kind, bits, lines = f"<{lanes} x i32>", lanes * count, []
    for i in range(count):
        values = ", ".join(f"i32 {1 << (lanes * i + lane)}" for lane in range(lanes))
        lines.append(f"%v{i} = select <{lanes} x i1> %c0_{i}, {kind} <{values}>, {kind} zeroinitializer")
        lines.append(f"%s{i} = or {kind} %v{i}, {f'%s{i - 1}' if i else 'zeroinitializer'}")
    reduce = f"@llvm.vector.reduce.add.v{lanes}i32"
    lines.append(f"%sum = call i32 {reduce}({kind} %s{count - 1})")
    if bits < 32:
        lines.append(f"%word = trunc i32 %sum to i{bits}")
    return [*lines, f"ret i{bits} %{'word' if bits < 32 else 'sum'}"], f"declare i32 {reduce}({kind})\n"


@cache
def fence(vector: VectorType) -> LlvmFunction:
    """The identity on float32 vectors, as a fence against fused multiply-adds.

    The value is rounded: LLVM may not fuse the operation that computes it with an operation that uses it.
    """
    kind, intrinsic = vector.llvm, f"@llvm.arithmetic.fence.v{vector.lanes}f32"
    return LlvmFunction.of(
        f"sbnn_fence_{vector}",
        vector,
        [f"{kind} %a"],
        [f"%r = call {kind} {intrinsic}({kind} %a)", f"ret {kind} %r"],
        f"declare {kind} {intrinsic}({kind})\n",
    )


@cache
def fused_multiply_add(vector: VectorType) -> LlvmFunction:
    """``a * b + c`` of float32 vectors, rounded once. Slow where the instruction set does not have it (Isa.fuses)."""
    kind, intrinsic = vector.llvm, f"@llvm.fma.v{vector.lanes}f32"
    return LlvmFunction.of(
        f"sbnn_fma_{vector}",
        vector,
        [f"{kind} %a", f"{kind} %b", f"{kind} %c"],
        [f"%r = call {kind} {intrinsic}({kind} %a, {kind} %b, {kind} %c)", f"ret {kind} %r"],
        f"declare {kind} {intrinsic}({kind}, {kind}, {kind})\n",
    )


@cache
def extremum(
    which: Literal["maximum", "minimum"], vector: VectorType, architecture: Architecture, first_is_number: bool = False
) -> LlvmFunction:
    """The elementwise maximum or minimum of two float32 vectors: NaN where an operand is NaN.

    For two zeros of different sign it may be either zero.

    On x86 an instruction (``maxps``) gives the second operand where either is NaN. So it is all there is to do if only
    the second can be NaN; otherwise two more instructions keep the NaN of the first. ARM's ``fmax`` gives NaN.

    Args:
        which: The function.
        vector: The type of both operands and the result.
        architecture: The architecture of the code.
        first_is_number: Whether the first operand is never NaN.
    """
    kind, lanes, declare = vector.llvm, vector.lanes, ""
    if architecture != "x86":
        intrinsic = f"@llvm.{which}.v{lanes}f32"
        lines = [f"%r = call {kind} {intrinsic}({kind} %a, {kind} %b)"]
        declare = f"declare {kind} {intrinsic}({kind}, {kind})\n"
    else:
        lines = _larger_or_second("%r" if first_is_number else "%m", which, vector)
        if not first_is_number:
            lines += [f"%n = fcmp uno {kind} %a, %a", f"%r = select <{lanes} x i1> %n, {kind} %a, {kind} %m"]
    arguments = [f"{kind} %a", f"{kind} %b"]
    name = f"sbnn_{which}_{vector}" + "_of_number" * first_is_number
    return LlvmFunction.of(name, vector, arguments, [*lines, f"ret {kind} %r"], declare)


@cache
def largest_number(vector: VectorType, architecture: Architecture) -> LlvmFunction:
    """The elementwise maximum of two float32 vectors, of which only the first can be NaN: there it is the second.

    It takes the value first and the largest so far second. One instruction, except for two on ARMv7.
    """
    kind, declare = vector.llvm, ""
    lines = _larger_or_second("%r", "maximum", vector)
    if architecture == "aarch64":
        intrinsic = f"@llvm.maxnum.v{vector.lanes}f32"
        lines = [f"%r = call {kind} {intrinsic}({kind} %a, {kind} %b)"]
        declare = f"declare {kind} {intrinsic}({kind}, {kind})\n"
    arguments = [f"{kind} %a", f"{kind} %b"]
    return LlvmFunction.of(f"sbnn_largest_number_{vector}", vector, arguments, [*lines, f"ret {kind} %r"], declare)


def _larger_or_second(result: str, which: Literal["maximum", "minimum"], vector: VectorType) -> list[str]:
    """The larger (or smaller) of %a and %b, and %b where either is NaN: x86's ``maxps`` (``minps``)."""
    kind, predicate = vector.llvm, "ogt" if which == "maximum" else "olt"
    return [
        f"%c = fcmp {predicate} {kind} %a, %b",
        f"{result} = select <{vector.lanes} x i1> %c, {kind} %a, {kind} %b",
    ]


@cache
def spread(bits: int) -> LlvmFunction:
    """Convert the bits of a word to a float32 vector of ``bits`` lanes.

    Returns:
        A function of the word, the float32 value of a 1 bit, and the float32 value of a 0 bit.
    """
    floats = f"<{bits} x float>"
    lines = _mask_of_word(bits)
    for value in ("one", "zero"):
        lines.append(f"%{value}0 = insertelement {floats} poison, float %{value}, i32 0")
        lines.append(f"%{value}s = shufflevector {floats} %{value}0, {floats} poison, <{bits} x i32> zeroinitializer")
    lines += [f"%r = select <{bits} x i1> %mask, {floats} %ones, {floats} %zeros", f"ret {floats} %r"]
    return _on_word(f"sbnn_spread_{bits}", bits, "float", lines)


@cache
def choose(bits: int) -> LlvmFunction:
    """Select between two float32 vectors of ``bits`` lanes by the bits of a word.

    Returns:
        A function of the word, the vector for its 1 bits, and the vector for its 0 bits.
    """
    floats = f"<{bits} x float>"
    lines = [
        *_mask_of_word(bits),
        f"%r = select <{bits} x i1> %mask, {floats} %one, {floats} %zero",
        f"ret {floats} %r",
    ]
    return _on_word(f"sbnn_choose_{bits}", bits, floats, lines)


def _mask_of_word(bits: int) -> list[str]:
    # Every lane tests its own bit in a copy of the word: NEON has no instruction from a bit mask to a lane mask.
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
    """A function of a word and two values of LLVM type ``values``, with a float32 vector as its result."""
    arguments = [f"i{bits} %word", f"{values} %one", f"{values} %zero"]
    return LlvmFunction.of(name, VectorType("float32", bits), arguments, lines)
