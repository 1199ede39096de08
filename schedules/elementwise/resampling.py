"""Resampling of feature maps: each output pixel is a weighted sum of a few pixels of the input."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..epilogue.program import Program
from ..epilogue.writer import EpilogueWriter
from ..isa import Isa
from ..kernel import Kernel
from ..tir.kernel_builder import KernelBuilder
from ..tir.loops import for_blocks, parallel_rows
from ..tir.vectors import Index, VectorType, load


@dataclass(frozen=True, eq=False)
class AxisTaps:
    """What each output position of an axis reads.

    Attributes:
        indices: Input positions, int32 [outputs, taps].
        weights: Their weights, float32 [outputs, taps]; None for a single tap of weight 1.
    """

    indices: np.ndarray
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.weights is None and self.indices.shape[1] != 1:
            raise ValueError(f"{self.indices.shape[1]} taps need weights")

    @classmethod
    def identity(cls, size: int) -> AxisTaps:
        """Every position reads itself."""
        return cls(np.arange(size, dtype=np.int32)[:, None])

    @property
    def outputs(self) -> int:
        """Number of output positions."""
        return len(self.indices)


def resample(
    shape: tuple[int, int, int, int], rows: AxisTaps, columns: AxisTaps, epilogue: Program, isa: Isa
) -> Kernel:
    """Resample a feature map: the rows' weighted sums of the columns' weighted sums.

    Args:
        shape: (N, H, W, C) of the input.
        rows, columns: What each row and column of the output reads.
        epilogue: Ref(0) is the sum.
        isa: The instruction set.

    Returns:
        ``func(data float32 [N, H, W, C], *tensors, *constants, *outputs)``.
    """
    batch, _, _, channels = shape
    lanes, run = isa.float_lanes, max(isa.word_bits, isa.float_lanes)
    height, width = rows.outputs, columns.outputs
    vector = VectorType("float32", lanes)
    writer = EpilogueWriter(epilogue, (batch, height, width, channels), isa, tile=run)
    with KernelBuilder("resample") as builder:
        data = builder.data(shape, "float32")
        places, weights = [], []
        for name, taps in (("row", rows), ("column", columns)):
            places.append(builder.constant(f"{name}s", np.ascontiguousarray(taps.indices, np.int32)))
            given = taps.weights
            weights.append(None if given is None else builder.constant(f"{name}_weights", given.astype(np.float32)))
        writer.declare(builder)

        def weighted(axis: int, at: Index, values: list[tirx.Expr]) -> tirx.Expr:
            factors = weights[axis]
            if factors is None:
                return values[0]
            terms = [value * vector.broadcast(factors[at, tap]) for tap, value in enumerate(values)]
            return sum(terms[1:], terms[0])

        def pixel(n: Index, y: Index, x: Index, ys: list[Index], xs: list[Index], first: Index, valid: int) -> None:
            values = []
            for i in range(0, run, lanes):
                sums = [
                    weighted(1, x, [load(data, (n, row, column), first + i, lanes, valid - i) for column in xs])
                    for row in ys
                ]
                values.append(T.bind(weighted(0, y, sums)))
            writer.store(values, (n, y, x), first)

        with parallel_rows(batch * height, batch * height * width * channels) as line, T.serial(0, width) as x:
            n, y = T.bind(tirx.floordiv(line, height)), T.bind(tirx.floormod(line, height))
            ys = [T.bind(places[0][y, tap]) for tap in range(rows.indices.shape[1])]
            xs = [T.bind(places[1][x, tap]) for tap in range(columns.indices.shape[1])]
            for_blocks(channels, run, partial(pixel, n, y, x, ys, xs))
    return builder.kernel()
