"""Circular shifts of packed channels over the image: each word is assembled from masked words, one per shift."""

from __future__ import annotations

from functools import reduce
from operator import or_

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..isa import Isa
from ..kernel import Kernel
from ..layouts.words import pack_channels
from ..tir.kernel_builder import KernelBuilder
from ..tir.loops import parallel_rows


def shift_bits(shape: tuple[int, int, int, int], shifts: np.ndarray, isa: Isa) -> Kernel:
    """Shift each channel down and right by its own number of pixels; pixels that leave the image wrap around.

    A word costs one load per distinct shift of its channels. With several shifts, each load is followed by a mask.

    Args:
        shape: (N, H, W, C) of the feature map.
        shifts: int [C, 2], rows down and columns right, of any sign.
        isa: The instruction set.

    Returns:
        ``func(words [N, H, W, isa.words(C)], masks, out [N, H, W, isa.words(C)])``.

    Raises:
        ValueError: If the shape of ``shifts`` is not [C, 2].
    """
    batch, height, width, channels = shape
    if shifts.shape != (channels, 2):
        raise ValueError(f"the shifts of {channels} channels are {shifts.shape}, not ({channels}, 2)")
    words = isa.words(channels)
    distinct, of_channel = np.unique(shifts % [height, width], axis=0, return_inverse=True)
    masks = pack_channels(of_channel.reshape(-1) == np.arange(len(distinct))[:, None], isa)
    stored = (batch, height, width, words)
    with KernelBuilder("shift_bits") as builder:
        data = builder.data(stored, isa.word)
        table = builder.constant("masks", masks)
        out = builder.output(stored, isa.word)
        with parallel_rows(batch * height, batch * height * width * words) as row:
            n, y = T.bind(row // height), T.bind(row % height)
            rows = [T.bind(_before(y, int(dy), height)) for dy, _ in distinct]
            with T.serial(0, width) as x:
                columns = [T.bind(_before(x, int(dx), width)) for _, dx in distinct]
                for first, count in _runs(masks != 0):
                    moved = np.flatnonzero(masks[:, first])
                    with T.serial(first, first + count) as w:
                        parts = [data[n, rows[g], columns[g], w] for g in moved]
                        if len(parts) > 1:
                            parts = [part & table[int(g), w] for part, g in zip(parts, moved, strict=True)]
                        T.buffer_store(out, reduce(or_, parts), [n, y, x, w])
    return builder.kernel()


def _before(at: tirx.Expr, shift: int, extent: int) -> tirx.Expr:
    """``(at - shift) mod extent`` for ``0 <= shift < extent``."""
    return at if shift == 0 else tirx.Select(at < shift, at + (extent - shift), at - shift)


def _runs(used: np.ndarray) -> list[tuple[int, int]]:
    """Runs of neighbouring words with the same set of shifts, as (first word, number of words).

    Args:
        used: bool [shifts, words], whether a word has a channel with this shift.
    """
    starts = [0, *(w for w in range(1, used.shape[1]) if not np.array_equal(used[:, w], used[:, w - 1]))]
    return [(start, end - start) for start, end in zip(starts, [*starts[1:], used.shape[1]], strict=True)]
