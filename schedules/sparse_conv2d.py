"""Convolutions with sparse binary weights on bit planes: count down the columns.

For every output channel the planes of its set weights are added into bit-sliced counters::

    make the window of shifted planes                           plane_window.py
    parallel for vector of output pixels, chunk of channels:
        for channel, those with most weights first:             weight_lists.py
            counters = 0                                        or a number that makes the comparison easy
            for block of 16 or 32 set weights, then 8 and 4:
                counters += planes                              counters.py
            sink                                                plane_threshold.py, plane_float.py

The cost is proportional to the number of set weights, whatever their pattern. Budget of a set weight and a vector of
pixels: a load of the offset, a load of the plane, and about one full adder. What is counted says plane_counting.py.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from sbnn_tvm.domain import BIT, SIGN, BinaryDomain
from sbnn_tvm.schedules.bit_planes import PlaneLayout, plane_layout
from sbnn_tvm.schedules.counters import Adder, Counters, Plane, call_once, load_plane, load_words, store_words, words_of
from sbnn_tvm.schedules.epilogue import Epilogue, IntegerThreshold
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.llvm import LlvmFunction, link
from sbnn_tvm.schedules.loops import parallel_rows
from sbnn_tvm.schedules.plane_counting import PlaneCounting
from sbnn_tvm.schedules.plane_float import FloatSink
from sbnn_tvm.schedules.plane_threshold import ThresholdSink
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.weight_lists import TAIL

_CHANNELS = 16  # that are added at once when the activations of a window are counted


def sparse_conv2d(
    shape: Conv2dShape,
    bits: np.ndarray,
    pad_value: int,
    epilogue: Epilogue,
    isa: Isa,
    domain: BinaryDomain = SIGN,
    source: PlaneLayout | None = None,
    target: PlaneLayout | None = None,
) -> Kernel:
    """A convolution of {-1, +1} activations with sparse binary weights.

    The kernel's data is in bit planes, uint64 of ``source.shape``; bit 1 is +1. With an integer threshold its output is
    in bit planes too, uint64 of ``target.shape``; a Program's outputs are NHWC, float32 or packed along channels.

    Args:
        shape: The layer.
        bits: bool [OC, Cin / groups, kh, kw], the set weights.
        pad_value: What lies outside of the image: 0 adds nothing; -1 and +1 are bits like any other.
        epilogue: Its Ref(0), or what it compares, is the sum of products: an integer, exact as float32.
        isa: What to generate code for.
        domain: What the weights are: domain.SIGN, where a set bit is +1 and another one -1, or domain.BIT, +1 and 0.
        source: Layout of the input; by default bit_planes.plane_layout's.
        target: Layout of the output, or of the pixels that are computed together.

    Raises:
        ValueError: If an argument does not fit the layer.
    """
    expected = (shape.out_channels, shape.group_in_channels, *shape.kernel)
    if bits.shape != expected:
        raise ValueError(
            f"the bits of a sparse convolution are {bits.shape}, not (OC, Cin / groups, kh, kw) = {expected}"
        )
    if pad_value not in (-1, 0, 1):
        raise ValueError(f"a binary convolution pads with -1, 0 or +1, not {pad_value}")
    if domain not in (SIGN, BIT):
        raise ValueError(f"the weights of a sparse convolution are in {SIGN} or {BIT}, not {domain}")
    of_input = (shape.batch, shape.height, shape.width, shape.in_channels)
    of_output = (shape.batch, shape.out_height, shape.out_width, shape.out_channels)
    source, target = source or plane_layout(*of_input, isa), target or plane_layout(*of_output, isa)
    for name, layout, size in (("source", source, of_input), ("target", target, of_output)):
        if (layout.batch, layout.height, layout.width, layout.channels) != size:
            raise ValueError(f"the {name} of a sparse convolution of {size} cannot have the layout {layout}")
    counting = PlaneCounting(shape, bits.astype(bool), pad_value, isa, domain == SIGN, source, target)
    if isinstance(epilogue, IntegerThreshold):
        return _build(counting, ThresholdSink(counting, epilogue))
    return _build(counting, FloatSink(counting, epilogue))


class PlaneSink(Protocol):
    """Where counters go: declares parameters and outputs, and stores the counters of channel after channel."""

    overflow: bool

    @property
    def functions(self) -> set[LlvmFunction]:
        """What the code calls, once it is written."""

    @property
    def constants(self) -> list[np.ndarray]:
        """The arrays of the parameters that declare_constants declares."""

    @property
    def outputs(self) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and dtype of each output."""

    def declare_tensors(self) -> None:
        """Declare the tensor operands, the parameters after the data."""

    def declare_constants(self) -> None:
        """Declare the constants."""

    def declare_outputs(self) -> None:
        """Declare the outputs, the last parameters."""

    def begin(self, vector: tirx.Expr, chunk: tirx.Expr) -> None:
        """Called before the first channel of a chunk."""

    def start(self, number: tirx.Expr, level: int) -> tirx.Expr | None:
        """What the counters of list ``number`` start with in plane ``level``, if the sink wants anything."""

    def store(self, planes: list[tirx.Expr], number: tirx.Expr, channel: tirx.Expr) -> None:
        """Store the counters' planes, with the overflow behind them, of list ``number``."""

    def end(self) -> None:
        """Called after the last channel of a chunk."""


def _build(counting: PlaneCounting, sink: PlaneSink) -> Kernel:
    lists, target, window = counting.lists, counting.target, counting.window
    tables = window.constants()
    own = [lists.channels, lists.table, lists.entries]
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("sparse_conv2d")
        T.func_attr({"tirx.noalias": True})
        data = T.arg("data", T.buffer(counting.source.shape, "uint64"))
        sink.declare_tensors()
        channels, table, entries = (
            T.arg(name, T.buffer(array.shape, str(array.dtype)))
            for name, array in zip(("channels", "table", "entries"), own, strict=True)
        )
        shifts = [T.arg(f"window{i}", T.buffer(array.shape, str(array.dtype))) for i, array in enumerate(tables)]
        sink.declare_constants()
        sink.declare_outputs()
        nest = _Nest(counting, sink, channels, table, entries, window.emit(data, shifts))
        if counting.signs:
            nest.count_windows()
        work = (int(lists.counts.sum()) * 2 + 32 * len(lists.channels)) * target.vectors * target.words
        with parallel_rows(target.vectors * counting.chunks, work) as task:
            nest.task(T.bind(task // counting.chunks), T.bind(task % counting.chunks))
    func = link(builder.get(), nest.adder.functions | sink.functions)
    name = f"sparse {'signs' if counting.signs else 'bits'} {target.vector_bits}x{target.row_bits}"
    return Kernel(name, func, (*own, *tables, *sink.constants), sink.outputs)


class _Nest:
    """The main loops, while they are written."""

    def __init__(
        self,
        counting: PlaneCounting,
        sink: PlaneSink,
        channels: tirx.Buffer,
        table: tirx.Buffer,
        entries: tirx.Buffer,
        window: tirx.Buffer,
    ) -> None:
        self.counting, self.sink = counting, sink
        self.channels, self.table, self.entries = channels, table, entries
        self.window = T.decl_buffer((int(np.prod(window.shape)),), "uint64", data=window.data)
        self.words, self.pieces = counting.target.words, counting.pieces
        self.adder = Adder(counting.isa, self.words * self.pieces)
        self.load = load_plane(self.words, counting.unit)
        self.adder.functions.add(self.load)
        self.missing: tirx.Buffer | None = None

    def first_plane(self, vector: tirx.Expr) -> tirx.Expr:
        """Index of the first slab of a vector's window."""
        target = self.counting.target
        a, b = target.row_phases, target.column_phases
        return T.bind(self.counting.window.base(vector // (a * b), vector // b % a, vector % b))

    def task(self, vector: tirx.Expr, chunk: tirx.Expr) -> None:
        """A chunk of channels for one vector of pixels."""
        counting, sink = self.counting, self.sink
        window, channels, size = self.first_plane(vector), counting.shape.out_channels, counting.chunk
        sink.begin(vector, chunk)
        with T.serial(0, tirx.min(size, channels - chunk * size) if channels % size else size) as i:
            number = T.bind(chunk * size + i)
            channel = T.bind(self.channels[number])
            counters = Counters(self.adder, counting.levels, sink.overflow)
            counters.start(lambda level: self.start(vector, number, channel, level))
            self.count(counters, window, number)
            planes = [counters[level] for level in range(counting.levels + sink.overflow)]
            sink.store(self.sum_pieces(planes), number, channel)
        sink.end()

    def start(self, vector: tirx.Expr, number: tirx.Expr, channel: tirx.Expr, level: int) -> tirx.Expr:
        """A plane of the counters, before anything is counted."""
        value = self.sink.start(number, level)
        if self.missing is not None and level < self.counting.window_levels:
            group = channel // self.counting.shape.group_out_channels
            value = load_words(self.missing, [vector, group, level, 0], self.words)
        if value is None:
            return words_of(0, self.words * self.pieces)
        if self.pieces == 1:
            return value
        # One piece starts with the number, the others with 0.
        zeros = [words_of(0, self.words)] * (self.pieces - 1)
        return tirx.Shuffle([value, *zeros], list(range(self.words * self.pieces)))

    def count(self, counters: Counters, window: tirx.Expr, number: tirx.Expr) -> None:
        """Add all planes of a list."""
        level = 1 if self.counting.signs else 0
        first, blocks, tails = (T.bind(self.table[number, i]) for i in range(3))
        steps = self.counting.lists.block
        with T.serial(0, blocks) as block:
            at = T.bind(first + block * (steps * self.pieces))
            counters.add([self.plane(window, at, step) for step in range(steps)], level)
        at = T.bind(first + blocks * (steps * self.pieces))
        while steps > TAIL:
            steps //= 2
            with T.If(tails & steps // TAIL != 0), T.Then():
                counters.add([self.plane(window, at, step) for step in range(steps)], level)
            at = T.bind(at + (tails & steps // TAIL) * (TAIL * self.pieces))

    def plane(self, window: tirx.Expr, at: tirx.Expr, step: int) -> Plane:
        """The planes of a step behind entry ``at``, side by side."""

        def load() -> tirx.Expr:
            entries = [self.entries[at + step * self.pieces + i] for i in range(self.pieces)]
            # The address is taken here, each time: TIR reuses the memory of a buffer after its last mention.
            pointer = tirx.address_of(self.window[window])
            planes = [
                call_once(self.load, pointer, tirx.Cast("int64", tirx.Cast("uint64", entry))) for entry in entries
            ]
            if self.pieces == 1:
                return planes[0]
            return T.bind(tirx.Shuffle(planes, list(range(self.words * self.pieces))))

        return load

    def sum_pieces(self, planes: list[tirx.Expr]) -> list[tirx.Expr]:
        """Add up the counters that lie side by side."""
        words, overflow = self.words * self.pieces, self.sink.overflow
        while words > self.words:
            words //= 2
            adder, carry, sums = Adder(self.counting.isa, words), words_of(0, words), []
            for plane in planes[: self.counting.levels]:
                low, high = adder.halves(plane)
                total, carry = adder.full(low, high, carry)
                sums.append(total)
            if overflow:
                low, high = adder.halves(planes[-1])
                sums.append(T.bind(low | high | carry))
            planes = sums
            self.adder.functions |= adder.functions
        return planes

    def count_windows(self) -> None:
        """Emit ``2^Q - 1 - pc`` for all vectors and groups: channel sums of every slab, then sums over the taps."""
        counting, window = self.counting, self.counting.window
        shape, words = counting.shape, self.words
        blocks, slabs_y, slabs_x, planes, _ = window.array_shape
        slabs, depth, groups = blocks * slabs_y * slabs_x, shape.group_in_channels, shape.groups
        adder = Adder(counting.isa, words)
        part_levels, levels = depth.bit_length(), counting.window_levels
        parts = T.alloc_buffer((slabs, groups, part_levels, words), "uint64")
        with parallel_rows(slabs, slabs * shape.in_channels * words * 4) as slab, T.serial(0, groups) as group:

            def plane(c: tirx.Expr | int) -> Plane:
                pointer = tirx.address_of(self.window[(slab * planes + group * depth + c) * words])
                return lambda: call_once(self.load, pointer, tirx.const(0, "int64"))

            counters = Counters(adder, part_levels)
            counters.start(lambda level: words_of(0, words))
            if depth >= _CHANNELS:
                with T.serial(0, depth // _CHANNELS) as block:
                    counters.add([plane(block * _CHANNELS + i) for i in range(_CHANNELS)])
            if depth % _CHANNELS:
                with T.serial(depth // _CHANNELS * _CHANNELS, depth) as c:
                    counters.add([plane(c)])
            for level in range(part_levels):
                store_words(parts, counters[level], [slab, group, level, 0])
        vectors, (kh, kw), (dy, dx) = counting.target.vectors, shape.kernel, shape.dilation
        self.missing = T.alloc_buffer((vectors, groups, levels, words), "uint64")
        work = vectors * groups * kh * kw * levels * words * 4
        with parallel_rows(vectors, work) as vector, T.serial(0, groups) as group:
            first = T.bind(self.first_plane(vector) // (planes * words))
            counters = Counters(adder, levels)
            counters.start(lambda level: words_of(0, words))
            with T.serial(0, kh) as ky, T.serial(0, kw) as kx:
                slab = T.bind(first + ky * (dy * slabs_x) + kx * dx)
                number = [load_words(parts, [slab, group, level, 0], words) for level in range(part_levels)]
                counters.add_number([T.bind(plane) for plane in number])
            for level in range(levels):
                store_words(self.missing, ~counters[level], [vector, group, level, 0])
        self.adder.functions |= adder.functions
