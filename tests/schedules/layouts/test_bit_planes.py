"""Bit planes in numpy: what is encoded decodes to the same bits, in every layout."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules import isa as isas
from sbnn_tvm.schedules.layouts.bit_planes import PlaneLayout, plane_layout
from tests.support.plane_layouts import layouts_of


@pytest.mark.parametrize("size", [(1, 1, 1, 1), (3, 9, 9, 2), (2, 17, 40, 3), (1, 3, 200, 2), (5, 7, 7, 4)], ids=str)
def test_layout(size: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    bits = rng.integers(0, 2, size).astype(bool)
    every = layouts_of(*size) + layouts_of(*size, images=3)
    for layout in [*every, *(plane_layout(*size, isa) for isa in (isas.AVX512, isas.AVX2, isas.NEON))]:
        planes = layout.encode(bits)
        assert planes.shape == layout.shape
        np.testing.assert_array_equal(layout.decode(planes), bits)
        # Every pixel once and nothing else.
        assert sum(int(word).bit_count() for word in planes.flat) == np.count_nonzero(bits)


def test_a_layout_must_fit_its_vectors() -> None:
    with pytest.raises(ValueError, match="do not fit the vectors"):
        PlaneLayout(1, 9, 9, 64, vector_bits=64, row_bits=8, row_phases=1, column_phases=1)
