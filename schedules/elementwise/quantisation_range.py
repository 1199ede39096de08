"""The scale and zero point of a quantisation to uint8 by the range of a tensor: ONNX's DynamicQuantizeLinear."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from ..epilogue.writer import quantised
from ..isa import Isa
from ..kernel import Kernel
from ..tir.kernel_builder import KernelBuilder
from ..tir.llvm import extremum, largest_number
from ..tir.loops import for_blocks, parallel_rows
from ..tir.vectors import Index, VectorType, load, store

_VECTORS = 4
"""Vectors of each extremum: no operation waits for the one before it."""

_MOST_TASKS = 16
_LEAST = 8192
"""The fewest values of a task, some 1 us of work."""

_LEVELS = 255.0


def quantisation_range(values: int, isa: Isa) -> Kernel:
    """The scale and zero point with which the range of some numbers, made to include 0, fills uint8.

    ``scale = (high - low) / 255``, or 1 if that range is empty. ``zero_point = saturate(round_half_even((0 - low) /
    scale))``. If a number is NaN, the scale is NaN and the zero point 0.

    Args:
        values: How many numbers.
        isa: The instruction set.

    Returns:
        ``func(data float32 [values], scale float32 [1, 1], zero_point uint8 [1, 1])``.
    """
    vector = VectorType("float32", isa.float_lanes)
    block = _VECTORS * vector.lanes
    share = max(_LEAST, -(-values // _MOST_TASKS))
    share = -(-share // block) * block
    tasks = -(-values // share)
    # A NaN in one of both is enough, since the scale is their difference.
    highest, lowest = largest_number(vector, isa.architecture), extremum("minimum", vector, isa.architecture)
    with KernelBuilder("quantisation_range") as builder:
        data = builder.data((values,), "float32")
        scale_out, point_out = builder.output((1, 1), "float32", "scale"), builder.output((1, 1), "uint8", "zero_point")
        parts = T.alloc_buffer((tasks, 2, vector.lanes), "float32")

        def extrema(task: Index, first: Index, length: int) -> None:
            """Emit the highest and the lowest of numbers and 0, in vectors."""
            high, low = (T.alloc_buffer((block,), "float32") for _ in range(2))
            for i in range(0, block, vector.lanes):
                for each in (high, low):
                    store(each, vector.constant(0.0), (), i)

            def join(at: Index, valid: int) -> None:
                for i in range(0, min(block, valid), vector.lanes):
                    value = T.bind(load(data, (), first + at + i, vector.lanes, valid - i))  # 0 after the last one
                    store(high, highest(value, load(high, (), i, vector.lanes)), (), i)
                    store(low, lowest(value, load(low, (), i, vector.lanes)), (), i)

            for_blocks(length, block, join)
            for which, (each, function) in enumerate(((high, highest), (low, lowest))):
                joined = T.bind(load(each, (), 0, vector.lanes))
                for i in range(vector.lanes, block, vector.lanes):
                    joined = T.bind(function(T.bind(load(each, (), i, vector.lanes)), joined))
                store(parts, joined, (task, which), 0)

        whole, rest = divmod(values, share)
        with parallel_rows(tasks, values) as task:
            if whole == tasks or not whole:
                extrema(task, task * share, share if whole else rest)
            else:
                with T.If(task < whole):
                    with T.Then():
                        extrema(task, task * share, share)
                    with T.Else():
                        extrema(task, whole * share, rest)
        with T.serial(1, tasks) as task:
            for which, function in enumerate((highest, lowest)):
                first, other = (T.bind(load(parts, (row, which), 0, vector.lanes)) for row in (0, task))
                store(parts, function(other, first), (0, which), 0)
        high = _reduced(T.bind(load(parts, (0, 0), 0, vector.lanes)), isa, "maximum")
        low = _reduced(T.bind(load(parts, (0, 1), 0, vector.lanes)), isa, "minimum")
        extent = T.bind(high - low)
        empty = extent == tirx.const(0.0, "float32")
        scale = T.bind(tirx.Select(empty, tirx.const(1.0, "float32"), extent / tirx.const(_LEVELS, "float32")))
        zero_point = quantised((tirx.const(0.0, "float32") - low) / scale, "uint8", 0)
        T.buffer_store(scale_out, scale, [0, 0])
        T.buffer_store(point_out, zero_point, [0, 0])
    return builder.kernel()


def _reduced(vector: tirx.Expr, isa: Isa, which: str) -> tirx.Expr:
    """The extremum of all lanes; of the lowest ones NaN, if there is one."""
    kind = VectorType.of(vector)
    function = (
        largest_number(kind, isa.architecture) if which == "maximum" else extremum("minimum", kind, isa.architecture)
    )
    apart = kind.lanes // 2
    while apart:
        other = T.bind(tirx.Shuffle([vector], [i ^ apart for i in range(kind.lanes)]))
        vector = T.bind(function(other, vector))
        apart //= 2
    return tirx.Shuffle([vector], [0])
