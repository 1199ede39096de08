"""Interleaving of phases: groups of channels of small maps become the pixels of a larger one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..isa import Isa
from ..kernel import Kernel
from ..tir.kernel_builder import KernelBuilder
from ..tir.loops import for_blocks, parallel_rows
from ..tir.vectors import Index, load, powers_of_two, store


@dataclass(frozen=True, eq=False)
class Interleaving:
    """Which channels of a small map become which pixels of a large one.

    Pixel (y, x) of the result is read at row ``(y + top) // rows`` and column ``(x + left) // columns`` of the small
    map, from the channels of phase ``(y + top) % rows, (x + left) % columns``.

    Attributes:
        channels: For each phase and each channel of the result the channel of the small map, int64 [rows, columns, C].
        top, left: The rows and columns that are dropped at the beginning.
        height, width: The size of the result. It may drop rows and columns at the end.
    """

    channels: np.ndarray
    top: int
    left: int
    height: int
    width: int

    @property
    def phases(self) -> int:
        """Number of phases."""
        return self.channels.shape[0] * self.channels.shape[1]

    @property
    def in_order(self) -> bool:
        """Whether the channels of the small map are those of the first phase, of the second, and so on."""
        return np.array_equal(self.channels.reshape(-1), np.arange(self.channels.size))

    def equals(self, other: Interleaving) -> bool:
        """Whether both read the same channels for the same pixels."""
        same = (self.top, self.left, self.height, self.width) == (other.top, other.left, other.height, other.width)
        return same and np.array_equal(self.channels, other.channels)


def interleave(
    small: tuple[int, int, int], parts: Sequence[int], interleaving: Interleaving, dtype: str, isa: Isa
) -> Kernel:
    """Interleave the channels of some maps, which together are the small map.

    Args:
        small: (N, H, W) of these maps.
        parts: Their channels; for packed bits their words.
        interleaving: What is read. Its channels are elements of the maps, one after the other.
        dtype: Type of the elements.
        isa: The instruction set.

    Returns:
        ``func(data [N, H, W, part]..., out [N, height, width, C])``.
    """
    batch, height, width = small
    rows, columns, channels = interleaving.channels.shape
    lanes = max(1, isa.vector_bits // (8 * np.dtype(dtype).itemsize))
    line = interleaving.width * channels
    with KernelBuilder("interleave") as builder:
        data = [builder.data((batch, height, width, part), dtype, f"data{i}") for i, part in enumerate(parts)]
        out = builder.output((batch, interleaving.height, interleaving.width, channels), dtype)
        lines = T.decl_buffer((batch, interleaving.height, line), dtype, data=out.data)

        def copy(run: _Run, n: Index, q: Index, y: Index, pixel: Index) -> None:
            target = (pixel * columns - interleaving.left) * channels + run.target

            def block(first: Index, valid: int) -> None:
                for start, size in powers_of_two(valid):
                    value = load(data[run.part], (n, q, pixel), run.source + first + start, size)
                    store(lines, value, (n, y), target + first + start)

            for_blocks(run.length, lanes, block)

        def copy_row(phase: int, n: Index, q: Index, y: Index) -> None:
            for run in _runs(interleaving, phase, parts, width):
                with T.serial(0, run.pixels) as pixel:
                    copy(run, n, q, y, pixel + run.first)

        with parallel_rows(batch * height, batch * interleaving.height * line) as row:
            n, q = T.bind(tirx.floordiv(row, height)), T.bind(tirx.floormod(row, height))
            for phase in range(rows):
                y = T.bind(q * rows + (phase - interleaving.top))
                with T.If(tirx.all(y >= 0, y < interleaving.height)), T.Then():
                    copy_row(phase, n, q, y)
    return builder.kernel()


@dataclass(frozen=True)
class _Run:
    """Elements that are neighbours in a map and in the result, for each of some pixels of a row of the map.

    Attributes:
        part: The map.
        source: The first element of a pixel of the map.
        target: The first element of the pixels of the result that stand for one of the map.
        length: Number of elements.
        first: The first pixel.
        pixels: Number of pixels.
    """

    part: int
    source: int
    target: int
    length: int
    first: int
    pixels: int


def _runs(interleaving: Interleaving, row: int, parts: Sequence[int], width: int) -> list[_Run]:
    """The runs of one phase of rows."""
    _, columns, channels = interleaving.channels.shape
    starts = np.cumsum([0, *parts])
    of_pixel = interleaving.channels[row].reshape(-1)
    part = np.searchsorted(starts, of_pixel, side="right") - 1
    pixels = []
    for phase in range(columns):
        first = -(-(interleaving.left - phase) // columns) if interleaving.left > phase else 0
        end = -(-(interleaving.width + interleaving.left - phase) // columns)
        pixels.append((first, min(end, width) - first))
    runs, begin = [], 0
    for i in range(1, len(of_pixel) + 1):
        if i < len(of_pixel):
            near = of_pixel[i] == of_pixel[i - 1] + 1 and part[i] == part[i - 1]
            if near and pixels[i // channels] == pixels[(i - 1) // channels]:
                continue
        first, count = pixels[begin // channels]
        source = int(of_pixel[begin] - starts[part[begin]])
        runs.append(_Run(int(part[begin]), source, begin, i - begin, first, count))
        begin = i
    return runs
