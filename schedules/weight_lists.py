"""The set weights of a sparse layer as lists of plane offsets, in the order in which a kernel walks them.

The channels with most weights come first (in every chunk of channels, which is the work of one thread), so that the
loops of neighbouring channels have the same lengths and their branches are predicted. A list is cut into *steps*; in
each step one vector of planes is added: one plane, or several narrow ones side by side. Lists are filled up to a
multiple of ``TAIL`` steps with a plane of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_BLOCKS = (16, 32)
_LONG = 64  # steps of a list from which on the larger block pays: its carries go through the upper planes half as often

TAIL = 4
"""Steps that the shortest piece of a list takes."""


@dataclass(frozen=True, eq=False)
class WeightLists:
    """The lists of all output channels.

    Attributes:
        channels: int32 [OC], the output channel of every list.
        counts: int64 [OC], set weights of every list.
        table: int32 [OC, 3]: the first entry, the number of blocks, and the pieces of ``TAIL`` steps behind them.
        entries: Offsets, uint16 or uint32, one list behind the other.
        pieces: Entries of a step.
        block: Steps of the main loop's body.
    """

    channels: np.ndarray
    counts: np.ndarray
    table: np.ndarray
    entries: np.ndarray
    pieces: int
    block: int

    @classmethod
    def of(cls, lists: list[np.ndarray], zero: int, pieces: int, chunk: int, wide: bool) -> WeightLists:
        """Lay out lists of offsets.

        Args:
            lists: For every output channel the offsets of its set weights.
            zero: The offset of a plane of zeros.
            pieces: Entries of a step.
            chunk: Channels of a chunk.
            wide: Take uint32 even where uint16 would do.
        """
        counts = np.array([len(each) for each in lists], np.int64)
        order = np.lexsort((-counts, np.arange(len(lists)) // chunk))
        block = _BLOCKS[int(counts.mean() >= _LONG * pieces)]
        table, entries, first = [], [], 0
        for channel in order:
            steps = -(-len(lists[channel]) // (TAIL * pieces)) * TAIL
            blocks, rest = divmod(steps, block)
            table.append((first, blocks, rest // TAIL))
            padding = np.full(steps * pieces - len(lists[channel]), zero, np.int64)
            entries.append(np.concatenate([np.sort(lists[channel]), padding]))
            first += steps * pieces
        flat = np.concatenate([*entries, np.full(1, zero, np.int64)])
        dtype = np.uint32 if wide or flat.max() >= 1 << 16 else np.uint16
        return cls(order.astype(np.int32), counts[order], np.array(table, np.int32), flat.astype(dtype), pieces, block)
