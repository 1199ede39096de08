"""Elementwise kernels: an epilogue applied to a stored tensor, for example to binarise and pack it."""

from __future__ import annotations

from functools import partial

from tvm.tirx.script import builder as T

from ..epilogue.program import Element, Program
from ..epilogue.writer import EpilogueWriter
from ..isa import Isa
from ..kernel import Kernel
from ..tir.kernel_builder import KernelBuilder
from ..tir.loops import for_blocks, parallel_rows
from ..tir.vectors import Index, VectorType, load


def elementwise(shape: tuple[int, ...], epilogue: Program, isa: Isa, dtype: Element = "float32") -> Kernel:
    """Apply an epilogue to a stored tensor, for example ``BitsOutput`` to binarise and pack it.

    Args:
        shape: (N, H, W, C) or (N, C) of the tensor.
        epilogue: Ref(0) is the value of the tensor, as float32.
        isa: The instruction set.
        dtype: The element type of the tensor.

    Returns:
        ``func(data, *tensors, *constants, *outputs)``.
    """
    run, vector = max(isa.word_bits, isa.float_lanes), VectorType("float32", isa.float_lanes)
    channels = shape[-1]
    rows, columns = (shape[0], 1) if len(shape) == 2 else (shape[0] * shape[1], shape[2])
    writer = EpilogueWriter(epilogue, shape, isa, tile=run)
    with KernelBuilder("elementwise") as builder:
        data = builder.data(shape, dtype)
        writer.declare(builder)

        def store_run(position: tuple[Index, ...], first: Index, valid: int) -> None:
            vectors = range(0, run, isa.float_lanes)
            values = [load(data, position, first + i, isa.float_lanes, valid - i) for i in vectors]
            writer.store([vector.cast(value) for value in values], position, first)

        with parallel_rows(rows, rows * columns * channels) as row, T.serial(0, columns) as x:
            position = (row,) if len(shape) == 2 else (row // shape[1], row % shape[1], x)
            for_blocks(channels, run, partial(store_run, position))
    return builder.kernel()
