"""Turn scales, batch norm and a binariser after a popcount into one integer threshold a channel.

The epilogue is not solved for the threshold: its own float32 operations are evaluated at every integer that the
popcount can give, in the order in which the reference evaluates them, and the point is found where the bit flips. So
the folded layer gives the reference's bits for every input, ties included.
"""

from __future__ import annotations

import numpy as np

from sbnn_tvm.schedules.epilogue import (
    BitsOutput,
    Channel,
    FloatOutput,
    IntegerThreshold,
    Operand,
    Program,
    Ref,
    Scalar,
    Step,
)
from sbnn_tvm.schedules.interpreter import evaluate
from sbnn_tvm.schedules.isa import Isa

NEVER = np.int64(2**31)
"""A threshold that no sum reaches."""

AT_ONCE = 2**22
"""Values that are evaluated at once: a dense layer of 25,088 inputs has 50,177 sums for each of its 4,096 outputs."""


def fold_threshold(program: Program, taps: int, channels: int, isa: Isa) -> IntegerThreshold | None:
    """The integer comparison that a program makes, if it makes no more than one.

    Args:
        program: Epilogue of a popcount layer; its Ref(0) is the integer sum D as float32.
        taps: Bound of |D|.
        channels: Output channels.
        isa: The instruction set.

    Returns:
        The thresholds, or None where the program has other outputs or operands, or where a channel's bit is not a
        monotone function of D (a negative PReLU slope, say).
    """
    if len(program.outputs) != 1 or not isinstance(output := program.outputs[0], BitsOutput):
        return None
    if not all(_foldable(operand) for step in program.steps for operand in (step.a, step.b)):
        return None
    sums = np.arange(-taps, taps + 1)
    size = max(1, AT_ONCE // len(sums))
    blocks = [slice(first, min(first + size, channels)) for first in range(0, channels, size)]
    folded = [_fold(_bits(program, output, sums, block, isa), sums) for block in blocks]
    found = [each for each in folded if each is not None]
    if len(found) < len(blocks):
        return None
    return IntegerThreshold(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _foldable(operand: Operand) -> bool:
    return isinstance(operand, Ref | Channel | Scalar)


def _fold(bits: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Threshold and flip of each channel; None if the bits of one are not monotone."""
    first, last = bits[0], bits[-1]
    if (bits[1:] != bits[:-1]).sum(axis=0).max(initial=0) > 1:
        return None
    # Rising: D >= the first sum with bit 1. Falling (flip): D <= the last sum with bit 1.
    rising_at = sums[np.argmax(bits, axis=0)]
    falling_at = sums[np.argmin(bits, axis=0)] - 1
    flip = first & ~last
    threshold = np.where(flip, falling_at, np.where(last, np.where(first, -NEVER, rising_at), NEVER))
    return threshold.astype(np.int64), flip


def _bits(program: Program, output: BitsOutput, sums: np.ndarray, channels: slice, isa: Isa) -> np.ndarray:
    """bool [sums, channels]: what the program answers to each sum."""

    def cut(operand: Operand) -> Operand:
        return Channel(operand.values[channels]) if isinstance(operand, Channel) else operand

    steps = tuple(Step(step.op, cut(step.a), cut(step.b)) for step in program.steps)
    result = np.broadcast_to(sums.astype(np.float32)[:, None], (len(sums), channels.stop - channels.start))
    (value,) = evaluate(Program(steps, (FloatOutput(cut(output.value)),)), result, (), isa)
    threshold = cut(output.threshold)
    limit = threshold.values if isinstance(threshold, Channel) else np.float32(_scalar(threshold))
    return value >= limit if output.inclusive else value > limit


def _scalar(operand: Operand) -> float:
    assert isinstance(operand, Scalar)
    return operand.value
