"""What the counters of a sparse convolution count, and how that becomes the layer's result."""

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

_TASKS = 16  # what a kernel is cut into, about, if its output has fewer vectors
_WORD = 64
_CACHED = 40 * 1024  # bytes of planes that stay in a first-level cache
_COUNTS = 32 * 1024  # bytes of counts that become floats together, from a first-level cache
_SLICED = 384  # counted weights of a channel for each slice, at least


@dataclass(frozen=True)
class Cut:
    """How the lists of set weights are cut up.

    Attributes:
        slices: Into how many slices the input channels of a group are cut: the planes of one stay in the cache.
        block: Steps of the main loop's body: a larger one carries less often into the upper planes.
    """

    slices: int
    block: int

    def __str__(self) -> str:
        return f"{self.slices}x{self.block}"


@dataclass(frozen=True)
class WindowTerm:
    """What a comparison adds to the counters A: ``F = 2^shift * A + |factor| * v``.

    With pc the number of set activations among the K of the window, of Q bits, v is pc, or where the factor is negative
    ``2^Q - 1 - pc``.

    Attributes:
        shift: At least 1.
        factor: Not 0.
    """

    shift: int
    factor: int


@dataclass(frozen=True, eq=False, kw_only=True)
class PlaneCounting:
    """The counters ``F`` of a sparse convolution; the result is ``factor * F + base``.

    With {0, 1} weights F is the number A of set weights that meet a set activation, and of those n that lie inside of
    the image the result is ``E = 2 A - n``. With {-1, +1} weights only those of the rarer sign m are counted, and::

        D = m (4 A - 2 n - 2 pc + K) = 2 m F + m (K - 2 n - 2 (2^Q - 1)),    F = 2 A + (2^Q - 1 - pc)

    where pc is the number of set activations among the K of the window, of Q bits: the same for all channels of a group
    (window_counts.py). The counters count A alone. Thresholds of other weights are compared with another F
    (``term``).

    Attributes:
        shape: The layer.
        bits: bool [OC, Cin / groups, kh, kw], the set weights.
        pad_value: What lies outside of the image: -1, 0 or +1.
        isa: The instruction set.
        signs: Whether weights are -1 and +1, not 0 and 1.
        source: Layout of the input.
        target: Layout of the output.
        cut: One of ``cuts``; None for the first.
        other: What a comparison adds to the counters of {0, 1} weights.
        floats: Whether the counters become floats.
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
        """What F has beside A, if anything."""
        return WindowTerm(1, -1) if self.signs else self.other

    @property
    def cuts(self) -> list[Cut]:
        """Every cut worth trying, the one that the rule picks first."""
        slices = dict.fromkeys([self.best_slices, *(s for s in (1, 2, 4) if s <= self.shape.group_in_channels)])
        blocks = (32, 16) if self.best_block == 32 else (16, 32)
        return [Cut(each, block) for each in slices for block in blocks]

    @cached_property
    def window(self) -> PlaneWindow:
        """The planes of all taps."""
        return PlaneWindow(self.shape, self.source, self.target, self.pad_value)

    @cached_property
    def sign(self) -> np.ndarray:
        """m of every output channel, int64 [OC]: the sign that is rarer."""
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
        """Output channels that are one task: all, or less where the output has few vectors, or counts are floats."""
        channels = self.shape.out_channels
        if self.floats:
            channels = max(_WORD // 2, _COUNTS // (self.target.vector_bits * self.count_bytes))
        if self.target.vectors >= _TASKS:
            return channels
        return min(channels, max(_WORD, -(-self.shape.out_channels * self.target.vectors // _TASKS // _WORD) * _WORD))

    @property
    def chunks(self) -> int:
        """Tasks of a vector."""
        return -(-self.shape.out_channels // self.chunk)

    @property
    def pieces(self) -> int:
        """Planes that are added at once, side by side, since one does not fill a register."""
        return max(1, min(256, self.isa.vector_bits) // self.target.vector_bits)

    @property
    def unit(self) -> int:
        """64-bit words that an offset in the lists counts: what an address may be scaled by."""
        return 1 if self.isa.architecture == "x86" else self.target.words

    @cached_property
    def counts(self) -> np.ndarray:
        """Counted weights of every output channel, int64 [OC]."""
        return np.count_nonzero(self.counted, axis=(1, 2, 3))

    @property
    def slices(self) -> int:
        """As of Cut."""
        return self.best_slices if self.cut is None else self.cut.slices

    @cached_property
    def best_slices(self) -> int:
        """The slices that the rule picks.

        Each slice but the first adds up two numbers for every vector and channel, which short lists do not pay for.
        """
        kh, kw = self.shape.kernel
        planes = kh * kw * self.shape.group_in_channels
        return max(1, min(-(-planes * self.target.words * 8 // _CACHED), int(self.counts.mean()) // _SLICED))

    @cached_property
    def lists(self) -> WeightLists:
        """The counted weights."""
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
        # AArch64 loads two of 32 bits with one instruction.
        wide = self.isa.architecture == "aarch64"
        return WeightLists.of(slices, self.window.zero // self.unit, self.pieces, self.chunk, wide)

    @property
    def block(self) -> int:
        """As of Cut."""
        return self.best_block if self.cut is None else self.cut.block

    @property
    def best_block(self) -> int:
        """The block that the rule picks."""
        steps = -(-self.counts // (self.best_slices * self.pieces * TAIL)) * TAIL
        return 32 if steps.mean() >= 64 else 16

    @property
    def window_levels(self) -> int:
        """Q: planes of pc."""
        return int(self.bits[0].size).bit_length()

    @property
    def count_bytes(self) -> int:
        """Bytes of a count: 1, or a multiple of 2."""
        return 1 if self.levels <= 8 else -(-self.levels // 16) * 2

    @property
    def levels(self) -> int:
        """Planes of A, which is always less than their largest number."""
        return (int(self.counts.max()) + 1).bit_length()

    @cached_property
    def valid(self) -> np.ndarray:
        """bool [classes, kh, kw]: which taps count, in every border class."""
        if self.pad_value == 0 and any(self.shape.padding):
            return self.shape.border_classes().valid
        return np.ones((1, *self.shape.kernel), bool)

    @cached_property
    def factor(self) -> np.ndarray:
        """int64 [OC]."""
        return 2 * self.sign

    @cached_property
    def inside(self) -> np.ndarray:
        """n: int64 [classes, OC]."""
        return np.einsum("kyx,oyx->ko", self.valid, np.count_nonzero(self.counted, axis=1))

    @cached_property
    def taps(self) -> np.ndarray:
        """Activations of a window that are inside of the image: int64 [classes]."""
        return self.shape.group_in_channels * np.count_nonzero(self.valid, axis=(1, 2))

    @cached_property
    def base(self) -> np.ndarray:
        """int64 [classes, OC]."""
        if not self.signs:
            return -self.inside
        return self.sign * (self.taps[:, None] - 2 * self.inside - 2 * ((1 << self.window_levels) - 1))

    @cached_property
    def classes(self) -> np.ndarray:
        """The border class of every bit, -1 for those that are no pixel: int64 [vectors, vector_bits]."""
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
