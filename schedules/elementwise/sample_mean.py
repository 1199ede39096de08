"""The mean over all values of each sample of a batch."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from ..isa import Isa
from ..kernel import Kernel
from ..tir.kernel_builder import KernelBuilder
from ..tir.loops import parallel_rows
from ..tir.vectors import Index, VectorType, load, store

_SUMS = 64
"""Partial sums per sample: value i is added to partial sum i mod 64."""


def sample_mean(batch: int, values: int, isa: Isa) -> Kernel:
    """The mean of each row of a matrix.

    The order of additions is the same on every target and for any number of threads. Value i of a sample is added to
    partial sum i mod 64, in ascending order of i. Then partial sums 2^k apart are added, for k = 5, 4, ... 0. The
    rounding error is that of a sum of values / 64 + 6 terms.

    Args:
        batch: Number of samples.
        values: Values per sample.
        isa: The instruction set.

    Returns:
        ``func(data float32 [batch, values], out float32 [batch])``.
    """
    lanes, runs = isa.float_lanes, values // _SUMS
    with KernelBuilder("sample_mean") as builder:
        data = builder.data((batch, values), "float32")
        out = builder.output((batch,), "float32")
        with parallel_rows(batch, batch * values) as n:
            sums = T.alloc_buffer((_SUMS,), "float32")

            def add(first: Index, valid: int) -> None:
                for i in range(0, min(valid, _SUMS), lanes):
                    value = load(data, (n,), first + i, lanes, valid - i)
                    store(sums, load(sums, (), i, lanes) + value, (), i)

            for i in range(0, _SUMS, lanes):
                store(sums, VectorType("float32", lanes).constant(0.0), (), i)
            with T.serial(0, runs) as run:
                add(run * _SUMS, _SUMS)
            if values % _SUMS:
                add(runs * _SUMS, values % _SUMS)
            half = _SUMS // 2
            while half:
                width = min(half, lanes)
                for i in range(0, half, width):
                    store(sums, load(sums, (), i, width) + load(sums, (), half + i, width), (), i)
                half //= 2
            T.buffer_store(out, sums[0] / tirx.const(values, "float32"), [n])
    return builder.kernel()
