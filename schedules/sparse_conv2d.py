"""Convolutions with sparse binary weights on bit planes: count down the columns.

For every output channel the planes of its set weights are added into bit-sliced counters::

    make the window of shifted planes                          schedules/plane_window.py
    parallel for vector of output pixels, part of the channels:
        for channel, those with most weights first:
            counters = 2^L - threshold                         border by border, constant planes
            for block of 16 set weights:
                counters += 16 planes                          15 full adders
            tails of 8 and 4
            store the overflow                                 set where the count reaches the threshold

The cost is proportional to the number of set weights. Budget of a set weight and a vector of pixels: a load of its
offset, a load of the plane, and about one full adder (schedules/counters.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from sbnn_tvm.domain import SIGN, BinaryDomain
from sbnn_tvm.schedules.bit_planes import PlaneLayout, plane_layout
from sbnn_tvm.schedules.counters import Adder, Counters
from sbnn_tvm.schedules.epilogue import Epilogue, IntegerThreshold
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.llvm import link
from sbnn_tvm.schedules.loops import parallel_rows
from sbnn_tvm.schedules.plane_window import PlaneWindow
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.weight_lists import BLOCK, TAIL, WeightLists


def out_layout(shape, isa):
    return plane_layout(shape.batch, shape.out_height, shape.out_width, shape.out_channels, isa)


def in_layout(shape, isa):
    return plane_layout(shape.batch, shape.height, shape.width, shape.in_channels, isa)


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
    source = source or in_layout(shape, isa)
    target = target or out_layout(shape, isa)
    conv = _Conv(shape, bits, pad_value, isa, source, target)
    return conv.build_threshold(epilogue)


class _Conv:
    def __init__(self, shape, bits, pad_value, isa, source, target):
        self.shape, self.bits, self.pad_value, self.isa = shape, bits, pad_value, isa
        self.source, self.target = source, target
        self.window = PlaneWindow(shape, source, target, pad_value)
        self.words = target.words
        self.pieces = max(1, min(256, isa.vector_bits) // target.vector_bits)
        offsets = self.window.offsets()
        lists = []
        for oc in range(shape.out_channels):
            group = oc // shape.group_out_channels
            mine = offsets[group * shape.group_in_channels : (group + 1) * shape.group_in_channels]
            lists.append(mine[bits[oc]])
        self.lists = WeightLists.of(lists, self.window.zero, self.pieces)
        self.levels = max(1, int(self.lists.counts.max()).bit_length())

    def classes(self):
        """class of every bit [blocks, a, b, V], -1 no pixel; counts of valid set weights [classes, OC]."""
        shape, t = self.shape, self.target
        if self.pad_value == 0 and any(shape.padding):
            border = shape.border_classes()
            of_pixel = border.row_class[:, None] * border.columns + border.col_class[None, :]
            valid = np.einsum("kyx,oyx->ko", border.valid, np.count_nonzero(self.bits, axis=1))
        else:
            of_pixel = np.zeros((shape.out_height, shape.out_width), int)
            valid = np.count_nonzero(self.bits, axis=(1, 2, 3))[None]
        grid = np.full((t.blocks * t.images, t.rows * t.row_phases, t.row_bits * t.column_phases), -1)
        grid[: t.batch, : t.height, : t.width] = of_pixel
        split = grid.reshape(t.blocks, t.images, t.rows, t.row_phases, t.row_bits, t.column_phases)
        lanes = split.transpose(0, 3, 5, 1, 2, 4).reshape(t.vectors, -1)
        lanes = np.pad(lanes, [(0, 0), (0, t.vector_bits - lanes.shape[1])], constant_values=-1)
        return lanes, valid

    def build_threshold(self, epilogue: IntegerThreshold) -> Kernel:
        shape, isa, target, window, lists = self.shape, self.isa, self.target, self.window, self.lists
        lanes, valid = self.classes()
        kinds, kind_of = np.unique(lanes, axis=0, return_inverse=True)
        top = 1 << self.levels
        big = 2 * shape.kernel[0] * shape.kernel[1] * shape.group_in_channels + 2
        t = np.clip(epilogue.threshold, -big, big) + epilogue.flip
        need = np.clip(-((-t - valid) // 2), 0, top)  # [classes, OC]: A >= need
        start = top - need[:, lists.channels]
        start = np.concatenate([start, np.zeros((1, start.shape[1]), start.dtype)])  # class -1
        overflow_init = bool((start >= top).any())
        planes = self.levels + overflow_init
        init = np.zeros((len(kinds), shape.out_channels, planes, target.vector_bits), bool)
        for level in range(planes):
            init[:, :, level] = (start[kinds] >> level & 1).transpose(0, 2, 1)
        initial = np.ascontiguousarray(np.packbits(init, axis=-1, bitorder="little")).view(np.uint64)
        inverted = bool(epilogue.flip.any())
        invert = np.zeros(0)
        adder = Adder(isa, self.words * self.pieces)
        constants = [lists.channels, lists.table, lists.entries, kind_of.reshape(-1).astype(np.int32), initial]
        if inverted:
            flip = np.where(epilogue.flip[lists.channels], ~np.uint64(0), np.uint64(0))
            mask = np.ascontiguousarray(np.packbits(kinds >= 0, axis=-1, bitorder="little")).view(np.uint64)
            constants += [flip, mask]
        tables_np = window.constants()
        words, pieces = self.words, self.pieces
        vectors = target.vectors
        chunks = 1 if vectors >= 16 else min(-(-16 // vectors), -(-shape.out_channels // 16))
        per = -(-shape.out_channels // chunks)
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("sparse_conv2d")
            T.func_attr({"tirx.noalias": True})
            data = T.arg("data", T.buffer(self.source.shape, "uint64"))
            channels_b, table_b, entries_b, kind_b, initial_b, *flips = [
                T.arg(f"c{i}", T.buffer(a.shape, str(a.dtype))) for i, a in enumerate(constants)
            ]
            tables = [T.arg(f"w{i}", T.buffer(a.shape, str(a.dtype))) for i, a in enumerate(tables_np)]
            out = T.arg("out", T.buffer(target.shape, "uint64"))
            flat_out = T.decl_buffer((vectors, shape.out_channels, words), "uint64", data=out.data)
            ws = window.emit(data, tables)
            flat = T.decl_buffer((int(np.prod(ws.shape)),), "uint64", data=ws.data)
            work = int(lists.counts.sum()) * vectors * words * 2
            with parallel_rows(vectors * chunks, work) as task:
                v, chunk = T.bind(task // chunks), T.bind(task % chunks)
                a, b = target.row_phases, target.column_phases
                base = T.bind(tirx.Cast("int64", window.base(v // (a * b), v // b % a, v % b)))
                kind = T.bind(kind_b[v])
                with T.serial(0, per) as j:
                    i = T.bind(tirx.min(chunk * per + j, shape.out_channels - 1))
                    counters = Counters(adder, self.levels, True)

                    def init_plane(level):
                        if level >= planes:
                            return tirx.Broadcast(tirx.const(0, "uint64"), words * pieces) if words * pieces > 1 else tirx.const(0, "uint64")
                        value = initial_b.vload([kind, i, level, 0], f"uint64x{words}" if words > 1 else "uint64")
                        if pieces > 1:
                            zero = tirx.const(0, "uint64")
                            if words > 1:
                                zero = tirx.Broadcast(zero, words)
                            value = tirx.Shuffle([value] + [zero] * (pieces - 1), list(range(words * pieces)))
                        return value

                    counters.start(init_plane)
                    first = T.bind(tirx.Cast("int64", table_b[i, 0]))

                    def plane(at):
                        def make():
                            parts = []
                            for p in range(pieces):
                                off = tirx.Cast("int64", entries_b[at * pieces + p + first])
                                parts.append(flat.vload([base + off], f"uint64x{words}" if words > 1 else "uint64"))
                            if pieces == 1:
                                return parts[0]
                            return tirx.Shuffle(parts, list(range(words * pieces)))
                        return make

                    blocks = T.bind(table_b[i, 1])
                    tail = T.bind(table_b[i, 2])
                    with T.serial(0, blocks) as blk:
                        at = T.bind(tirx.Cast("int64", blk) * BLOCK)
                        counters.add([plane(at + k) for k in range(BLOCK)])
                    after = T.bind(tirx.Cast("int64", blocks) * BLOCK)
                    with T.If(tail >= 2), T.Then():
                        counters.add([plane(after + k) for k in range(8)])
                    after2 = T.bind(after + tirx.Cast("int64", tail // 2) * 8)
                    with T.If(tail % 2 == 1), T.Then():
                        counters.add([plane(after2 + k) for k in range(4)])
                    result = self.reduce(counters)
                    if inverted:
                        f = flips[0][i]
                        if words > 1:
                            f = tirx.Broadcast(f, words)
                        result = result ^ (f & flips[1].vload([kind, 0], f"uint64x{words}" if words > 1 else "uint64"))
                    T.buffer_store(flat_out, result, [v, channels_b[i], tirx.Ramp(0, 1, words) if words > 1 else 0])
        func = link(builder.get(), adder.functions)
        return Kernel(f"sparse {target.vector_bits}", func, (*constants, *tables_np), ((target.shape, "uint64"),))

    def reduce(self, counters):
        words, pieces = self.words, self.pieces
        planes = [T.bind(counters[level]) for level in range(self.levels + 1)]
        while pieces > 1:
            pieces //= 2
            half = words * pieces
            sub = Adder(self.isa, half)
            def split(value):
                if half == 1:
                    return T.bind(tirx.Shuffle([value], [0])), T.bind(tirx.Shuffle([value], [1]))
                return (T.bind(tirx.Shuffle([value], list(range(half)))), T.bind(tirx.Shuffle([value], list(range(half, 2 * half)))))
            carry = None
            new = []
            for level in range(self.levels):
                lo, hi = split(planes[level])
                if carry is None:
                    total, carry = sub.half(lo, hi)
                else:
                    total, carry = sub.full(lo, hi, carry)
                new.append(total)
            lo, hi = split(planes[-1])
            new.append(T.bind(lo | hi | carry))
            planes = new
            counters.adder.functions |= sub.functions
        return planes[-1]
