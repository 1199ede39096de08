"""Epilogues: the operations between a layer's result and its stores, as a small program over vectors of channels.

An anchor (convolution, dense, pooling, or a plain load) produces one value per output element. The epilogue is a
straight-line program over this value, in float32. The program is data: passes build it, kernels of every family
generate code from it, and tests interpret it in numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import xor
from typing import Literal, TypeVar

import numpy as np

from ..tir.functions import Function

Word = TypeVar("Word")


@dataclass(frozen=True)
class Ref:
    """A reference to an earlier value: 0 is the anchor's result, i + 1 the result of step i."""

    index: int


Element = Literal["float32", "int8", "uint8", "int16", "uint16", "int32"]
"""Element types of stored values. Integers become float32 when they are read: exactly, or int32 rounded."""


@dataclass(frozen=True)
class Tensor:
    """The index-th tensor operand of the kernel, of the output's shape: [N, H, W, C] (or [N, C])."""

    index: int
    dtype: Element = "float32"


@dataclass(frozen=True)
class Pixel:
    """The index-th tensor operand of the kernel, one value per pixel: float32 [N, H, W, 1] (or [N, 1])."""

    index: int


@dataclass(frozen=True)
class Sample:
    """The index-th tensor operand of the kernel, one value per sample of the batch: float32 [N, 1]."""

    index: int


@dataclass(frozen=True)
class SampleChannel:
    """The index-th tensor operand of the kernel, one value per sample and channel: float32 [N, C]."""

    index: int


@dataclass(frozen=True)
class Number:
    """The index-th tensor operand of the kernel, one value for all elements: [1, 1]."""

    index: int
    dtype: Element = "float32"


@dataclass(frozen=True, eq=False)
class Channel:
    """A constant per output channel: float32 [C]."""

    values: np.ndarray


@dataclass(frozen=True, eq=False)
class Border:
    """A constant per border class and output channel: float32 [classes, C] (shapes.BorderClasses)."""

    values: np.ndarray


@dataclass(frozen=True)
class Scalar:
    """One constant for all elements."""

    value: float


TensorOperand = Tensor | Pixel | Sample | SampleChannel | Number
Operand = Ref | TensorOperand | Channel | Border | Scalar

Reduction = Literal["row_sum", "row_mean", "row_max", "row_min"]
"""Reductions over the channels of a pixel, or over a row of a matrix. Only elementwise/rows.py computes them."""

Op = Literal["add", "subtract", "multiply", "divide", "maximum", "minimum", "prelu"] | Function | Reduction


@dataclass(frozen=True)
class Step:
    """One operation on two operands; ``prelu`` is ``a if a > 0 else a * b``. Extrema of a NaN are NaN.

    All are IEEE operations but for functions (``exp``, ``sigmoid``, ...; tir/functions.py), which have a known error.
    Functions and reductions read only ``a``: ``b`` is the same operand.
    """

    op: Op
    a: Operand
    b: Operand

    @classmethod
    def of_one(cls, name: Function | Reduction, a: Operand) -> Step:
        """A function or a reduction of one operand."""
        return cls(name, a, a)


@dataclass(frozen=True)
class FloatOutput:
    """Store a value as float32, NHWC."""

    value: Operand


@dataclass(frozen=True)
class CodesOutput:
    """Store a value as an integer, NHWC: rounded, halves to even, plus the zero point, limited to the type.

    That is ONNX's QuantizeLinear after its division. NaN becomes the smallest number.

    Attributes:
        value: The value to quantise.
        dtype: int8, uint8, int16 or uint16.
        zero_point: A number of that type, which may be known only at run time.
    """

    value: Operand
    dtype: Element
    zero_point: int | Number = 0

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest number before the zero point is added, whatever it is at run time."""
        info = np.iinfo(self.dtype)
        least, most = (0, 0) if isinstance(self.zero_point, int) else (int(info.min), int(info.max))
        known = self.zero_point if isinstance(self.zero_point, int) else 0
        return int(info.min) - known - most, int(info.max) - known - least


@dataclass(frozen=True)
class RowOutput:
    """Store one value per pixel, or per row of a matrix, as float32; only for rows."""

    value: Operand


@dataclass(frozen=True)
class BitsOutput:
    """Store ``value > threshold`` as one bit per channel, packed into words (isa.Isa.word_bits); tail bits are 0.

    Attributes:
        value: The value to binarise.
        threshold: Any operand except a Border.
        inclusive: Compare with ``>=`` instead.
        of_nan: The bit where the value or the threshold is NaN.
    """

    value: Operand
    threshold: Operand
    inclusive: bool = False
    of_nan: bool = False

    @property
    def thresholds(self) -> tuple[Operand, ...]:
        """The threshold, as a tuple of length 1."""
        return (self.threshold,)


@dataclass(frozen=True)
class LevelsOutput:
    """Store the number of thresholds, out of 2^n - 1, that a value exceeds: an n-bit code, 0 for NaN.

    The code is packed as one plane per binary digit.

    Attributes:
        value: The value to quantise.
        thresholds: Channels or Scalars, in ascending order.
    """

    value: Operand
    thresholds: tuple[Operand, ...]
    inclusive: Literal[False] = False
    of_nan: Literal[False] = False


PackedOutput = BitsOutput | LevelsOutput
Output = FloatOutput | CodesOutput | RowOutput | PackedOutput


def code_bits(thresholds: int) -> int:
    """Bits of a code that is quantised by ``thresholds`` thresholds. Example: 3 thresholds give 2 bits.

    Raises:
        ValueError: If the number of thresholds is not 1, 3, 7, ...
    """
    bits = thresholds.bit_length()
    if not thresholds or thresholds != (1 << bits) - 1:
        raise ValueError(f"codes of n bits need 2^n - 1 thresholds, not {thresholds}")
    return bits


def digits(thermometer: Sequence[Word]) -> list[Word]:
    """The binary digits of a code, lowest first, from the comparisons with its thresholds in ascending order.

    Digit j flips at every 2^j-th threshold, so it is the parity of the exceeded thresholds among these.

    Args:
        thermometer: One value per threshold: packed bits, or any other type with XOR.
    """
    every = [thermometer[(1 << j) - 1 :: 1 << j] for j in range(code_bits(len(thermometer)))]
    return [reduce(xor, words) for words in every]  # type: ignore[arg-type]


@dataclass(frozen=True)
class Program:
    """An epilogue: steps in order of execution, and outputs in the order of the kernel's output buffers."""

    steps: tuple[Step, ...]
    outputs: tuple[Output, ...]

    @property
    def packed(self) -> bool:
        """Whether an output is packed."""
        return any(isinstance(output, PackedOutput) for output in self.outputs)


@dataclass(frozen=True, eq=False)
class IntegerThreshold:
    """An epilogue that compares the integer sum D (sbnn_tvm.algebra.domain); one packed output, popcount anchors only.

    Bit c is ``D >= threshold[c]``, or ``D <= threshold[c]`` where ``flip[c]``. An n-bit code is the number of 2^n - 1
    such bits that are set.

    Attributes:
        threshold: int64 [C], or [2^n - 1, C] in the order in which the code counts them. A threshold beyond the range
            of D gives a constant bit.
        flip: bool [C].
    """

    threshold: np.ndarray
    flip: np.ndarray

    @property
    def bits(self) -> int:
        """Bits of the code."""
        return 1 if self.threshold.ndim == 1 else code_bits(len(self.threshold))


@dataclass(frozen=True, eq=False)
class WindowThreshold:
    """An epilogue that compares two integer sums; one packed output, only for counters of {0, 1} weights.

    E is the sum of the activations' signs at the set weights. T is the sum of all signs in the window. Bit c is
    ``2^shift * E + factor * T >= least[c]``, negated where ``inverted[c]``.

    Attributes:
        shift: At least 1.
        factor: Not 0.
        least: int64 [C]. A bound beyond the range of the sum gives a constant bit.
        inverted: bool [C].
    """

    shift: int
    factor: int
    least: np.ndarray
    inverted: np.ndarray


Epilogue = Program | IntegerThreshold

STORE = Program((), (FloatOutput(Ref(0)),))
"""The epilogue that stores the anchor's result unchanged."""
