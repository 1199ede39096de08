"""The windows of a convolution on bit planes: for each tap, the input planes aligned to the output pixels.

In an output with phases ``(a, b)`` (layouts/bit_planes.py), bit j of lane i of vector (p, q) is the pixel at row
``a * i + p`` and column ``b * j + q``. Tap (ky, kx) of this pixel reads the input at row ``a * sy * i + r`` and column
``b * sx * j + s``, with ``r = p * sy + ky * dy - top`` and ``s = q * sx + kx * dx - left``. The *displacement* (r, s)
determines the input bits of the whole vector. So the window stores one *slab* per displacement, with a plane for each
channel; neighbouring output vectors share most slabs::

    window[block, r - r_min, s - s_min, channel, word]    channel C is a plane of zeros

For any output vector, tap (ky, kx) of channel c is stored ``(ky * dy * slabs_x + kx * dx) * (C + 1) + c`` planes after
the vector's first slab. If the phases of input and output agree (at stride 1, or at stride 2 if the input has twice as
many phases), a slab is an input vector, shifted by whole lanes and some bits. Otherwise rows are gathered one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..layouts.bit_planes import PlaneLayout
from ..shapes import Conv2dShape
from ..tir.llvm import keep_rolled
from ..tir.loops import parallel_rows
from ..tir.vectors import Index, VectorType, load, store


@dataclass(frozen=True, kw_only=True)
class WindowAxis:
    """One axis of the window, rows or columns, for all taps.

    Attributes:
        phases: Phases of the output.
        stride, dilation: Of the layer.
        padding: Padding before the first pixel.
        taps: Taps of the kernel.
        size: Pixels of the input.
        input_phases: Phases of the input.
    """

    phases: int
    stride: int
    dilation: int
    padding: int
    taps: int
    size: int
    input_phases: int

    @property
    def first(self) -> int:
        """The smallest displacement (r or s)."""
        return -self.padding

    @property
    def slabs(self) -> int:
        """Number of displacements from the smallest to the largest."""
        return (self.phases - 1) * self.stride + (self.taps - 1) * self.dilation + 1

    @property
    def step(self) -> int:
        """Distance of neighbouring lanes (or bits) of the output, in input pixels."""
        return self.phases * self.stride

    @property
    def aligned(self) -> bool:
        """Whether neighbouring lanes (or bits) of the output read neighbouring lanes (or bits) of the input."""
        return self.step == self.input_phases

    def needed(self) -> list[int]:
        """The displacements that some tap of some pixel needs."""
        pixels, taps = range(self.phases), range(self.taps)
        return sorted({p * self.stride + k * self.dilation - self.padding for p in pixels for k in taps})


@dataclass(frozen=True)
class PlaneWindow:
    """The windows of one layer.

    Attributes:
        shape: The layer.
        source: Layout of the input.
        target: Layout of the output; slabs have the vectors of this layout.
        pad_value: The value of padding: -1 and 0 are stored as bit 0, +1 as bit 1.
    """

    shape: Conv2dShape
    source: PlaneLayout
    target: PlaneLayout
    pad_value: int

    @property
    def rows(self) -> WindowAxis:
        """The vertical axis."""
        shape = self.shape
        return WindowAxis(
            phases=self.target.row_phases,
            stride=shape.strides[0],
            dilation=shape.dilation[0],
            padding=shape.padding[0],
            taps=shape.kernel[0],
            size=shape.height,
            input_phases=self.source.row_phases,
        )

    @property
    def columns(self) -> WindowAxis:
        """The horizontal axis."""
        shape = self.shape
        return WindowAxis(
            phases=self.target.column_phases,
            stride=shape.strides[1],
            dilation=shape.dilation[1],
            padding=shape.padding[1],
            taps=shape.kernel[1],
            size=shape.width,
            input_phases=self.source.column_phases,
        )

    @property
    def planes(self) -> int:
        """Planes per slab: one for each channel and one of zeros."""
        return self.shape.in_channels + 1

    @property
    def array_shape(self) -> tuple[int, ...]:
        """Shape of the window, uint64 [blocks, slabs_y, slabs_x, C + 1, words]."""
        return (self.target.blocks, self.rows.slabs, self.columns.slabs, self.planes, self.target.words)

    def zeros(self) -> np.ndarray:
        """Offsets of the planes of zeros from the first slab of a vector, in words: int64 [kh * kw], ascending."""
        return self._offsets(np.array([self.shape.in_channels])).reshape(-1)

    def offsets(self) -> np.ndarray:
        """Offsets of all taps from the first slab of a vector, in words: int64 [Cin, kh, kw]."""
        return self._offsets(np.arange(self.shape.in_channels))

    def _offsets(self, channels: np.ndarray) -> np.ndarray:
        (kh, kw), (dy, dx) = self.shape.kernel, self.shape.dilation
        slabs = (np.arange(kh) * dy * self.columns.slabs)[:, None] + np.arange(kw) * dx
        return (slabs * self.planes + channels[:, None, None]) * self.target.words

    def first_slab(self, block: Index, row_phase: Index, column_phase: Index) -> tirx.Expr:
        """Index of the first slab of an output vector."""
        _, slabs_y, slabs_x, _, _ = self.array_shape
        row = block * slabs_y + row_phase * self.shape.strides[0]
        return row * slabs_x + column_phase * self.shape.strides[1]

    @property
    def direct(self) -> bool:
        """Whether slabs are shifted input vectors."""
        same = (self.source.vector_bits, self.source.row_bits, self.source.images) == (
            self.target.vector_bits,
            self.target.row_bits,
            self.target.images,
        )
        # If a vector holds several images, their first lanes must agree too.
        lanes = self.source.images == 1 or self.source.rows == self.target.rows
        return same and lanes and self.rows.aligned and self.columns.aligned

    def constants(self) -> list[np.ndarray]:
        """The tables of :meth:`emit`: shifts, or rows and columns to gather; masks of the bits outside the image."""
        tables = [self._slab_table()] if self.direct else [self._row_table(), self._column_table()]
        if self.masked:
            tables.append(self._inside())
        if self.pad_value == 1:
            tables.append(~self._inside())
        return tables

    @property
    def masked(self) -> bool:
        """Whether slabs need masks of the image: to pad with 1, or to remove what shifts bring from elsewhere.

        Shifts of words bring bits of other lanes, and shifts of lanes bring those of a neighbouring image.
        """
        return self.pad_value == 1 or (self.direct and (self.source.images > 1 or self.of_words))

    @property
    def of_words(self) -> bool:
        """Whether the pixels of a vector are shifted as one word, with their lanes."""
        return self.direct and self.source.words == 1

    def emit(self, data: tirx.Buffer, tables: list[tirx.Buffer]) -> tirx.Buffer:
        """Emit the code that computes the window.

        The window is stored as lanes, not words. Read it as lanes or with adders.load_plane: TVM tells LLVM that
        accesses of different types never alias.

        Args:
            data: The planes of the input.
            tables: The parameters that hold :meth:`constants`.

        Returns:
            The window, with ``array_shape`` but lanes of a vector in place of words.
        """
        # Allocated with the type that is stored: TVM retypes a buffer to the type of all its accesses, and keeps the
        # number of elements.
        window = T.alloc_buffer((*self.array_shape[:-1], self.target.lanes), self.target.lane)
        if self.direct:
            self._shift_vectors(data, window, tables)
        else:
            self._gather_rows(data, window, tables)
        return window

    def _shift_vectors(self, data: tirx.Buffer, window: tirx.Buffer, tables: list[tirx.Buffer]) -> None:
        source, target, channels, planes = self.source, self.target, self.source.channels, self.planes
        lane, lanes, const = source.lane, source.lanes, source.vector.constant
        element = VectorType("uint64", 1) if self.of_words else source.vector
        slabs, downs = self._slab_table(), self._shifts_down()
        shifts_right, shifts_left = bool(slabs[:, 3].any()), bool(slabs[:, 4].any())
        in_block, slabs_in_block = source.row_phases * source.column_phases, self.rows.slabs * self.columns.slabs
        outputs = T.decl_buffer((target.blocks * slabs_in_block * planes, lanes), lane, data=window.data)

        # One loop for all slabs, so that several threads share them evenly.
        count = target.blocks * len(slabs)
        with parallel_rows(count, count * planes * source.words * 2) as task:
            block, row = T.bind(task // len(slabs)), T.bind(task % len(slabs))
            number, vector, shift, right, left = (T.bind(tirx.Cast("int32", tables[0][row, i])) for i in range(5))
            from_vector = T.bind((block * in_block + vector) * channels)
            to_vector = T.bind((block * slabs_in_block + number) * planes)
            masks = [T.bind(element.reinterpret(load(self._masks(table), (number,), 0, lanes))) for table in tables[1:]]

            def copy_plane(c: tirx.Expr, down: int | None) -> None:
                if down is None:
                    value = const(0)
                else:
                    # Declared at each use: TIR reuses the memory of a buffer after the buffer's last mention.
                    inputs = T.decl_buffer((int(np.prod(source.shape[:-1])), lanes), lane, data=data.data)
                    value = element.reinterpret(load(inputs, (from_vector + c,), 0, lanes))
                    if down and not self.of_words:
                        order = [i + down if 0 <= i + down < lanes else lanes for i in range(lanes)]
                        value = tirx.Shuffle([T.bind(value), const(0)], order)
                    if shifts_right:
                        value = value >> element.broadcast(tirx.Cast(element.element, right))
                    if shifts_left:
                        value = value << element.broadcast(tirx.Cast(element.element, left))
                if masks:
                    value = value & masks[0]
                if self.pad_value == 1:
                    value = value | masks[1]
                store(outputs, source.vector.reinterpret(value), (to_vector + c,), 0)

            # LLVM would unroll each of these loops sixteen times.
            together = next(size for size in ((2, 1) if self.of_words else (8, 4, 2, 1)) if channels % size == 0)
            for index, down in enumerate(downs):
                with T.If(shift == index), T.Then(), T.serial(0, channels // together) as first_channel:
                    keep_rolled()
                    for i in range(together):
                        copy_plane(first_channel * together + i, down)
            store(outputs, const(0), (to_vector + channels,), 0)

    def _masks(self, table: tirx.Buffer) -> tirx.Buffer:
        """A table of masks, with the lanes of each slab. Declared at each use, as all views of a buffer are."""
        return T.decl_buffer(
            (self.rows.slabs * self.columns.slabs, self.target.lanes), self.target.lane, data=table.data
        )

    def _shifts(self, displacement: int, axis: WindowAxis, size: int) -> tuple[int, int | None]:
        """The input phase of a displacement, and the shift in lanes or bits: None if nothing of ``size`` is left."""
        shift, phase = divmod(displacement, axis.input_phases)
        return phase, shift if abs(shift) < size else None

    def _shifts_down(self) -> list[int | None]:
        """All shifts in lanes, ascending; last None, for slabs without pixels, if there are such slabs.

        Shifts of words need one loop for all of them: their masks clear what is no pixel.
        """
        if self.of_words:
            return [0]
        downs = dict.fromkeys(down for _, _, down, _ in self._slabs())
        return sorted(down for down in downs if down is not None) + [None] * (None in downs)

    def _slabs(self) -> Iterator[tuple[int, int, int | None, int]]:
        """The number of each needed slab, its input vector within a block, and its shifts in lanes and bits.

        Slabs without pixels have None as their shift in lanes.
        """
        for r in self.rows.needed():
            phase_y, down = self._shifts(r, self.rows, self.source.lanes)
            for s in self.columns.needed():
                phase_x, right = self._shifts(s, self.columns, self.source.row_bits)
                number = (r - self.rows.first) * self.columns.slabs + s - self.columns.first
                vector = phase_y * self.source.column_phases + phase_x
                yield (number, vector, None, 0) if right is None else (number, vector, down, right)

    def _slab_table(self) -> np.ndarray:
        """For each needed slab: number, input vector, index of ``_shifts_down``, bits to shift right, and left."""
        downs, rows = self._shifts_down(), []
        for number, vector, down, right in self._slabs():
            loop, bits = (
                (0, right + (down or 0) * self.source.row_bits) if self.of_words else (downs.index(down), right)
            )
            rows.append((number, vector, loop, max(0, bits), max(0, -bits)))
        table = np.asarray(rows)
        return table.astype(np.min_scalar_type(table.max()))

    def _gather_rows(self, data: tirx.Buffer, window: tirx.Buffer, tables: list[tirx.Buffer]) -> None:
        source, target = self.source, self.target
        blocks, slabs_y, slabs_x, planes, words = self.array_shape
        element, in_lanes, out_lanes = f"uint{target.row_bits}", source.lanes, target.lanes
        outputs = T.decl_buffer((blocks * slabs_y * slabs_x * planes, out_lanes), element, data=window.data)
        row_table, column_table = tables[:2]
        masks = [self._masks(table) for table in tables[2:]]
        needed_r, needed_s = self.rows.needed(), self.columns.needed()
        rows = source.row_phases * in_lanes

        slabs = blocks * slabs_y * slabs_x
        # Clear all slabs, because the loops below do not write lanes without an image row.
        with parallel_rows(slabs, slabs * planes * words) as slab, T.serial(0, planes) as c:
            store(outputs, target.vector.constant(0), (slab * planes + c,), 0)

        work = target.batch * source.channels * (rows + len(needed_r) * target.rows) * len(needed_s) * 4
        with parallel_rows(source.channels, work) as c, T.serial(0, target.batch) as n:
            # All rows of the channel, with the columns that displacement s needs, followed by rows of pad bits.
            outside = source.images * source.rows
            columns = T.alloc_buffer((len(needed_s), rows + outside), element)
            for k, s in enumerate(needed_s):
                with T.serial(0, outside) as i:
                    T.buffer_store(columns, tirx.const(0, element), [k, rows + i])
                with T.serial(0, source.row_phases) as phase:
                    first = T.bind((n // source.images * source.row_phases + phase) * source.column_phases)
                    value = self._take_columns(data, first, c, (k, s), column_table)
                    store(columns, value, (k,), phase * in_lanes)
            first_lane = T.bind(n % target.images * target.rows)
            first_row = T.bind(n % source.images * source.rows)
            with T.serial(0, len(needed_r)) as i:
                r = T.bind(row_table[i, target.rows])
                with T.serial(0, target.rows) as lane:
                    row = T.bind(row_table[i, lane] + first_row)
                    for k, s in enumerate(needed_s):
                        number = T.bind(r * slabs_x + s - self.columns.first)
                        value, at = columns[k, row], first_lane + lane
                        if masks:
                            value = (value & masks[0][number, at]) | masks[1][number, at]
                        slab = n // target.images * (slabs_y * slabs_x) + number
                        T.buffer_store(outputs, value, [slab * planes + c, at])

    def _take_columns(
        self,
        data: tirx.Buffer,
        first: tirx.Expr,
        c: tirx.Expr,
        displacement: tuple[int, int],
        column_table: tirx.Buffer,
    ) -> tirx.Expr:
        """The columns that a displacement (index, s) needs, for all lanes of the input vectors from ``first`` on."""
        source, target, axis, (k, s) = self.source, self.target, self.columns, displacement
        width = max(source.row_bits, target.row_bits)
        inputs = T.decl_buffer((int(np.prod(source.shape[:-1])), source.lanes), source.lane, data=data.data)
        wide, narrow = VectorType(f"uint{width}", source.lanes), VectorType(target.lane, source.lanes)
        const = wide.constant

        def columns_of(phase: Index) -> tirx.Expr:
            return wide.cast(load(inputs, ((first + phase) * source.channels + c,), 0, source.lanes))

        if not self._by_shifts:
            total = T.alloc_buffer((source.lanes,), wide.element)
            store(total, const(0), (), 0)
            with T.serial(0, target.columns) as j, T.If(column_table[k, j, 0] >= 0), T.Then():
                shift = T.bind(tirx.Cast(wide.element, column_table[k, j, 1]))
                bit = (columns_of(column_table[k, j, 0]) >> wide.broadcast(shift)) & const(1)
                placed = bit << wide.broadcast(tirx.Cast(wide.element, j))
                store(total, load(total, (), 0, source.lanes) | placed, (), 0)
            return narrow.cast(load(total, (), 0, source.lanes))

        ratio = axis.step // axis.input_phases
        phase, shift = s % axis.input_phases, s // axis.input_phases
        left = max(0, -(shift // ratio))  # bits of the output before the image
        shift += left * ratio
        value = columns_of(phase)
        if shift:
            value = value >> const(shift) if shift < width else const(0)
        while ratio > 1:
            value, ratio = _even_bits(value, width, const), ratio // 2
        if left:
            value = value << const(left) if left < width else const(0)
        return narrow.cast(value)

    @property
    def _by_shifts(self) -> bool:
        """Whether the columns of a displacement are every 1st, 2nd, 4th, ... bit of one input vector."""
        ratio, rest = divmod(self.columns.step, self.columns.input_phases)
        return rest == 0 and ratio & (ratio - 1) == 0

    def _row_table(self) -> np.ndarray:
        """For each needed r: the input row of each output lane, in the input's vector order; last, the slab of r."""
        needed, axis, source = self.rows.needed(), self.rows, self.source
        y = np.asarray(needed)[:, None] + axis.step * np.arange(self.target.rows)[None, :]
        row = y % source.row_phases * source.lanes + y // source.row_phases
        row[(y < 0) | (y >= self.shape.height)] = source.row_phases * source.lanes
        return np.concatenate([row, np.asarray(needed)[:, None] - axis.first], axis=1).astype(np.int32)

    def _column_table(self) -> np.ndarray:
        """For each needed s and output bit: the column phase of the input (-1 outside the image) and the bit."""
        needed, axis = self.columns.needed(), self.columns
        x = np.asarray(needed)[:, None] + axis.step * np.arange(self.target.columns)[None, :]
        phase, bit = x % axis.input_phases, x // axis.input_phases
        phase[(x < 0) | (x >= self.shape.width)] = -1
        return np.stack([phase, bit], axis=-1).astype(np.int32)

    def _inside(self) -> np.ndarray:
        """Mask of the slab bits that are pixels of the image: uint64 [slabs_y * slabs_x, words]."""
        y = np.arange(self.rows.slabs)[:, None] + self.rows.first + self.rows.step * np.arange(self.target.rows)
        x = np.arange(self.columns.slabs)[:, None] + self.columns.first
        x = x + self.columns.step * np.arange(self.target.columns)
        rows, columns = (y >= 0) & (y < self.shape.height), (x >= 0) & (x < self.shape.width)
        return self._slab_bits(rows[:, None, :, None] & columns[None, :, None, :])

    def _slab_bits(self, bits: np.ndarray) -> np.ndarray:
        """Pack bool [slabs_y, slabs_x, rows, columns] into words, repeated for all images of a vector."""
        target, slabs = self.target, self.rows.slabs * self.columns.slabs
        lanes = np.zeros((slabs, target.lanes, target.row_bits), bool)
        image = bits.reshape(slabs, target.rows, target.columns)
        for first in range(0, target.images * target.rows, target.rows):
            lanes[:, first : first + target.rows, : target.columns] = image
        octets = np.packbits(lanes.reshape(slabs, -1), axis=-1, bitorder="little")
        return np.ascontiguousarray(octets).view("<u8").astype(np.uint64, copy=False)


def _even_bits(value: tirx.Expr, width: int, const: Callable[[int], tirx.Expr]) -> tirx.Expr:
    """Bits 0, 2, 4, ... compacted to the low half."""

    def mask(run: int) -> tirx.Expr:
        return const(sum(((1 << run) - 1) << first for first in range(0, width, 2 * run)))

    value, run = T.bind(value & mask(1)), 1
    while 2 * run < width:
        value = T.bind((value | (value >> const(run))) & mask(2 * run))
        run *= 2
    return value
