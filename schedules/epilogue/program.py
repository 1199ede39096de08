"""What happens to a layer's result before it is stored: a small program over vectors of channels.

An anchor (convolution, dense, pooling, or a plain load) produces one value per output element; the epilogue is a
straight-line program over it. Values are float32. The program is data: passes write it, kernels of every family
emit it, and tests interpret it with numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import xor
from typing import Literal, TypeVar

import numpy as np

Word = TypeVar("Word")


@dataclass(frozen=True)
class Ref:
    """A value computed earlier: 0 is the anchor's result, i + 1 the result of step i."""

    index: int


@dataclass(frozen=True)
class Tensor:
    """The index-th tensor operand of the kernel: float32 of the output's own shape, NHWC (or [N, C])."""

    index: int


@dataclass(frozen=True)
class Pixel:
    """The index-th tensor operand of the kernel, with one channel for all: float32 [N, H, W, 1] (or [N, 1])."""

    index: int


@dataclass(frozen=True)
class Sample:
    """The index-th tensor operand of the kernel, with one value for each sample of the batch: float32 [N, 1]."""

    index: int


@dataclass(frozen=True)
class SampleChannel:
    """The index-th tensor operand of the kernel, with one value for each channel of a sample: float32 [N, C]."""

    index: int


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
    """One constant."""

    value: float


TensorOperand = Tensor | Pixel | Sample | SampleChannel
Operand = Ref | TensorOperand | Channel | Border | Scalar

Op = Literal["add", "subtract", "multiply", "divide", "maximum", "minimum", "prelu"]


@dataclass(frozen=True)
class Step:
    """One operation on two operands; ``prelu`` is ``a if a > 0 else a * b``."""

    op: Op
    a: Operand
    b: Operand


@dataclass(frozen=True)
class FloatOutput:
    """Store a value as float32, NHWC."""

    value: Operand


@dataclass(frozen=True)
class BitsOutput:
    """Store ``value > threshold`` as one bit a channel, packed into words (isa.Isa.word_bits); tail bits are 0.

    Attributes:
        value: What is binarised.
        threshold: Anything but a Border.
        inclusive: Compare with ``>=`` instead.
    """

    value: Operand
    threshold: Operand
    inclusive: bool = False

    @property
    def thresholds(self) -> tuple[Operand, ...]:
        """The only one."""
        return (self.threshold,)


@dataclass(frozen=True)
class LevelsOutput:
    """Store how many of 2^n - 1 thresholds a value exceeds: an n-bit code, packed as planes of its binary digits.

    Attributes:
        value: What is quantised.
        thresholds: Channels or Scalars, ascending.
    """

    value: Operand
    thresholds: tuple[Operand, ...]
    inclusive: Literal[False] = False


Output = FloatOutput | BitsOutput | LevelsOutput


def code_bits(thresholds: int) -> int:
    """Bits of the code that so many thresholds make.

    Raises:
        ValueError: If their number is not 1, 3, 7, ...
    """
    bits = thresholds.bit_length()
    if not thresholds or thresholds != (1 << bits) - 1:
        raise ValueError(f"codes of n bits need 2^n - 1 thresholds, not {thresholds}")
    return bits


def digits(thermometer: Sequence[Word]) -> list[Word]:
    """The binary digits of a code, lowest first, from the comparisons with its thresholds in ascending order.

    Digit j flips at every 2^j-th threshold: it is the parity of those that are exceeded.

    Args:
        thermometer: For each threshold packed bits, or whatever else knows XOR.
    """
    every = [thermometer[(1 << j) - 1 :: 1 << j] for j in range(code_bits(len(thermometer)))]
    return [reduce(xor, words) for words in every]  # type: ignore[arg-type]


@dataclass(frozen=True)
class Program:
    """Steps in order, then the outputs in the order of the kernel's output buffers."""

    steps: tuple[Step, ...]
    outputs: tuple[Output, ...]


@dataclass(frozen=True, eq=False)
class IntegerThreshold:
    """Only for popcount anchors, with one packed output: comparisons of the integer sum D (sbnn_tvm.algebra.domain).

    Bit c is ``D >= threshold[c]``, or ``D <= threshold[c]`` where ``flip[c]``. An n-bit code counts 2^n - 1 such bits.

    Attributes:
        threshold: int64 [C], or [2^n - 1, C] in the order in which the code counts them; beyond the range of D it makes
            a constant bit.
        flip: bool [C].
    """

    threshold: np.ndarray
    flip: np.ndarray

    @property
    def bits(self) -> int:
        """Of the code."""
        return 1 if self.threshold.ndim == 1 else code_bits(len(self.threshold))


@dataclass(frozen=True, eq=False)
class WindowThreshold:
    """Only for counters of {0, 1} weights, with one packed output: comparisons of two integer sums.

    E is the sum of the activations' signs at the set weights, T that of all signs in the window. Bit c is
    ``2^shift * E + factor * T >= least[c]``, or not where ``inverted[c]``.

    Attributes:
        shift: At least 1.
        factor: Not 0.
        least: int64 [C]; beyond the range of the sum it makes a constant bit.
        inverted: bool [C].
    """

    shift: int
    factor: int
    least: np.ndarray
    inverted: np.ndarray


Epilogue = Program | IntegerThreshold

STORE = Program((), (FloatOutput(Ref(0)),))
"""Store the anchor's result as it is."""
