"""Squares of counts, transposed and read pixel by pixel, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from tvm.tirx.script import builder as T

from sbnn_tvm.schedules.counters.count_transpose import CountSquares
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.tir.kernel_builder import KernelBuilder
from sbnn_tvm.schedules.tir.vectors import store
from tests.support.kernel_execution import run, target_for

RUN = 64


def transposing(squares: CountSquares, lanes: int) -> Kernel:
    """``func(data uint8 of squares.shape, out int32 [8 * octets, channels])``."""
    shape = (8 * squares.octets, squares.channels)
    with KernelBuilder("transposing") as builder:
        data = builder.data(squares.shape, "uint8")
        out = builder.output(shape, "int32")
        counts = T.alloc_buffer(squares.shape, "uint8")
        with T.grid(*squares.shape) as (part, channel, k, octet):
            T.buffer_store(counts, data[part, channel, k, octet], [part, channel, k, octet])
        with T.serial(0, squares.channels // RUN) as number:
            first = T.bind(number * RUN)
            squares.transpose(counts, first, RUN)
            with T.serial(0, squares.octets) as octet, T.serial(0, 8) as k:
                for start in range(0, RUN, lanes):
                    vector = squares.load(counts, (octet, k), first, start, lanes)
                    store(out, vector, (octet * 8 + k,), first + start)
    return builder.kernel()


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize(
    ("octets", "lanes", "target"),
    [(64, 16, "x86-64-v4"), (32, 16, "x86-64-v4"), (8, 16, "x86-64-v4"), (32, 8, "x86-64-v3"), (16, 4, "arm")],
)
def test_squares(octets: int, lanes: int, target: str, parts: int, rng: np.random.Generator) -> None:
    squares = CountSquares(parts, 128, octets)
    data = rng.integers(0, 256, squares.shape).astype(np.uint8)
    if parts == 4:
        data[3] &= 127
    (pixels,) = run(transposing(squares, lanes), target_for(target), data)
    counts = sum(data[part].astype(np.int64) << 8 * part for part in range(parts))
    np.testing.assert_array_equal(pixels, counts.transpose(2, 1, 0).reshape(8 * octets, 128))
