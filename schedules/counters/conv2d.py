"""Convolutions with sparse binary weights on bit planes, by bit-sliced counters.

For each output channel, the kernel adds the input planes of the channel's set weights into counters::

    make the window of shifted planes                           windows.py
    count the set activations of every window                   window_counts.py, only if the result needs them
    parallel for vector of output pixels, chunk of channels:
        for slice of the input channels:                        its planes stay in the cache
            for channel, most set weights first:                weight_lists.py
                counters = 0
                for pieces of 4, 8, ... set weights, then blocks of 16 or 32:
                    counters += planes                          adders.py
                counters += counters of the previous slices
                after the last slice: sink                      threshold_result.py, or
                                                                float_result.py with count_transpose.py

The cost is proportional to the number of set weights and does not depend on their pattern. Budget per set weight and
vector of pixels: one load of the offset, one load of the plane, and about one full adder. counting.py defines the
quantity that is counted and how the result follows from it.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Protocol

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.algebra.domain import BIT, SIGN, BinaryDomain

from ..epilogue.program import Epilogue, Program, WindowThreshold
from ..isa import Isa
from ..kernel import Kernel
from ..layouts.bit_planes import PlaneLayout, plane_layout
from ..shapes import Conv2dShape
from ..tir.kernel_builder import KernelBuilder
from ..tir.loops import GRAIN, one_thread, parallel_rows
from ..tir.vectors import load, store
from .adders import Adder, Counters, Plane, load_pieces, load_plane
from .counting import Cut, PlaneCounting, WindowTerm
from .float_result import FloatResult
from .threshold_result import ThresholdResult
from .weight_lists import TAIL
from .window_counts import WindowCounts


def sparse_conv2d(
    shape: Conv2dShape,
    bits: np.ndarray,
    pad_value: int,
    epilogue: Epilogue | WindowThreshold,
    isa: Isa,
    *,
    weight_domain: BinaryDomain = SIGN,
    source: PlaneLayout | None = None,
    target: PlaneLayout | None = None,
    cut: Cut | None = None,
) -> Kernel:
    """A convolution of {-1, +1} activations with sparse binary weights.

    The input is in bit planes, uint64 of ``source.shape``; bit 1 stands for +1. With an integer threshold the output is
    in bit planes too, uint64 of ``target.shape``. The outputs of a Program are NHWC, float32 or packed along channels.

    Args:
        shape: The layer.
        bits: bool [OC, Cin / groups, kh, kw], the set weights.
        pad_value: The value of padding: 0 adds nothing; -1 and +1 are stored as bits, like activations.
        epilogue: Its input (Ref(0) of a Program, or the compared number) is the sum of products: an integer, exact as
            float32. With domain.BIT it may be a WindowThreshold.
        isa: The instruction set to generate code for.
        weight_domain: The values of the weights: +1 for a set bit and -1 for a clear one (domain.SIGN), or +1 and 0
            (domain.BIT).
        source: Layout of the input; by default the one that bit_planes.plane_layout returns.
        target: Layout of the output. For a Program it gives the pixels that are computed together.
        cut: One of ``cuts``; by default the first.

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
    if weight_domain not in (SIGN, BIT):
        raise ValueError(f"the weights of a sparse convolution are in {SIGN} or {BIT}, not {weight_domain}")
    if isinstance(epilogue, WindowThreshold) and weight_domain != BIT:
        raise ValueError(f"a WindowThreshold is for weights in {BIT}, not {weight_domain}")
    of_input = (shape.batch, shape.height, shape.width, shape.in_channels)
    of_output = (shape.batch, shape.out_height, shape.out_width, shape.out_channels)
    source, target = source or plane_layout(*of_input, isa), target or plane_layout(*of_output, isa)
    for name, layout, size in (("source", source, of_input), ("target", target, of_output)):
        if (layout.batch, layout.height, layout.width, layout.channels) != size:
            raise ValueError(f"the {name} of a sparse convolution of {size} cannot have the layout {layout}")
    term = WindowTerm(epilogue.shift, epilogue.factor) if isinstance(epilogue, WindowThreshold) else None
    counting = PlaneCounting(
        shape=shape,
        bits=bits.astype(bool),
        pad_value=pad_value,
        isa=isa,
        signs=weight_domain == SIGN,
        source=source,
        target=target,
        cut=cut,
        other=term,
        floats=isinstance(epilogue, Program),
    )
    sink = FloatResult(counting, epilogue) if isinstance(epilogue, Program) else ThresholdResult(counting, epilogue)
    return _build(counting, sink)


def cuts(shape: Conv2dShape, bits: np.ndarray, isa: Isa, weight_domain: BinaryDomain = SIGN) -> list[Cut]:
    """Every cut of the lists of set weights that is worth measuring; the default of the rule comes first.

    Args:
        shape, bits, isa, weight_domain: Same as in ``sparse_conv2d``.
    """
    source = plane_layout(shape.batch, shape.height, shape.width, shape.in_channels, isa)
    target = plane_layout(shape.batch, shape.out_height, shape.out_width, shape.out_channels, isa)
    counting = PlaneCounting(
        shape=shape, bits=bits, pad_value=0, isa=isa, signs=weight_domain == SIGN, source=source, target=target
    )
    return counting.cuts


class PlaneSink(Protocol):
    """Consumer of the counters: declares parameters and outputs, and stores the result of one channel at a time."""

    @property
    def values(self) -> int:
        """Number of results that are evaluated one by one, 0 if results stay in planes."""

    def declare(self, builder: KernelBuilder) -> None:
        """Declare the tensor operands, the constants and the outputs."""

    def begin(self, vector: tirx.Expr, chunk: tirx.Expr, windows: WindowCounts | None) -> None:
        """Called before the first channel of a chunk; ``windows`` is None unless the result needs window counts."""

    def store(self, planes: list[tirx.Expr], number: tirx.Expr, channel: tirx.Expr) -> None:
        """Store the result of an output channel.

        Args:
            planes: The bit-sliced sum A (counting.py), the lowest plane first.
            number: Number of the channel's list in the last slice.
            channel: The output channel.
        """

    def end(self) -> None:
        """Called after the last channel of a chunk."""


def _build(counting: PlaneCounting, sink: PlaneSink) -> Kernel:
    lists, target, window = counting.lists, counting.target, counting.window
    work = _parallel_work(counting, sink.values)
    with nullcontext() if work >= GRAIN else one_thread(), KernelBuilder("sparse_conv2d") as builder:
        data = builder.data(counting.source.shape, "uint64")
        channels, table = builder.constant("channels", lists.channels), builder.constant("table", lists.table)
        # The code does not depend on the number of entries, so layers of equal shape share one function.
        entries = builder.constant("entries", lists.entries, shape=(tirx.Var("entries", "int64"),))
        tables = [builder.constant(f"window{i}", array) for i, array in enumerate(window.constants())]
        sink.declare(builder)
        planes = window.emit(data, tables)
        windows = WindowCounts(counting, data, planes, tables) if counting.term is not None else None
        nest = _CountingNest(
            counting=counting,
            sink=sink,
            channels=channels,
            table=table,
            entries=entries,
            window=planes,
            windows=windows,
        )
        with parallel_rows(target.vectors * counting.chunks, work) as task:
            nest.task(T.bind(task // counting.chunks), T.bind(task % counting.chunks))
    kind = "signs" if counting.signs else "bits" if counting.term is None else "two values"
    return builder.kernel(f"counters of {kind} {target.vector_bits}x{target.row_bits}")


def _parallel_work(counting: PlaneCounting, values: int) -> int:
    """The net gain of several threads, in elements of loops.GRAIN.

    One addition of planes costs as much as one element, and one value of a float epilogue half of that. The loss grows
    with the window: the other threads fetch it from the core that wrote it, eight bytes in the time of one element.
    This rate was inferred from the times of benchmarks/network_scaling.py on one machine. Threads save at most half of
    the work.
    """
    additions = (int(counting.lists.mean) + 2 * counting.levels) * counting.shape.out_channels
    window = int(np.prod(counting.window.array_shape)) * 2
    return additions * counting.target.vectors + values // 2 - window


class _CountingNest:
    """Emits the main loops."""

    def __init__(
        self,
        *,
        counting: PlaneCounting,
        sink: PlaneSink,
        channels: tirx.Buffer,
        table: tirx.Buffer,
        entries: tirx.Buffer,
        window: tirx.Buffer,
        windows: WindowCounts | None,
    ) -> None:
        self.counting, self.sink, self.windows = counting, sink, windows
        self.channels, self.table, self.entries = channels, table, entries
        self.window = T.decl_buffer((int(np.prod(counting.window.array_shape)),), "uint64", data=window.data)
        self.words, self.pieces = counting.target.words, counting.pieces
        self.adder = Adder(counting.isa, self.words * self.pieces)
        self.load_plane = load_plane(self.words, counting.unit)
        masks = counting.isa.ternary_logic and self.words == 1 < self.pieces
        self.load_pieces = load_pieces(self.pieces, counting.unit) if masks else None

    def task(self, vector: tirx.Expr, chunk: tirx.Expr) -> None:
        """Emit the work of one task: a chunk of channels for one vector of pixels."""
        counting, sink = self.counting, self.sink
        _, _, _, planes, words = counting.window.array_shape
        window = T.bind(counting.first_slab(vector) * (planes * words))
        channels, size = counting.shape.out_channels, counting.chunk
        left = tirx.min(size, channels - chunk * size) if channels % size else size
        sink.begin(vector, chunk, self.windows)
        if counting.slices == 1:
            with T.serial(0, left) as i:
                number = T.bind(chunk * size + i)
                sink.store(self.count(window, 0, number), number, self.channel(0, number))
        else:
            # Counters of the previous slices.
            counted = T.alloc_buffer((size, counting.levels, words), "uint64")
            with T.serial(0, counting.slices) as slice_, T.serial(0, left) as i:
                number = T.bind(chunk * size + i)
                channel = self.channel(slice_, number)
                counters = Counters(Adder(counting.isa, words), counting.levels)
                counters.start(self.count(window, slice_, number))
                at = T.bind(channel - chunk * size)
                with T.If(slice_ > 0), T.Then():
                    counters.add_number([load(counted, (at, i), 0, words) for i in range(counting.levels)])
                with T.If(slice_ < counting.slices - 1):
                    with T.Then():
                        for level, plane in enumerate(counters.planes):
                            store(counted, plane, (at, level), 0)
                    with T.Else():
                        sink.store(counters.planes, number, channel)
        sink.end()

    def channel(self, slice_: tirx.Expr | int, number: tirx.Expr) -> tirx.Expr:
        """The output channel of a list."""
        return T.bind(tirx.Cast("int32", self.channels[slice_, number]))

    def count(self, window: tirx.Expr, slice_: tirx.Expr | int, number: tirx.Expr) -> list[tirx.Expr]:
        """The bit-sliced sum over one list, the lowest plane first."""
        counters = Counters(self.adder, self.counting.levels)
        counters.start()
        # A buffer of one element, which LLVM keeps in a register. TVM substitutes bound variables into each use, so a
        # chain of them would be written out in full every time.
        at = T.alloc_buffer((1,), "int32")
        T.buffer_store(at, tirx.Cast("int32", self.table[slice_, number, 0]), [0])
        tails = T.bind(tirx.Cast("int32", self.table[slice_, number, 1]))
        steps, block = TAIL, self.counting.block
        # Short pieces first: the counters are still small, so their carries need not ripple.
        while steps < block:
            bit = steps // TAIL
            with T.If(tails & bit != 0), T.Then():
                counters.add([self.plane(window, at[0], step) for step in range(steps)], small=True)
            T.buffer_store(at, at[0] + (tails & bit) * (TAIL * self.pieces), [0])
            steps *= 2
        with T.serial(0, tails // (block // TAIL)) as i:
            first = T.bind(at[0] + i * (block * self.pieces))
            counters.add([self.plane(window, first, step) for step in range(block)])
        return self.sum_pieces(counters.planes)

    def plane(self, window: tirx.Expr, at: tirx.Expr, step: int) -> Plane:
        """The planes of step ``step`` of the list that starts at entry ``at``, side by side in one vector."""

        def make() -> tirx.Expr:
            # Take the address at each use: TIR reuses the memory of a buffer after the buffer's last mention.
            pointer = tirx.address_of(self.window[window])
            offsets = self.offsets(at, step)
            if self.load_pieces is not None:
                return self.load_pieces.call_once(pointer, *offsets)
            planes = [self.load_plane.call_once(pointer, offset) for offset in offsets]
            if self.pieces == 1:
                return planes[0]
            return T.bind(tirx.Shuffle(planes, list(range(self.words * self.pieces))))

        return make

    def offsets(self, at: tirx.Expr, step: int) -> list[tirx.Expr]:
        """The entries of step ``step`` of the list that starts at entry ``at``, int64."""
        first = at + step * self.pieces
        if self.load_pieces is None or self.entries.dtype != "uint16":
            entries = [self.entries[first + i] for i in range(self.pieces)]
        else:
            # Load two entries at once, since loads are the bottleneck.
            pairs = T.decl_buffer((self.entries.shape[0] // 2,), "uint32", data=self.entries.data)
            loaded = [T.bind(pairs[first // 2 + i]) for i in range(self.pieces // 2)]
            low = tirx.const(0xFFFF, "uint32")
            entries = [half for pair in loaded for half in (pair & low, pair >> tirx.const(16, "uint32"))]
        return [tirx.Cast("int64", tirx.Cast("uint64", entry)) for entry in entries]

    def sum_pieces(self, planes: list[tirx.Expr]) -> list[tirx.Expr]:
        """Add the counters of all pieces, which are side by side in each plane."""
        words = self.words * self.pieces
        while words > self.words:
            words //= 2
            adder, sums = Adder(self.counting.isa, words), []
            carry = adder.vector.constant(0)
            for plane in planes:
                low, high = adder.halves(plane)
                total, carry = adder.full(low, high, carry)
                sums.append(total)
            planes = sums
        return planes
