"""Binary results of sparse convolutions: compare the counters with thresholds, and store bit planes.

``A >= t`` is the carry out of ``A + ~t + 1``, which costs one majority per plane. If the comparison has a window term
(counting.py), the kernel adds ``2^shift * A``, the term and ``~t``, which costs one more full adder per plane. The term
may need many more planes than the range of the channels' thresholds. So it is first clamped to that range, once for all
channels.

At the border of the image, thresholds differ from pixel to pixel, so ``~t`` is stored as planes. A *kind* is a set of
output vectors with the same border classes; they share their planes. If all words of a plane are equal (at the left and
right border, for example), one word is stored. Otherwise each distinct plane is stored once, with an index for each
use: few classes of pixels have few distinct planes, and these fit the first-level cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..epilogue.program import IntegerThreshold, WindowThreshold
from ..tir.kernel_builder import KernelBuilder
from ..tir.llvm import keep_rolled
from ..tir.vectors import load, store
from .adders import Adder
from .counting import PlaneCounting
from .window_counts import WindowCounts

_Limit = Callable[[int], tirx.Expr]

# TVM allocates buffers of at least this many bytes from its runtime, aligned to cache lines. Smaller ones are on the
# stack, aligned to 16 bytes only, and a vector that crosses a cache line takes two loads.
_ALIGNED = 1024


class ThresholdResult:
    """Stores the comparisons of an epilogue in the layout of the output.

    Raises:
        ValueError: If the thresholds do not have the shape [OC].
    """

    def __init__(self, counting: PlaneCounting, epilogue: IntegerThreshold | WindowThreshold) -> None:
        channels = counting.shape.out_channels
        arrays = {name: value for name, value in vars(epilogue).items() if isinstance(value, np.ndarray)}
        for kind, array in arrays.items():
            if array.shape != (channels,):
                raise ValueError(f"the {kind} of an integer threshold is {array.shape}, not ({channels},)")
        self.counting = counting
        self._adder = Adder(counting.isa, counting.target.words)
        kinds, kind_of = np.unique(counting.classes, axis=0, return_inverse=True)
        words = kinds.reshape(len(kinds), -1, 64)
        # Without vectors one word is a whole plane, which is no smaller than others.
        same = (words == words[:, :1]).all(axis=(1, 2)) & (not counting.isa.scalar)
        # Kinds whose words are all equal come first.
        order = np.argsort(~same, kind="stable")
        kinds, kind_of, self._same = kinds[order], np.argsort(order)[kind_of.reshape(-1)], int(same.sum())
        least, inverted = _least(counting, epilogue)
        self._range = _Range.of(counting, least)
        last = counting.lists.channels[-1]
        limits = _planes(self._range.limits[:, last], kinds, self._range.levels)
        self._constants: dict[str, np.ndarray] = {"kinds": kind_of.astype(np.int32)}
        if self._same:
            self._constants["limit_words"] = np.ascontiguousarray(limits[: self._same, ..., 0])
        if self._same < len(kinds):
            self._constants |= _numbered(limits[self._same :])
        if inverted.any():
            # Bits that are no pixel stay 0.
            self._constants["inverted"] = np.where(inverted[last], ~np.uint64(0), np.uint64(0))
            self._constants["pixels"] = _words(kinds >= 0)
        if self._range.clamped:
            self._constants["lowest"] = _planes(~self._range.lowest, kinds, self._range.term_levels)
        self._buffers: dict[str, tirx.Buffer] = {}
        self._term: tirx.Buffer | None = None

    @property
    def values(self) -> int:
        """0: planes are compared directly."""
        return 0

    def declare(self, builder: KernelBuilder) -> None:
        """Declare the kinds of vectors, their thresholds, the inverted channels, and the output in planes."""
        for name, array in self._constants.items():
            # The code does not depend on the number of distinct planes, so layers of equal shape share one function.
            shape = (tirx.Var("planes", "int64"), array.shape[1]) if name == "limits" else None
            self._buffers[name] = builder.constant(name, array, shape=shape)
        target = self.counting.target
        out = builder.output(target.shape, "uint64", "out0")
        self._out = T.decl_buffer((target.vectors, target.channels, target.words), "uint64", data=out.data)

    def begin(self, vector: tirx.Expr, chunk: tirx.Expr, windows: WindowCounts | None) -> None:
        """Load the kind of the vector, and compute its window term."""
        self._vector, self._kind, self._term = vector, T.bind(self._buffers["kinds"][vector]), None
        if windows is None:
            return
        counting, words = self.counting, self.counting.target.words
        planes = counting.shape.groups * self._range.window_levels
        self._term = T.alloc_buffer((max(planes, _ALIGNED // (8 * words)), words), "uint64")
        with T.serial(0, counting.shape.groups) as group:
            for level, plane in enumerate(self._clamped(self._multiplied(windows, group))):
                store(self._term, plane, (group * self._range.window_levels + level,), 0)

    def _multiplied(self, windows: WindowCounts, group: tirx.Expr) -> list[tirx.Expr]:
        """The planes of ``|factor| * v``."""
        assert self.counting.term is not None
        planes = [windows.load(self._vector, group, level) for level in range(self.counting.window_levels)]
        factor, levels = abs(self.counting.term.factor), self._range.term_levels
        if factor == 1:
            return planes
        # Loops over memory: this runs once for each vector of pixels, and written out it is more code than the rest.
        words, zero = self.counting.target.words, self._adder.vector.constant(0)
        number, carry = (T.alloc_buffer((count, words), "uint64") for count in (len(planes), 1))
        product = T.alloc_buffer((factor.bit_length() + len(planes), words), "uint64")
        for level, plane in enumerate(planes):
            store(number, plane, (level,), 0)
        with T.serial(0, factor.bit_length() + len(planes)) as level:
            store(product, zero, (level,), 0)
        with T.serial(0, factor.bit_length()) as bit, T.If(tirx.const(factor, "int32") >> bit & 1 != 0), T.Then():
            store(carry, zero, (0,), 0)
            with T.serial(0, len(planes)) as level:
                keep_rolled()
                addends = ((product, level + bit), (number, level), (carry, 0))
                total, out = self._adder.full(*(T.bind(load(each, (at,), 0, words)) for each, at in addends))
                store(product, total, (level + bit,), 0)
                store(carry, out, (0,), 0)
            # The product so far is less than 2^bit times the number: here it is 0.
            store(product, load(carry, (0,), 0, words), (bit + len(planes),), 0)
        return [T.bind(load(product, (level,), 0, words)) for level in range(levels)]

    def _clamped(self, planes: list[tirx.Expr]) -> list[tirx.Expr]:
        """The term minus the lowest value that matters: 0 if it is below the range, all ones if it is above."""
        if not self._range.clamped:
            return planes
        words, difference = self.counting.target.words, []
        carry = ~self._adder.vector.constant(0)
        for level, plane in enumerate(planes):
            inverse = load(self._buffers["lowest"], (self._kind, 0, level), 0, words)
            total, carry = self._adder.full(plane, T.bind(inverse), carry)
            difference.append(total)
        beyond = self._adder.vector.constant(0)
        for plane in difference[self._range.window_levels :]:
            beyond = beyond | plane
        beyond = T.bind(beyond)
        return [(plane | beyond) & carry for plane in difference[: self._range.window_levels]]

    def store(self, planes: Sequence[tirx.Expr], number: tirx.Expr, channel: tirx.Expr) -> None:
        """Compare the counters of a channel, and store the plane of the results."""
        words = self.counting.target.words

        def same(level: int) -> tirx.Expr:
            return self._adder.vector.broadcast(self._buffers["limit_words"][self._kind, number, level])

        def different(level: int) -> tirx.Expr:
            at = self._buffers["limit_numbers"][self._kind - self._same, number, level]
            return load(self._buffers["limits"], (T.bind(tirx.Cast("int32", at)),), 0, words)

        def put(limit: _Limit) -> None:
            result = self._reaches(planes, channel, limit)
            if "inverted" in self._buffers:
                ones = self._buffers["inverted"][number]
                pixels = load(self._buffers["pixels"], (self._kind,), 0, words)
                result = result ^ (self._adder.vector.broadcast(ones) & pixels)
            store(self._out, result, (self._vector, channel), 0)

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
        """Nothing to do: ``store`` has stored the results."""

    def _reaches(self, planes: Sequence[tirx.Expr], channel: tirx.Expr, limit: _Limit) -> tirx.Expr:
        """The carry out of the sum of the counters, the term, ``limit`` and 1."""
        adder, term = self._adder, self.counting.term
        group = T.bind(channel // self.counting.shape.group_out_channels)
        result: tirx.Expr | None = None
        saved: tirx.Expr | None = None
        for level in range(self._range.levels):
            at = level - (term.shift if term else 0)
            addends = [planes[at]] if 0 <= at < len(planes) else []
            if self._term is not None and level < self._range.window_levels:
                of_term = group * self._range.window_levels + level
                addends.append(T.bind(load(self._term, (of_term,), 0, adder.words)))
            addends.append(T.bind(limit(level)))
            if result is None:
                result = T.bind(addends[0] | addends[1])  # the carry of the lowest level, including the added 1
                continue
            if saved is None and len(addends) == 2:
                result = adder.majority(addends[0], addends[1], result)
                continue
            carry = adder.vector.constant(0)
            if len(addends) == 3:
                total, carry = adder.full(*addends)
            elif len(addends) == 2:
                total, carry = adder.half(*addends)
            else:
                total = addends[0]
            result = adder.majority(total, adder.vector.constant(0) if saved is None else saved, result)
            saved = carry
        assert result is not None
        return result if saved is None else T.bind(result | saved)


@dataclass(frozen=True, eq=False)
class _Range:
    """The thresholds of a comparison, and the range that its window term is clamped to.

    Attributes:
        limits: ``~t``, int64 [classes + 1, OC]. The last row is for bits that are no pixel.
        lowest: Subtracted from the term, int64 [classes + 1, 1].
        levels: Planes of the compared number.
        window_levels: Planes of the clamped term.
        term_levels: Planes of the term before it is clamped.
    """

    limits: np.ndarray
    lowest: np.ndarray
    levels: int
    window_levels: int
    term_levels: int

    @property
    def clamped(self) -> bool:
        """Whether the term is clamped."""
        return self.window_levels < self.term_levels

    @classmethod
    def of(cls, counting: PlaneCounting, least: np.ndarray) -> _Range:
        """The range of ``F >= least``, int64 [classes, OC]."""
        term, most = counting.term, int(counting.counts.max())
        classes = len(least) + 1
        factor = 0 if term is None else abs(term.factor)
        highest = factor * ((1 << counting.window_levels) - 1)
        most <<= term.shift if term else 0
        lowest, window_levels, term_levels = np.zeros((classes, 1), np.int64), highest.bit_length(), 0
        always, never = least <= 0, least > most + highest
        if term is not None:
            term_levels = window_levels
            # Below ``bottom`` no counter reaches its threshold, and from ``top`` on all do. Only the values between
            # them matter.
            bottom = np.where(always | never, highest, least - most - 1).min(axis=1, keepdims=True).clip(0)
            top = np.where(always | never, 0, least).max(axis=1, keepdims=True)
            clamped = max(1, int((top - bottom).max())).bit_length()
            if clamped < window_levels:
                window_levels, lowest[:-1] = clamped, bottom
        largest = most + (1 << window_levels) - 1 if term is not None else most
        levels = (largest + 1).bit_length()
        unreachable = (1 << levels) - 1
        t = np.full((classes, least.shape[1]), unreachable)
        t[:-1] = np.where(always, 0, np.where(never, unreachable, least - lowest[:-1]))
        return cls(unreachable - t, lowest, levels, window_levels, term_levels)


def _least(counting: PlaneCounting, epilogue: IntegerThreshold | WindowThreshold) -> tuple[np.ndarray, np.ndarray]:
    """The comparison as ``F >= least``, int64 [classes, OC], and whether its result is inverted, bool [OC]."""
    if isinstance(epilogue, WindowThreshold):
        # With E = 2 A - n and T = 2 pc - K.
        scale, factor = 1 << epilogue.shift, epilogue.factor
        beyond = 2 * (scale + abs(factor)) * counting.bits[0].size + 1
        threshold = np.clip(epilogue.least, -beyond, beyond)
        least = -(-(threshold + scale * counting.inside + factor * counting.taps[:, None]) // 2)
        return least - min(factor, 0) * ((1 << counting.window_levels) - 1), epilogue.inverted
    # Clip to the range of the result first, to avoid overflow: thresholds may be as large as an int64.
    beyond = 2 * counting.bits[0].size + 1
    threshold = np.clip(epilogue.threshold, -beyond, beyond) + epilogue.flip  # x <= t is not (x >= t + 1)
    positive = counting.factor > 0
    least = np.where(positive, -((counting.base - threshold) // 2), (counting.base - threshold) // 2 + 1)
    return least, epilogue.flip ^ ~positive


def _planes(numbers: np.ndarray, kinds: np.ndarray, levels: int) -> np.ndarray:
    """Bit planes of numbers [classes, C], the last for class -1: uint64 [kinds, C, levels, words]."""
    # Each element has the shape [kinds, vector_bits, C].
    bits = [numbers[kinds] >> level & 1 for level in range(levels)]
    return _words(np.stack(bits, axis=1).transpose(0, 3, 1, 2).astype(bool))


def _numbered(limits: np.ndarray) -> dict[str, np.ndarray]:
    """The distinct planes [planes, words], and the index of each use [kinds, C, levels]."""
    planes, numbers = np.unique(limits.reshape(-1, limits.shape[-1]), axis=0, return_inverse=True)
    dtype = np.min_scalar_type(len(planes) - 1)
    return {"limits": planes, "limit_numbers": numbers.reshape(limits.shape[:-1]).astype(dtype)}


def _words(bits: np.ndarray) -> np.ndarray:
    octets = np.ascontiguousarray(np.packbits(bits, axis=-1, bitorder="little"))
    return octets.view("<u8").astype(np.uint64, copy=False)
