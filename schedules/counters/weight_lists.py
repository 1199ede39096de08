"""The set weights of a sparse layer as lists of plane offsets, in the order in which a kernel reads them.

The input channels may be cut into *slices*, so that the planes of one slice fit the first-level cache. Each output
channel then has one list per slice. A *chunk* is the output channels of one task. Within a slice, each chunk's lists
are sorted from long to short: neighbouring lists have loops of the same length, so their branches are predicted.

A list is cut into *steps*. Each step adds one vector of planes: one plane, or several narrow planes side by side. Lists
are filled up to a multiple of ``TAIL`` steps with offsets of a plane of zeros: the next one after the last entry, so
that the lists, which are sorted, have short codes (schedules/coded/differences.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TAIL = 4
"""Steps of the shortest piece of a list."""


@dataclass(frozen=True, eq=False)
class WeightLists:
    """The lists of all output channels.

    Attributes:
        channels: [slices, OC], the output channel of each list. The integers are as small as possible, like all others.
        table: [slices, OC, 2]: the first entry of a list, and its length in units of ``TAIL`` steps.
        entries: Offsets, uint16 or uint32: all lists, one after the other, and one extra entry.
        pieces: Entries per step.
        mean: Mean number of steps per list.
    """

    channels: np.ndarray
    table: np.ndarray
    entries: np.ndarray
    pieces: int
    mean: float

    @classmethod
    def of(
        cls, slices: Sequence[Sequence[np.ndarray]], zeros: np.ndarray, pieces: int, chunk: int, wide: bool
    ) -> WeightLists:
        """Lay out lists of offsets.

        Args:
            slices: The offsets of the set weights, per slice and output channel.
            zeros: The offsets of the planes of zeros, in ascending order; the last is above all others.
            pieces: Entries per step.
            chunk: Output channels per chunk.
            wide: Whether to store uint32 even where uint16 suffices.
        """
        channels, table, entries, first = [], [], [], 0
        for lists in slices:
            counts = np.array([len(each) for each in lists], np.int64)
            order = np.lexsort((-counts, np.arange(len(lists)) // chunk))
            channels.append(order)
            for channel in order:
                tails = -(-len(lists[channel]) // (TAIL * pieces))
                table.append((first, tails))
                offsets = np.sort(lists[channel])
                zero = zeros[np.searchsorted(zeros, offsets[-1])] if len(offsets) else zeros[0]
                entries += [offsets, np.full(tails * TAIL * pieces - len(offsets), zero, np.int64)]
                first += tails * TAIL * pieces
        flat = np.concatenate([*entries, zeros[:1]])
        numbers = np.array(table, np.int64).reshape(len(slices), -1, 2)
        return cls(
            _small(np.array(channels)),
            _small(numbers),
            flat.astype(np.uint32 if wide or flat.max() >= 1 << 16 else np.uint16),
            pieces,
            float(numbers[..., 1].mean()) * TAIL,
        )


def _small(numbers: np.ndarray) -> np.ndarray:
    """Numbers that are not negative, in the smallest dtype that holds them."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))
