"""Copies of strided views, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules.elementwise.strided_copy import StridedView, strided_copy
from sbnn_tvm.schedules.epilogue.program import Element
from tests.support.kernel_execution import run, target_for

VIEWS = {
    "all": StridedView.of((3, 5)),
    "one": StridedView.of((1, 1)),
    "rows": StridedView.of((2, 19, 3, 2, 20)).permuted((2, 0, 3, 1, 4)),
    "squares": StridedView.of((2, 37, 21)).permuted((0, 2, 1)),
    "squares apart": StridedView.of((5, 18, 3)).permuted((1, 2, 0)).permuted((1, 0, 2)),
    "pairs": StridedView.of((2, 2, 2, 7, 19)).permuted((0, 3, 1, 4, 2)),
    "runs": StridedView.of((3, 2, 4, 11)).permuted((1, 0, 2, 3)).permuted((0, 2, 1, 3)),
    "slice": StridedView.of((4, 30, 3)).sliced(1, 7, 2, 9),
    "steps": StridedView.of((4, 40)).sliced(1, 3, 2, 17),
    "slice of columns": StridedView.of((4, 40)).sliced(1, 3, 1, 33).permuted((1, 0)),
}


CASES = [
    ("native", "float32"),
    ("arm", "uint8"),
    *(
        pytest.param(name, dtype, marks=pytest.mark.slow)
        for name, dtype in (("x86-64-v3", "float32"), ("x86-64-v3", "uint8"), ("arm", "float32"))
    ),
]


@pytest.mark.parametrize(("target_name", "dtype"), CASES)
@pytest.mark.parametrize("name", VIEWS)
def test_copies(name: str, target_name: str, dtype: Element) -> None:
    view, target = VIEWS[name], target_for(target_name)
    data = np.arange(view.size).astype(dtype)
    (got,) = run(strided_copy(view, target.isa, dtype), target, data)
    strides = [data.itemsize * stride for stride in view.strides]
    expected = np.lib.stride_tricks.as_strided(data[view.offset :], view.extents, strides)
    np.testing.assert_array_equal(got, expected.reshape(-1))
