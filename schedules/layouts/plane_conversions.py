"""Conversions between packed words (along channels, words.py) and bit planes (along pixels): 64x64 bit transposes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tvm import tirx
from tvm.tirx.script import builder as T

from ..isa import Isa
from ..kernel import Kernel
from ..tir.kernel_builder import KernelBuilder
from ..tir.llvm import keep_rolled
from ..tir.loops import parallel_rows
from .bit_planes import PlaneLayout
from .plane_pixels import pixel_of
from .word_transpose import transpose_words

_SQUARE = 64

_WORK = 512  # of a square, in elements of loops.GRAIN: some 0.1 us


def words_to_planes(layout: PlaneLayout, isa: Isa) -> Kernel:
    """Convert packed words, along channels, to bit planes, along pixels.

    Args:
        layout: Layout of the planes.
        isa: The instruction set, which determines the packed words.

    Returns:
        ``func(words [N, H, W, isa.words(C)], planes uint64 layout.shape)``.
    """
    with KernelBuilder("words_to_planes") as builder:
        data = builder.data(_words_shape(layout, isa), isa.word)
        out = builder.output(layout.shape, "uint64")
        planes = T.decl_buffer((layout.vectors, layout.channels, layout.words), "uint64", data=out.data)
        with _squares(layout) as (vector, word, group):
            square = T.alloc_buffer((_SQUARE,), "uint64")
            with T.serial(0, _SQUARE) as bit:
                position, inside = pixel_of(layout, vector, T.bind(word * _SQUARE + bit))
                T.buffer_store(square, tirx.const(0, "uint64"), [bit])
                for part, exists in _parts(layout, isa, group):
                    with T.If(tirx.all(inside, exists)), T.Then():
                        value = tirx.Cast("uint64", data[(*position, group * (_SQUARE // isa.word_bits) + part)])
                        shift = tirx.const(part * isa.word_bits, "uint64")
                        T.buffer_store(square, square[bit] | (value << shift), [bit])
            keep_rolled()
            transpose_words(square, isa)
            with T.serial(0, tirx.min(_SQUARE, layout.channels - group * _SQUARE)) as c:
                T.buffer_store(planes, square[c], [vector, group * _SQUARE + c, word])
    return builder.kernel()


def planes_to_words(layout: PlaneLayout, isa: Isa) -> Kernel:
    """Convert bit planes to packed words: the inverse of :func:`words_to_planes`.

    Args:
        layout: Layout of the planes.
        isa: The instruction set, which determines the packed words.

    Returns:
        ``func(planes uint64 layout.shape, words [N, H, W, isa.words(C)])``.
    """
    with KernelBuilder("planes_to_words") as builder:
        data = builder.data(layout.shape, "uint64")
        out = builder.output(_words_shape(layout, isa), isa.word)
        planes = T.decl_buffer((layout.vectors, layout.channels, layout.words), "uint64", data=data.data)
        with _squares(layout) as (vector, word, group):
            square = T.alloc_buffer((_SQUARE,), "uint64")
            with T.serial(0, _SQUARE) as c:
                T.buffer_store(square, tirx.const(0, "uint64"), [c])
                with T.If(group * _SQUARE + c < layout.channels), T.Then():
                    T.buffer_store(square, planes[vector, group * _SQUARE + c, word], [c])
            keep_rolled()
            transpose_words(square, isa)
            with T.serial(0, _SQUARE) as bit:
                position, inside = pixel_of(layout, vector, T.bind(word * _SQUARE + bit))
                for part, exists in _parts(layout, isa, group):
                    with T.If(tirx.all(inside, exists)), T.Then():
                        value = square[bit] >> tirx.const(part * isa.word_bits, "uint64")
                        at = (*position, group * (_SQUARE // isa.word_bits) + part)
                        T.buffer_store(out, tirx.Cast(isa.word, value), at)
    return builder.kernel()


def _words_shape(layout: PlaneLayout, isa: Isa) -> tuple[int, ...]:
    return (layout.batch, layout.height, layout.width, isa.words(layout.channels))


@contextmanager
def _squares(layout: PlaneLayout) -> Iterator[tuple[tirx.Expr, tirx.Expr, tirx.Expr]]:
    """A loop over all squares of bits: the vector, the word within it, and the group of channels."""
    groups = -(-layout.channels // _SQUARE)
    count = layout.vectors * layout.words * groups
    with parallel_rows(count, count * _WORK) as square:
        row = T.bind(square // groups)
        yield T.bind(row // layout.words), T.bind(row % layout.words), T.bind(square % groups)


def _parts(layout: PlaneLayout, isa: Isa, group: tirx.Expr) -> list[tuple[int, tirx.Expr]]:
    """Index and existence of each packed word in a group of 64 channels."""
    words = _SQUARE // isa.word_bits
    return [(part, group * words + part < isa.words(layout.channels)) for part in range(words)]
