"""Selection of channels, rows and columns of packed words; channels move by whole words or shifts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import gcd
from operator import or_

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..isa import Isa
from ..kernel import Kernel
from ..selection import InputChannel, PixelSelection, Selection
from ..tir.kernel_builder import KernelBuilder
from ..tir.loops import parallel_rows
from ..tir.vectors import Index


def select_channels_bits(
    pixels: tuple[int, ...],
    selection: Selection,
    isa: Isa,
    picked: PixelSelection | None = None,
    fill: Sequence[bool] = (False,),
) -> Kernel:
    """Assemble a packed feature map from selected channels, rows and columns of others.

    Channels move by whole words, shifts, or a network of shifts.

    Args:
        pixels: (N, H, W) of the result, or (N,) for tensors [N, C]. Each binary digit of a code is an image of its own.
        selection: The source of each output channel.
        isa: The instruction set.
        picked: The source of each output row and column; None if the inputs have the same pixels.
        fill: The bit of channels, rows and columns without a source, for each binary digit.

    Returns:
        ``func(words [N, H, W, isa.words(C)] (or [N, words]) of each input, rows, columns, fill, out)``. ``rows`` and
        ``columns`` are int32, and missing without ``picked``; ``fill`` is missing if nothing is without a source.
    """
    channels = len(selection.sources)
    stored = [isa.words(count) * isa.word_bits for count in (*selection.inputs, channels)]
    width = gcd(64, *stored)  # the bytes in memory are the same for every word size
    word, images, size = f"uint{width}", pixels[0], int(np.prod(pixels[1:]))
    read = pixels if picked is None else (images, picked.height, picked.width)
    pads = None in selection.sources or (picked is not None and picked.pads)
    with KernelBuilder("select_channels_bits") as builder:
        inputs = enumerate(selection.inputs)
        data = [builder.data((*read, isa.words(count)), isa.word, f"data{i}") for i, count in inputs]
        tables = () if picked is None else (picked.rows, picked.columns)
        names = zip(("rows", "columns"), tables, strict=False)
        indices = [builder.constant(name, np.array(table, np.int32)) for name, table in names]
        fills = np.where(fill, np.array(-1, f"int{width}"), 0).astype(f"int{width}").view(word)
        filling = builder.constant("fill", fills) if pads else None
        out = builder.output((*pixels, isa.words(channels)), isa.word)
        counts = [int(np.prod(read))] * len(data) + [images * size]
        views = [
            T.decl_buffer((count, bits // width), word, data=buffer.data)
            for buffer, count, bits in zip((*data, out), counts, stored, strict=True)
        ]

        def store_pixel(source: Index | None, pixel: Index, image: Index) -> None:
            filled = None if filling is None else T.bind(filling[image % len(fills)])
            for number in range(stored[-1] // width):
                sources = selection.sources[number * width : (number + 1) * width]
                none = [bit for bit, each in enumerate(sources) if source is None or each is None]
                parts = [] if filled is None or not none else [filled & _mask(filled, none)]
                for (i, j), moves in {} if source is None else _moves(sources, width).items():
                    valid = min(width, selection.inputs[i] - j * width)
                    parts += _moved(T.bind(views[i][source, j]), moves, valid)
                T.buffer_store(views[-1], reduce(or_, parts, tirx.const(0, word)), [pixel, number])

        work = images * size * sum(stored) // width
        if picked is None:
            with parallel_rows(images * size, work) as pixel:
                store_pixel(pixel, pixel, pixel // size)
        else:
            height, columns = pixels[1:]
            with parallel_rows(images * height, work) as row, T.serial(0, columns) as x:
                image, pixel = row // height, T.bind(row * columns + x)
                above, left = T.bind(indices[0][row % height]), T.bind(indices[1][x])
                source = (image * picked.height + above) * picked.width + left
                if picked.pads:
                    with T.If(tirx.all(above >= 0, left >= 0)):
                        with T.Then():
                            store_pixel(T.bind(source), pixel, image)
                        with T.Else():
                            store_pixel(None, pixel, image)
                else:
                    store_pixel(T.bind(source), pixel, image)
    return builder.kernel()


_Move = tuple[int, int]
"""Source bit and target bit."""


def _moves(sources: Sequence[InputChannel | None], width: int) -> dict[tuple[int, int], list[_Move]]:
    """The moves into one word of the result, grouped by source word: (input, index of the word)."""
    moves: dict[tuple[int, int], list[_Move]] = {}
    for bit, source in enumerate(sources):
        if source is None:
            continue
        moves.setdefault((source.input, source.channel // width), []).append((source.channel % width, bit))
    return moves


def _moved(word: tirx.Expr, moves: Sequence[_Move], valid: int) -> list[tirx.Expr]:
    """Move bits of a word; the result is the OR of the returned words.

    There are two ways, and the one with fewer instructions is used:

    * One shift for each distance between source and target.
    * A network of shifts for bits that keep their order: each bit moves by a sum of powers of two. It first compacts
      the bits to the lowest positions, short distances first. It then expands them to their targets, long distances
      first. No two bits collide.

    Args:
        word: The source word.
        moves: The bits to move, in ascending order of the target.
        valid: Only the lowest ``valid`` bits of the word can be 1.
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
    """Split moves into sequences with ascending sources and targets."""
    sequences: list[list[_Move]] = []
    for move in moves:  # in ascending order of the target
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
