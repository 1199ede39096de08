"""Selection of channels from float32 feature maps, with an epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from ..epilogue.program import Program
from ..epilogue.writer import EpilogueWriter
from ..isa import Isa
from ..kernel import Kernel
from ..selection import InputChannel, Selection
from ..tir.kernel_builder import KernelBuilder
from ..tir.loops import parallel_rows
from ..tir.vectors import Index, VectorType, load

MAX_GAP = 4
"""Sources at most this many channels apart are loaded together with the channels between them."""


def select_channels(pixels: tuple[int, ...], selection: Selection, epilogue: Program, isa: Isa) -> Kernel:
    """Assemble a feature map from selected channels of others.

    Args:
        pixels: (N, H, W), or (N,) for tensors [N, C].
        selection: The source of each output channel.
        epilogue: Ref(0) is the selected channel.
        isa: The instruction set.

    Returns:
        ``func(data float32 [*pixels, C] of each input, *tensors, *constants, *outputs)``.
    """
    run, lanes = max(isa.word_bits, isa.float_lanes), isa.float_lanes
    shape = (*pixels, len(selection.sources))
    writer = EpilogueWriter(epilogue, shape, isa, tile=run)
    rows, columns = (pixels[0], 1) if len(pixels) == 1 else (pixels[0] * pixels[1], pixels[2])
    with KernelBuilder("select_channels") as builder:
        inputs = enumerate(selection.inputs)
        data = [builder.data((*pixels, channels), "float32", f"data{i}") for i, channels in inputs]
        writer.declare(builder)

        def store_block(position: tuple[Index, ...], block: _Blocks, number: Index) -> None:
            moved = number * block.step
            values = [_gather(data, position, block.sources[i : i + lanes], moved, lanes) for i in range(0, run, lanes)]
            writer.store(values, position, block.first + number * run)

        with parallel_rows(rows, rows * columns * shape[-1]) as row, T.serial(0, columns) as x:
            position = (row,) if len(pixels) == 1 else (row // pixels[1], row % pixels[1], x)
            for block in _blocks(selection.sources, run):
                if block.count == 1:
                    store_block(position, block, 0)
                else:
                    with T.serial(0, block.count) as number:
                        store_block(position, block, number)
    return builder.kernel()


@dataclass(frozen=True)
class _Blocks:
    """Consecutive blocks of output channels that one loop can compute.

    The sources of each block are those of the block before, moved by ``step`` channels.

    Attributes:
        first: First output channel.
        count: Number of blocks.
        step: Distance between the sources of neighbouring blocks, in channels of the inputs.
        sources: Sources of the first block.
    """

    first: int
    count: int
    step: int
    sources: tuple[InputChannel, ...]

    def follows(self, sources: Sequence[InputChannel]) -> int | None:
        """The step if a block with these sources continues the run; None if it does not."""
        if len(sources) != len(self.sources):
            return None
        pairs = zip(self.sources, sources, strict=True)
        steps = {b.channel - a.channel if a.input == b.input else None for a, b in pairs}
        step = steps.pop() if len(steps) == 1 else None
        if step is None or self.count == 1:
            return step
        return self.step if step == self.count * self.step else None


def _blocks(sources: Sequence[InputChannel], run: int) -> list[_Blocks]:
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
    data: Sequence[tirx.Buffer], position: tuple[Index, ...], sources: Sequence[InputChannel], moved: Index, lanes: int
) -> tirx.Expr:
    """Load a vector of channels, each ``moved`` channels after its source; lanes without a source are 0."""
    if not sources:
        return VectorType("float32", lanes).constant(0)
    pieces: list[tirx.Expr] = []
    place: dict[InputChannel, int] = {}
    size = 0
    for piece in _pieces(sources, lanes):
        pieces.append(load(data[piece[0].input], position, piece[0].channel + moved, len(piece)))
        place |= {source: size + i for i, source in enumerate(piece)}
        size += len(piece)
    if len(pieces) == 1 and size == lanes and [*place] == [*sources]:
        return pieces[0]
    order = [place[source] for source in sources] + [size] * (lanes - len(sources))
    zeros = max(1, lanes - size)  # a shuffle cannot have more lanes than its operands
    return tirx.Shuffle(pieces + [tirx.const(0, "float32")] * zeros, order)


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
