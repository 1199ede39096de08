"""Concatenation, split and shuffle of channels are one thing: every output channel is a channel of some input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import gcd
from operator import or_

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from ..epilogue.program import Program
from ..epilogue.writer import EpilogueWriter, Index
from ..isa import Isa
from ..kernel import Kernel
from ..tir.llvm import link
from ..tir.loops import parallel_rows

MAX_GAP = 4
"""Unused channels that are loaded along with their neighbours, rather than to load twice."""


@dataclass(frozen=True)
class Source:
    """A channel of one of the inputs."""

    input: int
    channel: int


@dataclass(frozen=True)
class Selection:
    """Where the channels of a result come from.

    Attributes:
        inputs: Channels of each input.
        sources: One for each channel of the result.

    Raises:
        ValueError: If there is no such channel.
    """

    inputs: tuple[int, ...]
    sources: tuple[Source, ...]

    def __post_init__(self) -> None:
        for source in self.sources:
            if not (0 <= source.input < len(self.inputs) and 0 <= source.channel < self.inputs[source.input]):
                raise ValueError(f"there is no channel {source.channel} of input {source.input} in {self.inputs}")

    @classmethod
    def concatenation(cls, channels: Sequence[int]) -> Selection:
        """All channels of all inputs in order."""
        return cls(tuple(channels), tuple(Source(i, c) for i, count in enumerate(channels) for c in range(count)))

    def __str__(self) -> str:
        if self == Selection.concatenation(self.inputs):
            return "concatenation"
        channels = [source.channel for source in self.sources]
        if len(self.inputs) == 1 and channels == list(range(channels[0], channels[0] + len(channels))):
            return f"{channels[0]} to {channels[-1]}"
        return "permutation" if len(set(self.sources)) == sum(self.inputs) == len(channels) else "selection"

    def take(self, indices: Sequence[int]) -> Selection:
        """Some channels of what this one selects."""
        return Selection(self.inputs, tuple(self.sources[index] for index in indices))


def select_channels(pixels: tuple[int, ...], selection: Selection, epilogue: Program, isa: Isa) -> Kernel:
    """Put feature maps together from channels of others.

    Args:
        pixels: (N, H, W), or (N,) of tensors [N, C].
        selection: The channels.
        epilogue: Its anchor is the selected channels.
        isa: The instruction set.

    Returns:
        ``func(data float32 [*pixels, C] of each input, *tensors, *constants, *outputs)``.
    """
    run, lanes = max(isa.word_bits, isa.float_lanes), isa.float_lanes
    shape = (*pixels, len(selection.sources))
    writer = EpilogueWriter(epilogue, shape, isa, tile=run)
    rows, columns = (pixels[0], 1) if len(pixels) == 1 else (pixels[0] * pixels[1], pixels[2])
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        T.func_name("select_channels")
        T.func_attr({"tirx.noalias": True})
        data = [
            T.arg(f"data{i}", T.buffer((*pixels, channels), "float32")) for i, channels in enumerate(selection.inputs)
        ]
        writer.declare_tensors()
        writer.declare_constants()
        writer.declare_outputs()

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
    return Kernel("select_channels", link(ib.get(), writer.functions), tuple(writer.constants), writer.outputs)


@dataclass(frozen=True)
class _Blocks:
    """Runs of channels that are alike: the sources of each are those of the one before, ``step`` channels further.

    Attributes:
        first: Channel of the result where they begin.
        count: How many.
        step: From block to block, in channels of the inputs.
        sources: Of the first one.
    """

    first: int
    count: int
    step: int
    sources: tuple[Source, ...]

    def follows(self, sources: Sequence[Source]) -> int | None:
        """The step to a next block of these sources; None if it is not like the others."""
        if len(sources) != len(self.sources):
            return None
        pairs = zip(self.sources, sources, strict=True)
        steps = {b.channel - a.channel if a.input == b.input else None for a, b in pairs}
        step = steps.pop() if len(steps) == 1 else None
        if step is None or self.count == 1:
            return step
        return self.step if step == self.count * self.step else None


def _blocks(sources: Sequence[Source], run: int) -> list[_Blocks]:
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
    data: Sequence[tirx.Buffer], position: tuple[Index, ...], sources: Sequence[Source], moved: Index, lanes: int
) -> tirx.Expr:
    """A vector of channels, each ``moved`` channels behind its source; 0 behind the last one."""
    zero = tirx.const(0, "float32")
    if not sources:
        return tirx.Broadcast(zero, lanes)
    pieces: list[tirx.Expr] = []
    place: dict[Source, int] = {}
    size = 0
    for piece in _pieces(sources, lanes):
        first = data[piece[0].input].vload(
            [*position, piece[0].channel + moved], f"float32x{len(piece)}" if len(piece) > 1 else "float32"
        )
        pieces.append(first)
        place |= {source: size + i for i, source in enumerate(piece)}
        size += len(piece)
    if len(pieces) == 1 and size == lanes and [*place] == [*sources]:
        return pieces[0]
    order = [place[source] for source in sources] + [size] * (lanes - len(sources))
    zeros = max(1, lanes - size)  # a shuffle has no more lanes than what it shuffles
    return tirx.Shuffle(pieces + [zero] * zeros, order)


def _pieces(sources: Sequence[Source], lanes: int) -> list[list[Source]]:
    """Contiguous channels, a power of two of them at a time, that contain all sources."""
    spans: list[list[Source]] = []
    for source in sorted(set(sources), key=lambda each: (each.input, each.channel)):
        last = spans[-1][-1] if spans else None
        if last is not None and last.input == source.input and source.channel - last.channel <= MAX_GAP:
            spans[-1] += [Source(source.input, c) for c in range(last.channel + 1, source.channel + 1)]
        else:
            spans.append([source])
    pieces = []
    for span in spans:
        while span:
            size = min(lanes, 1 << (len(span).bit_length() - 1))
            pieces.append(span[:size])
            span = span[size:]
    return pieces


def select_channels_bits(pixels: tuple[int, ...], selection: Selection, isa: Isa) -> Kernel:
    """Put packed feature maps together from channels of others: whole words, shifts, or a network of shifts.

    Args:
        pixels: (N, H, W), or (N,) of tensors [N, C].
        selection: The channels.
        isa: The instruction set.

    Returns:
        ``func(words [*pixels, isa.words(C)] of each input, out [*pixels, isa.words(C)])``.
    """
    channels = len(selection.sources)
    stored = [isa.words(count) * isa.word_bits for count in (*selection.inputs, channels)]
    width = gcd(64, *stored)  # memory holds the same bytes whatever the word
    word, count = f"uint{width}", int(np.prod(pixels))
    out_shape = (*pixels, isa.words(channels))
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        T.func_name("select_channels_bits")
        T.func_attr({"tirx.noalias": True})
        data = [
            T.arg(f"data{i}", T.buffer((*pixels, isa.words(size)), isa.word)) for i, size in enumerate(selection.inputs)
        ]
        out = T.arg("out", T.buffer(out_shape, isa.word))
        views = [
            T.decl_buffer((count, size // width), word, data=buffer.data)
            for buffer, size in zip((*data, out), stored, strict=True)
        ]
        with parallel_rows(count, count * sum(stored) // width) as pixel:
            for number in range(stored[-1] // width):
                sources = selection.sources[number * width : (number + 1) * width]
                parts = [
                    part
                    for (i, j), moves in _moves(sources, width).items()
                    for part in _moved(T.bind(views[i][pixel, j]), moves, min(width, selection.inputs[i] - j * width))
                ]
                T.buffer_store(views[-1], reduce(or_, parts, tirx.const(0, word)), [pixel, number])
    return Kernel("select_channels_bits", ib.get(), (), ((out_shape, isa.word),))


_Move = tuple[int, int]
"""From a bit to a bit."""


def _moves(sources: Sequence[Source], width: int) -> dict[tuple[int, int], list[_Move]]:
    """The bits that a word of the result gets from each word (input, number) of the inputs."""
    moves: dict[tuple[int, int], list[_Move]] = {}
    for bit, source in enumerate(sources):
        moves.setdefault((source.input, source.channel // width), []).append((source.channel % width, bit))
    return moves


def _moved(word: tirx.Expr, moves: Sequence[_Move], valid: int) -> list[tirx.Expr]:
    """Words to be ORed that hold the moved bits of a word, of which only the lowest ``valid`` bits can be 1.

    Bits of one distance move by one shift. Bits that keep their order can also move together, each by a sum of powers
    of two: first to the lowest bits, short distances first, then to where they belong, long distances first; no two of
    them ever meet. Whichever needs fewer instructions is taken.
    """
    distances: dict[int, list[_Move]] = {}
    for source, target in moves:
        distances.setdefault(target - source, []).append((source, target))
    shifted = [_shift(word, some, distance, valid) for distance, some in distances.items()]
    steps = (word.ty.dtype.bits - 1).bit_length()
    rising = _rising(moves)
    if 3 * len(shifted) <= 8 * steps * len(rising):
        return shifted
    return [_route(word, some, steps) for some in rising]


def _const(word: tirx.Expr, value: int) -> tirx.Expr:
    return tirx.const(value, str(word.ty.dtype))


def _mask(word: tirx.Expr, bits: Sequence[int]) -> tirx.Expr:
    return _const(word, sum(1 << bit for bit in bits))


def _shift(word: tirx.Expr, moves: Sequence[_Move], distance: int, valid: int) -> tirx.Expr:
    width = word.ty.dtype.bits
    shifted = word << _const(word, distance) if distance > 0 else word >> _const(word, -distance) if distance else word
    targets = [target for _, target in moves]
    all_there_is = [bit + distance for bit in range(valid) if 0 <= bit + distance < width]
    return shifted if sorted(targets) == all_there_is else shifted & _mask(word, targets)


def _rising(moves: Sequence[_Move]) -> list[list[_Move]]:
    """Cut moves into sequences in which later targets have later sources."""
    sequences: list[list[_Move]] = []
    for move in moves:  # by target
        fitting = (sequence for sequence in sequences if sequence[-1][0] < move[0])
        best = max(fitting, key=lambda sequence: sequence[-1][0], default=None)
        if best is None:
            sequences.append([move])
        else:
            best.append(move)
    return sequences


def _route(word: tirx.Expr, moves: Sequence[_Move], steps: int) -> tirx.Expr:
    at = [source for source, _ in moves]
    word = word & _mask(word, at)
    for goal, order in (
        (list(range(len(moves))), range(steps)),
        ([target for _, target in moves], reversed(range(steps))),
    ):
        away = [abs(a - g) for a, g in zip(at, goal, strict=True)]
        left = goal[-1] > at[-1] or goal[0] > at[0]
        for step in order:
            moving = [i for i, distance in enumerate(away) if distance >> step & 1]
            if not moving:
                continue
            moving_bits, staying = [at[i] for i in moving], [at[i] for i in range(len(at)) if i not in set(moving)]
            some = word & _mask(word, moving_bits) if staying else word
            some = some << _const(word, 1 << step) if left else some >> _const(word, 1 << step)
            word = T.bind(some | (word & _mask(word, staying)) if staying else some)
            for i in moving:
                at[i] += (1 << step) if left else -(1 << step)
    return word
