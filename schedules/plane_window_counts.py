"""How many activations of a window are set, for all pixels: what {-1, +1} weights have in common."""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.schedules.counters import Adder, Counters, Plane, call_once, load_plane, load_words, store_words
from sbnn_tvm.schedules.llvm import LlvmFunction
from sbnn_tvm.schedules.loops import parallel_rows
from sbnn_tvm.schedules.plane_counting import PlaneCounting

_CHANNELS = 16  # that are added at once


class WindowCounts:
    """The numbers ``2^Q - 1 - pc`` of plane_counting.py, bit-sliced, for every vector and group.

    Attributes:
        functions: The LLVM functions that the code calls.
    """

    def __init__(self, counting: PlaneCounting, window: tirx.Buffer) -> None:
        """Emit the code that counts: channel sums of every slab, then sums over the taps.

        Args:
            counting: Of what.
            window: The planes of all taps.
        """
        self._words, self._levels = counting.target.words, counting.window_levels
        self._adder = Adder(counting.isa, self._words)
        shape, target = counting.shape, counting.target
        blocks, slabs_y, slabs_x, _, _ = counting.window.array_shape
        levels = shape.group_in_channels.bit_length()
        parts = T.alloc_buffer((blocks * slabs_y * slabs_x, shape.groups, levels, self._words), "uint64")
        self._count_slabs(counting, window, parts)
        (kh, kw), (dy, dx) = shape.kernel, shape.dilation
        self._counts = T.alloc_buffer((target.vectors, shape.groups, self._levels, self._words), "uint64")
        work = target.vectors * shape.groups * kh * kw * self._levels * self._words * 4
        with parallel_rows(target.vectors, work) as vector, T.serial(0, shape.groups) as group:
            first = T.bind(counting.first_slab(vector))
            counters = Counters(self._adder, self._levels)
            counters.start()
            with T.serial(0, kh) as ky, T.serial(0, kw) as kx:
                slab = T.bind(first + ky * (dy * slabs_x) + kx * dx)
                counters.add_number(
                    [T.bind(load_words(parts, [slab, group, i, 0], self._words)) for i in range(levels)]
                )
            for level, plane in enumerate(counters.planes):
                store_words(self._counts, ~plane, [vector, group, level, 0])

    @property
    def functions(self) -> set[LlvmFunction]:
        """What the code calls."""
        return self._adder.functions

    def load(self, vector: tirx.Expr, group: tirx.Expr | int, level: int) -> tirx.Expr:
        """One plane of the number of a vector and group."""
        return T.bind(load_words(self._counts, [vector, group, level, 0], self._words))

    def _count_slabs(self, counting: PlaneCounting, window: tirx.Buffer, parts: tirx.Buffer) -> None:
        shape, words = counting.shape, self._words
        planes, depth = counting.window.planes, shape.group_in_channels
        flat = T.decl_buffer((int(np.prod(window.shape)),), "uint64", data=window.data)
        load = load_plane(words, counting.unit)
        self._adder.functions.add(load)
        slabs = int(parts.shape[0])
        with parallel_rows(slabs, slabs * shape.in_channels * words * 4) as slab, T.serial(0, shape.groups) as group:

            def plane(c: tirx.Expr | int) -> Plane:
                pointer = tirx.address_of(flat[(slab * planes + group * depth + c) * words])
                return lambda: call_once(load, pointer, tirx.const(0, "int64"))

            counters = Counters(self._adder, int(parts.shape[2]))
            counters.start()
            if depth >= _CHANNELS:
                with T.serial(0, depth // _CHANNELS) as block:
                    counters.add([plane(block * _CHANNELS + i) for i in range(_CHANNELS)])
            if depth % _CHANNELS:
                with T.serial(depth // _CHANNELS * _CHANNELS, depth) as c:
                    counters.add([plane(c)])
            for level, total in enumerate(counters.planes):
                store_words(parts, total, [slab, group, level, 0])
