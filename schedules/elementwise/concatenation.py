"""Concatenation of float32 arrays along any axis, as they are stored in ONNX: runs of each, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from tvm import tirx

from ..isa import Isa
from ..kernel import Kernel
from ..tir.kernel_builder import KernelBuilder
from ..tir.loops import for_blocks, parallel_rows
from ..tir.vectors import Index, load, store


def concatenate(outer: int, lengths: Sequence[int], parts: Sequence[int | np.ndarray], isa: Isa) -> Kernel:
    """Concatenate arrays, each of which is a matrix: the axes before that of the concatenation, and all others.

    Args:
        outer: Rows of every matrix.
        lengths: Columns of each input.
        parts: The matrices in order: the index of an input, or a constant float32 array of ``outer`` rows.
        isa: The instruction set.

    Returns:
        ``func(data float32 [outer, length]..., constants..., out float32 [outer, all columns])``.
    """
    arrays = {
        i: np.ascontiguousarray(part, np.float32).reshape(outer, -1)
        for i, part in enumerate(parts)
        if isinstance(part, np.ndarray)
    }
    columns = [lengths[part] if isinstance(part, int) else arrays[i].shape[1] for i, part in enumerate(parts)]
    with KernelBuilder("concatenate") as builder:
        data = [builder.data((outer, length), "float32", f"data{i}") for i, length in enumerate(lengths)]
        constants = {i: builder.constant(f"constant{i}", array) for i, array in arrays.items()}
        out = builder.output((outer, sum(columns)), "float32")

        def block(source: tirx.Buffer, row: Index, offset: int, first: Index, valid: int) -> None:
            value = load(source, (row,), first, isa.float_lanes, valid)
            store(out, value, (row,), first + offset, valid)

        with parallel_rows(outer, outer * sum(columns)) as row:
            offset = 0
            for i, (part, length) in enumerate(zip(parts, columns, strict=True)):
                source = data[part] if isinstance(part, int) else constants[i]
                for_blocks(length, isa.float_lanes, partial(block, source, row, offset))
                offset += length
    return builder.kernel()
