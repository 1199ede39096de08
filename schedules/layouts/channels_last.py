"""Conversions between channels first and channels last: blocked transposes of feature maps."""

from __future__ import annotations

from functools import partial

from tvm import tirx
from tvm.tirx.script import builder as T

from ..isa import Isa
from ..kernel import Kernel
from ..tir.kernel_builder import KernelBuilder
from ..tir.loops import for_blocks, one_block, parallel_rows
from ..tir.vectors import Index, VectorType, load, store, transposed

Shape = tuple[int, int, int, int]

# Up to this many channels are interleaved in one step: the result of a block is one contiguous run.
FEW_CHANNELS = 4


def nchw_to_nhwc(shape: Shape, isa: Isa, dtype: str = "float32") -> Kernel:
    """Convert a feature map to channels last.

    Args:
        shape: (N, C, H, W).
        isa: The instruction set.
        dtype: The element type of both maps.

    Returns:
        ``func(data [N, C, H, W], out [N, H, W, C])``.
    """
    batch, channels, height, width = shape
    return _transpose("nchw_to_nhwc", shape, (batch, height, width, channels), (channels, height * width), isa, dtype)


def nhwc_to_nchw(shape: Shape, isa: Isa, dtype: str = "float32") -> Kernel:
    """Convert a feature map to channels first.

    Args:
        shape: (N, C, H, W).
        isa: The instruction set.
        dtype: The element type of both maps.

    Returns:
        ``func(data [N, H, W, C], out [N, C, H, W])``.
    """
    batch, channels, height, width = shape
    return _transpose("nhwc_to_nchw", (batch, height, width, channels), shape, (height * width, channels), isa, dtype)


def _transpose(name: str, in_shape: Shape, out_shape: Shape, matrix: tuple[int, int], isa: Isa, dtype: str) -> Kernel:
    """Transpose the matrix [rows, columns] of every image."""
    rows, columns = matrix
    batch, lanes = in_shape[0], isa.float_lanes
    blocks = -(-columns // lanes)
    with KernelBuilder(name) as builder:
        data = builder.data(in_shape, dtype)
        out = builder.output(out_shape, dtype)
        source = T.decl_buffer((batch, rows, columns), dtype, data=data.data)

        def interleave(image: Index, column: Index, width: int) -> None:
            flat = T.decl_buffer((batch, columns * rows), dtype, data=out.data)
            vectors = [load(source, (image, row), column, lanes, width) for row in range(rows)]
            mixed = tirx.Shuffle(vectors, [row * lanes + i for i in range(lanes) for row in range(rows)])
            store(flat, T.bind(mixed), (image,), column * rows, width * rows)

        def transpose_columns(image: Index, column: Index, width: int) -> None:
            target = T.decl_buffer((batch, columns, rows), dtype, data=out.data)

            def transpose_block(row: Index, height: int) -> None:
                zero = VectorType(dtype, lanes).constant(0)
                vectors = [
                    load(source, (image, row + i), column, lanes, width) if i < height else zero for i in range(lanes)
                ]
                for i, vector in enumerate(transposed([T.bind(vector) for vector in vectors])[:width]):
                    store(target, vector, (image, column + i), row, height)

            for_blocks(rows, lanes, transpose_block)

        with parallel_rows(batch * blocks, batch * rows * columns) as index:
            body = interleave if rows <= FEW_CHANNELS else transpose_columns
            one_block(index % blocks, columns, lanes, partial(body, index // blocks))
    return builder.kernel()
