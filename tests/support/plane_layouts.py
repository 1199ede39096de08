"""Layouts of bit planes to test with."""

from __future__ import annotations

import itertools

from sbnn_tvm.schedules.layouts.bit_planes import ROW_BITS, PlaneLayout


def layouts_of(batch: int, height: int, width: int, channels: int, images: int = 1) -> list[PlaneLayout]:
    """Layouts of a feature map [batch, height, width, channels]: every width of vectors and of rows that fits."""
    layouts = []
    for vector_bits, row_bits in itertools.product((64, 128, 256, 512), ROW_BITS):
        lanes, columns = vector_bits // row_bits, 1
        while columns * row_bits < width:
            columns *= 2
        if images == 1 or lanes // height >= images:
            rows = -(-height // lanes)
            layouts.append(
                PlaneLayout(
                    batch,
                    height,
                    width,
                    channels,
                    vector_bits=vector_bits,
                    row_bits=row_bits,
                    row_phases=rows,
                    column_phases=columns,
                    images=images,
                )
            )
    return layouts
