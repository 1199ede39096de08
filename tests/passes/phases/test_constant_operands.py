"""Constants with one number per pixel, row or element join the layer before them."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.compiler import explain
from tests.support.binarised_models import check_exactly, kinds
from tests.support.random_arrays import quarters
from tests.support.small_models import small_model


@pytest.mark.parametrize("shape", [(1, 4, 6, 5), (1, 1, 6, 5), (1, 4, 6, 1), (6, 5), (2, 4, 6, 5), (2, 1, 1, 1)])
def test_of_a_map(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    constants = {"w": quarters(rng, 4, 3, 1, 1), "k": quarters(rng, *shape)}
    module = check_exactly(small_model("a = Conv(x, w)\nb = Add(a, k)\ny = Mul(k, b)", {"x": (2, 3, 6, 5)}, constants))
    assert kinds(module) == ["conv 1x1"]


@pytest.mark.parametrize("shape", [(1, 7, 1), (1, 7, 5), (3, 1, 1)])
def test_of_rows(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    text = "a = Relu(x)\nb = Sub(k, a)\ny = Max(b, k)"
    module = check_exactly(small_model(text, {"x": (3, 7, 5)}, {"k": quarters(rng, *shape)}))
    assert kinds(module) == ["elementwise"]


def test_what_would_be_repeated_too_often_is_left_to_tvm(rng: np.random.Generator) -> None:
    model = small_model("y = Add(x, k)", {"x": (16, 64, 16, 16)}, {"k": quarters(rng, 1, 64, 16, 1)})
    assert [layer.scheduled for layer in explain(model).layers] == [False]
