"""A sink of sparse convolutions: compare the counters with a threshold, and store planes.

With {0, 1} weights the counters start at ``2^L - threshold``: their overflow is the result, and comparing costs no
instruction. With {-1, +1} weights they start with a number of the window, and are compared plane by plane.
Thresholds differ at the border of the image: they are planes too, stored once for vectors with the same border.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.schedules.counters import Adder, load_words, store_words, words_of
from sbnn_tvm.schedules.epilogue import IntegerThreshold
from sbnn_tvm.schedules.llvm import LlvmFunction
from sbnn_tvm.schedules.plane_counting import PlaneCounting


class ThresholdSink:
    """Stores ``result >= threshold``, or ``<=`` where flipped, in the layout of the output.

    Raises:
        ValueError: If the threshold is not of the layer's channels.
    """

    def __init__(self, counting: PlaneCounting, epilogue: IntegerThreshold) -> None:
        channels = counting.shape.out_channels
        for kind, array in (("threshold", epilogue.threshold), ("flip", epilogue.flip)):
            if array.shape != (channels,):
                raise ValueError(f"the {kind} of an integer threshold is {array.shape}, not ({channels},)")
        self.counting = counting
        self.overflow = not counting.signs
        self._adder = Adder(counting.isa, counting.target.words)
        kinds, kind_of = np.unique(counting.classes, axis=0, return_inverse=True)
        least, inverted = _least(counting, epilogue)
        limits = _limit_planes(counting, least[:, counting.lists.channels], kinds)
        self._constants: list[np.ndarray] = [kind_of.reshape(-1).astype(np.int32), limits]
        if inverted.any():
            # Bits that are no pixel stay 0.
            ones = np.where(inverted[counting.lists.channels], ~np.uint64(0), np.uint64(0))
            self._constants += [ones, _words(kinds >= 0)]
        self._buffers: list[tirx.Buffer] = []

    @property
    def functions(self) -> set[LlvmFunction]:
        """What the code calls."""
        return self._adder.functions

    @property
    def constants(self) -> list[np.ndarray]:
        """The kinds of vectors, their thresholds, and what is inverted."""
        return self._constants

    @property
    def outputs(self) -> tuple[tuple[tuple[int, ...], str], ...]:
        """One feature map in planes."""
        return ((self.counting.target.shape, "uint64"),)

    def declare_tensors(self) -> None:
        """There are none."""

    def declare_constants(self) -> None:
        """Kinds of vectors, thresholds, and what is inverted."""
        for name, array in zip(("kinds", "limits", "inverted", "pixels"), self._constants, strict=False):
            self._buffers.append(T.arg(name, T.buffer(array.shape, str(array.dtype))))

    def declare_outputs(self) -> None:
        """The planes."""
        target = self.counting.target
        out = T.arg("out0", T.buffer(target.shape, "uint64"))
        self._out = T.decl_buffer((target.vectors, target.channels, target.words), "uint64", data=out.data)

    def begin(self, vector: tirx.Expr, chunk: tirx.Expr) -> None:
        """Find the kind of the vector."""
        self._vector, self._kind = vector, T.bind(self._buffers[0][vector])

    def start(self, number: tirx.Expr, level: int) -> tirx.Expr | None:
        """``2^L - threshold``, if nothing else must be first."""
        return None if self.counting.signs else self._limit(number, level)

    def store(self, planes: Sequence[tirx.Expr], number: tirx.Expr, channel: tirx.Expr) -> None:
        """Store one plane."""
        words = self.counting.target.words
        result = planes[-1]
        if self.counting.signs:
            # The carry of F + ~threshold + 1.
            result = words_of(-1 & (1 << 64) - 1, words)
            for level, plane in enumerate(planes):
                limit = self._limit(number, level)
                result = T.bind(plane | limit) if level == 0 else self._adder.majority(plane, T.bind(limit), result)
        if len(self._buffers) > 2:
            ones = self._buffers[2][number]
            pixels = load_words(self._buffers[3], [self._kind, 0], words)
            result = result ^ ((tirx.Broadcast(ones, words) if words > 1 else ones) & pixels)
        store_words(self._out, result, [self._vector, channel, 0])

    def end(self) -> None:
        """Everything is stored."""

    def _limit(self, number: tirx.Expr, level: int) -> tirx.Expr | None:
        limits = self._buffers[1]
        if level >= int(limits.shape[2]):
            return None
        return load_words(limits, [self._kind, number, level, 0], self.counting.target.words)


def _least(counting: PlaneCounting, epilogue: IntegerThreshold) -> tuple[np.ndarray, np.ndarray]:
    """The comparison as ``F >= least``, int64 [classes, OC], and whether the answer is inverted, bool [OC]."""
    # Clipped to the range of the result first, since thresholds may be as large as an int64.
    beyond = 2 * counting.bits[0].size + 1
    threshold = np.clip(epilogue.threshold, -beyond, beyond) + epilogue.flip  # x <= t is not (x >= t + 1)
    positive = counting.factor > 0
    least = np.where(positive, -((counting.base - threshold) // 2), (counting.base - threshold) // 2 + 1)
    return least, epilogue.flip ^ ~positive


def _limit_planes(counting: PlaneCounting, least: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """What start() and store() load: uint64 [kinds, OC, planes, words]."""
    full = 1 << counting.levels
    if counting.signs:
        never = full - 1
        numbers, planes = never - np.clip(least, 0, never), counting.levels
        outside = 0
    else:
        numbers, outside = full - np.clip(least, 0, full), 0
        planes = counting.levels + int(numbers.max() == full)
    numbers = np.concatenate([numbers, np.full((1, numbers.shape[1]), outside)])  # the last one is class -1
    bits = [numbers[kinds] >> level & 1 for level in range(planes)]  # each [kinds, vector_bits, OC]
    return _words(np.stack(bits, axis=1).transpose(0, 3, 1, 2).astype(bool))


def _words(bits: np.ndarray) -> np.ndarray:
    octets = np.ascontiguousarray(np.packbits(bits, axis=-1, bitorder="little"))
    return octets.view("<u8").astype(np.uint64, copy=False)
