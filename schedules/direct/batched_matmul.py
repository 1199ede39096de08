"""The product of two activations, for each matrix of a batch: attention's products.

The right matrix of each batch is first packed as the weights of a direct convolution are, [blocks, depth, block]::

    parallel for matrix, block of columns:          the right matrix, transposed if it is stored so
        copy to packed[matrix, block]               a block is tile.vectors vectors of columns, padded with 0
    parallel for matrix, tile of rows:
        for block of columns:
            accumulators[rows][vectors] = 0         registers
            for k in depth:
                right[vectors] = load               contiguous
                for row: accumulators[row] += broadcast(left[row, k]) * right
            epilogue
"""

from __future__ import annotations

from functools import partial

from tvm import tirx
from tvm.tirx.script import builder as T

from ..epilogue.program import Program
from ..epilogue.writer import EpilogueWriter
from ..isa import Isa
from ..kernel import Kernel
from ..shapes import ProductShape
from ..tir.kernel_builder import KernelBuilder
from ..tir.loops import for_blocks, one_block, parallel_rows
from ..tir.vectors import Index, VectorType, lanes_of, load, powers_of_two, store, transposed
from .tiles import Tile, default_tile


def batched_matmul(shape: ProductShape, epilogue: Program, isa: Isa, tile: Tile | None = None) -> Kernel:
    """The product of each pair of matrices.

    Args:
        shape: The batch.
        epilogue: Ref(0) is the sum of products; its shape is (batch * rows, columns).
        isa: The instruction set.
        tile: One of ``tiles.tiles(shape.one, isa, "float32")``; by default the first.

    Returns:
        ``func(left float32 [batch, rows, depth], right float32 [batch, depth, columns], or [batch, columns, depth] if
        it is transposed, *tensors, *constants, *outputs)``.
    """
    tile = tile or default_tile(shape.one, isa, "float32")
    lanes = isa.float_lanes
    block = lanes * tile.vectors
    blocks = -(-shape.columns // block)
    tiles_of_rows = -(-shape.rows // tile.pixels)
    vector = VectorType("float32", lanes)
    writer = EpilogueWriter(epilogue, (shape.batch * shape.rows, shape.columns), isa, tile=block)
    with KernelBuilder("batched_matmul") as builder:
        left = builder.data((shape.batch, shape.rows, shape.depth), "float32", "left")
        stored = (shape.columns, shape.depth) if shape.transposed else (shape.depth, shape.columns)
        right = builder.data((shape.batch, *stored), "float32", "right")
        writer.declare(builder)
        packed = T.alloc_buffer((shape.batch, blocks, shape.depth, block), "float32")

        def copy(matrix: Index, number: Index, first: Index, valid: int) -> None:
            with T.serial(0, shape.depth) as k:
                for v in range(0, block, lanes):
                    store(packed, load(right, (matrix, k), first + v, lanes, valid - v), (matrix, number, k), v)

        def transpose(matrix: Index, number: Index, first: Index, valid: int) -> None:
            def square(v: int, k: Index, count: int) -> None:
                rows = [
                    load(right, (matrix, first + v + i), k, lanes, count) if v + i < valid else vector.constant(0.0)
                    for i in range(lanes)
                ]
                for i, column in enumerate(transposed([T.bind(row) for row in rows])[:count]):
                    store(packed, column, (matrix, number, k + i), v)

            for v in range(0, block, lanes):
                for_blocks(shape.depth, lanes, partial(square, v))

        def rows_of_tile(matrix: Index, first: Index, rows: int) -> None:
            with T.serial(0, blocks) as number:
                sums = T.alloc_buffer((rows * tile.vectors, lanes), "float32")
                for i in range(rows * tile.vectors):
                    store(sums, vector.constant(0.0), (i,), 0)

                def steps(start: Index, count: int) -> None:
                    places = [(k, v) for k in range(count) for v in range(tile.vectors)]
                    weights = {
                        (k, v): T.bind(load(packed, (matrix, number, start + k), v * lanes, lanes)) for k, v in places
                    }
                    factors = []
                    for k in range(count):
                        for row in range(rows):
                            if k == 0:
                                loaded = T.bind(load(left, (matrix, first + row), start, count))
                                factors.append(lanes_of(loaded, lanes))
                            factor = T.bind(factors[row][k])
                            for v in range(tile.vectors):
                                i = row * tile.vectors + v
                                store(sums, load(sums, (i,), 0, lanes) + factor * weights[k, v], (i,), 0)

                def run_of_steps(start: Index, count: int) -> None:
                    for begin, size in powers_of_two(count):
                        steps(start + begin, size)

                for_blocks(shape.depth, lanes if isa.multiplies_by_lane else 1, run_of_steps)
                for row in range(rows):
                    values = [load(sums, (row * tile.vectors + v,), 0, lanes) for v in range(tile.vectors)]
                    writer.store(
                        [T.bind(value) for value in values],
                        (T.bind(matrix * shape.rows + first + row),),
                        T.bind(number * block),
                    )

        pack = transpose if shape.transposed else copy
        with parallel_rows(shape.batch * blocks, shape.batch * shape.depth * shape.columns) as task:
            matrix, number = T.bind(tirx.floordiv(task, blocks)), T.bind(tirx.floormod(task, blocks))
            one_block(number, shape.columns, block, partial(pack, matrix, number))
        with parallel_rows(shape.batch * tiles_of_rows, shape.macs // lanes) as task:
            matrix, number = T.bind(tirx.floordiv(task, tiles_of_rows)), T.bind(tirx.floormod(task, tiles_of_rows))
            one_block(number, shape.rows, tile.pixels, partial(rows_of_tile, matrix))
    return builder.kernel(f"batched_matmul {tile}")
