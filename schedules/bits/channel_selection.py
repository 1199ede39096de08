"""Selections of channels from packed words: whole words, shifts, or a network of shifts."""

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
from ..selection import InputChannel, Selection
from ..tir.kernel_builder import KernelBuilder
from ..tir.loops import parallel_rows


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
    with KernelBuilder("select_channels_bits") as builder:
        inputs = enumerate(selection.inputs)
        data = [builder.data((*pixels, isa.words(size)), isa.word, f"data{i}") for i, size in inputs]
        out = builder.output((*pixels, isa.words(channels)), isa.word)
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
    return builder.kernel()


_Move = tuple[int, int]
"""From a bit to a bit."""


def _moves(sources: Sequence[InputChannel], width: int) -> dict[tuple[int, int], list[_Move]]:
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
