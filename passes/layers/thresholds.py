"""Fold scales, batch norm and a binariser after a popcount into one integer threshold per channel (several for a code).

1. Evaluate the epilogue's own float32 operations at every integer that the popcount can give, in the reference's order.
2. Check that the bit (or code) of each channel is a monotone function of that integer.
3. The threshold is the integer at which the bit flips.

So the folded layer gives the reference's bits for every input, ties included. Nothing is solved algebraically.

Example: ``D * 0.5 - 1 > 0`` with D in -9..9 has bit 1 from D = 3 on, so the threshold is ``D >= 3``.
"""

from __future__ import annotations

import numpy as np

from sbnn_tvm.schedules.epilogue.interpreter import evaluate, exceeds
from sbnn_tvm.schedules.epilogue.program import (
    BitsOutput,
    Channel,
    FloatOutput,
    IntegerThreshold,
    LevelsOutput,
    Operand,
    PackedOutput,
    Program,
    Ref,
    Scalar,
    Step,
)

NEVER = np.int64(2**31)
"""A threshold that no sum reaches."""

AT_ONCE = 2**22
"""Bound of the values evaluated at once. A dense layer with 25,088 inputs has 50,177 sums for each of 4,096 outputs."""


def fold_threshold(program: Program, taps: int, channels: int) -> IntegerThreshold | None:
    """Fold a program whose only output is packed bits or codes into integer comparisons of D.

    Args:
        program: Epilogue of a popcount layer; its Ref(0) is the integer sum D as float32.
        taps: Upper bound of |D|.
        channels: Number of output channels.

    Returns:
        The thresholds. None if the program has other outputs, reads a tensor, or if the bit or code of a channel is not
        a monotone function of D (for example with a negative PReLU slope).
    """
    if len(program.outputs) != 1 or not isinstance(output := program.outputs[0], PackedOutput):
        return None
    operands = [operand for step in program.steps for operand in (step.a, step.b)]
    if not all(map(_foldable, operands)) or not all(isinstance(each, Channel | Scalar) for each in output.thresholds):
        return None
    sums = np.arange(-taps, taps + 1)
    size = max(1, AT_ONCE // len(sums))
    blocks = [slice(first, min(first + size, channels)) for first in range(0, channels, size)]
    highest = len(output.thresholds)
    found = []
    for block in blocks:
        folded = _fold(_codes(program, output, sums, block), sums, highest)
        if folded is None:
            return None
        found.append(folded)
    threshold, flip = (np.concatenate(parts, axis=-1) for parts in zip(*found, strict=True))
    return IntegerThreshold(threshold if highest > 1 else threshold[0], flip)


def _foldable(operand: Operand) -> bool:
    return isinstance(operand, Ref | Channel | Scalar)


def _fold(codes: np.ndarray, sums: np.ndarray, highest: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Thresholds, int64 [highest, channels], and whether each channel falls, bool; None if one is not monotone."""
    rises, falls = (compare(codes[1:], codes[:-1]).any(axis=0) for compare in (np.greater, np.less))
    if (rises & falls).any():
        return None
    thresholds = []
    for level in range(1, highest + 1):
        bits = codes >= level
        always, never = bits[0] & bits[-1], ~(bits[0] | bits[-1])
        # Rising: D >= the first sum with bit 1. Falling (flip): D <= the last sum with bit 1.
        at = np.where(falls, sums[np.argmin(bits, axis=0)] - 1, sums[np.argmax(bits, axis=0)])
        beyond = np.where(falls == always, NEVER, -NEVER)
        thresholds.append(np.where(always | never, beyond, at))
    return np.stack(thresholds).astype(np.int64), falls


def _codes(program: Program, output: BitsOutput | LevelsOutput, sums: np.ndarray, channels: slice) -> np.ndarray:
    """The code that the program computes for each sum, uint8 [sums, channels]."""

    def cut(operand: Operand) -> Operand:
        return Channel(operand.values[channels]) if isinstance(operand, Channel) else operand

    steps = tuple(Step(step.op, cut(step.a), cut(step.b)) for step in program.steps)
    result = np.broadcast_to(sums.astype(np.float32)[:, None], (len(sums), channels.stop - channels.start))
    (value,) = evaluate(Program(steps, (FloatOutput(cut(output.value)),)), result, ())
    codes = np.zeros(value.shape, np.uint8)
    for threshold in map(cut, output.thresholds):
        codes += exceeds(output, value, _numbers(threshold))
    return codes


def _numbers(operand: Operand) -> np.ndarray | np.float32:
    match operand:
        case Channel(values):
            return values
        case Scalar(value):
            return np.float32(value)
    raise TypeError(f"not a constant: {operand!r}")
