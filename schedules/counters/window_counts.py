"""The number of set activations in each window (pc of counting.py), for all output pixels, per group of channels.

The number is the same for all output channels of a group, so it is counted once, before the main loops.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..layouts.bit_planes import PlaneLayout
from ..tir.llvm import keep_rolled
from ..tir.loops import parallel_rows
from ..tir.vectors import load, store
from .adders import Adder, Counters, Plane, load_plane
from .counting import PlaneCounting

_CHANNELS = 16  # channels that are added at once,
_SCALAR_CHANNELS = 4  # and where there are no vectors


class WindowCounts:
    """The numbers v of counting.py, bit-sliced: one for each vector of output pixels and group."""

    def __init__(
        self, counting: PlaneCounting, data: tirx.Buffer, window: tirx.Buffer, tables: list[tirx.Buffer]
    ) -> None:
        """Emit the code that counts.

        The bits of each pixel are first summed over the channels. The planes of these sums are then shifted to the
        output pixels like planes of channels, and added over the taps.

        Args:
            counting: The layer and what it counts.
            data: The planes of the input.
            window: The planes of all taps.
            tables: The parameters that hold the window's constants.
        """
        self._words, self._levels = counting.target.words, counting.window_levels
        self._adder = Adder(counting.isa, self._words)
        shape, target = counting.shape, counting.target
        blocks, slabs_y, slabs_x, _, _ = counting.window.array_shape
        levels, negative = shape.group_in_channels.bit_length(), counting.term is None or counting.term.factor < 0
        numbers = shape.groups * levels
        if counting.pad_value == 1:  # padding is counted too: sum over each slab
            parts, stride = self._sums(counting, window, counting.target, blocks * slabs_y * slabs_x), numbers
        else:
            of_sums = replace(
                counting.window,
                shape=replace(shape, in_channels=numbers),
                source=replace(counting.source, channels=numbers),
            )
            sums = self._sums(counting, data, counting.source, counting.source.vectors)
            parts, stride = of_sums.emit(sums, tables), of_sums.planes
        (kh, kw), (dy, dx) = shape.kernel, shape.dilation
        self._counts = T.alloc_buffer((target.vectors, shape.groups, self._levels, self._words), "uint64")
        work = target.vectors * shape.groups * kh * kw * self._levels * self._words * 4
        with parallel_rows(target.vectors, work) as vector, T.serial(0, shape.groups) as group:
            # Read with the stored type: TVM tells LLVM that accesses of different types never alias. Declared at each
            # use: TVM reuses the memory of a buffer after the buffer's last mention.
            rows = T.decl_buffer((int(np.prod(parts.shape[:-1])), target.lanes), target.lane, data=parts.data)
            first = T.bind(counting.first_slab(vector))
            counters = Counters(self._adder, self._levels)
            counters.start()
            with T.serial(0, kh) as ky, T.serial(0, kw) as kx:
                keep_rolled()
                number = T.bind((first + ky * (dy * slabs_x) + kx * dx) * stride + group * levels)
                loaded = [load(rows, (number + i,), 0, target.lanes) for i in range(levels)]
                counters.add_number([T.bind(self._adder.vector.reinterpret(part)) for part in loaded])
            for level, plane in enumerate(counters.planes):
                store(self._counts, ~plane if negative else plane, (vector, group, level), 0)

    def load(self, vector: tirx.Expr, group: tirx.Expr | int, level: int) -> tirx.Expr:
        """One plane of the number v of a vector and group."""
        return T.bind(load(self._counts, (vector, group, level), 0, self._words))

    def _sums(self, counting: PlaneCounting, planes: tirx.Buffer, layout: PlaneLayout, vectors: int) -> tirx.Buffer:
        """The number of set channels per pixel and group, bit-sliced: [vectors, groups, levels, lanes].

        Args:
            counting: The layer and what it counts.
            planes: The planes of the channels, [..., planes per vector, words or lanes].
            layout: The layout of the pixels in a vector.
            vectors: Number of vectors.
        """
        shape, words, depth = counting.shape, layout.words, counting.shape.group_in_channels
        stride = int(planes.shape[-2])
        flat = T.decl_buffer((int(np.prod(planes.shape[:-1])) * words,), "uint64", data=planes.data)
        adder = Adder(counting.isa, words)
        plane_at = load_plane(words, counting.unit)
        # Stored as lanes, since PlaneWindow.emit reads lanes.
        sums = T.alloc_buffer((vectors, shape.groups, depth.bit_length(), layout.lanes), layout.lane)
        work = vectors * shape.in_channels * words * 4
        with parallel_rows(vectors, work) as vector, T.serial(0, shape.groups) as group:

            def plane(c: tirx.Expr | int) -> Plane:
                pointer = tirx.address_of(flat[(vector * stride + group * depth + c) * words])
                return lambda: plane_at.call_once(pointer, tirx.const(0, "int64"))

            counters = Counters(adder, int(sums.shape[2]))
            counters.start()
            together = _SCALAR_CHANNELS if counting.isa.scalar else _CHANNELS
            if depth >= together:
                with T.serial(0, depth // together) as block:
                    keep_rolled()
                    counters.add([plane(block * together + i) for i in range(together)])
            if depth % together:
                with T.serial(depth // together * together, depth) as c:
                    keep_rolled()
                    counters.add([plane(c)])
            for level, total in enumerate(counters.planes):
                store(sums, layout.vector.reinterpret(total), (vector, group, level), 0)
        return sums
