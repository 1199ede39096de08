"""The quantity that the counters of a sparse convolution count, and the formula from it to the layer's result."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from tvm import tirx

from ..isa import Isa
from ..layouts.bit_planes import PlaneLayout
from ..shapes import Conv2dShape
from .weight_lists import TAIL, WeightLists
from .windows import PlaneWindow

_TASKS = 16  # approximate number of tasks of a kernel whose output has fewer vectors
_WORD = 64
_CACHED = 40 * 1024  # bytes of planes that fit a first-level cache
_COUNTS = 32 * 1024  # bytes of counts that are converted to floats together; they fit a first-level cache
_SLICED = 384  # minimum of counted weights per channel and slice


@dataclass(frozen=True)
class Cut:
    """How the lists of set weights are cut.

    Attributes:
        slices: Number of slices of a group's input channels. The planes of one slice should fit the cache.
        block: Steps in the body of the main loop. A larger block carries into the upper planes less often.
    """

    slices: int
    block: int

    def __str__(self) -> str:
        return f"{self.slices}x{self.block}"


@dataclass(frozen=True)
class WindowTerm:
    """The term of the window in a comparison: ``F = 2^shift * A + |factor| * v``, where A is in the counters.

    Let pc be the number of set activations among the K activations of the window, a number of Q bits. Then v is pc for
    a positive factor and ``2^Q - 1 - pc`` for a negative one.

    Attributes:
        shift: At least 1.
        factor: Not 0.
    """

    shift: int
    factor: int


@dataclass(frozen=True, eq=False, kw_only=True)
class PlaneCounting:
    """The counters ``F`` of a sparse convolution; the result is ``factor * F + base``.

    Let A be the number of counted weights whose activation is set, and n the number of counted weights inside the
    image. With {0, 1} weights all set weights are counted, F is A, and the result is ``E = 2 A - n``.

    With {-1, +1} weights only the weights of the rarer sign m are counted. Let pc be the number of set activations
    among the K activations of the window, a number of Q bits. Then the result is::

        D = m (4 A - 2 n - 2 pc + K) = 2 m F + m (K - 2 n - 2 (2^Q - 1)),    F = 2 A + (2^Q - 1 - pc)

    pc is the same for all channels of a group and is computed separately (window_counts.py); the counters hold A only.
    A WindowThreshold on {0, 1} weights defines another F (``term``).

    Attributes:
        shape: The layer.
        bits: bool [OC, Cin / groups, kh, kw], the set weights.
        pad_value: The value of padding: -1, 0 or +1.
        isa: The instruction set.
        signs: Whether weights are -1 and +1, not 0 and 1.
        source: Layout of the input.
        target: Layout of the output.
        cut: One of ``cuts``; None for the first.
        other: The window term of a comparison on {0, 1} weights; None if there is none.
        floats: Whether the counters are converted to floats.
    """

    shape: Conv2dShape
    bits: np.ndarray
    pad_value: int
    isa: Isa
    signs: bool
    source: PlaneLayout
    target: PlaneLayout
    cut: Cut | None = None
    other: WindowTerm | None = None
    floats: bool = False

    @property
    def term(self) -> WindowTerm | None:
        """The window term of F; None if F is A."""
        return WindowTerm(1, -1) if self.signs else self.other

    @property
    def cuts(self) -> list[Cut]:
        """Every cut that is worth measuring; the default of the rule comes first."""
        slices = dict.fromkeys([self.best_slices, *(s for s in (1, 2, 4) if s <= self.shape.group_in_channels)])
        blocks = dict.fromkeys((self.best_block, 16, 32))
        return [Cut(each, block) for each in slices for block in blocks]

    @cached_property
    def window(self) -> PlaneWindow:
        """The planes of all taps."""
        return PlaneWindow(self.shape, self.source, self.target, self.pad_value)

    @cached_property
    def sign(self) -> np.ndarray:
        """m: the rarer sign of each output channel, int64 [OC]."""
        rare = 2 * np.count_nonzero(self.bits, axis=(1, 2, 3)) <= self.bits[0].size
        return np.where(rare | (not self.signs), 1, -1)

    @cached_property
    def counted(self) -> np.ndarray:
        """Which weights are counted, bool of the shape of ``bits``."""
        return self.bits ^ (self.sign < 0)[:, None, None, None]

    def first_slab(self, vector: tirx.Expr) -> tirx.Expr:
        """Number of the first slab of a vector's window."""
        a, b = self.target.row_phases, self.target.column_phases
        return self.window.first_slab(vector // (a * b), vector // b % a, vector % b)

    @property
    def chunk(self) -> int:
        """Output channels per task: fewer than all if the output has few vectors or counts become floats."""
        channels = self.shape.out_channels
        if self.floats:
            channels = max(_WORD // 2, _COUNTS // (self.target.vector_bits * self.count_bytes))
        if self.target.vectors >= _TASKS:
            return channels
        return min(channels, max(_WORD, -(-self.shape.out_channels * self.target.vectors // _TASKS // _WORD) * _WORD))

    @property
    def chunks(self) -> int:
        """Number of chunks, that is, of tasks per vector of pixels."""
        return -(-self.shape.out_channels // self.chunk)

    @property
    def pieces(self) -> int:
        """Planes that are added at once, side by side in one register; more than 1 if planes are narrow."""
        return max(1, min(256, self.isa.plane_bits) // self.target.vector_bits)

    @property
    def unit(self) -> int:
        """The unit of the offsets in the lists, in 64-bit words; addressing modes scale by it at no cost."""
        return 1 if self.isa.architecture == "x86" else self.target.words

    @cached_property
    def counts(self) -> np.ndarray:
        """Number of counted weights of each output channel, int64 [OC]."""
        return np.count_nonzero(self.counted, axis=(1, 2, 3))

    @property
    def slices(self) -> int:
        """Same as in ``Cut``."""
        return self.best_slices if self.cut is None else self.cut.slices

    @cached_property
    def best_slices(self) -> int:
        """The default number of slices.

        Each slice after the first costs one addition of two numbers per vector and channel. Short lists do not save
        enough to pay for it.
        """
        kh, kw = self.shape.kernel
        planes = kh * kw * self.shape.group_in_channels
        return max(1, min(-(-planes * self.target.words * 8 // _CACHED), int(self.counts.mean()) // _SLICED))

    @cached_property
    def lists(self) -> WeightLists:
        """The offsets of the counted weights."""
        shape, offsets = self.shape, self.window.offsets() // self.unit
        grouped = offsets.reshape(shape.groups, shape.group_in_channels, *shape.kernel)
        borders = [i * shape.group_in_channels // self.slices for i in range(self.slices + 1)]
        slices = [
            [
                grouped[oc // shape.group_out_channels, first:end][mask[first:end]]
                for oc, mask in enumerate(self.counted)
            ]
            for first, end in pairwise(borders)
        ]
        # AArch64 loads two 32-bit offsets with one instruction.
        wide = self.isa.architecture == "aarch64"
        return WeightLists.of(slices, self.window.zeros() // self.unit, self.pieces, self.chunk, wide)

    @property
    def block(self) -> int:
        """Same as in ``Cut``."""
        return self.best_block if self.cut is None else self.cut.block

    @property
    def best_block(self) -> int:
        """The default block; a small one without vectors, where each addition of planes is a dozen instructions."""
        if self.isa.scalar:
            return 2 * TAIL
        steps = -(-self.counts // (self.best_slices * self.pieces * TAIL)) * TAIL
        return 32 if steps.mean() >= 64 else 16

    @property
    def window_levels(self) -> int:
        """Q: number of planes of pc."""
        return int(self.bits[0].size).bit_length()

    @property
    def count_bytes(self) -> int:
        """Bytes per count: 1, or a multiple of 2."""
        return 1 if self.levels <= 8 else -(-self.levels // 16) * 2

    @property
    def levels(self) -> int:
        """Number of planes of A; A never reaches the largest number that they can hold."""
        return (int(self.counts.max()) + 1).bit_length()

    @cached_property
    def valid(self) -> np.ndarray:
        """Whether a tap counts, per border class: bool [classes, kh, kw]."""
        if self.pad_value == 0 and any(self.shape.padding):
            return self.shape.border_classes().valid
        return np.ones((1, *self.shape.kernel), bool)

    @cached_property
    def factor(self) -> np.ndarray:
        """Factor of F in the result: int64 [OC]."""
        return 2 * self.sign

    @cached_property
    def inside(self) -> np.ndarray:
        """n: counted weights inside the image, int64 [classes, OC]."""
        return np.einsum("kyx,oyx->ko", self.valid, np.count_nonzero(self.counted, axis=1))

    @cached_property
    def taps(self) -> np.ndarray:
        """Activations of a window that are inside the image: int64 [classes]."""
        return self.shape.group_in_channels * np.count_nonzero(self.valid, axis=(1, 2))

    @cached_property
    def base(self) -> np.ndarray:
        """Constant term of the result: int64 [classes, OC]."""
        if not self.signs:
            return -self.inside
        return self.sign * (self.taps[:, None] - 2 * self.inside - 2 * ((1 << self.window_levels) - 1))

    @cached_property
    def classes(self) -> np.ndarray:
        """The border class of each bit, -1 for bits that are no pixel: int64 [vectors, vector_bits]."""
        target = self.target
        of_pixel = np.zeros((target.height, target.width), np.int64)
        if len(self.valid) > 1:
            border = self.shape.border_classes()
            of_pixel = border.row_class[:, None].astype(np.int64) * border.columns + border.col_class[None, :]
        lanes = [target.row_phases, target.row_bits * target.column_phases]
        grid = np.full((target.blocks * target.images, target.rows * lanes[0], lanes[1]), -1)
        grid[: target.batch, : target.height, : target.width] = of_pixel
        split = grid.reshape(
            target.blocks, target.images, target.rows, target.row_phases, target.row_bits, target.column_phases
        )
        vectors = split.transpose(0, 3, 5, 1, 2, 4).reshape(target.vectors, -1)
        missing = target.vector_bits - vectors.shape[1]
        return np.pad(vectors, [(0, 0), (0, missing)], constant_values=-1)
