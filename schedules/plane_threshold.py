"""A sink of sparse convolutions: compare the counters with a threshold, and store planes.

``A >= t`` is the carry out of ``A + ~t + 1``: one majority a plane. With {-1, +1} weights ``2 A`` and the number of the
window are summed with ``~t``, by one full adder more. At the border of the image thresholds differ from pixel to pixel,
so that ``~t`` are planes, stored once for vectors with the same border. Where all words of a vector have the same ones,
at the left and the right border for example, a word of each is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.schedules.counters import Adder, load_words, store_words, words_of
from sbnn_tvm.schedules.epilogue import IntegerThreshold
from sbnn_tvm.schedules.llvm import LlvmFunction
from sbnn_tvm.schedules.plane_counting import PlaneCounting
from sbnn_tvm.schedules.plane_window_counts import WindowCounts

_Limit = Callable[[int], tirx.Expr]


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
        self._adder = Adder(counting.isa, counting.target.words)
        kinds, kind_of = np.unique(counting.classes, axis=0, return_inverse=True)
        words = kinds.reshape(len(kinds), -1, 64)
        same = (words == words[:, :1]).all(axis=(1, 2))
        # Kinds whose words are the same come first.
        order = np.argsort(~same, kind="stable")
        kinds, kind_of, self._same = kinds[order], np.argsort(order)[kind_of.reshape(-1)], int(same.sum())
        least, inverted = _least(counting, epilogue)
        last = counting.lists.channels[-1]
        limits = _limit_planes(counting, least[:, last], kinds)
        self._constants: dict[str, np.ndarray] = {"kinds": kind_of.astype(np.int32)}
        if self._same:
            self._constants["limit_words"] = np.ascontiguousarray(limits[: self._same, ..., 0])
        if self._same < len(kinds):
            self._constants["limits"] = limits[self._same :]
        if inverted.any():
            # Bits that are no pixel stay 0.
            self._constants["inverted"] = np.where(inverted[last], ~np.uint64(0), np.uint64(0))
            self._constants["pixels"] = _words(kinds >= 0)
        self._buffers: dict[str, tirx.Buffer] = {}

    @property
    def functions(self) -> set[LlvmFunction]:
        """What the code calls."""
        return self._adder.functions

    @property
    def constants(self) -> list[np.ndarray]:
        """The kinds of vectors, their thresholds, and what is inverted."""
        return list(self._constants.values())

    @property
    def outputs(self) -> tuple[tuple[tuple[int, ...], str], ...]:
        """One feature map in planes."""
        return ((self.counting.target.shape, "uint64"),)

    def declare_tensors(self) -> None:
        """There are none."""

    def declare_constants(self) -> None:
        """Kinds of vectors, thresholds, and what is inverted."""
        for name, array in self._constants.items():
            self._buffers[name] = T.arg(name, T.buffer(array.shape, str(array.dtype)))

    def declare_outputs(self) -> None:
        """The planes."""
        target = self.counting.target
        out = T.arg("out0", T.buffer(target.shape, "uint64"))
        self._out = T.decl_buffer((target.vectors, target.channels, target.words), "uint64", data=out.data)

    def begin(self, vector: tirx.Expr, chunk: tirx.Expr, windows: WindowCounts | None) -> None:
        """Find the kind of the vector."""
        self._vector, self._kind, self._windows = vector, T.bind(self._buffers["kinds"][vector]), windows

    def store(self, planes: Sequence[tirx.Expr], number: tirx.Expr, channel: tirx.Expr) -> None:
        """Store one plane."""
        words = self.counting.target.words

        def same(level: int) -> tirx.Expr:
            word = self._buffers["limit_words"][self._kind, number, level]
            return tirx.Broadcast(word, words) if words > 1 else word

        def different(level: int) -> tirx.Expr:
            return load_words(self._buffers["limits"], [self._kind - self._same, number, level, 0], words)

        def put(limit: _Limit) -> None:
            result = self._reaches(planes, channel, limit)
            if "inverted" in self._buffers:
                ones = self._buffers["inverted"][number]
                pixels = load_words(self._buffers["pixels"], [self._kind, 0], words)
                result = result ^ ((tirx.Broadcast(ones, words) if words > 1 else ones) & pixels)
            store_words(self._out, result, [self._vector, channel, 0])

        if "limits" not in self._buffers:
            put(same)
        elif "limit_words" not in self._buffers:
            put(different)
        else:
            with T.If(self._kind < self._same):
                with T.Then():
                    put(same)
                with T.Else():
                    put(different)

    def end(self) -> None:
        """Everything is stored."""

    def _reaches(self, planes: Sequence[tirx.Expr], channel: tirx.Expr, limit: _Limit) -> tirx.Expr:
        """The carry out of the counters, ``limit`` and 1."""
        adder = self._adder
        if self._windows is None:
            result = T.bind(planes[0] | limit(0))
            for level in range(1, len(planes)):
                result = adder.majority(planes[level], T.bind(limit(level)), result)
            return result
        group, window_levels = T.bind(channel // self.counting.shape.group_out_channels), self.counting.window_levels
        result = T.bind(self._windows.load(self._vector, group, 0) | limit(0))
        saved = words_of(0, adder.words)
        for level in range(1, window_levels + 1):
            addends = list(planes[level - 1 : level])
            if level < window_levels:
                addends.append(self._windows.load(self._vector, group, level))
            addends.append(T.bind(limit(level)))
            if len(addends) == 3:
                total, carry = adder.full(*addends)
            elif len(addends) == 2:
                total, carry = adder.half(*addends)
            else:
                total, carry = addends[0], words_of(0, adder.words)
            result, saved = adder.majority(total, saved, result), carry
        return T.bind(result | saved)


def _least(counting: PlaneCounting, epilogue: IntegerThreshold) -> tuple[np.ndarray, np.ndarray]:
    """The comparison as ``F >= least``, int64 [classes, OC], and whether the answer is inverted, bool [OC]."""
    # Clipped to the range of the result first, since thresholds may be as large as an int64.
    beyond = 2 * counting.bits[0].size + 1
    threshold = np.clip(epilogue.threshold, -beyond, beyond) + epilogue.flip  # x <= t is not (x >= t + 1)
    positive = counting.factor > 0
    least = np.where(positive, -((counting.base - threshold) // 2), (counting.base - threshold) // 2 + 1)
    return least, epilogue.flip ^ ~positive


def _limit_planes(counting: PlaneCounting, least: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """``~t`` for all kinds of vectors and lists: uint64 [kinds, OC, planes, words]."""
    never = (1 << counting.result_levels) - 1  # F is always less
    numbers = never - np.clip(least, 0, never)
    numbers = np.concatenate([numbers, np.zeros((1, numbers.shape[1]), np.int64)])  # the last one is class -1
    # Each [kinds, vector_bits, OC].
    bits = [numbers[kinds] >> level & 1 for level in range(counting.result_levels)]
    return _words(np.stack(bits, axis=1).transpose(0, 3, 1, 2).astype(bool))


def _words(bits: np.ndarray) -> np.ndarray:
    octets = np.ascontiguousarray(np.packbits(bits, axis=-1, bitorder="little"))
    return octets.view("<u8").astype(np.uint64, copy=False)
