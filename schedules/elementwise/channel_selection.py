"""Selection of channels, rows and columns from feature maps of float32 or integers, with an epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..epilogue.program import Element, Program
from ..epilogue.writer import EpilogueWriter
from ..isa import Isa
from ..kernel import Kernel
from ..selection import InputChannel, PixelSelection, Selection
from ..tir.kernel_builder import KernelBuilder
from ..tir.loops import parallel_rows
from ..tir.vectors import Index, VectorType, load

MAX_GAP = 4
"""Sources at most this many channels apart are loaded together with the channels between them."""


def select_channels(
    pixels: tuple[int, ...],
    selection: Selection,
    epilogue: Program,
    isa: Isa,
    picked: PixelSelection | None = None,
    fill: float = 0.0,
    dtype: Element = "float32",
) -> Kernel:
    """Assemble a feature map from selected channels, rows and columns of others.

    Args:
        pixels: (N, H, W) of the result, or (N,) for tensors [N, C].
        selection: The source of each output channel.
        epilogue: Ref(0) is the selected channel, as float32.
        isa: The instruction set.
        picked: The source of each output row and column; None if the inputs have the same pixels.
        fill: The value of channels, rows and columns without a source.
        dtype: The element type of the inputs.

    Returns:
        ``func(data [N, H, W, C] (or [N, C]) of each input, *tensors, rows, columns, *constants, *outputs)``;
        ``rows`` and ``columns`` are int32, and missing without ``picked``.
    """
    run, lanes = max(isa.word_bits, isa.float_lanes), isa.float_lanes
    floats = VectorType("float32", lanes)
    shape = (*pixels, len(selection.sources))
    writer = EpilogueWriter(epilogue, shape, isa, tile=run)
    rows, columns = (pixels[0], 1) if len(pixels) == 1 else (pixels[0] * pixels[1], pixels[2])
    with KernelBuilder("select_channels") as builder:
        inputs = enumerate(selection.inputs)
        read = pixels if picked is None else (pixels[0], picked.height, picked.width)
        data = [builder.data((*read, channels), dtype, f"data{i}") for i, channels in inputs]
        tables = () if picked is None else (picked.rows, picked.columns)
        names = zip(("rows", "columns"), tables, strict=False)
        indices = [builder.constant(name, np.array(table, np.int32)) for name, table in names]
        writer.declare(builder)

        def store_blocks(position: tuple[Index, ...], source: tuple[Index, ...] | None) -> None:
            for block in _blocks(selection.sources, run):
                if block.count == 1:
                    store_block(position, source, block, 0)
                else:
                    with T.serial(0, block.count) as number:
                        store_block(position, source, block, number)

        def store_block(
            position: tuple[Index, ...], source: tuple[Index, ...] | None, block: _Blocks, number: Index
        ) -> None:
            moved = number * block.step
            values = [floats.constant(fill)] * (run // lanes)
            if source is not None:
                parts = [block.sources[i : i + lanes] for i in range(0, run, lanes)]
                values = [floats.cast(_gather(data, source, part, moved, lanes, fill)) for part in parts]
            writer.store(values, position, block.first + number * run)

        with parallel_rows(rows, rows * columns * shape[-1]) as row, T.serial(0, columns) as x:
            if picked is None:
                position = (row,) if len(pixels) == 1 else (row // pixels[1], row % pixels[1], x)
                store_blocks(position, position)
            else:
                n, y = row // pixels[1], row % pixels[1]
                above, left = T.bind(indices[0][y]), T.bind(indices[1][x])
                if picked.pads:
                    with T.If(tirx.all(above >= 0, left >= 0)):
                        with T.Then():
                            store_blocks((n, y, x), (n, above, left))
                        with T.Else():
                            store_blocks((n, y, x), None)
                else:
                    store_blocks((n, y, x), (n, above, left))
    return builder.kernel()


@dataclass(frozen=True)
class _Blocks:
    """Consecutive blocks of output channels that one loop can compute.

    The sources of each block are those of the block before, moved by ``step`` channels.

    Attributes:
        first: First output channel.
        count: Number of blocks.
        step: Distance between the sources of neighbouring blocks, in channels of the inputs.
        sources: Sources of the first block; None for channels without one.
    """

    first: int
    count: int
    step: int
    sources: tuple[InputChannel | None, ...]

    def follows(self, sources: Sequence[InputChannel | None]) -> int | None:
        """The step if a block with these sources continues the run; None if it does not."""
        if len(sources) != len(self.sources):
            return None
        steps: set[int | None] = set()
        for a, b in zip(self.sources, sources, strict=True):
            if a is not None and b is not None:
                steps.add(b.channel - a.channel if a.input == b.input else None)
            elif a is not b:
                steps.add(None)
        step = steps.pop() if len(steps) == 1 else None if steps else self.step
        if step is None or self.count == 1:
            return step
        return self.step if step == self.count * self.step else None


def _blocks(sources: Sequence[InputChannel | None], run: int) -> list[_Blocks]:
    blocks: list[_Blocks] = []
    for first in range(0, len(sources), run):
        some = tuple(sources[first : first + run])
        step = blocks[-1].follows(some) if blocks else None
        if step is None:
            blocks.append(_Blocks(first, 1, 0, some))
        else:
            last = blocks[-1]
            blocks[-1] = _Blocks(last.first, last.count + 1, step, last.sources)
    return blocks


def _gather(
    data: Sequence[tirx.Buffer],
    position: tuple[Index, ...],
    sources: Sequence[InputChannel | None],
    moved: Index,
    lanes: int,
    fill: float,
) -> tirx.Expr:
    """Load a vector of channels, each ``moved`` channels after its source; lanes without a source are ``fill``."""
    existing = [source for source in sources if source is not None]
    vector = VectorType(str(data[0].dtype), lanes)
    absent = fill if vector.element == "float32" else int(fill)
    if not existing:
        return vector.constant(absent)
    pieces: list[tirx.Expr] = []
    place: dict[InputChannel, int] = {}
    size = 0
    for piece in _pieces(existing, lanes):
        pieces.append(load(data[piece[0].input], position, piece[0].channel + moved, len(piece)))
        place |= {source: size + i for i, source in enumerate(piece)}
        size += len(piece)
    if len(pieces) == 1 and size == lanes and [*place] == [*sources]:
        return pieces[0]
    order = [size if source is None else place[source] for source in sources] + [size] * (lanes - len(sources))
    filled = max(1, lanes - size)  # a shuffle cannot have more lanes than its operands
    return tirx.Shuffle(pieces + [tirx.const(absent, vector.element)] * filled, order)


def _pieces(sources: Sequence[InputChannel], lanes: int) -> list[list[InputChannel]]:
    """Runs of contiguous channels that contain all sources; the length of each run is a power of two."""
    spans: list[list[InputChannel]] = []
    for source in sorted(set(sources), key=lambda each: (each.input, each.channel)):
        last = spans[-1][-1] if spans else None
        if last is not None and last.input == source.input and source.channel - last.channel <= MAX_GAP:
            spans[-1] += [InputChannel(source.input, c) for c in range(last.channel + 1, source.channel + 1)]
        else:
            spans.append([source])
    pieces = []
    for span in spans:
        while span:
            size = min(lanes, 1 << (len(span).bit_length() - 1))
            pieces.append(span[:size])
            span = span[size:]
    return pieces
