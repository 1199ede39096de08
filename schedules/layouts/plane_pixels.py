"""TIR expressions for the pixel that a bit of a plane holds."""

from __future__ import annotations

from typing import TypeAlias

from tvm import tirx
from tvm.tirx.script import builder as T

from .bit_planes import PlaneLayout

PixelPosition: TypeAlias = tuple[tirx.Expr, tirx.Expr, tirx.Expr]
"""(n, y, x)"""


def pixel_of(layout: PlaneLayout, vector: tirx.Expr, bit: tirx.Expr) -> tuple[PixelPosition, tirx.Expr]:
    """The pixel at a bit of a vector, and whether it exists.

    Args:
        layout: The layout of the planes.
        vector: Index of the vector, below ``layout.vectors``.
        bit: Index of the bit in the vector.
    """
    lane, column = T.bind(bit // layout.row_bits), T.bind(bit % layout.row_bits)
    n, y, row_inside = row_of(layout, vector, lane)
    x, column_inside = column_of(layout, vector, column)
    inside = tirx.all(lane < layout.images * layout.rows, row_inside, column_inside)
    return (n, y, x), inside


def row_of(layout: PlaneLayout, vector: tirx.Expr, lane: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr, tirx.Expr]:
    """Image and row of a lane of a vector, and whether the row exists; ``lane`` < ``layout.images * layout.rows``."""
    a, b = layout.row_phases, layout.column_phases
    n = T.bind(vector // (a * b) * layout.images + lane // layout.rows)
    y = T.bind(lane % layout.rows * a + vector // b % a)
    return n, y, tirx.all(n < layout.batch, y < layout.height)


def column_of(layout: PlaneLayout, vector: tirx.Expr, bit: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
    """Column of a bit of a lane, and whether the column exists."""
    b = layout.column_phases
    x = T.bind(bit * b + vector % b)
    return x, x < layout.width
