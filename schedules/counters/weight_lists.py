"""The set weights of a sparse layer as lists of plane offsets, in the order in which a kernel walks them.

The input channels may be cut into *slices*, so that the planes of one stay in the first-level cache: then every output
channel has a list for each slice. In a slice the longest lists come first (in every chunk of output channels, which is
the work of one thread), so that the loops of neighbouring lists have the same lengths and their branches are predicted.
A list is cut into *steps*; in each step one vector of planes is added: one plane, or several narrow ones side by side.
Lists are filled up to a multiple of ``TAIL`` steps with a plane of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TAIL = 4
"""Steps that the shortest piece of a list takes."""


@dataclass(frozen=True, eq=False)
class WeightLists:
    """The lists of all output channels.

    Attributes:
        channels: int32 [slices, OC], the output channel of every list.
        table: int32 [slices, OC, 2]: the first entry of a list, and how many times ``TAIL`` steps it has.
        entries: Offsets, uint16 or uint32, one list behind the other, and one more.
        pieces: Entries of a step.
        mean: Steps of a list, on average.
    """

    channels: np.ndarray
    table: np.ndarray
    entries: np.ndarray
    pieces: int
    mean: float

    @classmethod
    def of(cls, slices: Sequence[Sequence[np.ndarray]], zero: int, pieces: int, chunk: int, wide: bool) -> WeightLists:
        """Lay out lists of offsets.

        Args:
            slices: For every slice and output channel the offsets of its set weights.
            zero: The offset of a plane of zeros.
            pieces: Entries of a step.
            chunk: Channels of a chunk.
            wide: Take uint32 even where uint16 would do.
        """
        channels, table, entries, first = [], [], [], 0
        for lists in slices:
            counts = np.array([len(each) for each in lists], np.int64)
            order = np.lexsort((-counts, np.arange(len(lists)) // chunk))
            channels.append(order)
            for channel in order:
                tails = -(-len(lists[channel]) // (TAIL * pieces))
                table.append((first, tails))
                padding = np.full(tails * TAIL * pieces - len(lists[channel]), zero, np.int64)
                entries += [np.sort(lists[channel]), padding]
                first += tails * TAIL * pieces
        flat = np.concatenate([*entries, np.full(1, zero, np.int64)])
        numbers = np.array(table, np.int32).reshape(len(slices), -1, 2)
        return cls(
            np.array(channels, np.int32),
            numbers,
            flat.astype(np.uint32 if wide or flat.max() >= 1 << 16 else np.uint16),
            pieces,
            float(numbers[..., 1].mean()) * TAIL,
        )
