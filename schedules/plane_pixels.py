"""Which pixel a bit of a plane is, while a kernel runs."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.schedules.bit_planes import PlaneLayout


def pixel_of(
    layout: PlaneLayout, vector: tirx.Expr, bit: tirx.Expr
) -> tuple[tuple[tirx.Expr, tirx.Expr, tirx.Expr], tirx.Expr]:
    """The pixel (n, y, x) of a bit of a vector, and whether there is one.

    Args:
        layout: Where the planes are.
        vector: Number of the vector, of ``layout.vectors``.
        bit: Number of the bit in it.
    """
    a, b = layout.row_phases, layout.column_phases
    lane, column = T.bind(bit // layout.row_bits), T.bind(bit % layout.row_bits)
    n = T.bind(vector // (a * b) * layout.images + lane // layout.rows)
    y = T.bind(lane % layout.rows * a + vector // b % a)
    x = T.bind(column * b + vector % b)
    inside = tirx.all(lane < layout.images * layout.rows, n < layout.batch, y < layout.height, x < layout.width)
    return (n, y, x), inside
